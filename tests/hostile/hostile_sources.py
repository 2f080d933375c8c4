"""Hostile tars, tables of images and folders, by seed; counted by verdict.

What is taken is compared with what GNU tar extracts, polars reads and `os.walk` lists. The long
run: `python tests/hostile/hostile_sources.py 1500`.
"""

import io
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import polars
import pyarrow as pa
import pyarrow.parquet as pq
from damaging import garbled
from hostile_tars import compare_tar, expect_streamed, picture, tar_bytes, tar_members, written
from judging import WrongError, counted, judged, main

from ccrop_pipeline.base.tars import NOT_IN_KEYS
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Sample, UnreadableImage, decode, open_source, pack

# Tables

# fmt: off
_COLUMNS: dict[str, list[Callable[[int], Any]]] = {
    "image": [
        lambda n: pa.array([picture(i, "PNG") for i in range(n)], pa.binary()),
        lambda n: pa.array([picture(i, "PNG") for i in range(n)], pa.large_binary()),
        lambda n: pa.array([picture(i, "PNG") for i in range(n)], pa.binary_view()),
        lambda n: pa.array([picture(0, "PNG")] * n, pa.binary()).dictionary_encode(),
        lambda n: pa.array([{"bytes": picture(i, "PNG"), "path": f"{i}.png"} for i in range(n)]),
        lambda n: pa.array([{"bytes": picture(i, "PNG"), "path": 1.5} for i in range(n)]),
        lambda n: pa.array([{"bytes": picture(i, "PNG"), "path": None} for i in range(n)]),
        lambda n: pa.array([{"bytes": picture(i, "PNG"), "path": b"\xff"} for i in range(n)]),
        lambda n: pa.array([{"bytes": None, "path": "a.png"}] * n),
        lambda n: pa.array([{"bytes": [1, 2], "path": "a.png"}] * n),
        lambda n: pa.array([{"path": "a.png"}] * n),
        lambda n: pa.array([None if i else {"bytes": b"x", "path": "x"} for i in range(n)]),
        lambda n: pa.array([None if i else b"x" for i in range(n)], pa.binary()),
        lambda n: pa.array([b"12345678"] * n, pa.binary(8)),
        lambda n: pa.array([b""] * n),
        lambda n: pa.array(["text"] * n),
        lambda n: pa.array([[picture(0, "PNG")]] * n),
        lambda n: pa.array([bytes(1 << 22)] * n),  # shrinks to nothing
        lambda n: pa.nulls(n),
        lambda n: pa.array([1] * n),
    ],
    "key": [
        lambda n: pa.array([f"k{i}" for i in range(n)]),
        lambda n: pa.array([f"k{i}" for i in range(n)], pa.large_string()),
        lambda n: pa.array([f"k{i}" for i in range(n)], pa.string_view()),
        lambda n: pa.array([f"k{i}" for i in range(n)]).dictionary_encode(),
        lambda n: pa.array([b"\xff%d" % i for i in range(n)], pa.binary()).view(pa.string()),
        lambda n: pa.array([b"\xff%d" % i for i in range(n)]),
        lambda n: pa.array([None if i % 2 else f"k{i}" for i in range(n)]),
        lambda n: pa.array(["same"] * n),
        lambda n: pa.array([f"\x1b[2J\n\0{i}" for i in range(n)]),
        lambda n: pa.array([f"{i}" * 70_000 for i in range(n)]),
        lambda n: pa.array([f"../../{i}" for i in range(n)]),
        lambda n: pa.array([""] * n),
        lambda n: pa.array([i - 1 for i in range(n)]),
        lambda n: pa.array([i / 2 for i in range(n)]),
        lambda n: pa.array([[i] for i in range(n)]),
        lambda n: pa.array([bool(i % 2) for i in range(n)]),
        lambda n: pa.nulls(n),
    ],
    "label": [
        lambda n: pa.array([i % 3 for i in range(n)]),
        lambda n: pa.array([-5 if i % 2 else None for i in range(n)], pa.int64()),
        lambda n: pa.array([2**64 - 1] * n, pa.uint64()),
        lambda n: pa.array([2**63 - 1] * n),
        lambda n: pa.array([0.5] * n),
        lambda n: pa.array(["cat"] * n),
        lambda n: pa.array(["cat"] * n).dictionary_encode(),
        lambda n: pa.array([True] * n),
        lambda n: pa.array([[1]] * n),
        lambda n: pa.nulls(n),
    ],
}
# fmt: on


def _table(rng: Random, folder: Path) -> Path:
    rows = rng.choice([0, 1, 3, 7])
    names, columns = [], []
    for name, makers in _COLUMNS.items():
        if name == "image" or rng.random() < 0.6:
            names.append(rng.choice([name, name, name, name, "other", "__key__", f"my_{name}"]))
            sound = rng.random() < 0.6
            columns.append(makers[0](rows) if sound else rng.choice(makers)(rows))
    if rng.random() < 0.1:
        names.append(rng.choice([*names, "image", "label_2"]))
        columns.append(rng.choice(columns))
    table = pa.table(columns, names=names)
    if rng.random() < 0.1:
        table = pa.concat_tables([table] * rng.choice([2, 300]))
    file = io.BytesIO()
    with suppress(pa.ArrowException):  # what pyarrow cannot write stays an empty file
        pq.write_table(
            table, file, row_group_size=rng.choice([2, 1000]), store_schema=rng.random() < 0.7,
            use_dictionary=rng.random() < 0.5, write_page_checksum=rng.random() < 0.3,
            compression=rng.choice(["zstd", "none", "gzip", "snappy"]),
        )  # fmt: skip
    data = file.getvalue()
    if rng.random() < 0.5:
        data = garbled(rng, data)
    if rng.random() < 0.2 and len(data) > 12:  # in the footer, whose length stays
        at = len(data) - 9 - rng.randrange(min(len(data) - 9, 300))
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    return written(folder / "t.parquet", data)


def _compare_table(path: Path, samples: list[Sample]) -> None:
    """Expect the images that polars reads, whose Parquet reader is another."""
    try:
        table = polars.read_parquet(path)
        column = next(c for c in ("image", "my_image", "other") if c in table.columns)
        cells = table[column].to_list()
    except BaseException:  # it panics, too
        return
    images = [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
    if images != [sample.image for sample in samples]:
        raise WrongError("polars has other images")


# Folders

# fmt: off
_NAMES = (
    b"a.jpg", b"B.PNG", b"no_extension", b"a", b"x.json", b"a.json", b".hidden.jpg", b"lost+found",
    b"\xff.jpg", b"\xc3(.png", b"n\nl.jpg", b"\x1b[2J.jpg", b"\x7f.png", b"\x01", b" .jpg",
    b"-rf.jpg", b"a*.jpg", b"[b].png", b"{0..9}.jpg", b"s3:x.jpg", b"pipe:ls.jpg", b"c\\d.jpg",
    b"~.jpg", b"$HOME.jpg", "é.jpg".encode(), "e\u0301.jpg".encode(), "\u202egpj.jpg".encode(),
    "\u2028.png".encode(), "\ufeff.jpg".encode(), "\u200d.jpg".encode(), b"x" * 251 + b".jpg",
    b"classes.txt", b"a.b.jpg", b"a.jpg.jpg", b"t.tar", b"t.parquet", b"train", b"test", b"val",
    b"dir", b"dir.jpg", b"...jpg", b"a.JPG", b"x.heic",
)
_ROOTS = (*[b"images"] * 6, b"[i]", b"i*", b"\xff", b"i\n")
# fmt: on


def _folder(rng: Random, folder: Path) -> Path:
    """Return a folder with entries of every kind, names of every kind, loops and depth."""
    root = folder / os.fsdecode(rng.choice(_ROOTS))
    root.mkdir()
    written(folder / "outside" / "o.jpg", picture(9, "JPEG"))
    places = [root]
    for number in range(rng.choice([3, 8, 20])):
        path = rng.choice(places) / os.fsdecode(rng.choice(_NAMES))
        with suppress(OSError):  # it is there, or its name is too long
            if rng.random() < 0.25:
                path.mkdir()
                places.append(path)
            elif rng.random() < 0.6:
                data = picture(number, rng.choice(["JPEG", "PNG", "BMP"]))
                with path.open("xb") as file:
                    file.write(garbled(rng, data) if rng.random() < 0.2 else data)
            else:
                _special(rng, path, root, folder)
    if rng.random() < 0.1:
        _nest(root, rng.choice([30, 230]))
    return root


def _special(rng: Random, path: Path, root: Path, folder: Path) -> None:
    match rng.randrange(8):
        case 0 | 1:
            os.mkfifo(path)
        case 2 if len(os.fsencode(path)) < 100:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(os.fsencode(path))
        case 3:
            path.hardlink_to(folder / "outside" / "o.jpg")
        case _:
            targets = [".", "..", root, "a.jpg", "nowhere", "/dev/zero", "/dev/stdin", path, "dir"]
            path.symlink_to(rng.choice([*targets, folder / "outside"]))


def _nest(root: Path, depth: int) -> None:
    """Make folders inside each other, maybe deeper than a path can name."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        with suppress(FileExistsError):
            os.mkdir("deep" * 5, dir_fd=here)
        below = os.open("deep" * 5, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    file = os.open("a.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.write(file, picture(0, "JPEG"))
    os.close(file)
    os.close(here)


def _compare_folder(root: Path, samples: list[Sample]) -> None:
    """Expect the regular files that `os.walk` finds under readable names, and no others' bytes."""
    by_key = {sample.key: sample.image for sample in samples}
    for key, image in by_key.items():
        if (root / key).read_bytes() != image or not (root / key).resolve().is_relative_to(root):
            raise WrongError(f"{key!r} is not the file of that name")
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "lost+found"]
        for name in names:
            path = Path(place, name)
            usual = path.suffix.lower() in (".jpg", ".png") and not name.startswith(".")
            if not usual or path.is_symlink() or not path.is_file() or not _is_text(str(path)):
                continue
            key = str(path.relative_to(root))
            if key not in by_key and not NOT_IN_KEYS.search(key):
                raise WrongError(f"{name!r} is left out")


def _is_text(name: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in name)


# Judging


def read_all(path: Path) -> list[Sample]:
    """Read a source in order and by position, decode what it has, and pack it; return it.

    Raises:
        WrongError: If two ways give two things.
    """
    source = open_source(path)
    samples = [sample for shard in source.shards for sample in source.read(shard)]
    source.fingerprint()
    index = source.index()
    labels = [-1 if sample.label is None else sample.label for sample in samples]
    if list(index.keys) != [sample.key for sample in samples] or index.labels.tolist() != labels:
        raise WrongError("other keys or labels by position")
    if any(index.read(i) != sample.image for i, sample in enumerate(samples)):
        raise WrongError("other images by position")
    for sample in samples:
        with suppress(UnreadableImage):
            decode(sample.image)
    if path.suffix == ".tar":
        expect_streamed(path, samples)
    if samples:
        _pack(path, samples)
    return samples


def _pack(path: Path, samples: list[Sample]) -> None:
    """Pack and read again: the same images, or an error for people and nothing there."""
    out = path.parent / "packed"
    try:
        pack(open_source(path), out)
    except CcropError:
        if out.exists():
            raise WrongError("packed in spite of an error") from None
        return
    try:
        packed = open_source(out)
        again = [sample.image for shard in packed.shards for sample in packed.read(shard)]
    except CcropError as error:
        raise WrongError("packed, and then not readable") from error
    if again != [sample.image for sample in samples]:
        raise WrongError("other images when packed")
    shutil.rmtree(out)


KINDS: dict[str, tuple[Callable[[Random, Path], Path], Callable[[Path, list[Sample]], None]]] = {
    "tars, their members": (tar_members, compare_tar),
    "tars, their headers and bytes": (tar_bytes, compare_tar),
    "tables of images": (_table, _compare_table),
    "folders": (_folder, _compare_folder),
}


def verdict(kind: str, seed: int, folder: Path) -> str:
    """`taken` as the other reader has it, `refused` by name; else what went wrong."""
    make, compare = KINDS[kind]
    path = make(Random(f"{kind} {seed}"), folder)
    taken: list[Sample] = []
    said = judged(lambda: taken.extend(read_all(path)), [str(folder), repr(os.fsencode(path))])
    return said if said != "taken" else judged(lambda: compare(path, taken), [])


def verdicts(kind: str, seeds: range) -> Counter[str]:
    """Count the verdicts of a kind; each input has a folder of its own."""
    return counted(kind, seeds, verdict)


if __name__ == "__main__":
    main(KINDS, verdicts)
