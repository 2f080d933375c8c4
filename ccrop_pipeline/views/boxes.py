"""Boxes as the workers of a loader see them: in shared memory, replaced in place."""

from pathlib import Path
from typing import Self, overload

import numpy as np
import torch
from torch import Tensor

from ccrop_pipeline.boxset import FULL_BOX
from ccrop_pipeline.errors import CcropError


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
    """Path of the box set that streaming workers read, and where they are, in shared memory.

    Attributes:
        epoch: Epoch whose views the workers cut.
        start: Batches of the epoch, over all workers, that are not wanted.
    """

    _MAX_PATH_BYTES = 4096
    epoch = SharedNumber()
    start = SharedNumber()

    def __init__(self) -> None:
        self._path = _shared(torch.zeros(self._MAX_PATH_BYTES, dtype=torch.uint8))
        self.epoch, self.start = 0, 0

    @property
    def folder(self) -> Path | None:
        """Folder of the box set, or None for random crops."""
        path = self._path.numpy().tobytes().rstrip(b"\0").decode()
        return Path(path) if path else None

    @folder.setter
    def folder(self, folder: Path | None) -> None:
        encoded = b"" if folder is None else str(Path(folder).resolve()).encode()
        if len(encoded) > self._MAX_PATH_BYTES:
            raise CcropError(f"the path of the box set is too long: {folder}")
        padded = np.frombuffer(encoded.ljust(self._MAX_PATH_BYTES, b"\0"), np.uint8)
        self._path.copy_(torch.from_numpy(padded.copy()))


def _shared(tensor: Tensor) -> Tensor:
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor
