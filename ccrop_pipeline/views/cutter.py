"""From encoded images and their boxes to crops: the step that every loader shares."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.boxset import FULL_BOX
from ccrop_pipeline.crops import (
    UNIFORMS_PER_WINDOW,
    WINDOW,
    CropParams,
    crop_and_resize,
    reduction_for,
    sample_windows,
    uniforms,
)
from ccrop_pipeline.errors import cause
from ccrop_pipeline.images import UnreadableImage, decode_reduced, stored_size
from ccrop_pipeline.recipes import ViewGroup

GREY = 128
_FULL = np.array([FULL_BOX], np.float32)


@dataclass(frozen=True)
class ViewCutter:
    """From images and boxes to the crops of all views; a pure function of its arguments.

    Args:
        groups: The views of an image. They are numbered through all groups.
        seed: Seed of the run; a view depends on (seed, epoch, key, view) and nothing else.
    """

    groups: tuple[ViewGroup, ...]
    seed: int = 0

    @property
    def view_sizes(self) -> list[int]:
        """Side in pixels of each view."""
        return [group.size for group in self.groups for _ in range(group.count)]

    def windows(
        self,
        hashes: NDArray[np.uint64],
        sizes: NDArray[np.int64],
        boxes: NDArray[np.float32] | None,
        epoch: int,
    ) -> NDArray[np.int64]:
        """Draw the windows of all views of a batch.

        Args:
            hashes: Hashes of the keys, uint64 (n,).
            sizes: Width and height of the images in pixels, int64 (n, 2).
            boxes: Normalised boxes, float32 (n, 4). None for random crops: the windows of
                RandomResizedCrop at the scale and ratio of each group.
            epoch: Epoch that the views are drawn for.

        Returns:
            int64 (V, n, 4) top, left, height, width in pixels.
        """
        drawn, first = [], 0
        for group in self.groups:
            params = group.crop if boxes is not None else random_crop(group.crop)
            views = np.repeat(np.arange(first, first + group.count), len(hashes))
            each_again = np.tile(np.arange(len(hashes)), group.count)
            randoms = uniforms(
                self.seed, epoch, hashes[each_again], views, WINDOW, UNIFORMS_PER_WINDOW
            )
            of_images = _FULL.repeat(len(hashes), 0) if boxes is None else boxes
            windows = sample_windows(of_images[each_again], sizes[each_again], randoms, params)
            drawn.append(windows.reshape(group.count, len(hashes), 4))
            first += group.count
        return np.concatenate(drawn)

    def cut(
        self,
        images: Sequence[bytes],
        keys: Sequence[str],
        hashes: NDArray[np.uint64],
        boxes: NDArray[np.float32] | None,
        epoch: int,
    ) -> tuple[tuple[Tensor, ...], dict[int, str]]:
        """Decode each image once, as small as its windows allow, and cuts all its views.

        Args:
            images: Encoded images.
            keys: Their keys, to name those that cannot be decoded.
            hashes: Hashes of the keys, uint64 (n,).
            boxes: Normalised boxes, float32 (n, 4), or None for random crops.
            epoch: Epoch that the views are drawn for.

        Returns:
            Crops, a tensor a group, uint8 (V, n, 3, S, S), channels last in memory; and the
            images that cannot be decoded, by row: key and reason. They are grey: one bad file must
            not end a long run.
        """
        sizes = np.array([_size_or_one(image) for image in images], np.int64).reshape(-1, 2)
        windows = self.windows(hashes, sizes, boxes, epoch)
        reductions = reduction_for(windows, self.view_sizes)
        groups = [
            np.empty((group.count, len(images), group.size, group.size, 3), np.uint8)
            for group in self.groups
        ]
        views = [view for group in groups for view in group]
        problems: dict[int, str] = {}
        for row, (image, reduction) in enumerate(zip(images, reductions.tolist(), strict=True)):
            decoded = decode_or_note(image, keys[row], problems, row, reduction)
            for view, window in zip(views, windows[:, row], strict=True):
                view[row] = crop_and_resize(*decoded, window, len(view[row])) if decoded else GREY
        return tuple(torch.from_numpy(group).permute(0, 1, 4, 2, 3) for group in groups), problems


def random_crop(params: CropParams) -> CropParams:
    """Return the parameters under which a full box gives RandomResizedCrop."""
    return CropParams(rule="overlap", alpha=1.0, scale=params.scale, ratio=params.ratio)


def decode_or_note(
    image: bytes, key: str, problems: dict[int, str], row: int, reduction: int = 1
) -> tuple[NDArray[np.uint8], int] | None:
    """Return pixels as `decode_reduced` does; None, noted under its row, where there are none."""
    try:
        return decode_reduced(image, reduction)
    except UnreadableImage as error:
        problems[row] = f"{key} ({cause(error)})"
        return None


def _size_or_one(image: bytes) -> tuple[int, int]:
    # What cannot be read is met again, and named, when it is decoded.
    try:
        return stored_size(image)
    except UnreadableImage:
        return 1, 1
