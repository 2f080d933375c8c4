"""Checks on a GPU that results are those of the CPU, and times its paths: make gpu-check.

Needs no data, no network and no installation beyond the dependencies: images are generated. Prints
JSON lines; exits with status 1 when a check fails and 2 where there is no GPU.
"""

import json
import math
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from ccrop_pipeline.base import Observer, StageSeconds
from ccrop_pipeline.boxset import iou
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.images import Scenes, Source, open_source, pack
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer, boxes_from_heatmaps, build_backbone
from ccrop_pipeline.methods import METHODS, build_method
from ccrop_pipeline.recipes import load_recipe, settings_type
from ccrop_pipeline.training import Inputs, Machine, Trainer
from ccrop_pipeline.views import AugmentSettings, ViewCutter, ViewGroup, ViewLoader
from ccrop_pipeline.views.augment import Augment
from ccrop_pipeline.views.by_position import MapLoader, ResidentLoader, load_images

GPU = torch.device("cuda")
GROUP = ViewGroup(2, 64, augment=AugmentSettings(blur_p=0.5, solarize_p=0.2))


def main() -> int:
    """Run every check and returns the exit status."""
    if not torch.cuda.is_available():
        print("no GPU here: nothing was checked", file=sys.stderr)
        return 2
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__}))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack(Scenes(2048, size=64), folder / "images")
        source = open_source(folder / "images")
        results = [
            heatmaps_to_boxes(),
            resident_crops(source),
            loader_ahead(source),
            augmentation(source),
            every_method(),
            computed_boxes(source, folder),
            little_memory(source, folder),
            resumed_training(source, folder),
        ]
        compute_beside_forward_passes(source, folder)
    return int(not all(results))


def say(check: str, passed: bool, **figures: float) -> bool:
    """Print one check as a JSON line."""
    print(json.dumps({"check": check, "passed": bool(passed), **figures}), flush=True)
    return bool(passed)


def heatmaps_to_boxes() -> bool:
    """Return the same stored heatmaps give the same boxes, bit for bit, on either device."""
    heatmaps = torch.rand(4096, 7, 7, generator=torch.Generator().manual_seed(0)).half()
    equal = []
    for rule in (BoxRule(0.6), BoxRule(0.1, mean_share=0.5), BoxRule(0.2, mean_share=0.3)):
        on_cpu, _ = boxes_from_heatmaps(heatmaps, rule, 224)
        on_gpu, _ = boxes_from_heatmaps(heatmaps.to(GPU), rule, 224)
        equal.append(torch.equal(on_cpu, on_gpu.cpu()))
    return say("boxes from equal heatmaps are equal", all(equal))


def resident_crops(source: Source) -> bool:
    """Crops of resident images are the same bits on both devices, and for any batch size."""
    index = source.index()
    views = []
    for device, batch_size in ((torch.device("cpu"), 256), (GPU, 256), (GPU, 64)):
        images = load_images(index, (64, 64), device, threads=8)
        loader = ResidentLoader(images, ViewCutter((GROUP,)), batch_size=batch_size)
        views.append(next(loader.epoch(0)).views[0][:, :64].cpu())
    seconds = timed(lambda: next(loader.epoch(0)))
    return say(
        "resident crops are equal",
        torch.equal(views[0], views[1]) and torch.equal(views[1], views[2]),
        views_per_s=round(2 * 64 / seconds),
    )


def loader_ahead(source: Source) -> bool:
    """Return whether a loader whose thread runs ahead of a busy GPU hands out whole views."""
    loader = ViewLoader(source, GROUP, batch_size=256, device=GPU)
    augment, busy = Augment((GROUP,), 0, GPU), torch.randn(4096, 4096, device=GPU)
    expected = [augment(crops, 0)[0] for crops in loader.crops(0)]
    off = []
    for batch, views in zip(loader, expected, strict=True):
        for _ in range(20):
            busy = (busy @ busy).tanh_()
        off.append((batch.views[0] - views).abs().max())
    return say("views made ahead are whole", max(off).item() < 1e-5, most_off=max(off).item())


def augmentation(source: Source) -> bool:
    """Augmentation draws the same numbers and gives the same pixels to rounding."""
    loader = MapLoader(source.index(), ViewCutter((GROUP,)), batch_size=512)
    batch = next(loader.epoch(0))
    (on_cpu,) = Augment((GROUP,), 0, torch.device("cpu"))(batch, 0)
    augment = Augment((GROUP,), 0, GPU)
    (on_gpu,) = augment(batch, 0)
    off = (on_cpu - on_gpu.cpu()).abs()
    seconds = timed(lambda: augment(batch, 0))
    rate = on_cpu.shape[0] * on_cpu.shape[1] / seconds
    # A pixel on the edge between two hues may fall on either side: allow one in 100,000.
    far = (off > 1e-3).float().mean().item()
    return say("augmented views agree", far < 1e-5, share_far_off=far, views_per_s=round(rate))


def computed_boxes(source: Source, folder: Path) -> bool:
    """Return the boxes of one encoder on both devices: nearly all equal, all close."""
    boxes, seconds = {}, {}
    torch.manual_seed(0)
    backbone = build_backbone("resnet18-cifar").eval()
    for device in ("cpu", "cuda"):
        encoder = Encoder(backbone, backbone.layer, 64, name="resnet18-cifar", device=device)
        started = time.perf_counter()
        box_set = compute_boxes(
            source, Localizer(encoder, rule=BoxRule(0.1)), folder / device, threads=8
        )
        seconds[device] = time.perf_counter() - started
        boxes[device] = np.concatenate([table.boxes for _, table in box_set.tables()])
    overlap = [iou(a, b[None])[0] for a, b in zip(boxes["cpu"], boxes["cuda"], strict=True)]
    return say(
        "computed boxes agree",
        np.mean(overlap) > 0.99,
        mean_iou=float(np.mean(overlap)),
        share_equal=float(np.mean(np.array(overlap) == 1)),
        gpu_images_per_s=round(len(overlap) / seconds["cuda"]),
        cpu_images_per_s=round(len(overlap) / seconds["cpu"]),
    )


def every_method(images: int = 32) -> bool:
    """Return the loss of each method on the GPU is that on the CPU, and in bf16 nearly so."""
    random = torch.Generator().manual_seed(1)
    views = [torch.randn(images, 3, 32, 32, generator=random) for _ in range(2)]
    passed = []
    for name in METHODS:
        losses = []
        for device, precision in (("cpu", "fp32"), (GPU, "fp32"), (GPU, "bf16")):
            torch.manual_seed(0)
            method = build_method(settings_type(name)(name), "resnet18-cifar").to(device)
            method.before_step(0, 0.0)
            torch.manual_seed(1)
            with torch.autocast(torch.device(device).type, torch.bfloat16, precision == "bf16"):
                output = method([view.to(device) for view in views])
            output.loss.backward()
            losses.append(output.loss.item())
        reference, single, half = losses
        # SimSiam's is near 0 where the two views are alike.
        close = math.isclose(single, reference, rel_tol=2e-3, abs_tol=1e-4)
        near = math.isclose(half, reference, rel_tol=5e-2, abs_tol=1e-3)
        passed.append(say(f"{name}: loss", close and near, cpu=reference, gpu=single, bf16=half))
    return all(passed)


def resumed_training(source: Source, folder: Path) -> bool:
    """Return both methods train with a refresh; a second start finds nothing left to do."""
    passed = []
    for name in ("cifar10-mocov2", "cifar10-simclr"):
        settings = ["epochs=4", "batch_size=256", "boxes.refresh_at=[0.5]", "optimizer.lr=0.1"]
        recipe = load_recipe(name, settings)
        inputs, machine = Inputs(source), Machine(device=GPU, workers=8, threads=8)
        trainer = Trainer(inputs, folder / name, recipe, machine, Observer())
        trainer.train()
        records = trainer.run.metrics()
        Trainer(inputs, folder / name, recipe, machine, Observer()).train()
        again = Trainer(inputs, folder / name, recipe, machine, Observer()).run.metrics()
        passed.append(
            say(
                f"{name} trains, refreshes and resumes",
                len(records) == 4 and again == records,
                loss=records[-1]["loss"],
                images_per_s=records[-1]["images_per_s"],
                data_wait=records[-1]["data_wait"],
            )
        )
    return all(passed)


def little_memory(source: Source, folder: Path) -> bool:
    """Return a batch that does not fit is halved until it does, and the boxes are the same."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet18-cifar").eval()
    encoder = Encoder(backbone, backbone.layer, 64, name="resnet18-cifar", device=GPU)
    whole = compute_boxes(
        source, Localizer(encoder, rule=BoxRule(0.1)), folder / "much", batch_size=64
    )
    halved: list[int] = []
    observer = Observer()
    observer.batch_halved = halved.append  # type: ignore[method-assign]
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 2**30) / total)
    try:
        little, localizer = folder / "little", Localizer(encoder, rule=BoxRule(0.1))
        cut = compute_boxes(
            source, localizer, little, batch_size=4096, threads=8, observer=observer
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    pairs = zip(whole.tables(), cut.tables(), strict=True)
    off = max(float(np.abs(a.boxes - b.boxes).mean()) for (_, a), (_, b) in pairs)
    passed = bool(halved) and off < 1e-2
    return say("a batch too large is halved", passed, last=min(halved, default=0), mean_off=off)


def compute_beside_forward_passes(source: Source, folder: Path) -> None:
    """Time feature maps of ResNets at 224 px: bare, and with all of `compute_boxes`."""
    count = len(source.index())
    for name in ("resnet18", "resnet50"):
        for precision in ("fp32", "bf16"):
            encoder = Encoder(
                build_backbone(name),
                "layer4",
                224,
                device=GPU,
                precision=precision,  # type: ignore[arg-type]
            )
            images = torch.randint(0, 256, (512, 3, 224, 224), dtype=torch.uint8, device=GPU)
            bare = 512 / timed(lambda e=encoder, i=images: e.features(i))
            started = time.perf_counter()
            stages = Stages()
            out = folder / f"{name}-{precision}"
            compute_boxes(
                source, Localizer(encoder, rule=BoxRule(0.1)), out, threads=16, observer=stages
            )
            seconds = time.perf_counter() - started
            figures = {
                "encoder": name,
                "precision": precision,
                "bare_images_per_s": round(bare),
                "compute_images_per_s": round(count / seconds),
                "busy": {k: round(v / seconds, 3) for k, v in vars(stages.seconds).items()},
            }
            print(json.dumps(figures), flush=True)


class Stages(Observer):
    """Keeps the last word on how busy each stage was."""

    def images_done(
        self, _images: int, _shard: str = "", stages: StageSeconds | None = None
    ) -> None:
        """Keep the seconds."""
        self.seconds = stages


def timed(work) -> float:
    """Median seconds of five calls after two of warming up."""
    taken = []
    for _ in range(7):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return sorted(taken[2:])[2]


if __name__ == "__main__":
    sys.exit(main())
