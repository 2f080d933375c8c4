"""Settings of the parts of a recipe that belong to training itself."""

from dataclasses import dataclass
from typing import Literal

from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import CcropError

# Section 4.1 of ContrastiveCrop (Peng et al., CVPR 2022, arXiv:2202.03278).
PAPER_REFRESHES = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class BoxSettings:
    """Where boxes come from, and when they are computed.

    At most one of `refresh_at`, `refresh_every` and `refresh_epochs` is given; without any,
    boxes are computed as in the paper, after 20, 40, 60 and 80 % of training. The epochs before
    the first refresh are the warm-up.

    Args:
        kind: "encoder" computes boxes from the encoder as it is; "none" are random crops;
            "centre" the same central box for every image (SimCCrop); "full" the whole image for
            every image, so that only the suppression of the centre is left. All but the first
            leave the settings of refreshes unused.
        refresh_at: Shares of training, in (0, 1), after which boxes are computed.
        refresh_every: Epochs between refreshes.
        warmup_epochs: Epochs before the first refresh, with `refresh_every`; 0: as many.
        refresh_epochs: Numbers of epochs after which boxes are computed, each at least 1.
        refresh_from: Which encoder boxes are computed from.
        overlapped: Whether `ccrop boxes follow` computes boxes while training goes on. Which
            epoch is the first to use a box set then depends on the speed of both.
        threshold: Heatmap cells strictly above it are content, in [0, 1); the paper has 0.1.

    Raises:
        CcropError: When a number is out of its range, or settings contradict each other.
    """

    kind: Literal["encoder", "none", "centre", "full"] = "encoder"
    refresh_at: tuple[float, ...] = ()
    refresh_every: int = 0
    warmup_epochs: int = 0
    refresh_epochs: tuple[int, ...] = ()
    refresh_from: Literal["online", "momentum"] = "online"
    overlapped: bool = False
    threshold: float = 0.1

    def __post_init__(self) -> None:
        self._check_schedule()
        for name in ("refresh_every", "warmup_epochs"):
            if getattr(self, name) < 0:
                raise CcropError(f"boxes.{name} is {getattr(self, name)}; it must not be negative")
        if any(not 0 < share < 1 for share in self.refresh_at):
            raise CcropError(f"boxes.refresh_at is {self.refresh_at}; shares must lie in (0, 1)")
        _expect_epochs("boxes.refresh_epochs", self.refresh_epochs)
        for name in ("refresh_at", "refresh_epochs"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise CcropError(f"boxes.{name} is {list(values)}; the numbers must increase")
        if not 0 <= self.threshold < 1:
            raise CcropError(f"boxes.threshold is {self.threshold}; it must lie in [0, 1)")

    def _check_schedule(self) -> None:
        names = ("refresh_at", "refresh_every", "refresh_epochs")
        given = [f"boxes.{name}" for name in names if getattr(self, name)]
        if len(given) > 1:
            raise CcropError(f"{' and '.join(given)} are given; a schedule has only one of them")
        if self.warmup_epochs and not self.refresh_every:
            raise CcropError(
                f"boxes.warmup_epochs is {self.warmup_epochs} without boxes.refresh_every. The "
                "first refresh ends the warm-up: give boxes.refresh_every as well, or "
                "boxes.refresh_at or boxes.refresh_epochs alone"
            )


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer and the schedule of its learning rate.

    Args:
        name: "sgd", "lars" (You et al., arXiv:1708.03888) or "adamw".
        lr: Peak learning rate, for the batch size of the recipe.
        lr_warmup_epochs: Epochs of linear growth from 0 to `lr`.
        momentum: Momentum of SGD and LARS, in [0, 1).
        weight_decay: L2 penalty; decoupled with AdamW.
        final_weight_decay: Weight decay at the end of training, approached by half a cosine as
            in DINO; below 0: constant.
        decay_norms_and_biases: Whether weight decay covers biases and the weights of
            normalisation layers, too.
        clip_norm: Largest norm of all gradients together; longer ones are scaled down to it. 0:
            none is too long.
        schedule: "cosine", "step" by `factor` at each of `milestones`, or "constant".
        final_lr_share: Share of `lr` that the cosine ends at, in [0, 1].
        milestones: Numbers of epochs, with "step", each at least 1.
        factor: What the learning rate is multiplied with at a milestone, in (0, 1).

    Raises:
        CcropError: When a number is out of its range.
    """

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    lr: float = 0.03
    lr_warmup_epochs: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    final_weight_decay: float = -1.0
    decay_norms_and_biases: bool = True
    clip_norm: float = 0.0
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    final_lr_share: float = 0.0
    milestones: tuple[int, ...] = ()
    factor: float = 0.1

    def __post_init__(self) -> None:
        for name in ("lr", "lr_warmup_epochs", "momentum", "weight_decay", "clip_norm"):
            value = getattr(self, name)
            if value < 0 or (name == "momentum" and value >= 1):
                raise CcropError(f"optimizer.{name} is {value}; it is out of range")
        if not 0 <= self.final_lr_share <= 1:
            raise CcropError(
                f"optimizer.final_lr_share is {self.final_lr_share}; it must lie in [0, 1]"
            )
        if not 0 < self.factor < 1:
            raise CcropError(f"optimizer.factor is {self.factor}; it must lie in (0, 1)")
        if (self.schedule == "step") != bool(self.milestones):
            raise CcropError(
                f"optimizer.schedule is {self.schedule!r} and optimizer.milestones "
                f"{list(self.milestones)}: 'step' has milestones, and no other schedule has"
            )
        _expect_epochs("optimizer.milestones", self.milestones)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise CcropError(
                f"optimizer.milestones is {list(self.milestones)}; the numbers must increase"
            )


@dataclass(frozen=True)
class LocalViews:
    """Small views beside the two large ones (multi-crop; Caron et al., NeurIPS 2020).

    Args:
        count: Local views of an image; 0: none.
        size: Their side in pixels, at least 8.
        scale: Least and largest share of the image that a window covers, in (0, 1].

    Raises:
        CcropError: When a number is out of its range.
    """

    count: int = 0
    size: int = 96
    scale: tuple[float, float] = (0.05, 0.4)

    def __post_init__(self) -> None:
        if self.count < 0 or self.size < 8:
            raise CcropError(
                f"local_views has {self.count} views of {self.size} px; it needs 0 or more of at "
                "least 8 px"
            )
        try:
            CropParams(scale=self.scale)
        except ValueError as error:
            raise CcropError(f"local_views.{error}") from error


def _expect_epochs(name: str, epochs: tuple[int, ...]) -> None:
    if any(epoch < 1 for epoch in epochs):
        raise CcropError(f"{name} is {list(epochs)}; numbers of epochs must be 1 or more")
