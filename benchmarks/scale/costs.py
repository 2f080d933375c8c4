"""CPU seconds that each stage of computing boxes takes an image, on one thread.

Seconds of the processor and not of the clock, so that other programs disturb little. With the
bytes of images and boxes these are the figures from which docs/scale.md plans.

    python -m benchmarks.scale.costs SOURCE --backbones resnet18 resnet50
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.scale.memory import ROWS_PER_SHARD, made_up_table
from ccrop_pipeline.boxset import Provenance, SourceInfo, write_manifest, write_shard
from ccrop_pipeline.images import open_source
from ccrop_pipeline.images.squares import resized_images
from ccrop_pipeline.localize import BoxRule, Encoder, boxes_from_heatmaps, build_backbone

_MADE_UP = Provenance(None, None, SourceInfo("made up", "00"), rule="random boxes")
_BATCH = 32


def main() -> None:
    """Print one JSON object of CPU microseconds an image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=320)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = open_source(args.source)
    samples: list[bytes] = []

    def read() -> None:
        for shard in source.shards:
            samples.extend(sample.image for sample in source.read(shard))

    microseconds = {"read": _cpu(read) / len(samples)}
    images = samples[: args.images]
    squares = resized_images(images, args.size, batch_size=_BATCH, threads=1)
    decode = _cpu(lambda: list(squares))
    microseconds["decode and resize"] = decode / len(images)
    for name in args.backbones:
        microseconds[name] = _forward(name, args.size)
    table = made_up_table(0)
    assert table.heatmaps is not None
    maps, rule = torch.from_numpy(table.heatmaps[:1024]), BoxRule(0.1)
    boxes = _cpu(lambda: boxes_from_heatmaps(maps, rule, args.size))
    microseconds["boxes of 7 x 7 maps"] = boxes / len(maps)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        microseconds["write"] = _cpu(lambda: write_shard(place, "a", table, _MADE_UP)) / len(table)
        end = _cpu(lambda: write_manifest(place, ["a"], _MADE_UP))
        microseconds["complete"] = end / len(table)
        row = (place / "data/a.parquet").stat().st_size / ROWS_PER_SHARD
    result: dict[str, Any] = {
        "images": len(images),
        "bytes_an_image": sum(map(len, samples)) // len(samples),
        "bytes_a_row": round(row, 1),
        "cpu_us_an_image": {name: round(value, 1) for name, value in microseconds.items()},
    }
    print(json.dumps(result))


def _forward(name: str, size: int) -> float:
    backbone = build_backbone(name)
    encoder = Encoder(backbone, backbone.layer, size, name=name)
    batch = torch.randint(0, 256, (_BATCH, 3, size, size), dtype=torch.uint8)
    encoder.features(batch)
    return min(_cpu(lambda: encoder.features(batch)) for _ in range(3)) / _BATCH


def _cpu(step: Callable[[], Any]) -> float:
    started = time.process_time()
    step()
    return (time.process_time() - started) * 1e6


if __name__ == "__main__":
    main()
