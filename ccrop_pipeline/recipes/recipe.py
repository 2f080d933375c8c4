"""The recipe: everything that changes the result of a run, and nothing else.

What differs from machine to machine (device, loader processes) is no part of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.methods import MethodSettings, settings_type
from ccrop_pipeline.probes import KnnSettings
from ccrop_pipeline.recipes.settings import BoxSettings, LocalViews, OptimizerSettings
from ccrop_pipeline.views import AugmentSettings


@dataclass(frozen=True)
class Recipe:
    """All settings of a run.

    Args:
        backbone: A name that `build_backbone` knows.
        image_size: Side of a view in pixels.
        eval_size: Side in pixels of the whole images that boxes are computed on and that the
            probe sees; 0 for `image_size`. Twice the size gives heatmaps of twice the cells.
        epochs: Epochs of training, warm-up included.
        batch_size: Images a step, over all processes.
        accumulate: Parts that a step is computed in, one after the other, to save memory. A
            contrastive loss then compares the images of a part only.
        seed: Seed of weights, order, crops and colours.
        precision: "fp32", "bf16" for autocast in training steps, or "fp64": slow, for comparing
            machines, since the rounding of float32 grows to 1e-3 of the loss in some twenty steps.
        method: Method and its own settings.
        crop: How windows are drawn.
        boxes: Where boxes come from, and when they are computed.
        augment: Colours and flips.
        augment_second: Those of the second view, where they differ (BYOL, MoCo v3, DINO).
        augment_local: Those of the small views, where they differ from those of the first (DINO).
        local_views: Small views beside the two large ones (DINO).
        optimizer: Optimizer and learning-rate schedule.
        probe: The kNN probe.

    Raises:
        CcropError: When a setting is out of its range or not finite.
    """

    backbone: str = "resnet50"
    image_size: int = 224
    eval_size: int = 0
    epochs: int = 200
    batch_size: int = 256
    accumulate: int = 1
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    method: MethodSettings = field(default_factory=lambda: settings_type("mocov2")("mocov2"))
    crop: CropParams = field(default_factory=CropParams)
    boxes: BoxSettings = field(default_factory=BoxSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    augment_second: AugmentSettings | None = None
    augment_local: AugmentSettings | None = None
    local_views: LocalViews = field(default_factory=LocalViews)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    probe: KnnSettings = field(default_factory=KnnSettings)

    def __post_init__(self) -> None:
        _expect_finite(self.to_dict())
        smallest = {"image_size": 8, "eval_size": 0, "epochs": 1, "batch_size": 2, "seed": 0}
        for name, least in {**smallest, "accumulate": 1}.items():
            if getattr(self, name) < least:
                raise CcropError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if self.batch_size % self.accumulate or self.batch_size // self.accumulate < 2:
            raise CcropError(
                f"batch_size is {self.batch_size} and accumulate {self.accumulate}: a batch must "
                "have that many equal parts of 2 images or more"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, as they stand in JSON."""
        values: dict[str, Any] = _plain(asdict(self))
        return values


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """Settings in which two nested mappings differ, one line each: ``name: old -> new``."""
    lines = []
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{path}{name}.")
        elif a != b:
            lines.append(f"{path}{name}: {a} -> {b}")
    return lines


def _expect_finite(values: Mapping[str, Any], path: str = "") -> None:
    # Here for all settings at once: NaN passes most comparisons with the ends of a range.
    for name, value in values.items():
        if isinstance(value, Mapping):
            _expect_finite(value, f"{path}{name}.")
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise CcropError(f"{path}{name} is {value}; it must be finite")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
