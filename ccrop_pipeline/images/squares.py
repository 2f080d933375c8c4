"""Images resized to squares: what an encoder sees when it locates content or is probed."""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccrop_pipeline.base.workers import (
    deaths_explained,
    end_with_parent,
    from_workers,
    make_room_for_workers,
)
from ccrop_pipeline.images.decode import ImageHeader, UnreadableImage, decode, read_header

if TYPE_CHECKING:
    from torch import Tensor

NO_PROCESSES = "`threads` to 1"  # in words for people
_AHEAD = 2  # batches that threads decode while the caller has one
_PART_BYTES, _MOST_IN_A_PART = 1 << 21, 64  # pixels and images that travel at a time
_GREY = 128

_Resized = tuple[ImageHeader | None, float]  # None: unreadable; and seconds


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


def resized_images(
    images: Iterable[bytes], size: int, *, batch_size: int, threads: int, device: str = "cpu"
) -> Generator[ResizedImages]:
    """Decode and resize images in order, in batches; see `resized_batches`.

    Args:
        images: Encoded images.
        size: Side of the square in pixels.
        batch_size: Images a batch; the last one may be smaller.
        threads: Images that are decoded at the same time, at least 1.
        device: Kind of the device that they are for, `cpu` or `cuda`.
    """
    source = iter(images)
    batches = iter(lambda: list(islice(source, batch_size)), [])
    return resized_batches(batches, size, threads=threads, device=device)


def resized_batches(
    batches: Iterable[Sequence[bytes]], size: int, *, threads: int, device: str = "cpu"
) -> Generator[ResizedImages]:
    """Decode and resize batches of images in order, ahead of the caller.

    Beside an encoder on a CPU in threads: Pillow lets go of the interpreter lock while it decodes.
    It still holds the lock for a quarter of a photograph's time, and for most of a small image's,
    and an encoder on a GPU asks for it at each operation: so processes decode for a GPU.

    Args:
        batches: Encoded images. What reading them raises comes after the batches before it.
        size: Side of the square in pixels.
        threads: Images that are decoded at the same time, at least 1, which needs no process.
        device: Kind of the device that they are for, `cpu` or `cuda`.

    Raises:
        CcropError: If a process died.
    """
    failed: list[BaseException] = []

    def encoded() -> Iterator[Sequence[bytes]]:
        try:
            yield from batches
        except BaseException as error:
            failed.append(error)

    in_processes = device == "cuda" and threads > 1
    yield from (_by_processes if in_processes else _by_threads)(encoded(), size, threads)
    if failed:
        with deaths_explained(NO_PROCESSES):
            raise failed[0]


def _by_threads(
    batches: Iterable[Sequence[bytes]], size: int, threads: int
) -> Iterator[ResizedImages]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    ahead: deque[tuple[NDArray[np.uint8], list[Future[_Resized]]]] = deque()

    def finished() -> ResizedImages:
        squares, work = ahead.popleft()
        return _batch(squares, [future.result() for future in work])

    try:
        for batch in batches:
            squares = np.empty((len(batch), size, size, 3), np.uint8)
            pairs = zip(batch, squares, strict=True)
            ahead.append((squares, [pool.submit(resize_to_square, *pair) for pair in pairs]))
            if len(ahead) > _AHEAD:
                yield finished()
        while ahead:
            yield finished()
    finally:
        pool.shutdown(cancel_futures=True)


def _by_processes(
    batches: Iterable[Sequence[bytes]], size: int, processes: int
) -> Iterator[ResizedImages]:
    from torch import Generator as Seeds  # what needs processes has torch already
    from torch.utils.data import DataLoader

    part = max(1, min(_MOST_IN_A_PART, _PART_BYTES // (3 * size * size)))
    lengths: deque[int] = deque()  # of the batches that were read

    def parts() -> Iterator[Sequence[bytes]]:
        for batch in batches:
            lengths.append(len(batch))
            yield from (batch[start : start + part] for start in range(0, len(batch), part))

    make_room_for_workers(processes, fewest=NO_PROCESSES)
    loader: DataLoader[Any] = DataLoader(
        cast(Any, _Squares(size)),
        batch_sampler=cast(Any, parts()),
        num_workers=processes,
        collate_fn=_as_it_is,
        worker_init_fn=end_with_parent,
        generator=Seeds(),  # else it would draw from the generator of all
    )
    squares, found = np.empty((0, size, size, 3), np.uint8), list[_Resized]()
    for pixels, headers in from_workers(loader, fewest=NO_PROCESSES):
        while not found and not len(squares):
            squares = np.empty((lengths.popleft(), size, size, 3), np.uint8)
            if not len(squares):
                yield _batch(squares, [])
        squares[len(found) : len(found) + len(headers)] = pixels.numpy()
        found += headers
        if len(found) == len(squares):
            yield _batch(squares, found)
            squares, found = squares[:0], []
    for _ in lengths:
        yield _batch(squares, [])


class _Squares:
    """A data set of torch that is asked for encoded images and gives squares."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __getitems__(self, images: Sequence[bytes]) -> "tuple[Tensor, list[_Resized]]":
        from torch import from_numpy  # the pixels of a tensor travel in shared memory

        squares = np.empty((len(images), self.size, self.size, 3), np.uint8)
        headers = [resize_to_square(*pair) for pair in zip(images, squares, strict=True)]
        return from_numpy(squares), headers


def _as_it_is(part: Any) -> Any:
    return part


def _batch(squares: NDArray[np.uint8], found: "list[_Resized]") -> ResizedImages:
    headers = np.array([header or (0, 0, 1) for header, _ in found], np.uint32).reshape(-1, 3)
    return ResizedImages(
        squares.transpose(0, 3, 1, 2),
        headers[:, :2],
        headers[:, 2].astype(np.uint8),
        np.array([header is not None for header, _ in found], bool),
        sum(seconds for _, seconds in found),
    )


def resize_to_square(image: bytes, square: NDArray[np.uint8]) -> _Resized:
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
    # A JPEG is decoded at a quarter or a half where that has no fewer pixels than the square: it
    # moves boxes less than another filter of the resizing would (lab/decisions.md).
    shorter = min(header.width, header.height)
    return decode(image, next((by for by in (4, 2) if shorter >= by * side), 1))
