"""From encoded images and their boxes to crops: the step that every loader shares."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ccrop_pipeline.crops import (
    UNIFORMS_PER_WINDOW,
    WINDOW,
    CropParams,
    UnreadableImage,
    crop_and_resize,
    decode,
    sample_windows,
    uniforms,
)

GREY = Image.new("RGB", (1, 1), (128, 128, 128))


@dataclass(frozen=True)
class ViewCutter:
    """Cuts the views of a batch; a pure function of its arguments.

    Args:
        size: Side of a view in pixels.
        views: Views per image.
        seed: Seed of the run; a view depends on (seed, epoch, key, view) and nothing else.
    """

    size: int
    views: int = 2
    seed: int = 0

    def cut(
        self,
        images: Sequence[bytes],
        keys: Sequence[str],
        hashes: np.ndarray,
        boxes: np.ndarray,
        epoch: int,
        params: CropParams,
    ) -> tuple[np.ndarray, int]:
        """Decodes each image once and cuts all its views.

        Args:
            images: Encoded images.
            keys: Their keys, for messages.
            hashes: Hashes of the keys, uint64 (n,).
            boxes: Normalised boxes, float32 (n, 4).
            epoch: Epoch that the views are drawn for.
            params: How windows are drawn.

        Returns:
            Crops, uint8 (views, n, size, size, 3), and the number of unreadable images. Those
            are grey, and each is named in a warning: one bad file must not end a long run.
        """
        decoded = [_decode_or_grey(image, key) for image, key in zip(images, keys, strict=True)]
        sizes = np.array([image.size for image in decoded], np.int64).reshape(-1, 2)
        crops = np.empty((self.views, len(decoded), self.size, self.size, 3), np.uint8)
        for view in range(self.views):
            randoms = uniforms(self.seed, epoch, hashes, view, WINDOW, UNIFORMS_PER_WINDOW)
            windows = sample_windows(boxes, sizes, randoms, params)
            for row, (image, window) in enumerate(zip(decoded, windows, strict=True)):
                crops[view, row] = crop_and_resize(image, window, self.size)
        return crops, sum(image is GREY for image in decoded)


def _decode_or_grey(image: bytes, key: str) -> Image.Image:
    try:
        return decode(image)
    except UnreadableImage as error:
        warnings.warn(f"image {key!r} is shown as grey: {error}", RuntimeWarning, stacklevel=2)
        return GREY
