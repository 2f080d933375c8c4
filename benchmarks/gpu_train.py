"""Training from resident images beside the bare training step: python benchmarks/gpu_train.py.

Runs on any device and needs no data: 50,000 images of noise at 32 px cost what those of CIFAR-10
cost. For SimCLR and MoCo v2, eager and compiled, in bf16 and channels_last, prints JSON lines with
the images per second of

    step      a training step on views that already lie on the device: the limit,
    epoch     the same with crops and augmentation made for each step,
    augment   crops and augmentation alone.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ccrop_pipeline.methods import build_method
from ccrop_pipeline.recipes import settings_type
from ccrop_pipeline.views import AugmentSettings, Batch, ViewCutter, ViewGroup
from ccrop_pipeline.views.augment import Augment
from ccrop_pipeline.views.by_position import ResidentImages, ResidentLoader

GROUP = ViewGroup(2, 32, augment=AugmentSettings())


class Noise:
    """An index of images that nobody will read."""

    def __init__(self, count: int) -> None:
        self.keys = [f"{i:06d}" for i in range(count)]
        self.labels = np.zeros(count, np.int64)
        self.shard_of = np.zeros(count, np.int32)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, i: int) -> bytes:
        """There are no bytes: only pixels."""
        raise NotImplementedError


def resident_noise(count: int, device: torch.device) -> ResidentImages:
    """Return the images of random pixels on the device."""
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, device=device)
    return ResidentImages(
        Noise(count), pixels, np.full((count, 2), 32, np.int64), np.ones(count, bool)
    )


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


def seconds(work: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """Median seconds of some calls."""
    taken = []
    for _ in range(rounds):
        _synchronize(device)
        started = time.perf_counter()
        work()
        _synchronize(device)
        taken.append(time.perf_counter() - started)
    return sorted(taken)[rounds // 2]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def endless(loader: ResidentLoader) -> Iterator[tuple[Batch, int]]:
    """Return the batches of one epoch after another."""
    epoch = 0
    while True:
        for batch in loader.epoch(epoch):
            yield batch, epoch
        epoch += 1


def measure(args: argparse.Namespace, method: str, compiled: bool) -> dict[str, object]:
    """Return one line of the result."""
    device = torch.device(args.device)
    images = resident_noise(args.images, device)
    loader = ResidentLoader(images, ViewCutter((GROUP,)), batch_size=args.batch_size)
    augment = Augment((GROUP,), 0, device)
    step = trainer(method, args.backbone, device, compiled)
    batches = endless(loader)

    def views() -> Tensor:
        return augment(*next(batches))[0]

    def repeated(work: Callable[[], object]) -> Callable[[], None]:
        return lambda: [work() for _ in range(args.steps)] and None

    ready = views()
    for _ in range(3):
        step(views())
    rates = {
        name: args.steps * args.batch_size / seconds(repeated(work), device)
        for name, work in (
            ("step", lambda: step(ready)),
            ("epoch", lambda: step(views())),
            ("augment", views),
        )
    }
    return {
        "method": method,
        "backbone": args.backbone,
        "compiled": compiled,
        "batch_size": args.batch_size,
        **{f"{name}_images_per_s": round(rate) for name, rate in rates.items()},
        "seconds_per_epoch": round(loader.batches * args.batch_size / rates["epoch"], 2),
        "share_of_limit": round(rates["epoch"] / rates["step"], 3),
    }


def main() -> None:
    """Print a line for each method, eager and compiled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backbone", default="resnet18-cifar")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50, help="steps a round, five rounds")
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    args = parser.parse_args()
    name = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    print(json.dumps({"device": name, "torch": torch.__version__}), flush=True)
    for method in ("simclr", "mocov2"):
        for compiled in (False,) if args.eager else (False, True):
            print(json.dumps(measure(args, method, compiled)), flush=True)


if __name__ == "__main__":
    main()
