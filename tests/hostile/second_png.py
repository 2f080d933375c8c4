"""A second reader of PNG, slow and strict, from the specification (ISO/IEC 15948)."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_LARGEST = 1 << 22  # bytes of unpacked rows, which take a second


class NoPngError(ValueError):
    """It breaks a rule, or is interlaced or large, which this reader leaves alone."""


def read_png(data: bytes) -> tuple[NDArray[np.int64], int, bool]:
    """Return the samples of a PNG, alpha dropped: (height, width, 1 or 3), depth, and if grey.

    Raises:
        NoPngError: If it is damaged anywhere, or not read here.
    """
    found = list(_chunks(data))
    name, head = found[0]
    if name != b"IHDR" or len(head) != 13 or found[-1] != (b"IEND", b""):
        raise NoPngError("no header or no end")
    width, height, depth, colour, packing, filters, interlaced = struct.unpack(">IIBBBBB", head)
    depths = {0: (1, 2, 4, 8, 16), 3: (1, 2, 4, 8)}.get(colour, (8, 16))
    if colour not in _CHANNELS or depth not in depths or packing or filters or interlaced:
        raise NoPngError("a header that is not read here")
    channels = _CHANNELS[colour]
    size = -(-width * channels * depth // 8)
    if not width or not height or (size + 1) * height > _LARGEST:
        raise NoPngError("a size that is not read here")
    rows = _unpacked(b"".join(part for name, part in found if name == b"IDAT"), (size + 1) * height)
    samples = _samples(_unfiltered(rows, size, max(1, channels * depth // 8)), depth)
    samples = samples[:, : width * channels].reshape(height, width, channels)
    if colour == 3:
        palettes = [part for name, part in found if name == b"PLTE"]
        if len(palettes) != 1 or len(palettes[0]) % 3 or samples.max() >= len(palettes[0]) // 3:
            raise NoPngError("no palette of all its colours")
        colours = np.frombuffer(palettes[0], np.uint8).reshape(-1, 3)
        return colours[samples[:, :, 0]].astype(np.int64), 8, False
    return samples[:, :, : 3 if channels > 2 else 1], depth, channels < 3


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(data):
        if len(data) < at + 12:
            raise NoPngError("cut off")
        size = int.from_bytes(data[at : at + 4], "big")
        part, end = data[at + 4 : at + 8 + size], at + 12 + size
        if data[end - 4 : end] != struct.pack(">I", zlib.crc32(part)):
            raise NoPngError("a checksum that is wrong")
        yield part[:4], part[4:]
        at = end


def _unpacked(packed: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        rows = unpacker.decompress(packed, size + 1)
    except zlib.error as error:
        raise NoPngError(str(error)) from error
    if len(rows) != size or not unpacker.eof or unpacker.unused_data:
        raise NoPngError("not as many bytes as pixels")
    return rows


def _unfiltered(rows: bytes, size: int, step: int) -> NDArray[np.uint8]:
    above, lines = bytes(size), []
    for at in range(0, len(rows), size + 1):
        kind, line = rows[at], bytearray(rows[at + 1 : at + 1 + size])
        if kind > 4:
            raise NoPngError("a filter that is none")
        for i in range(size):
            left = line[i - step] if i >= step else 0
            corner = above[i - step] if i >= step else 0
            added = (0, left, above[i], (left + above[i]) // 2, _paeth(left, above[i], corner))
            line[i] = (line[i] + added[kind]) & 255
        above = bytes(line)
        lines.append(above)
    return np.frombuffer(b"".join(lines), np.uint8).reshape(-1, size)


def _paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda value: abs(guess - value))


def _samples(rows: NDArray[np.uint8], depth: int) -> NDArray[np.int64]:
    if depth == 16:
        return rows[:, ::2].astype(np.int64) << 8 | rows[:, 1::2]
    if depth == 8:
        return rows.astype(np.int64)
    bits = np.unpackbits(rows, axis=1).reshape(len(rows), -1, depth)
    return (bits.astype(np.int64) << np.arange(depth)[::-1]).sum(axis=2)
