"""Images/s of `boxes compute`, or `embed`, beside bare forward passes of the same encoder.

    python -m benchmarks.compute_throughput SOURCE --backbone resnet18 --input-size 224
    python -m benchmarks.compute_throughput SOURCE --embed

Rounds are interleaved: each times the whole of `compute_boxes` over the source (reading, decoding,
forward passes, heatmaps, boxes, writing), or of `embed`, and then forward passes of random uint8
batches of one size, for as many images. Prints each round, the medians and how busy each stage was
as JSON.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from ccrop_pipeline.base import Observer, StageSeconds
from ccrop_pipeline.compute import (
    compute_boxes,
    default_batch_size,
    default_threads,
)
from ccrop_pipeline.export import embed
from ccrop_pipeline.images import Source, open_source
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer, build_backbone


class Stages(Observer):
    """Keeps the last word on how busy each stage was."""

    def images_done(
        self, _images: int, _shard: str = "", stages: StageSeconds | None = None
    ) -> None:
        """Keep the seconds."""
        self.seconds = stages


def main() -> None:
    """Read the command line and prints the figures."""
    chosen = options().parse_args()
    source = open_source(chosen.source)
    torch.manual_seed(0)
    backbone = build_backbone(chosen.backbone).to(memory_format=torch.channels_last)
    encoder = Encoder(
        backbone,
        backbone.layer,
        chosen.input_size,
        name=chosen.backbone,
        device=chosen.device,
        precision=chosen.precision,
        compile=chosen.compile,
    )
    batch_size = chosen.batch_size or default_batch_size(encoder)
    threads = chosen.threads or default_threads(encoder)
    settings = {"batch_size": batch_size, "threads": threads}
    count = len(source.index())
    bare_forward(encoder, 2 * batch_size, batch_size)
    computed, bare, stages = [], [], []
    for _ in range(chosen.rounds):
        seconds, busy = whole_computation(source, encoder, settings, features=chosen.embed)
        computed.append(count / seconds)
        stages.append({name: round(spent / seconds, 3) for name, spent in vars(busy).items()})
        bare.append(count / bare_forward(encoder, count, batch_size))
    ratios = [a / b for a, b in zip(computed, bare, strict=True)]
    figures = {
        **vars(chosen),
        "batch_size": batch_size,
        "threads": threads,
        "images": count,
        "compute_images_per_s": [round(rate, 1) for rate in computed],
        "bare_images_per_s": [round(rate, 1) for rate in bare],
        "ratios": [round(ratio, 3) for ratio in ratios],
        "median_ratio": round(statistics.median(ratios), 3),
        "busy": stages[-1],
    }
    print(json.dumps(figures))


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--embed", action="store_true")
    return parser


def whole_computation(
    source: Source, encoder: Encoder, settings: dict[str, int], *, features: bool
) -> tuple[float, StageSeconds]:
    """Seconds of making a box set or embeddings, from nothing to the end; and of each stage."""
    folder, stages = Path(tempfile.mkdtemp()), Stages()
    started = time.perf_counter()
    if features:
        embed(encoder, source, folder / "embeddings", **settings, observer=stages)
    else:
        localizer = Localizer(encoder, rule=BoxRule(0.1))
        compute_boxes(source, localizer, folder / "boxes", **settings, observer=stages)
    taken = time.perf_counter() - started
    shutil.rmtree(folder)
    return taken, stages.seconds


def bare_forward(encoder: Encoder, count: int, batch_size: int) -> float:
    """Seconds of forward passes over so many random images that are in memory already."""
    shape = (batch_size, 3, encoder.input_size, encoder.input_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=encoder.device)
    started = time.perf_counter()
    for start in range(0, count, batch_size):
        features = encoder.features(images[: min(batch_size, count - start)])
    if features.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
