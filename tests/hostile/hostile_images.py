"""Hostile images of every format, by seed; counted by verdict.

What is taken has one size and one content by all our ways, and the pixels that another reader gives
(torchvision for JPEG, GIF and WebP, one of ours for PNG; none for TIFF and BMP), where it has no
complaint. The long run: `python tests/hostile/hostile_images.py 1600`.
"""

import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from damaging import garbled
from judging import WrongError, counted, judged, main
from numpy.typing import NDArray
from PIL import Image
from second_png import NoPngError, read_png
from torchvision.io import ImageReadMode, decode_image

from ccrop_pipeline.images import decode, decode_reduced, read_header, stored_size

_ODD = (0, 1, 2, 7, 255, 256, 9_000, 13_000, 32_767, 65_535, 2**24, 2**31 - 1, 2**32 - 1)
_DEPTHS = (8, 10, 12, 14, 16)


def _pixels(rng: Random, mode: str) -> NDArray[Any]:
    """Return noise or a ramp, of an even or an odd size."""
    height, width = rng.choice([(1, 1), (7, 9), (16, 24), (33, 20), (64, 48)])
    drawn = np.random.default_rng(rng.randrange(1 << 30))
    shape = (height, width) if mode in ("L", "I;16", "I", "F", "1", "P") else (height, width, 3)
    if mode in ("I;16", "I"):
        return drawn.integers(0, 1 << rng.choice(_DEPTHS), shape).astype(np.uint16)
    if mode == "F":
        return drawn.random(shape, np.float32) * np.float32(rng.choice([1, 255, 60_000]))
    if rng.random() < 0.3:  # a ramp
        return np.resize(np.arange(256, dtype=np.uint8), shape)
    return drawn.integers(0, 256, shape, np.uint8)


def _image(rng: Random, form: str, mode: str) -> bytes:
    pixels = _pixels(rng, mode)
    if mode in ("1", "P", "LA", "RGBA", "CMYK", "YCbCr"):
        image = Image.fromarray(pixels).convert(mode)
    else:
        image = Image.fromarray(pixels.astype(np.int32) if mode == "I" else pixels)
    options: dict[str, Any] = {}
    if form == "JPEG":
        options = {"quality": rng.choice([30, 75, 95]), "progressive": rng.random() < 0.3}
        options["subsampling"] = rng.choice([0, 1, 2])
    if form in ("PNG", "GIF") and mode in ("P", "L", "RGB") and rng.random() < 0.2:
        options["transparency"] = (3, 3, 3) if (form, mode) == ("PNG", "RGB") else 3
    if form in ("GIF", "WEBP", "TIFF") and rng.random() < 0.3:
        options |= {
            "save_all": True,
            "append_images": [image.transpose(Image.Transpose.ROTATE_180)],
        }
    if form == "WEBP":
        options["lossless"] = rng.random() < 0.5
    if form == "TIFF":
        options["compression"] = rng.choice([None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
    if form in ("JPEG", "PNG", "WEBP") and rng.random() < 0.4:
        options["exif"] = _exif(rng)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _exif(rng: Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = rng.choice([1, 2, 3, 6, 8, 0, 9, 65_535])
    exif[0x010E] = "x" * rng.choice([0, 3, 9_000])
    data = exif.tobytes()
    return data if rng.random() < 0.5 else data[:6] + garbled(rng, data[6:])[:60_000]


def _damaged(rng: Random, form: str, data: bytes) -> bytes:
    match rng.randrange(6):
        case 0:
            return data
        case 1:
            return data[: rng.randrange(len(data))]
        case 2:
            return _resized(rng, form, bytearray(data))
        case 3:  # one bit, after the header
            changed = bytearray(data)
            changed[rng.randrange(len(data) // 2, len(data))] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case 4:
            return garbled(rng, data)
        case _:  # numbers of two or four bytes, in its first part
            changed = bytearray(data)
            for _ in range(rng.choice([1, 1, 3])):
                at = rng.randrange(min(len(data), 200))
                kind = rng.choice(["<H", ">H", "<I", ">I"])
                value = rng.choice(_ODD) & (0xFFFF if kind[1] == "H" else 0xFFFFFFFF)
                changed[at : at + struct.calcsize(kind)] = struct.pack(kind, value)
            return bytes(changed)


def _resized(rng: Random, form: str, data: bytearray) -> bytes:
    """Another width or height in the header, a checksum put right."""
    places = {"PNG": (16, ">II"), "GIF": (6, "<HH"), "BMP": (18, "<ii")}
    if form == "JPEG":
        start = next((data.find(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in data), 0)
        places["JPEG"] = (start + 5, ">HH")
    if form == "WEBP":
        places["WEBP"] = (26 if data[12:16] == b"VP8 " else 24, "<HH")
    if form == "TIFF":
        entry = int.from_bytes(data[4:8], "little") + 2 + 12 * rng.randrange(8)
        places["TIFF"] = (min(entry + 4, len(data) - 8), "<II")
    if form == "GIF" and rng.random() < 0.5:
        places["GIF"] = (data.find(b"\x2c") + 5, "<HH")
    at, kind = places[form]
    size = list(struct.unpack_from(kind, data, at))
    for side in {rng.randrange(2), rng.randrange(2)}:
        limit = 0xFFFF if "H" in kind else 0x7FFFFFFF if "i" in kind else 0xFFFFFFFF
        near = [size[side] + 1, max(0, size[side] - 1), size[side] * 2]
        size[side] = rng.choice([*near, *_ODD]) & limit
    struct.pack_into(kind, data, at, *size)
    if form == "PNG":
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


# Bombs


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@cache
def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    blocks = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join(blocks) + packer.compress(bytes(count & 0xFFFFF)) + packer.flush()


def _png(width: int, height: int, depth: int, colour: int, rows: bytes, more: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = _chunk(b"IHDR", head) + more + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _bomb(rng: Random) -> bytes:
    side = rng.choice([8_000, 30_000, 60_000])
    text = _zeros(200_000_000)
    small = zlib.compress(bytes(4))
    match rng.randrange(9):
        case 0:
            return _png(side, side, 8, 2, _zeros(200_000_000))
        case 1:
            return _png(side, side, 1, 0, _zeros((side // 8 + 1) * side))
        case 2:  # more pixels than its size
            return _png(1, 1, 8, 2, text)
        case 3:
            kinds = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}
            name = rng.choice([*kinds])
            return _png(1, 1, 8, 2, small, _chunk(name, kinds[name] + text))
        case 4:
            return b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + (
                b"\x2c" + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\2\2\x4c\1\0\x3b"
            )  # fmt: skip
        case 5:  # many scans of a large progressive JPEG
            file = io.BytesIO()
            Image.new("L", (5_000, 5_000)).save(file, "JPEG", progressive=True)
            data = file.getvalue()
            scan = data[data.rindex(b"\xff\xda") : -2]
            return data[:-2] + scan * rng.choice([9, 40]) + data[-2:]
        case 6:
            return b"P%d\n%d %d\n255\n" % (rng.choice([2, 3, 5, 6]), side, side) + b"0 " * 999
        case 7:  # runs of one BMP row
            head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 1, 0)
            return b"BM" + struct.pack("<IHHI", 999, 0, 0, 58) + head + bytes(4) + b"\xff\0" * 9
        case _:
            form, mode = rng.choice([("TIFF", "L"), ("WEBP", "RGB"), ("JPEG", "RGB")])
            return _resized(rng, form, bytearray(_image(rng, form, mode)))


# Judging


def read_all(data: bytes) -> NDArray[np.uint8]:
    """Decode an image in every way.

    Raises:
        WrongError: If two ways give two things.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of what it reads all the same
        pixels = np.asarray(decode(data))
        header, (width, height) = read_header(data), stored_size(data)
        if pixels.shape != (height, width, 3) or header[:2] != (width, height):
            raise WrongError(f"{pixels.shape}, {header} and {(width, height)} are three sizes")
        if _stated_orientation(data) not in (None, header.orientation):
            raise WrongError(f"another orientation than {header.orientation}")
        for reduction in (1, 2):
            reduced, by = decode_reduced(data, reduction)
            if reduced.shape != (-(-height // by), -(-width // by), 3):
                raise WrongError(f"{reduced.shape} is not a part of {(width, height)}")
            if by == 1 and _differ(reduced, pixels):
                raise WrongError(f"other pixels when reduced by 1: {_differ(reduced, pixels)}")
    return pixels


def _stated_orientation(data: bytes) -> int | None:
    """Return what the EXIF block of a file that Pillow wrote says; None where it is damaged."""
    at = max(data.find(b"Exif\0\0MM\0*\0\0\0\x08") + 14, data.find(b"eXIfMM\0*\0\0\0\x08") + 12)
    count = int.from_bytes(data[at : at + 2], "big") if at >= 14 else 0
    for entry in (data[at + 2 + 12 * n :][:12] for n in range(min(count, 9))):
        if entry.startswith(b"\x01\x12\0\x03\0\0\0\x01"):  # one short (EXIF 2.3, 4.6.4)
            value = int.from_bytes(entry[8:10], "big")
            return value if value in range(1, 9) else 1
    return None


def _differ(some: NDArray[Any], others: NDArray[Any]) -> int:
    """Return the greatest difference, where it is more than two decoders of one JPEG differ by."""
    found = int(np.abs(some.astype(np.int64) - others).max())
    return found if found > _ROUNDING else 0


_ROUNDING = 3


def _compare(data: bytes, pixels: NDArray[np.uint8]) -> None:
    """Expect the pixels of another reader, if it takes the image."""
    expected = None
    if pixels.size <= 1 << 24:
        expected = _by_png(data) if data.startswith(b"\x89PNG") else _by_torchvision(data)
    if expected is not None and (expected.shape != pixels.shape or _differ(expected, pixels)):
        raise WrongError(f"another reader has other pixels: {expected.shape} of {pixels.shape}")


def _by_torchvision(data: bytes) -> NDArray[Any] | None:
    if not data.startswith((b"\xff\xd8", b"GIF8", b"RIFF")):
        return None
    if data.startswith(b"GIF8"):  # each has its own colour for what no frame covers
        opened = Image.open(io.BytesIO(data))
        if "transparency" in opened.info or opened.tile[0][1] != (0, 0, *opened.size):
            return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its decoders are to move elsewhere
        try:
            found = decode_image(torch.tensor(list(data), dtype=torch.uint8), ImageReadMode.RGB)
        except RuntimeError:
            return None
    return (found[0] if found.ndim == 4 else found).permute(1, 2, 0).numpy()


def _by_png(data: bytes) -> NDArray[Any] | None:
    """Return what a strict reader gives: torchvision crashes on some damaged PNGs."""
    try:
        samples, depth, grey = read_png(data)
    except NoPngError:
        return None
    if depth == 16 and grey:  # the upper bits of the least depth that holds the greatest value
        depth = next(depth for depth in _DEPTHS if int(samples.max()) < 2**depth)
    eight = samples * 255 // (2**depth - 1) if depth < 8 else samples >> (depth - 8)
    return np.repeat(eight, 3 // eight.shape[2], axis=2)


def _of(form: str, *modes: str) -> Callable[[Random], bytes]:
    return lambda rng: _damaged(rng, form, _image(rng, form, rng.choice(modes)))


KINDS: dict[str, Callable[[Random], bytes]] = {
    "JPEG": _of("JPEG", "RGB", "RGB", "L", "CMYK"),
    "PNG": _of("PNG", "RGB", "RGBA", "L", "LA", "P", "1"),
    "PNG of 16 bits": _of("PNG", "I;16"),
    "WebP": _of("WEBP", "RGB", "RGBA"),
    "GIF": _of("GIF", "P", "L", "RGB"),
    "TIFF": _of("TIFF", "RGB", "RGBA", "L", "I;16", "I", "F", "1", "P", "CMYK"),
    "BMP": _of("BMP", "RGB", "L", "P", "1"),
    "bombs": _bomb,
}


def verdict(kind: str, seed: int, folder: Path) -> str:
    """`taken` as another reader has it, `refused` as so many bytes; else what went wrong."""
    data = KINDS[kind](Random(f"{kind} {seed}"))
    taken: list[NDArray[np.uint8]] = []
    said = judged(lambda: taken.append(read_all(data)), [f"cannot decode {len(data)} bytes"])
    return said if said != "taken" else judged(lambda: _compare(data, taken[0]), [])


def verdicts(kind: str, seeds: range) -> Counter[str]:
    """Count the verdicts of a kind; each input has a folder of its own."""
    return counted(kind, seeds, verdict)


if __name__ == "__main__":
    main(KINDS, verdicts)
