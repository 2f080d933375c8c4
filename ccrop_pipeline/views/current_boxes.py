"""The boxes that views are cut from now, known to loader workers that already run.

Persistent workers hold a copy of the data set they were started with. Only what lies in shared
memory and is written in place reaches them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.base import absolute
from ccrop_pipeline.boxset import FULL_BOX, Boxes, BoxSet, Choices, MissingBoxes, opened
from ccrop_pipeline.crops import CHOICE, uniforms
from ccrop_pipeline.errors import CcropError


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """The boxes of n images, one or several each.

    Attributes:
        boxes: float32 (n, 4); the union where an image has several.
        choices: The boxes of each image to draw from; None where each has one.
    """

    boxes: NDArray[np.float32]
    choices: Choices | None = None

    @classmethod
    def find(cls, boxes: Boxes, keys: Sequence[str], missing: MissingBoxes) -> "ImageBoxes":
        """Look up the boxes of keys in a box set.

        Raises:
            CcropError: If the box set cannot be read, or lacks images and that is an error.
        """
        box_set = opened(boxes)
        found = box_set.find(keys, missing=missing)
        return cls(found, box_set.choices(keys, missing=missing))

    def of_epoch(self, seed: int, epoch: int, hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Draw one box of each image for all its views in an epoch; equally likely.

        Args:
            seed: Seed of the run; a draw depends on (seed, epoch, key) and nothing else.
            epoch: Epoch that the views are drawn for.
            hashes: Hashes of the keys, uint64 (n,).

        Returns:
            float32 (n, 4).
        """
        if self.choices is None:
            return self.boxes
        return self.choices.pick(uniforms(seed, epoch, hashes, 0, CHOICE, 1)[:, 0])


class SharedNumber:
    """A whole number as an attribute that workers see as it changes."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._place = f"_{name}"

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> int: ...
    def __get__(self, instance: object | None, owner: type) -> Self | int:
        return self if instance is None else int(vars(instance)[self._place])

    def __set__(self, instance: object, number: int) -> None:
        if self._place not in vars(instance):
            vars(instance)[self._place] = _shared(torch.zeros((), dtype=torch.int64))
        vars(instance)[self._place].fill_(number)


class SharedBoxes:
    """The boxes and the epoch of images that are read by position.

    Args:
        count: Number of images.

    Attributes:
        epoch: Epoch whose views the workers cut.
        augmented: 1 if they augment them as well, else 0.
    """

    epoch = SharedNumber()
    augmented = SharedNumber()
    _used = SharedNumber()

    def __init__(self, count: int) -> None:
        self._boxes = _shared(torch.tensor(FULL_BOX).repeat(count, 1))
        self.epoch, self.augmented, self._used = 0, 0, 0

    def use(self, boxes: NDArray[np.float32] | None) -> None:
        """Take new boxes, float32 (count, 4), in the order of the index; None: random crops."""
        if boxes is not None:
            self._boxes.copy_(torch.from_numpy(boxes))
        self._used = int(boxes is not None)

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Return the boxes of some rows, float32 (n, 4), or None for random crops."""
        return self._boxes.numpy()[rows] if self._used else None


class CurrentBoxSet:
    """Place of the box set of images that are streamed, and where in the epoch the workers are.

    Attributes:
        epoch: Epoch whose views the workers cut.
        start: Batches of the epoch, over all workers, that are not wanted.
        augmented: 1 if the workers augment the views as well, else 0.
    """

    _MAX_BYTES: Final = 4096
    epoch = SharedNumber()
    start = SharedNumber()
    augmented = SharedNumber()

    def __init__(self) -> None:
        self._place = _shared(torch.zeros(self._MAX_BYTES, dtype=torch.uint8))
        self.epoch, self.start, self.augmented = 0, 0, 0

    @property
    def folder(self) -> str | None:
        """Absolute path or address of the box set, or None for random crops."""
        return os.fsdecode(self._place.numpy().tobytes().rstrip(b"\0")) or None

    def use(self, boxes: BoxSet | None) -> None:
        """Take another box set; None: random crops.

        Raises:
            CcropError: If its path is too long.
        """
        place = "" if boxes is None else absolute(boxes.folder)
        encoded = os.fsencode(place)
        if len(encoded) > self._MAX_BYTES:
            raise CcropError(
                f"the path of the box set has {len(encoded)} bytes, and {self._MAX_BYTES} are "
                f"the most: {place}. Move it."
            )
        padded = np.frombuffer(encoded.ljust(self._MAX_BYTES, b"\0"), np.uint8)
        self._place.copy_(torch.from_numpy(padded.copy()))


def _shared(tensor: Tensor) -> Tensor:
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor
