"""Views of images that other libraries read, drawn as our own loader draws them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.adapters.dataset import StoredTurned
from ccrop_pipeline.boxset import Boxes, MissingBoxes, opened, upright
from ccrop_pipeline.crops import crop_and_resize, reduction_for
from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.images import UnreadableImage, decode_reduced, stored_size
from ccrop_pipeline.recipes import ViewGroup
from ccrop_pipeline.views import ViewCutter
from ccrop_pipeline.views.batch import hash_keys
from ccrop_pipeline.views.current_boxes import ImageBoxes

Image = bytes | bytearray | memoryview | Tensor | PIL.Image.Image


class BoxedViews:
    """Cuts the views of one image at a time, in whatever pipeline reads it.

    A view depends on (seed, epoch, key, view) and on nothing else: it is the crop that `ViewLoader`
    makes of them, in any library, process or thread and in any order.

    Args:
        boxes: A box set, or its folder: a local path or an address.
        groups: The views of an image; several groups are multi-crop.
        seed: Of the crops.
        turned: Whether the images, which then come decoded, are turned by their EXIF orientation,
            as torchcodec, OpenCV and DALI do it; boxes are turned with them. None: images come
            encoded, and are cut as they are stored.
        missing: What to do with an image that has no box: fail, or take the full box.

    Raises:
        CcropError: If the folder holds no complete box set.
        SettingError: If the seed is out of its range.
    """

    def __init__(
        self,
        boxes: Boxes,
        groups: ViewGroup | Sequence[ViewGroup],
        *,
        seed: int = 0,
        turned: bool | None = None,
        missing: MissingBoxes = "error",
    ) -> None:
        _expect_below("seed", seed, 2**64)
        groups = (groups,) if isinstance(groups, ViewGroup) else tuple(groups)
        self._cutter = ViewCutter(groups, seed)
        self._box_set, self._missing, self._turned = opened(boxes), missing, turned
        self._box_set.find([], missing=missing)  # now, and not in each worker
        self._stored = None if turned is None else StoredTurned(self._box_set)

    def __call__(self, image: Image, key: str, *, epoch: int) -> list[Tensor]:
        """Cut the views of an image.

        Args:
            image: Encoded. Where `turned` is given, decoded: uint8 (3, H, W), or a PIL image.
            key: Its key in the box set.
            epoch: Any number from 0 that is another one when the image comes again.

        Returns:
            A crop for each view, uint8 (3, S, S), before colours, blur and flips.

        Raises:
            CcropError: If the image has no box and that is an error, or is not as `turned` says.
            SettingError: If the epoch is out of its range.
            UnreadableImage: If it cannot be decoded.
        """
        windows, sides = self.windows(image, key, epoch=epoch), self._cutter.view_sizes
        if self._turned is None:
            (reduction,) = reduction_for(windows[:, None], sides).tolist()
            with _named(key):
                pixels, reduction = decode_reduced(_encoded(image, key), reduction)
        else:
            pixels, reduction = _pixels(image), 1
        crops = [
            crop_and_resize(pixels, reduction, window, side)
            for window, side in zip(windows, sides, strict=True)
        ]
        return [torch.from_numpy(crop.copy()).permute(2, 0, 1) for crop in crops]

    def windows(self, image: Image, key: str, *, epoch: int) -> NDArray[np.int64]:
        """Draw the windows of the views of an image, for pipelines that crop by themselves.

        Args:
            image: As in a call; of an encoded image the header is read alone.
            key: See there.
            epoch: See there.

        Returns:
            int64 (V, 4) top, left, height, width in pixels of the image as it is given.

        Raises:
            CcropError: If a call would raise it.
            SettingError: If the epoch is out of its range.
            UnreadableImage: If the header cannot be read.
        """
        _expect_below("epoch", epoch, 2**32)
        if self._turned is None:
            with _named(key):
                size = stored_size(_encoded(image, key))
        else:
            size = _size(image, key)
        hashes = hash_keys([key])
        boxes = ImageBoxes.find(self._box_set, [key], self._missing)
        drawn = boxes.of_epoch(self._cutter.seed, epoch, hashes)
        (stored,) = self._stored.of([key]) if self._stored else (None,)
        if stored is not None:
            exchanged = self._turned and stored.orientation > 4
            expected = (stored.height, stored.width) if exchanged else (stored.width, stored.height)
            if size != expected:
                raise CcropError(
                    f"the image {key!r} is {size[0]} x {size[1]} (width x height) and would be "
                    f"{expected[0]} x {expected[1]} with `turned` {self._turned}: its EXIF "
                    f"orientation is {stored.orientation}. Set `turned` to what its library does."
                )
            drawn = upright(drawn, stored.orientation) if self._turned else drawn
        return self._cutter.windows(hashes, np.array([size]), drawn, epoch)[:, 0]


def _expect_below(name: str, value: int, end: int) -> None:
    if not 0 <= value < end:
        raise SettingError(f"`{name}` is {value}; it must be from 0 to {end - 1:,}.")


@contextmanager
def _named(key: str) -> Iterator[None]:
    try:
        yield
    except UnreadableImage as error:
        raise UnreadableImage(f"the image {key!r}: {error}") from error


def _encoded(image: object, key: str) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    raise CcropError(
        f"the image {key!r} is a {type(image).__name__} and not its encoded bytes. Give the bytes, "
        "or say of decoded images whether their EXIF orientation is applied: `turned`."
    )


def _size(image: object, key: str) -> tuple[int, int]:
    """Return width and height of a decoded image."""
    if isinstance(image, PIL.Image.Image):
        return image.size
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.shape[:-2] == (3,):
        return image.shape[2], image.shape[1]
    found = (
        f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
    )
    raise CcropError(
        f"the image {key!r} is {found}. With `turned` it must be a PIL image or a "
        "tensor, uint8 (3, H, W)."
    )


def _pixels(image: Any) -> NDArray[np.uint8]:
    """Return those of a decoded image, uint8 (H, W, 3)."""
    if isinstance(image, PIL.Image.Image):
        return np.asarray(image.convert("RGB"))
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy(force=True))
