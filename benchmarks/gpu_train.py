"""Training beside the bare training step: python -m benchmarks.gpu_train.

Without --source it needs no data: images of noise at 32 px cost what those of CIFAR-10 cost, and
stay decoded on the device. With --source photographs are read and decoded for each step, e.g.

    python -m benchmarks.gpu_train --source SHARDS --backbone resnet50 --image-size 224

For SimCLR and MoCo v2, eager and compiled, in bf16 and channels_last, prints JSON lines with the
images per second of

    step      a training step on views that already lie on the device: the limit,
    epoch     the same with views made for each step,
    views     views alone: crops and augmentation, and decoding where there is a source.

Each is the median of five rounds, in turns. Batches that workers have made while the clock stood
still are thrown away first.
"""

import argparse
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ccrop_pipeline.methods import build_method
from ccrop_pipeline.recipes import settings_type
from ccrop_pipeline.views import AugmentSettings, ViewGroup, ViewLoader

ROUNDS = 5


class Noise:
    """An index of images that are all one image of noise, 32 px."""

    def __init__(self, count: int) -> None:
        self.keys = [f"{i:06d}" for i in range(count)]
        self.labels = np.zeros(count, np.int64)
        self.shard_of = np.zeros(count, np.int32)
        file = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(file, "BMP")
        self._image = file.getvalue()

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, _i: int) -> bytes:
        """Return the image."""
        return self._image


def trainer(method: str, backbone: str, device: torch.device, compiled: bool) -> Callable:
    """Return a training step as the driver makes it."""
    torch.manual_seed(0)
    settings = settings_type(method)(method, **({"queue_size": 4096} if method == "mocov2" else {}))
    model = build_method(settings, backbone).to(device, memory_format=torch.channels_last)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.03, momentum=0.9, weight_decay=1e-4)
    if compiled:
        model.backbone.compile()

    def step(views: Tensor) -> None:
        model.before_step(0, 0.0)
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(views.unbind()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def views_of(args: argparse.Namespace, device: torch.device) -> Iterator[Tensor]:
    """Yield views of one batch after another, float32 (2, B, 3, S, S) on the device, for ever."""
    augmentation = AugmentSettings(blur_p=0.5 if args.source else 0.0)
    loader = ViewLoader(
        args.source or Noise(args.images),
        ViewGroup(2, args.image_size, augment=augmentation),
        batch_size=args.batch_size,
        workers=args.workers,
        device=device,
    )
    while True:
        for batch in loader:
            yield batch.views[0]


def seconds(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Return the seconds that so many calls take."""
    _synchronize(device)
    started = time.perf_counter()
    for _ in range(times):
        work()
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(args: argparse.Namespace, method: str, compiled: bool) -> dict[str, object]:
    """Return one line of the result."""
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step, views = trainer(method, args.backbone, device, compiled), views_of(args, device)
    ready = next(views)
    for _ in range(3):
        step(next(views))
    works = {
        "step": lambda: step(ready),
        "epoch": lambda: step(next(views)),
        "views": lambda: next(views),
    }
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        rounds.append({})
        for name, work in works.items():
            if args.source and name != "step":
                for _ in range(2 * args.workers):  # as many as the loader holds ready
                    next(views)
            rounds[-1][name] = seconds(work, args.steps, device)
    images = args.steps * args.batch_size
    return {
        "method": method,
        "backbone": args.backbone,
        "image_size": args.image_size,
        "compiled": compiled,
        "batch_size": args.batch_size,
        **{
            f"{name}_images_per_s": round(images / median(r[name] for r in rounds))
            for name in works
        },
        "share_of_limit": [round(r["step"] / r["epoch"], 3) for r in rounds],
        "gpu_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }


def main() -> None:
    """Print a line for each method, eager and compiled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--source", help="images to read; without it, noise")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="for --source")
    parser.add_argument("--backbone", default="resnet18-cifar")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=20_000, help="of noise")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50, help=f"steps a round, {ROUNDS} rounds")
    parser.add_argument("--methods", default="simclr,mocov2")
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    args = parser.parse_args()
    name = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    print(json.dumps({"device": name, "torch": torch.__version__}), flush=True)
    for method in args.methods.split(","):
        for compiled in (False,) if args.eager else (False, True):
            print(json.dumps(measure(args, method, compiled)), flush=True)


if __name__ == "__main__":
    main()
