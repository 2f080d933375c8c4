"""The WebDataset form of a shard: a tar with one small JSON file a row."""

import json
import re
import tarfile
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base.tars import MANY_DIGITS, TarHeader
from ccrop_pipeline.base.values import parse_json
from ccrop_pipeline.boxset.boxes import Choices
from ccrop_pipeline.boxset.provenance import Entries, Provenance
from ccrop_pipeline.boxset.rules import Problem
from ccrop_pipeline.boxset.table import STATUSES, BoxTable
from ccrop_pipeline.errors import counted, shown

MEMBER_SUFFIX = ".box.json"
_EDGES = ("x_min", "y_min", "x_max", "y_max")
_FIELDS = {"key", *_EDGES, "width", "height", "orientation", "status", "image_hash"}
# WebDataset ends a key at the first dot after the last slash and skips `__meta__` folders.
_HIDDEN = re.compile(r"__[^/]*__/|(.*/)?[^/]*\.[^/]*$", re.DOTALL)
_HASH = re.compile("[0-9a-f]{16}")
# Python's tarfile, and so WebDataset, cannot read a global header with no member after it.
_EMPTY = "__empty__"
# What tarfile raises for bytes that make no sense.
_UNREADABLE = (
    OSError,
    tarfile.TarError,
    ValueError,
    OverflowError,
    LookupError,
    MemoryError,
    RecursionError,
)
_BLOCK = 512
_END_OF_TAR = bytes(2 * _BLOCK)


def check_keys(table: BoxTable, where: str) -> list[Problem]:
    """Find the keys that WebDataset would not give back as they are, or `load` not at all; B016."""
    return [
        Problem("B016", f"{where} row {row}", f"WebDataset would not keep the key {shown(key)}")
        for row, key in enumerate(table.keys)
        if _HIDDEN.match(key) or MANY_DIGITS.search(key.encode())
    ]


def write(path: Path, table: BoxTable, provenance: Provenance) -> None:
    """Write a table; equal tables give equal bytes."""
    pax = provenance.entries()
    with tarfile.open(
        path, "w", format=tarfile.PAX_FORMAT, encoding="utf-8", pax_headers=pax
    ) as tar:
        for sample in _samples(table):
            content = json.dumps(sample, ensure_ascii=False, separators=(",", ":")).encode()
            member = tarfile.TarInfo(sample["key"] + MEMBER_SUFFIX)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
        if not len(table):
            tar.addfile(tarfile.TarInfo(_EMPTY))


def _samples(table: BoxTable) -> Iterator[dict[str, Any]]:
    for row, key in enumerate(table.keys):
        # tolist widens float32 to the double of the same value, whose JSON text is exact.
        sample = {"key": key, **dict(zip(_EDGES, table.boxes[row].tolist(), strict=True))}
        sample["width"], sample["height"] = table.sizes[row].tolist()
        sample["orientation"] = int(table.orientation[row])
        sample["status"] = STATUSES[table.status[row]]
        # As text: above 2**53 many JSON readers round numbers.
        sample["image_hash"] = f"{table.image_hash[row]:016x}"
        if table.heatmaps is not None:
            bits = np.ascontiguousarray(table.heatmaps[row]).view(np.uint16)
            sample["heatmap"] = _shortest()[bits].tolist()
        if table.choices is not None:
            sample["choices"] = table.choices.of_row(row).tolist()
        yield sample


@cache
def _shortest() -> NDArray[np.float64]:
    """Return, by the bits of a float16, the double whose shortest text rounds to it."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return every.astype(str).astype(np.float64)


def entries(path: Path, problems: list[Problem]) -> Entries | None:
    """Read the texts of the global PAX header by name; rule B011."""
    try:
        with tarfile.open(path, "r:", encoding="utf-8", tarinfo=TarHeader) as tar:
            return dict(tar.pax_headers)
    except _UNREADABLE as error:
        problems.append(Problem("B011", path.name, f"not a readable tar file: {error}"))
        return None


def load(
    path: Path, problems: list[Problem], *, heatmaps: bool = True
) -> tuple[Entries | None, BoxTable | None]:
    """Read entries and table; rules B011, B014, B016, B019; within the shard B024 and B028."""
    samples: list[dict[str, Any]] = []
    texts, count = None, len(problems)
    try:
        _expect_end(path)
        with tarfile.open(path, "r:", encoding="utf-8", tarinfo=TarHeader) as tar:
            texts = dict(tar.pax_headers)
            for row, (name, content) in enumerate(_members(tar, path.stat().st_size)):
                sample = _sample(name, content, f"{path.name} row {row}", problems)
                if sample is not None:
                    samples.append(sample)
    except _UNREADABLE as error:
        problems.append(Problem("B011", path.name, f"not a readable tar file: {error}"))
    maps = [sample["heatmap"] for sample in samples if "heatmap" in sample]
    grids = {(len(lines), len(lines[0])) for lines in maps}
    if len(grids) > 1 or len(maps) not in (0, len(samples)):
        message = f"only some rows have a heatmap, or of other shapes: {sorted(grids)}"
        problems.append(Problem("B024", path.name, message))
        heatmaps = False
    with_choices = sum("choices" in sample for sample in samples)
    if with_choices not in (0, len(samples)):
        problems.append(
            Problem("B028", path.name, f"choices in only {counted(with_choices, 'row')}")
        )
    fatal = any(problem.rule in ("B011", "B014") for problem in problems[count:])
    return texts, None if fatal else _table(samples, heatmaps=bool(grids) and heatmaps)


def _expect_end(path: Path) -> None:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(_END_OF_TAR)))
        # tarfile takes a file cut between two members for a whole one.
        if file.read() != _END_OF_TAR or size % _BLOCK:
            raise tarfile.ReadError("the end of the archive is missing")


def _members(tar: tarfile.TarFile, size: int) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        # Neither links nor what would take more room in memory than on disk.
        if not member.isreg() or member.sparse is not None or not 0 <= member.size <= size:
            raise tarfile.ReadError(f"the member {member.name!r:.80} is no plain file of its size")
        content = tar.extractfile(member)
        if member.name != _EMPTY:
            yield member.name, content.read() if content else b""
        # tarfile keeps every member it has met, a kilobyte each.
        tar.members.clear()  # type: ignore[attr-defined]


def _sample(
    name: str, content: bytes, where: str, problems: list[Problem]
) -> dict[str, Any] | None:
    try:
        sample = parse_json(str(content, "utf-8"))
        wrong = _wrong_field(sample)
    except ValueError as error:
        wrong = f"no readable JSON: {error}"
    if wrong:
        problems.append(Problem("B014", where, f"{name}: {wrong}"))
        return None
    key = sample["key"]
    if name != key + MEMBER_SUFFIX or _HIDDEN.match(key):
        problems.append(Problem("B016", where, f"the member of the key {key!r} is {name!r}"))
    if sample["status"] not in STATUSES:
        problems.append(Problem("B019", where, f"the status is {sample['status']!r}"))
        sample["status"] = STATUSES[0]
    return sample  # type: ignore[no-any-return]


def _wrong_field(sample: Any) -> str | None:
    if not isinstance(sample, dict):
        return "it is no JSON object"
    if missing := _FIELDS.difference(sample):
        return f"there is no field {' or '.join(sorted(missing))}"
    checks = {
        "key": isinstance(sample["key"], str),
        "status": isinstance(sample["status"], str),
        "image_hash": isinstance(sample["image_hash"], str)
        and _HASH.fullmatch(sample["image_hash"]),
        "width": _is_unsigned(sample["width"], 32),
        "height": _is_unsigned(sample["height"], 32),
        "orientation": _is_unsigned(sample["orientation"], 8),
        "heatmap": "heatmap" not in sample or _is_grid(sample["heatmap"]),
        "choices": "choices" not in sample or _are_boxes(sample["choices"]),
        **{edge: _is_number(sample[edge]) for edge in _EDGES},
    }
    wrong = [name for name, right in checks.items() if not right]
    return f"{wrong[0]} is {sample[wrong[0]]!r}" if wrong else None


def _is_unsigned(value: Any, bits: int) -> bool:
    return type(value) is int and 0 <= value < 1 << bits


def _is_grid(lines: Any) -> bool:
    if not (isinstance(lines, list) and lines and all(isinstance(line, list) for line in lines)):
        return False
    width = len(lines[0])
    return width > 0 and all(
        len(line) == width and all(_is_number(cell) for cell in line) for line in lines
    )


def _are_boxes(boxes: Any) -> bool:
    return isinstance(boxes, list) and all(
        isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) for box in boxes
    )


def _is_number(value: Any) -> bool:
    # True and false are integers to Python, and its integers may not fit into a float.
    return type(value) is float or (type(value) is int and abs(value) < 1 << 53)


def _table(samples: list[dict[str, Any]], *, heatmaps: bool) -> BoxTable:
    n = len(samples)
    with np.errstate(over="ignore"):  # what overflows is infinite then, and breaks B020 or B025
        boxes = np.array([[s[edge] for edge in _EDGES] for s in samples], np.float32)
        grids = np.array([s["heatmap"] for s in samples], np.float16) if heatmaps else None
    sizes = np.array([(s["width"], s["height"]) for s in samples], np.uint32)
    return BoxTable(
        keys=[s["key"] for s in samples],
        boxes=boxes.reshape(n, 4),
        sizes=sizes.reshape(n, 2),
        orientation=np.array([s["orientation"] for s in samples], np.uint8),
        status=np.array([STATUSES.index(s["status"]) for s in samples], np.uint8),
        image_hash=np.array([int(s["image_hash"], 16) for s in samples], np.uint64),
        heatmaps=grids,
        choices=_choices(samples) if n and all("choices" in s for s in samples) else None,
    )


def _choices(samples: list[dict[str, Any]]) -> Choices:
    with np.errstate(over="ignore"):  # as above, for B029
        rows = [np.array(s["choices"], np.float32).reshape(-1, 4) for s in samples]
    return Choices.of(rows)
