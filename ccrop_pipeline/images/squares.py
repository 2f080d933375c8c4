"""Images resized to squares: what an encoder sees when it locates content or is probed."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccrop_pipeline.images.decode import ImageHeader, UnreadableImage, decode, read_header

_GREY = 128
# A JPEG is decoded at a half or a quarter where that leaves so many times the pixels of the square.
_SPARE = 1.25


@dataclass
class ResizedImages:
    """A batch of images, each resized as a whole to a square.

    Attributes:
        pixels: uint8 (n, 3, size, size), channels last in memory; grey where unreadable.
        sizes: Stored width and height in pixels, uint32 (n, 2); 0 where unreadable.
        orientation: EXIF orientation, uint8 (n,), 1 to 8; 1 where unreadable.
        readable: bool (n,).
        seconds: What decoding and resizing took, added up over threads.
    """

    pixels: NDArray[np.uint8]
    sizes: NDArray[np.uint32]
    orientation: NDArray[np.uint8]
    readable: NDArray[np.bool_]
    seconds: float


def begin_resizing(
    images: Sequence[bytes], size: int, pool: ThreadPoolExecutor
) -> Callable[[], ResizedImages]:
    """Hand a batch of encoded images to decoding threads.

    Threads suffice, since Pillow lets go of the interpreter lock while it decodes and resizes.

    Args:
        images: Encoded images.
        size: Side of the square in pixels.
        pool: The threads.

    Returns:
        What waits for the batch and gives it.
    """
    squares = np.empty((len(images), size, size, 3), np.uint8)
    work = [pool.submit(resize_to_square, *pair) for pair in zip(images, squares, strict=True)]

    def wait() -> ResizedImages:
        found = [future.result() for future in work]
        headers = np.array([header or (0, 0, 1) for header, _ in found], np.uint32).reshape(-1, 3)
        return ResizedImages(
            squares.transpose(0, 3, 1, 2),
            headers[:, :2],
            headers[:, 2].astype(np.uint8),
            np.array([header is not None for header, _ in found], bool),
            sum(seconds for _, seconds in found),
        )

    return wait


def resized_images(
    images: Iterable[bytes], size: int, *, batch_size: int, threads: int
) -> Iterator[ResizedImages]:
    """Decode and resize images in order, in threads and one batch ahead of the caller.

    Args:
        images: Encoded images; read one batch ahead at most.
        size: Side of the square in pixels.
        batch_size: Images a batch; the last one may be smaller.
        threads: Decoding threads, at least 1.
    """
    source = iter(images)
    ahead: deque[Callable[[], ResizedImages]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        while batch := list(islice(source, batch_size)):
            ahead.append(begin_resizing(batch, size, pool))
            if len(ahead) == 2:
                yield ahead.popleft()()
        for wait in ahead:
            yield wait()


def resize_to_square(image: bytes, square: NDArray[np.uint8]) -> tuple[ImageHeader | None, float]:
    """Decode an image and resize all of it into a square, bilinear with antialiasing.

    Always by Pillow: the same images give the same boxes, whatever else is installed.

    Args:
        image: Encoded image.
        square: Where the pixels go, (size, size, 3); grey where the image is unreadable.

    Returns:
        Its header, None where it is unreadable; and the seconds it took.
    """
    started = time.perf_counter()
    try:
        header = read_header(image)
        decoded = _decoded(image, header, len(square))
    except UnreadableImage:
        square[:] = _GREY
        return None, time.perf_counter() - started
    square[:] = np.asarray(decoded.resize(square.shape[:2], Image.Resampling.BILINEAR))
    return header, time.perf_counter() - started


def decode_for(image: bytes, side: int, share: float) -> Image.Image:
    """Decode an image of which parts are to be resized to a square.

    Args:
        image: Encoded image.
        side: Side of the square in pixels.
        share: Least share of the image's sides that a part has.

    Raises:
        UnreadableImage: If it cannot be decoded.
    """
    return _decoded(image, read_header(image), side / share)


def _decoded(image: bytes, header: ImageHeader, side: float) -> Image.Image:
    shorter = min(header.width, header.height)
    return decode(image, next((by for by in (4, 2) if shorter >= by * side * _SPARE), 1))
