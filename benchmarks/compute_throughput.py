"""Images/s of `boxes compute` beside bare forward passes of the same encoder.

    python benchmarks/compute_throughput.py SOURCE --backbone resnet18 --input-size 224

Rounds are interleaved: each times the whole of `compute_boxes` over the source (reading, decoding,
forward passes, heatmaps, boxes, writing) and then forward passes of random uint8 batches of one
size, for as many images. Prints each round and the medians as JSON.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from ccrop_pipeline.compute import ComputeSettings, compute_boxes
from ccrop_pipeline.localize import Encoder, build_backbone
from ccrop_pipeline.sources import Source, open_source


def main() -> None:
    """Reads the command line and prints the figures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("source")
    options.add_argument("--backbone", default="resnet18")
    options.add_argument("--input-size", type=int, default=224)
    options.add_argument("--batch-size", type=int, default=64)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    chosen = options.parse_args()
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
    )
    settings = ComputeSettings(batch_size=chosen.batch_size, threads=chosen.threads)
    count = len(source.index())
    bare_forward(encoder, chosen.batch_size, chosen.batch_size)
    computed, bare = [], []
    for _ in range(chosen.rounds):
        computed.append(count / whole_computation(source, encoder, settings))
        bare.append(count / bare_forward(encoder, count, chosen.batch_size))
    ratios = [a / b for a, b in zip(computed, bare, strict=True)]
    print(
        json.dumps(
            {
                **vars(chosen),
                "images": count,
                "compute_images_per_s": [round(rate, 1) for rate in computed],
                "bare_images_per_s": [round(rate, 1) for rate in bare],
                "median_ratio": round(statistics.median(ratios), 3),
            }
        )
    )


def whole_computation(source: Source, encoder: Encoder, settings: ComputeSettings) -> float:
    """Seconds of computing a box set, from nothing to the manifest."""
    folder = Path(tempfile.mkdtemp())
    started = time.perf_counter()
    compute_boxes(source, encoder, folder / "boxes", settings)
    taken = time.perf_counter() - started
    shutil.rmtree(folder)
    return taken


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
