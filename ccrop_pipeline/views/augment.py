"""Colour jitter, grayscale, blur, solarize, flip and normalisation of a batch, on any device.

Each image has its own random numbers and its own order of the jitter's four steps, as if
torchvision's transforms had been applied to it alone. The order of the rest is that of MoCo v2,
BYOL and DINO.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby, permutations
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.base.workers import in_loader_process
from ccrop_pipeline.crops import PHOTOMETRIC, uniforms
from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD, to_device
from ccrop_pipeline.recipes import AugmentSettings, ViewGroup
from ccrop_pipeline.views.batch import Batch
from ccrop_pipeline.views.photometric import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    blur,
    blur_radius,
    grayscale,
    solarize,
)
from ccrop_pipeline.views.rooms import Rooms, shared_room

# Jitter or not, its order, its four factors, grayscale or not, flip or not, blur or not, its
# sigma, solarize or not. New numbers are appended, so that the old ones keep their values.
UNIFORMS_PER_VIEW: Final = 11

BRIGHTNESS, CONTRAST, SATURATION, HUE, SKIP = range(5)
ORDERS: Final = np.array(list(permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE))))
_NO_JITTER = len(ORDERS)
_ORDERED_STEPS = np.vstack([ORDERS, np.full(4, SKIP)])
# Views are sorted by the time of their hue shift, the dearest step, then by the whole order.
_RANKS = np.lexsort(
    np.vstack([np.arange(len(_ORDERED_STEPS)), (_ORDERED_STEPS == HUE).argmax(1)])
).argsort()


@dataclass(frozen=True)
class Draws:
    """What n views get. They are sorted so that long runs take the same step at the same time.

    Attributes:
        rows: int64 (n,), the place of each view in its group.
        steps: int64 (n, 4), the jitter's steps in the order of their application, or `SKIP`.
        factors: float32 (n, 4), factors of brightness, contrast and saturation, and the shift of
            the hue in turns.
        grey: bool (n,), whether the view loses its colour.
        sigma: float32 (n,), standard deviation of the blur in pixels, 0 for none.
        solarized: bool (n,).
        flipped: bool (n,).
    """

    rows: NDArray[np.int64]
    steps: NDArray[np.int64]
    factors: NDArray[np.float32]
    grey: NDArray[np.bool_]
    sigma: NDArray[np.float32]
    solarized: NDArray[np.bool_]
    flipped: NDArray[np.bool_]


def draw(randoms: NDArray[np.float64], settings: AugmentSettings) -> Draws:
    """Draw strengths and orders from uniform numbers.

    Args:
        randoms: float64 (n, UNIFORMS_PER_VIEW) in (0, 1).
        settings: Strengths and probabilities.
    """
    s = settings
    orders = np.where(
        randoms[:, 0] < s.jitter_p, (randoms[:, 1] * len(ORDERS)).astype(int), _NO_JITTER
    )
    rows = np.argsort(_RANKS[orders], kind="stable")
    orders, randoms = orders[rows], randoms[rows]
    ranges = np.array([s.brightness, s.contrast, s.saturation, s.hue])
    lows = np.append(np.maximum(0, 1 - ranges[:3]), -s.hue)
    highs = np.append(1 + ranges[:3], s.hue)
    # A step of no strength is left out; SKIP stays SKIP.
    kept = np.where(np.append(ranges, 0) > 0, np.arange(SKIP + 1), SKIP)
    least, largest = s.blur_sigma
    sigma = np.where(randoms[:, 8] < s.blur_p, least + (largest - least) * randoms[:, 9], 0)
    return Draws(
        rows=rows,
        steps=kept[_ORDERED_STEPS[orders]],
        factors=(lows + (highs - lows) * randoms[:, 2:6]).astype(np.float32),
        grey=randoms[:, 6] < s.grayscale_p,
        sigma=sigma.astype(np.float32),
        solarized=randoms[:, 10] < s.solarize_p,
        flipped=randoms[:, 7] < s.flip_p,
    )


_STEPS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
_CPU_CHUNK = 400_000  # values changed at a time on a CPU, so few that its caches hold them


class Augment:
    """Jitter, grayscale, blur, solarization and flips of batches, on the device that trains.

    Args:
        groups: The groups of views, in the order of `Batch.views`.
        seed: Seed of the run; an image's draw depends on (seed, epoch, key, view) alone.
        device: Where the batch is augmented.
    """

    def __init__(self, groups: Sequence[ViewGroup], seed: int, device: str | torch.device) -> None:
        self.groups, self.seed, self.device = tuple(groups), seed, torch.device(device)
        self._rooms = Rooms()
        if self.device.type == "cpu":
            _fused()  # once, for all the loader processes that are forked
        self._mean = torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1)
        self._inverse_std = 1 / torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1)

    def __call__(self, batch: Batch, epoch: int) -> tuple[Tensor, ...]:
        """Augment all views of a batch, and normalise them.

        Args:
            batch: Its views are uint8 (V, B, 3, S, S), one tensor a group, in any layout.
            epoch: Epoch that the random numbers are drawn for.

        Returns:
            One tensor a group, float32 (V, B, 3, S, S), normalised by the mean and the standard
            deviation of ImageNet.
        """
        views, first = [], 0
        for group, crops in zip(self.groups, batch.views, strict=True):
            numbers = range(first, first + len(crops))
            randoms = [
                uniforms(self.seed, epoch, batch.hashes, view, PHOTOMETRIC, UNIFORMS_PER_VIEW)
                for view in numbers
            ]
            draws = draw(np.concatenate(randoms), group.augment)
            images = to_device(crops, self.device).flatten(0, 1)
            threshold = group.augment.solarize_threshold
            views.append(self._augment(images, draws, threshold).view(crops.shape))
            first = numbers.stop
        return tuple(views)

    def augmented(self, batch: Batch, epoch: int) -> Batch:
        """Return a batch of crops with augmented views in their place."""
        return replace(batch, views=self(batch, epoch))

    def _augment(self, crops: Tensor, draws: Draws, threshold: float) -> Tensor:
        views, on_cpu = self._room(crops.shape), self.device.type == "cpu"
        if on_cpu and (fused := _fused()):
            self._change_fused(fused, crops, draws, threshold, views)
            return views
        strengths = self._on_device(np.column_stack([draws.factors, draws.sigma]))
        size = max(1, _CPU_CHUNK // crops[0].numel()) if on_cpu else len(crops)
        for start in range(0, len(crops), size):
            part = slice(start, start + size)
            rows, *chosen = self._rows(draws, part)
            pixels = crops.index_select(0, rows)
            images = _change(pixels, draws.steps[part], strengths[part], chosen, threshold)
            _put(views, rows, images.sub_(self._mean).mul_(self._inverse_std))
        return views

    def _room(self, shape: torch.Size) -> Tensor:
        if self.device.type != "cpu":
            return torch.empty(shape, device=self.device)
        return shared_room(shape) if in_loader_process() else self._rooms.room(shape)

    def _change_fused(
        self,
        fused: Callable[..., None],
        crops: Tensor,
        draws: Draws,
        threshold: float,
        views: Tensor,
    ) -> None:
        side = crops.shape[-1]
        radii = [blur_radius(sigma, side) if sigma > 0 else 0 for sigma in draws.sigma.tolist()]
        fused(
            crops.numpy(),
            draws.rows,
            draws.steps,
            draws.factors,
            np.column_stack([draws.flipped, draws.grey, draws.solarized]),
            draws.sigma,
            np.array(radii, np.int64),
            threshold,
            np.stack([self._mean.numpy().ravel(), self._inverse_std.numpy().ravel()]),
            views.numpy(),
        )

    def _rows(self, draws: Draws, part: slice) -> tuple[Tensor, ...]:
        """Return the places of a part's views in their group, and which to flip and so on.

        All rows travel to the device in one copy.
        """
        chosen = (draws.flipped, draws.grey, draws.sigma, draws.solarized)
        rows = [draws.rows[part], *(np.flatnonzero(which[part]) for which in chosen)]
        return torch.split(self._on_device(np.concatenate(rows)), [len(some) for some in rows])

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        return to_device(torch.from_numpy(array), self.device)


@cache
def _fused() -> Callable[..., None] | None:
    """Return what augments on a CPU at several times the rate of torch, where Numba is."""
    try:
        from ccrop_pipeline.views.fused import change_views
    except (ImportError, RuntimeError):
        # Not installed, or not for this NumPy; no folder for its cache.
        return None
    return cast(Callable[..., None], change_views)


def _change(
    pixels: Tensor,
    steps: NDArray[np.int64],
    strengths: Tensor,
    chosen: Sequence[Tensor],
    threshold: float,
) -> Tensor:
    """Do all but the normalisation, from uint8 pixels to float32 images, both (n, 3, S, S)."""
    flipped, grey, blurred, solarized = chosen
    # A flip is cheapest on bytes, and no other step tells left from right.
    _replace(pixels, flipped, lambda some: some.flip(-1))
    images = pixels.float().mul_(1 / 255)
    factors, sigmas = strengths[:, :4, None, None, None], strengths[:, 4]
    _jitter(images, steps, factors)
    _replace(images, grey, lambda some: grayscale(some).expand_as(some))
    blur(images, blurred, sigmas)
    _replace(images, solarized, lambda some: solarize(some, threshold))
    return images


def _jitter(images: Tensor, steps: NDArray[np.int64], factors: Tensor) -> None:
    for steps_at_one_time in steps.T.tolist():
        for step, run in _runs(steps_at_one_time):
            if step != SKIP:
                _STEPS[step](images[run], factors[run, step])


def _runs(values: list[int]) -> Iterator[tuple[int, slice]]:
    """Yield each maximal run of equal values, and where it is."""
    start = 0
    for value, run in groupby(values):
        stop = start + len(list(run))
        yield value, slice(start, stop)
        start = stop


def _replace(images: Tensor, rows: Tensor, function: Callable[[Tensor], Tensor]) -> None:
    if len(rows):
        _put(images, rows, function(images.index_select(0, rows)))


def _put(target: Tensor, rows: Tensor, values: Tensor) -> None:
    if target.device.type == "cpu":
        target.numpy()[rows.numpy()] = values.numpy()  # several times as fast as index_copy_
    else:
        target.index_copy_(0, rows, values)
