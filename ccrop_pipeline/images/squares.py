"""Whole images in batches: what an encoder sees when it locates content or is probed."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from types import TracebackType

import numpy as np
from PIL import Image

from ccrop_pipeline.images.decode import UnreadableImage, decode, stored_size

_GREY = 128
# A JPEG is decoded at a half or a quarter where that leaves so many times the pixels of the square.
_SPARE = 1.25


@dataclass
class WholeImages:
    """A batch of whole images, squeezed into a square so that all of each is seen.

    Attributes:
        pixels: uint8 (n, 3, size, size), channels last in memory; grey where unreadable.
        sizes: Stored width and height in pixels, uint32 (n, 2); 0 where unreadable.
        readable: bool (n,).
        seconds: What decoding and squeezing took, added up over threads.
    """

    pixels: np.ndarray
    sizes: np.ndarray
    readable: np.ndarray
    seconds: float


class Squeezer:
    """Threads that decode images and squeeze them into squares, a batch at a time.

    Pillow lets go of the interpreter lock while it decodes and resizes, so threads suffice and
    no pixels are copied between processes. Always Pillow: the same images give the same boxes,
    whatever else is installed.

    Args:
        size: Side of the square in pixels.
        threads: Decoding threads, at least 1.
    """

    def __init__(self, size: int, threads: int) -> None:
        self.size = size
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def __enter__(self) -> "Squeezer":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def begin(self, images: Sequence[bytes]) -> "Squeezing":
        """Hands a batch of encoded images to the threads and returns at once."""
        squares = np.empty((len(images), self.size, self.size, 3), np.uint8)
        pairs = zip(images, squares, strict=True)
        return Squeezing(squares, [self._pool.submit(_squeeze, *pair) for pair in pairs])


@dataclass
class Squeezing:
    """A batch that is being decoded."""

    _squares: np.ndarray
    _sizes: "list[Future[tuple[tuple[int, int] | None, float]]]"

    def result(self) -> WholeImages:
        """Waits for the batch."""
        found = [future.result() for future in self._sizes]
        return WholeImages(
            self._squares.transpose(0, 3, 1, 2),
            np.array([size or (0, 0) for size, _ in found], np.uint32).reshape(-1, 2),
            np.array([size is not None for size, _ in found], bool),
            sum(seconds for _, seconds in found),
        )


def whole_images(
    images: Iterable[bytes], size: int, batch_size: int, threads: int
) -> Iterator[WholeImages]:
    """Decodes images in order, ahead of the caller, in threads.

    Args:
        images: Encoded images; read one batch ahead at most.
        size: Side of the square in pixels.
        batch_size: Images a batch; the last one may be smaller.
        threads: Decoding threads, at least 1.
    """
    source = iter(images)
    ahead: deque[Squeezing] = deque()
    with Squeezer(size, threads) as squeezer:
        while True:
            batch = list(islice(source, batch_size))
            if batch:
                ahead.append(squeezer.begin(batch))
            if len(ahead) == 2 or (ahead and not batch):
                yield ahead.popleft().result()
            elif not batch:
                return


def _squeeze(image: bytes, square: np.ndarray) -> tuple[tuple[int, int] | None, float]:
    started = time.perf_counter()
    try:
        size = stored_size(image)
        decoded = decode(image, _reduction(min(size), len(square)))
    except UnreadableImage:
        square[:] = _GREY
        return None, time.perf_counter() - started
    square[:] = decoded.resize(square.shape[:2], Image.Resampling.BILINEAR)
    return size, time.perf_counter() - started


def _reduction(shorter: int, side: int) -> int:
    return next((by for by in (4, 2) if shorter >= by * side * _SPARE), 1)
