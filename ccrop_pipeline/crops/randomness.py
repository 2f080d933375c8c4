"""Random numbers that are a function of what they are for, not of when they are drawn.

The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011): a keyed bijection of 128-bit counters. Its key and its counter hold exactly

    key      seed (64 bits)
    counter  hash of the image key (64) | epoch (32) | view (16) | stream (8) | block (8)

so two different purposes can never share a number (but for a collision of key hashes), and worker
count, batch size and rank have no part in it. A block gives four numbers.
"""

from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

WINDOW: Final = 0
PHOTOMETRIC: Final = 1
CHOICE: Final = 2  # of one of an image's boxes; drawn for view 0, and meant for all

# Multipliers and key increments of section 3.2 of the paper; the increments are the fractional
# parts of the golden ratio and of the square root of 3.
_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_INCREMENTS: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 10
_MASK: Final = 0xFFFFFFFF
_LOW: Final = np.uint64(_MASK)
_HALF: Final = np.uint64(32)

Words = NDArray[np.uint64]


def key_hash(key: str) -> int:
    """Return the 64-bit xxh3 of a key's UTF-8 bytes: the form in which `uniforms` takes it."""
    # File names that are no valid text reach us with lone surrogates.
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))


def philox4x32(
    counter: tuple[Words, Words, Words, Words], key: tuple[int, int]
) -> tuple[Words, Words, Words, Words]:
    """Encrypt counters.

    Args:
        counter: Four arrays of 32-bit words, least significant word first; they broadcast.
        key: Two 32-bit words.

    Returns:
        Four arrays of 32-bit words held in uint64.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = (product1 >> _HALF) ^ c1 ^ np.uint64(k0), (product0 >> _HALF) ^ c3 ^ np.uint64(k1)
        c1, c3 = product1 & _LOW, product0 & _LOW
        k0, k1 = (k0 + _INCREMENTS[0]) & _MASK, (k1 + _INCREMENTS[1]) & _MASK
    return c0, c1, c2, c3


def uniforms(
    seed: int,
    epoch: int,
    key_hashes: NDArray[np.uint64],
    view: int | NDArray[np.integer],
    stream: int,
    count: int,
) -> NDArray[np.float64]:
    """Draw uniform numbers for a batch of images.

    A number is the midpoint of one of 2**32 equal cells of the unit interval: never 0 or 1, and
    1 - u is again one of them, exactly, which is what makes mirrored draws mirror windows.

    Args:
        seed: In [0, 2**64).
        epoch: In [0, 2**32).
        key_hashes: (n,) `key_hash` of each image.
        view: Which view of the image, in [0, 2**16); one for all, or (n,) one for each.
        stream: What the numbers are for (`WINDOW`, `PHOTOMETRIC`, `CHOICE`), in [0, 256).
        count: Numbers for each image, at most 1024; a larger count only appends.

    Returns:
        (n, count) float64 in (0, 1). Row i depends on key_hashes[i] and on no other row.

    Raises:
        ValueError: If an argument is out of range, or key_hashes is not a uint64 vector.
    """
    _check_range("seed", seed, 1 << 64)
    _check_range("epoch", epoch, 1 << 32)
    views = np.atleast_1d(np.asarray(view, np.int64))
    for end in (views.min(initial=0), views.max(initial=0)):
        _check_range("view", int(end), 1 << 16)
    _check_range("stream", stream, 1 << 8)
    _check_range("count", count, 1025)
    if key_hashes.dtype != np.uint64 or key_hashes.ndim != 1:
        raise ValueError(
            f"key_hashes must be uint64 (n,), not {key_hashes.dtype} {key_hashes.shape}."
        )
    hashes = key_hashes[:, None]
    blocks = np.arange(-(-count // 4), dtype=np.uint64)[None]
    words = philox4x32(
        (
            hashes & _LOW,
            hashes >> _HALF,
            np.full((1, 1), epoch, np.uint64),
            blocks | (views.astype(np.uint64) << np.uint64(16) | np.uint64(stream << 8))[:, None],
        ),
        (seed & _MASK, seed >> 32),
    )
    flat = np.stack(words, axis=-1).reshape(len(hashes), 4 * blocks.size)[:, :count]
    return (flat.astype(np.float64) + 0.5) * 2.0**-32


def _check_range(name: str, value: int, end: int) -> None:
    if not 0 <= value < end:
        raise ValueError(f"{name} must be in [0, {end}), not {value}.")
