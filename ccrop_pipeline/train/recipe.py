"""The recipe: everything that changes the result of a run, and nothing else.

What differs from machine to machine (device, loader processes) is no part of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.methods import MethodSettings
from ccrop_pipeline.views import AugmentSettings


@dataclass(frozen=True)
class BoxSettings:
    """When boxes are computed, and how.

    Args:
        refresh_at: Shares of training, in (0, 1), after which boxes are computed; the first
            ends warm-up. Empty: random crops throughout. The paper has 20, 40, 60 and 80 %.
        refresh_every: Epochs between refreshes, in place of `refresh_at`; 0 for none.
        threshold: Heatmap cells strictly above it are content, in [0, 1); the paper has 0.1.

    Raises:
        CcropError: When a number is out of its range.
    """

    refresh_at: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    refresh_every: int = 0
    threshold: float = 0.1

    def __post_init__(self) -> None:
        if any(not 0 < share < 1 for share in self.refresh_at):
            raise CcropError(f"boxes.refresh_at is {self.refresh_at}; shares must lie in (0, 1)")
        if list(self.refresh_at) != sorted(set(self.refresh_at)):
            raise CcropError(f"boxes.refresh_at is {self.refresh_at}; shares must increase")
        if self.refresh_every < 0:
            raise CcropError(
                f"boxes.refresh_every is {self.refresh_every}; it must not be negative"
            )
        if not 0 <= self.threshold < 1:
            raise CcropError(f"boxes.threshold is {self.threshold}; it must lie in [0, 1)")


@dataclass(frozen=True)
class OptimizerSettings:
    """SGD with a cosine schedule.

    Args:
        lr: Peak learning rate, for the batch size of the recipe.
        lr_warmup_epochs: Epochs of linear growth from 0 to `lr`.
        momentum: Momentum of SGD, in [0, 1).
        weight_decay: L2 penalty on all parameters.

    Raises:
        CcropError: When a number is out of its range.
    """

    lr: float = 0.03
    lr_warmup_epochs: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (name == "momentum" and value >= 1):
                raise CcropError(f"optimizer.{name} is {value}; it is out of range")


@dataclass(frozen=True)
class ProbeSettings:
    """The kNN probe during training (Wu et al., CVPR 2018).

    Args:
        every: Epochs between probes; the last epoch is always probed. 0: never.
        k: Neighbours that vote.
        temperature: Votes weigh exp(similarity / temperature).

    Raises:
        CcropError: When a number is out of its range.
    """

    every: int = 10
    k: int = 200
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.every < 0 or self.k < 1 or self.temperature <= 0:
            raise CcropError(f"probe settings out of range: {self}")


@dataclass(frozen=True)
class Recipe:
    """All settings of a run.

    Args:
        backbone: A name that `build_backbone` knows.
        image_size: Side of a view in pixels.
        eval_size: Side in pixels of the whole images that boxes are computed on and that the
            probe sees; 0 for `image_size`. Twice the size gives heatmaps of twice the cells.
        epochs: Epochs of training, warm-up included.
        batch_size: Images a step.
        seed: Seed of weights, order, crops and colours.
        precision: "fp32", or "bf16" for autocast in training steps.
        method: Method, its loss and its momentum encoder.
        crop: How windows are drawn.
        boxes: When boxes are computed, and how.
        augment: Colours and flips.
        optimizer: Optimizer and learning-rate schedule.
        probe: The kNN probe.

    Raises:
        CcropError: When a setting is out of its range.
    """

    backbone: str = "resnet50"
    image_size: int = 224
    eval_size: int = 0
    epochs: int = 200
    batch_size: int = 256
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    method: MethodSettings = field(default_factory=MethodSettings)
    crop: CropParams = field(default_factory=CropParams)
    boxes: BoxSettings = field(default_factory=BoxSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)

    def __post_init__(self) -> None:
        smallest = {"image_size": 8, "eval_size": 0, "epochs": 1, "batch_size": 2, "seed": 0}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise CcropError(f"{name} is {getattr(self, name)}; it must be {least} or more")

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


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
