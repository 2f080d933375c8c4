"""Hostile tars, by seed; what is taken is what GNU tar extracts. Run by hostile_sources.py."""

import io
import subprocess
import tarfile
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path
from posixpath import normpath
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
from damaging import garbled
from judging import WrongError
from PIL import Image

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Sample, open_source
from ccrop_pipeline.images.decode import IMAGE_EXTENSIONS


@cache
def picture(seed: int, form: str) -> bytes:
    """Return an image of noise in its upper part, black below."""
    pixels = np.zeros((60, 40, 3), np.uint8)
    pixels[:9] = np.random.default_rng(seed).integers(0, 256, (9, 40, 3))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


MEMBERS = (
    ("a.jpg", picture(0, "JPEG")), ("a.cls", b"1"), ("a.json", b"{}"),
    ("c/b.PNG", picture(1, "PNG")), ("c/b.txt", b"text"), ("x.bmp", picture(2, "BMP")),
    ("x.cls", b"0"),
)  # fmt: skip
_FIELDS = {  # place and length (POSIX.1-1988; from 345 on also GNU's, with the map of holes)
    "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "size": (124, 12), "mtime": (136, 12),
    "type": (156, 1), "linkname": (157, 100), "magic": (257, 8), "device": (329, 8),
    "prefix": (345, 155), "holes": (386, 96), "more": (482, 1), "whole": (483, 12),
}  # fmt: skip
_NUMBERS = (
    b"77777777777\0", b"00000000000\0", b"\x80" + b"\0" * 3 + b"\xff" * 8, b"\xff" * 12,
    b"-0000000001\0", b"xxxxxxxxxxx\0", b"            ", b"\0" * 12, b"00000000001\0",
)  # fmt: skip


def tar_members(rng: Random, folder: Path) -> Path:
    """Members of other types, names, links, PAX records and contents, in any order."""
    file = io.BytesIO()
    form = rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
    pax = rng.choice([{}, {}, {}, {"size": "9"}, {"path": "x.jpg"}, {"hdrcharset": "BINARY"}])
    members = [*MEMBERS]
    odd = {rng.randrange(len(members)) for _ in range(rng.choice([1, 1, 2]))}
    if rng.random() < 0.15:
        rng.shuffle(members)
    if rng.random() < 0.1:
        members.append(rng.choice(members))
    with tarfile.open(fileobj=file, mode="w", format=form, pax_headers=pax) as tar:
        for number, (name, content) in enumerate(members):
            member = tarfile.TarInfo(name)
            if number in odd:
                content = _odd_member(rng, member, content)
            member.size = len(content)
            with suppress(ValueError, UnicodeError):
                tar.addfile(member, io.BytesIO(content))
    return written(folder / "s.tar", file.getvalue())


def _odd_member(rng: Random, member: tarfile.TarInfo, content: bytes) -> bytes:
    match rng.randrange(5):
        case 0:
            member.type = rng.choice([b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"Z", b"\0"])
            targets = ["a.jpg", "./c/../a.jpg", "b.PNG", "c/b.PNG", "/dev/zero", "../../x.jpg", ""]
            member.linkname = rng.choice([*targets, member.name, "a.cls", "nowhere.jpg"])
            return content if member.type in b"7Z\0" else b""
        case 1:
            odd = ["../" * 9 + "a.jpg", "/a.jpg", "./a.jpg", "a//./b.jpg", ".jpg", "a.b.c.jpg", "a"]
            odd += ["\udcff.jpg", "é.jpg", "x" * 300 + ".jpg", "n\nl\x1b[2J.jpg", " .jpg", "c/", ""]
            member.name = rng.choice([*odd, "d/" * 200 + "a.jpg", "a.cls", "a.jpg/b.jpg", "a.gif"])
        case 2:
            keyword = rng.choice(["size", "path", "linkpath", "mtime", "uid", "hdrcharset", "bad"])
            keyword = rng.choice([keyword, f"GNU.sparse.{rng.choice(_SPARSE)}"])
            values = ["-1", "9" * 30, "x", "0,9999999999", "0,2,1,2", "nan", "1e999", "", "5", "0"]
            member.pax_headers = {keyword: rng.choice(values)}
            if rng.random() < 0.5:
                member.pax_headers |= {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        case 3:
            labels = [b"", b"-1", b"1.5", b"9" * 30, b"9" * 5000, b"\xff", b" 1 \n", "٣".encode()]
            return rng.choice(labels) if member.name.endswith("cls") else rng.choice([b"", b"x"])
        case _:
            return garbled(rng, content)
    return content


_SPARSE = ("size", "realsize", "map", "numblocks", "offset", "numbytes", "name", "major")


@cache
def _sparse(form: str) -> bytes:
    """Return what GNU tar writes of files with holes, in one of its four ways."""
    with TemporaryDirectory() as place:
        for name, content in MEMBERS:
            written(Path(place, name), content)
        with Path(place, "h.bmp").open("wb") as file:  # holes of 64 KiB between noise
            pixels = np.zeros((256, 256, 3), np.uint8)
            pixels[::96] = np.random.default_rng(0).integers(0, 256, (256, 3))
            Image.fromarray(pixels).save(file, "BMP")
        style = ["--format=gnu"] if form == "gnu" else ["--format=pax", f"--sparse-version={form}"]
        made = subprocess.run(
            [*("tar", "-cSC", place, "--hole-detection=raw"), *style, "h.bmp", "a.jpg", "c/b.PNG"],
            capture_output=True,
            check=True,
        )
    return made.stdout


def tar_bytes(rng: Random, folder: Path) -> Path:
    """Headers with a field that lies (its checksum right), joined tars, cut ones, other bytes."""
    data = bytearray(_plain() if rng.random() < 0.5 else _sparse(rng.choice(["gnu", *_VERSIONS])))
    match rng.randrange(6):
        case 0 | 1 | 2:
            for _ in range(rng.choice([1, 1, 2])):
                _lie(rng, data)
        case 3:
            between = rng.choice([b"", b"", bytes(512), bytes(700), b"x" * 512, bytes(20_480)])
            other = _plain("d/") if rng.random() < 0.7 else rng.choice([_plain(), _sparse("gnu")])
            data = bytearray(bytes(data).rstrip(b"\0") if rng.random() < 0.2 else data)
            data += between + other
        case 4:
            at = rng.randrange(len(data))
            del data[at // 512 * 512 if rng.random() < 0.5 else at :]
        case _:
            data = bytearray(garbled(rng, bytes(data)))
    return written(folder / "s.tar", bytes(data))


_VERSIONS = ("0.0", "0.1", "1.0")


@cache
def _plain(under: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in MEMBERS:
            member = tarfile.TarInfo(under + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _lie(rng: Random, data: bytearray) -> None:
    heads = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(heads)
    place, length = _FIELDS[rng.choice([*_FIELDS, "size", "size", "holes"])]
    value = rng.choice(_NUMBERS)
    if length == 1:
        value = bytes([rng.choice(b"0123456789gxLKSVMDN\0\xff")])
    elif length > 12:
        value = rng.choice([value, b"\xff" * length, b"../a.jpg\0", b"a.jpg\0", bytes(length)])
    data[at + place : at + place + min(length, len(value))] = value[:length]
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


def compare_tar(path: Path, samples: list[Sample]) -> None:
    """Expect what GNU tar extracts, where it has nothing to say against the tar."""
    out = path.parent / "extracted"
    out.mkdir()
    command = ["tar", "-xif", path, "-C", out, "--no-same-owner", "--force-local"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=300)
    except subprocess.TimeoutExpired:
        return
    if done.returncode or done.stderr:
        return
    names = Counter(normpath(sample.key.lstrip("/")) for sample in samples)
    for sample in samples:
        if names[normpath(sample.key.lstrip("/"))] > 1:  # extracted, one takes the other's place
            continue
        place, _, stem = sample.key.rpartition("/")
        found = [
            file for file in (out / place.lstrip("/")).iterdir()
            if file.name.partition(".")[0] == stem
            and file.name.partition(".")[2].lower() in IMAGE_EXTENSIONS
        ]  # fmt: skip
        if [file.read_bytes() for file in found] != [sample.image]:
            raise WrongError(f"GNU tar has another image of {sample.key!r}")


def expect_streamed(path: Path, samples: list[Sample]) -> None:
    """Read the tar as it comes from elsewhere: the same samples, or an error for people."""
    source = open_source(f"file://{path}")
    with suppress(CcropError):
        if list(source.read(source.shards[0])) != samples:
            raise WrongError("other samples as a stream")


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
