"""Boxes as the workers of a loader see them: in shared memory, replaced in place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ccrop_pipeline.boxset import FULL_BOX, BoxSet
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import CcropError

MissingBoxes = Literal["error", "full"]


def join_boxes(keys: Sequence[str], box_set: BoxSet, missing: MissingBoxes = "error") -> np.ndarray:
    """Boxes of `keys` in their order, float32 (n, 4).

    Args:
        keys: Keys of the images.
        box_set: Where their boxes are.
        missing: What to do with a key that has no box: fail, or take the full box.

    Raises:
        CcropError: When a key has no box and `missing` is "error".
    """
    boxes, found = box_set.lookup().find(keys)
    if missing == "error" and not found.all():
        absent = [keys[i] for i in np.flatnonzero(~found)[:3]]
        raise CcropError(
            f"{np.count_nonzero(~found)} of {len(keys)} images have no box in {box_set.folder}, "
            f"such as {', '.join(map(repr, absent))}. Were the boxes computed from this source? "
            "Compute them again, or let such images keep the full box (--missing-boxes full)"
        )
    return boxes


class SharedBoxes:
    """The boxes and the epoch of a map-style loader, seen by its workers as they change.

    Persistent workers hold a copy of the data set they were started with. Only what lies in
    shared memory and is written in place reaches them.

    Args:
        count: Number of images.
        params: Window parameters to use once there are boxes. Before that, windows are
            those of RandomResizedCrop (full box, alpha 1).
    """

    def __init__(self, count: int, params: CropParams) -> None:
        self._params = params
        self._boxes = _shared(torch.tensor(FULL_BOX).repeat(count, 1))
        self._epoch_and_boxed = _shared(torch.zeros(2, dtype=torch.int64))

    def use(self, boxes: np.ndarray | None) -> None:
        """Takes new boxes, float32 (count, 4), in the order of the index; None: random crops."""
        self._boxes.copy_(torch.tensor(FULL_BOX) if boxes is None else torch.from_numpy(boxes))
        self._epoch_and_boxed[1] = boxes is not None

    @property
    def epoch(self) -> int:
        """Epoch whose views the workers cut."""
        return int(self._epoch_and_boxed[0])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch_and_boxed[0] = epoch

    @property
    def params(self) -> CropParams:
        """Window parameters of the present state."""
        return self._params if self._epoch_and_boxed[1] else random_crop(self._params)

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Boxes of some rows, float32 (n, 4)."""
        boxes: np.ndarray = self._boxes.numpy()[rows]
        return boxes


def random_crop(params: CropParams) -> CropParams:
    """The parameters under which a full box gives RandomResizedCrop."""
    return CropParams(rule="overlap", alpha=1.0, scale=params.scale, ratio=params.ratio)


class CurrentBoxSet:
    """Path of the box set that streaming workers read, and the epoch, in shared memory."""

    _MAX_PATH_BYTES = 4096

    def __init__(self) -> None:
        self._path = _shared(torch.zeros(self._MAX_PATH_BYTES, dtype=torch.uint8))
        self._epoch = _shared(torch.zeros(1, dtype=torch.int64))

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

    @property
    def epoch(self) -> int:
        """Epoch whose views the workers cut."""
        return int(self._epoch[0])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch[0] = epoch


def _shared(tensor: Tensor) -> Tensor:
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor
