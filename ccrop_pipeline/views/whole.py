"""Whole images in batches: what an encoder sees when it locates content or is probed."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from ccrop_pipeline.crops import UnreadableImage, decode


@dataclass
class WholeImages:
    """A batch of whole images, squeezed into a square so that all of each is seen.

    Attributes:
        pixels: uint8 (n, 3, size, size), channels last in memory; grey where unreadable.
        sizes: Stored width and height in pixels, uint32 (n, 2); 0 where unreadable.
        readable: bool (n,).
    """

    pixels: np.ndarray
    sizes: np.ndarray
    readable: np.ndarray


def whole_images(
    images: Iterable[bytes], size: int, batch_size: int, threads: int
) -> Iterator[WholeImages]:
    """Decodes images in order, ahead of the caller, in threads.

    Pillow lets go of the interpreter lock while it decodes and resizes, so threads suffice and
    no pixels are copied between processes.

    Args:
        images: Encoded images; read one batch ahead at most.
        size: Side of the square in pixels.
        batch_size: Images a batch; the last one may be smaller.
        threads: Decoding threads, at least 1.
    """
    source = iter(images)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[list[Future[_Square]]] = deque()
        try:
            while True:
                batch = [pool.submit(_square, image, size) for image in islice(source, batch_size)]
                if batch:
                    ahead.append(batch)
                if len(ahead) == 2 or (ahead and not batch):
                    yield _gather(ahead.popleft())
                elif not batch:
                    return
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_Square = tuple[np.ndarray, tuple[int, int], bool]


def _square(image: bytes, size: int) -> _Square:
    try:
        decoded = decode(image)
    except UnreadableImage:
        return np.full((size, size, 3), 128, np.uint8), (0, 0), False
    # Always by Pillow: the same images give the same boxes, whatever else is installed.
    square = decoded.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square), decoded.size, True


def _gather(batch: list[Future[_Square]]) -> WholeImages:
    pixels, sizes, readable = zip(*(future.result() for future in batch), strict=True)
    return WholeImages(
        np.stack(pixels).transpose(0, 3, 1, 2),
        np.array(sizes, np.uint32),
        np.array(readable),
    )
