"""What a loader hands to a training step."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, overload

import numpy as np
import torch
from torch import Tensor

from ccrop_pipeline.base import Location, is_address
from ccrop_pipeline.boxset import FULL_BOX, BoxFinder, Choices, MissingBoxes
from ccrop_pipeline.crops import CHOICE, key_hash, uniforms
from ccrop_pipeline.errors import CcropError


@dataclass
class Batch:
    """Crops of one batch of images, not yet augmented.

    Attributes:
        views: One tensor a group of views, uint8 (V, B, 3, S, S) with the group's number V and
            side S of views; on the CPU, or where a resident data set lies.
        key_hashes: int64 (B,), the bits of the unsigned hash of each key.
        labels: int64 (B,), -1 where an image has none.
        readable: bool (B,); images that could not be decoded are grey.
    """

    views: tuple[Tensor, ...]
    key_hashes: Tensor
    labels: Tensor
    readable: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, rows: slice) -> "Batch":
        """Return some of the images."""
        views = tuple(group[:, rows] for group in self.views)
        return Batch(views, self.key_hashes[rows], self.labels[rows], self.readable[rows])

    @classmethod
    def join(cls, batches: "Sequence[Batch]") -> "Batch":
        """Return all images of some batches as one."""
        return cls(
            tuple(
                _along_images(groups) for groups in zip(*(b.views for b in batches), strict=True)
            ),
            torch.cat([batch.key_hashes for batch in batches]),
            torch.cat([batch.labels for batch in batches]),
            torch.cat([batch.readable for batch in batches]),
        )

    def pin_memory(self) -> "Batch":
        """Lets a `DataLoader` pin the crops for asynchronous copies to a GPU."""
        self.views = tuple(group.pin_memory() for group in self.views)
        return self

    @property
    def hashes(self) -> np.ndarray:
        """Key hashes as uint64 (B,), the type the random numbers are drawn from."""
        return self.key_hashes.numpy().view(np.uint64)


def _along_images(groups: tuple[Tensor, ...]) -> Tensor:
    # Joined as they lie in memory, with the channels last, which `cat` alone would not keep.
    stored = torch.cat([group.permute(0, 1, 3, 4, 2) for group in groups], dim=1)
    return stored.permute(0, 1, 4, 2, 3)


def hash_keys(keys: list[str]) -> np.ndarray:
    """Hashes of keys as uint64 (n,)."""
    return np.fromiter((key_hash(key) for key in keys), np.uint64, len(keys))


def make_batch(
    views: tuple[Tensor, ...], hashes: np.ndarray, labels: np.ndarray, readable: np.ndarray
) -> Batch:
    """A batch from views, hashes uint64 (B,), labels int64 (B,) and `readable`, none copied."""
    rows = (hashes.view(np.int64), labels, readable)
    return Batch(views, *map(torch.from_numpy, rows))


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """The boxes of n images, one or several each.

    Attributes:
        boxes: float32 (n, 4); the union where an image has several.
        choices: The boxes of each image to draw from; None where each has one.
    """

    boxes: np.ndarray
    choices: Choices | None = None

    @classmethod
    def find(cls, folder: Location, keys: list[str], missing: MissingBoxes) -> "ImageBoxes":
        """Looks up the boxes of keys in a box set.

        Raises:
            CcropError: The box set cannot be read, or lacks images and that is an error.
        """
        finder = BoxFinder(folder, missing)
        return cls(finder.find(keys), finder.choices(keys))

    def of_epoch(self, seed: int, epoch: int, hashes: np.ndarray) -> np.ndarray:
        """One box of each image for all its views in an epoch; equally likely.

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
    """A whole number as an attribute that workers see as it changes.

    Persistent workers hold a copy of the data set they were started with. Only what lies in
    shared memory and is written in place reaches them.
    """

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
    """The boxes and the epoch of a map-style loader, seen by its workers as they change.

    Args:
        count: Number of images.

    Attributes:
        epoch: Epoch whose views the workers cut.
    """

    epoch = SharedNumber()
    _used = SharedNumber()

    def __init__(self, count: int) -> None:
        self._boxes = _shared(torch.tensor(FULL_BOX).repeat(count, 1))
        self.epoch, self._used = 0, 0

    def use(self, boxes: np.ndarray | None) -> None:
        """Takes new boxes, float32 (count, 4), in the order of the index; None: random crops."""
        if boxes is not None:
            self._boxes.copy_(torch.from_numpy(boxes))
        self._used = int(boxes is not None)

    def of(self, rows: np.ndarray) -> np.ndarray | None:
        """Boxes of some rows, float32 (n, 4), or None for random crops."""
        return self._boxes.numpy()[rows] if self._used else None


class CurrentBoxSet:
    """Place of the box set that streaming workers read, and where they are, in shared memory.

    Attributes:
        epoch: Epoch whose views the workers cut.
        start: Batches of the epoch, over all workers, that are not wanted.
    """

    _MAX_BYTES = 4096
    epoch = SharedNumber()
    start = SharedNumber()

    def __init__(self) -> None:
        self._place = _shared(torch.zeros(self._MAX_BYTES, dtype=torch.uint8))
        self.epoch, self.start = 0, 0

    @property
    def folder(self) -> str | None:
        """Absolute path or address of the box set, or None for random crops."""
        return os.fsdecode(self._place.numpy().tobytes().rstrip(b"\0")) or None

    @folder.setter
    def folder(self, folder: Location | None) -> None:
        place = "" if folder is None else str(folder)
        if place and not is_address(place):
            place = str(Path(place).resolve())
        encoded = os.fsencode(place)
        if len(encoded) > self._MAX_BYTES:
            raise CcropError(f"the path of the box set is too long: {folder}.")
        padded = np.frombuffer(encoded.ljust(self._MAX_BYTES, b"\0"), np.uint8)
        self._place.copy_(torch.from_numpy(padded.copy()))


def _shared(tensor: Tensor) -> Tensor:
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor
