"""From decoded images to rows of a box set, on the encoder's device, in batches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccrop_pipeline.boxset import EMPTY, FULL_BOX, OK, UNREADABLE
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import Localizer
from ccrop_pipeline.views.whole import WholeImages

_BOX_BYTES = 16


@dataclass
class Located:
    """Rows of some images.

    Attributes:
        boxes: float32 (n, 4).
        sizes: uint32 (n, 2).
        status: uint8 (n,).
        heatmaps: float16 (n, h, w).
    """

    boxes: np.ndarray
    sizes: np.ndarray
    status: np.ndarray
    heatmaps: np.ndarray


class Locator:
    """Locates content in batch after batch; knows how much fits into the device's memory.

    Args:
        localizer: Encoder, heatmap and rule.
        halved: Called with the new number of images a forward pass when it had to be halved.
    """

    def __init__(self, localizer: Localizer, halved: Callable[[int], None]) -> None:
        self._localizer = localizer
        self._halved = halved
        self._at_a_time: int | None = None

    def begin(self, images: WholeImages) -> "Locating":
        """Puts a batch to work and returns; on a GPU, before the work is done.

        Raises:
            CcropError: Not even one image fits into the memory of the GPU.
        """
        pixels = torch.from_numpy(images.pixels)
        if not len(pixels):
            return Locating(images, torch.empty((0, _BOX_BYTES + 3), dtype=torch.uint8), (1, 1))
        if torch.device(self._localizer.encoder.device).type == "cuda":
            pixels = pixels.pin_memory()
        while True:
            at_a_time = min(self._at_a_time or len(pixels), len(pixels))
            try:
                parts = [self._packed(part) for part in torch.split(pixels, at_a_time)]
                break
            except torch.OutOfMemoryError as error:
                if at_a_time == 1:
                    raise CcropError(
                        "not even one image fits into the memory of the device. Choose a smaller "
                        "--input-size, or free memory that other programs hold"
                    ) from error
            # Outside of the handler: inside, the traceback keeps the tensors of the failed pass.
            self._at_a_time = at_a_time // 2
            torch.cuda.empty_cache()
            self._halved(self._at_a_time)
        grid = parts[0][1]
        # One copy for all; pinned and not waited for where it comes from a GPU.
        rows = torch.cat([part for part, _ in parts]).to("cpu", non_blocking=True)
        done = None
        if pixels.is_pinned():
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return Locating(images, rows, grid, done)

    def _packed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        heatmaps, boxes, found = self._localizer.locate(pixels)
        parts = (boxes, found[:, None], heatmaps.flatten(1))
        packed = torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=1)
        return packed, (heatmaps.shape[1], heatmaps.shape[2])


@dataclass
class Locating:
    """A batch at work."""

    _images: WholeImages
    _rows: Tensor
    _grid: tuple[int, int]
    _done: torch.cuda.Event | None = None

    def result(self) -> Located:
        """Waits for the batch; what could not be located carries the full box."""
        if self._done is not None:
            self._done.synchronize()
        rows = self._rows.numpy()
        found = rows[:, _BOX_BYTES].astype(bool)
        status = np.where(found, OK, EMPTY).astype(np.uint8)
        status[~self._images.readable] = UNREADABLE
        boxes = rows[:, :_BOX_BYTES].copy().view(np.float32)
        boxes[status != OK] = FULL_BOX
        heatmaps = rows[:, _BOX_BYTES + 1 :].copy().view(np.float16).reshape(-1, *self._grid)
        heatmaps[~self._images.readable] = 0
        return Located(boxes, self._images.sizes, status, heatmaps)
