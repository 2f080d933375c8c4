"""How hostile inputs are made from good ones: their values changed, their bytes garbled."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any


def odd_text(rng: Random) -> str:
    texts = ["", "\0", "\ufeff", "a.jpg", "\ud800", "../" * 300, "x" * 70_000, "\n\n", "\r", "nan"]
    texts += ["[/red]\x1b]0;t\x07", "1e999", "-0", "٣", "1_0", "0x10", "\u0301" * 99]
    return rng.choice(texts)


def _numbers(rng: Random) -> Any:
    huge = [10**400, -(10**400), 10**4000, 1 << 63, -(1 << 63) - 1, 1 << 64, 10**18, -1, 0, 7]
    return rng.choice([*huge, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf")])


def _oddity(rng: Random) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: _numbers(rng),
        lambda: odd_text(rng),
        lambda: rng.choice([None, True, False, [], {}, [[]], {"": {}}, [None] * 5, [1, 2, 3, 4]]),
        lambda: [_numbers(rng) for _ in range(rng.choice([1, 3, 4, 5]))],
    ]
    return rng.choice(kinds)()


def changed(rng: Random, value: Any) -> Any:
    """Nested values with one part replaced, dropped, doubled or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        what = rng.random()
        if what < 0.1:
            return {k: v for k, v in value.items() if k != name}
        if what < 0.2:
            return {**value, odd_text(rng): value[name]}
        return {**value, name: changed(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.15:
            return value[:at] + value[at:] * 2
        return [*value[:at], changed(rng, value[at]), *value[at + 1 :]]
    return _oddity(rng)


def garbled(rng: Random, content: bytes) -> bytes:
    """Bytes with some flipped, cut, repeated or put in; or something else altogether."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + rng.randrange(1, 30)]
            case 3:
                data[at:at] = data[at : at + rng.randrange(1, 300)]
            case 4:
                data[at:at] = rng.choice(_INSERTED)
            case _ if data:
                data[at % len(data)] = rng.randrange(256)
    whole = rng.random()
    return rng.choice(_WHOLES) if whole < 0.05 else bytes(data)


# fmt: off
_INSERTED = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", b"[" * 100_000,
    b"{\"a\":" * 9_999, b"9" * 5_000, b"-", b"1e400", b"NaN", b"\"", b",,,", b"\r\n",
    b"\x1b]0;t\x07", b"[[a]]\n", b"'''", b"a=" + b"[" * 5_000, b"a." * 5_000, b"inf",
    b"2026-99-99", b"\\ud800",
)
_WHOLES = (
    b"", b"\0" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"GIF89a",
    b"<!doctype html><html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n",
    b"PK\x05\x06" + b"\0" * 18, b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY\x01\x00",
    b"\xff\xd8\xff", b"[" * 1_000_000,
)
# fmt: on


def dumped(value: Any, **options: Any) -> bytes:
    """Return any value as JSON, whatever its texts and numbers."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    text = json.dumps(value, **options).encode("utf-8", "surrogatepass")
    sys.set_int_max_str_digits(limit)
    return text


def written(path: Path, content: bytes) -> Path:
    """Write a file, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
