"""Settings of boxes, of the optimizer and of the probe that a run takes."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from ccrop_pipeline.base.values import check_ranges, ranged
from ccrop_pipeline.errors import SettingError, shown

# Section 4.1 of ContrastiveCrop (Peng et al., CVPR 2022, arXiv:2202.03278).
PAPER_REFRESHES = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class BoxSettings:
    """Where boxes come from, and when they are computed.

    At most one of `refresh_at`, `refresh_every` and `refresh_epochs` is given; without any,
    boxes are computed as in the paper, after 20, 40, 60 and 80 % of training. The epochs before
    the first refresh are the warm-up.

    Attributes:
        kind: "encoder" computes boxes from the encoder as it is; "none" is random crops;
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
            None, "auto" in TOML: it sets itself at each refresh (docs/boxes.md).

    Raises:
        SettingError: If a number is out of its range, or settings contradict each other.
    """

    kind: Literal["encoder", "none", "centre", "full"] = "encoder"
    refresh_at: tuple[float, ...] = ranged((), "(0, 1)")
    refresh_every: int = ranged(0, "[0, 100000]")
    warmup_epochs: int = ranged(0, "[0, 100000]")
    refresh_epochs: tuple[int, ...] = ranged((), "[1, 100000]")
    refresh_from: Literal["online", "momentum"] = "online"
    overlapped: bool = False
    threshold: float | None = ranged(None, "[0, 1)")

    def __post_init__(self) -> None:
        """Check the ranges, and that there is one schedule."""
        check_ranges(self)
        schedules = ("refresh_at", "refresh_every", "refresh_epochs")
        given = [name for name in schedules if getattr(self, name)]
        if len(given) > 1:
            raise SettingError(f"{' and '.join(given)} are given; a schedule has only one of them.")
        if self.warmup_epochs and not self.refresh_every:
            raise SettingError(
                f"warmup_epochs is {self.warmup_epochs} without refresh_every. The first refresh "
                "ends the warm-up: give refresh_every as well, or refresh_at or refresh_epochs "
                "alone."
            )
        _expect_increasing("refresh_at", self.refresh_at)
        _expect_increasing("refresh_epochs", self.refresh_epochs)


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer, and the schedules of its learning rate and weight decay.

    Attributes:
        name: "sgd", "lars" (You et al., arXiv:1708.03888) or "adamw".
        lr: Peak learning rate, for the batch size of the recipe.
        layer_decay: What the learning rate of each block of the backbone is multiplied by for
            every block behind it, and once more; 1: all learn at the same rate. For weights from
            elsewhere, whose first layers need the least change (section 2.3 and appendix of BEiT,
            arXiv:2106.08254, has 0.65 to 0.85).
        lr_warmup_epochs: Epochs of linear growth from 0 to `lr`.
        momentum: Momentum of SGD and LARS, the first beta of AdamW; in [0, 1).
        weight_decay: L2 penalty; decoupled with AdamW.
        final_weight_decay: Weight decay at the end of training, approached by half a cosine as
            in DINO; below 0: constant.
        decay_norms_and_biases: Whether weight decay covers biases and the weights of
            normalisation layers, too.
        norms_and_biases_share: Share of `lr` that biases and the weights of normalisation layers
            learn at, in (0, 1].
        clip_norm: Largest norm of all gradients together; longer ones are scaled down to it. 0:
            none is too long.
        clip_each: Whether that is the largest norm of each parameter's gradient instead, as in
            the program of DINO's authors.
        schedule: "cosine", "step" by `factor` at each of `milestones`, or "constant".
        final_lr_share: Share of `lr` that the cosine ends at, in [0, 1].
        milestones: Numbers of epochs, with "step", each at least 1.
        factor: What the learning rate is multiplied by at a milestone, in (0, 1).

    Raises:
        SettingError: If a number is out of its range, milestones and schedule disagree, or LARS has
            no weight decay and would be plain SGD.
    """

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    lr: float = ranged(0.03, "[0, 10000]")
    layer_decay: float = ranged(1.0, "(0, 1]")
    lr_warmup_epochs: int = ranged(0, "[0, 100000]")
    momentum: float = ranged(0.9, "[0, 1)")
    weight_decay: float = ranged(1e-4, "[0, 100]")
    final_weight_decay: float = ranged(-1.0, "[-1, 100]")
    decay_norms_and_biases: bool = True
    norms_and_biases_share: float = ranged(1.0, "(0, 1]")
    clip_norm: float = ranged(0.0, "[0, 1000000]")
    clip_each: bool = False
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    final_lr_share: float = ranged(0.0, "[0, 1]")
    milestones: tuple[int, ...] = ranged((), "[1, 100000]")
    factor: float = ranged(0.1, "(0, 1)")

    def __post_init__(self) -> None:
        """Check the ranges, the milestones, and that LARS is LARS."""
        check_ranges(self)
        if (self.schedule == "step") != bool(self.milestones):
            raise SettingError(
                f"schedule is {self.schedule!r} and milestones {shown(list(self.milestones))}: "
                "'step' has milestones, and no other schedule has."
            )
        _expect_increasing("milestones", self.milestones)
        if self.name == "lars" and 0 in (self.weight_decay, self.final_weight_decay):
            raise SettingError(
                "name is 'lars' and the weight decay is or becomes 0: parameters that do not decay "
                "get no trust ratio, so this would be plain SGD. Set optimizer.weight_decay above "
                "0 (SimCLR has 1e-6), or optimizer.name to 'sgd'."
            )

    def rate(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step; every schedule begins with the same warm-up.

        The cosine is that of Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts.

        Args:
            step: Steps taken so far, in [0, steps).
            steps: Steps of the whole run.
            steps_per_epoch: Steps of an epoch, which is what settings count in.
        """
        warmup_steps = self.lr_warmup_epochs * steps_per_epoch
        if step < warmup_steps:
            return self.lr * (step + 1) / warmup_steps
        if self.schedule == "cosine":
            done = (step - warmup_steps) / max(1, steps - warmup_steps)
            return self.lr * _half_cosine(1.0, self.final_lr_share, done)
        passed = sum(step >= epoch * steps_per_epoch for epoch in self.milestones)
        return self.lr * self.factor**passed

    def decay(self, step: int, steps: int) -> float:
        """Return the weight decay of a step: constant, or half a cosine to the final one.

        The latter is what DINO does (section 3.2 of arXiv:2104.14294, from 0.04 to 0.4).

        Args:
            step: Steps taken so far, in [0, steps).
            steps: Steps of the whole run.
        """
        if self.final_weight_decay < 0:
            return self.weight_decay
        return _half_cosine(self.weight_decay, self.final_weight_decay, step / steps)


# The k of Wu et al., with which accuracies are published. Of fewer than ten times as many images,
# it votes down classes that have not so many (lab/benchmarks.md).
_VOTES = 200


@dataclass(frozen=True)
class KnnSettings:
    """The kNN probe, and how often a run takes it (Wu et al., CVPR 2018, arXiv:1805.01978).

    Attributes:
        every: Epochs between probes; the last epoch is always probed. 0: never.
        k: Neighbours that vote. None, "auto" in TOML: 200, or a tenth of the images that answer
            where that is less (docs/probes.md).
        temperature: Votes weigh exp(similarity / temperature).
        max_images: Images that answer, and that ask, at most, while a run goes on: more of them
            would take longer than the epochs between.

    Raises:
        SettingError: If a number is out of its range.
    """

    every: int = ranged(10, "[0, 100000]")
    k: int | None = ranged(None, "[1, 100000]")
    temperature: float = ranged(0.1, "[0.0001, 1000]")
    max_images: int = ranged(50_000, "[1, 10000000]")

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)

    def neighbours(self, images: int) -> int:
        """Return how many neighbours vote where so many images answer, at most all of them."""
        k = max(1, min(_VOTES, images // 10)) if self.k is None else self.k
        return min(k, images)


def _half_cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))


def _expect_increasing(name: str, values: tuple[Any, ...]) -> None:
    if list(values) != sorted(set(values)):
        raise SettingError(f"{name} is {shown(list(values))}; the numbers must increase.")
