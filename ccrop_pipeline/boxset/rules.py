"""The rules of the box set format: the one place where they are stated.

Code, validator, `docs/format.md` and the cases of the tests all share these ids.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base.tars import NOT_IN_KEYS
from ccrop_pipeline.boxset.boxes import FULL_BOX
from ccrop_pipeline.boxset.table import OK, STATUSES, UNREADABLE, BoxTable
from ccrop_pipeline.errors import BoxSetError

RULES = {
    "B001": "`manifest.json` is one JSON object in UTF-8 with the fields of section 3, each of its "
    "type.",
    "B002": '`format` is `"ccrop-boxes"` and `version` is 1, in the manifest and in every shard.',
    "B003": "The provenance is the text of a JSON object with the fields of section 2, each of its "
    "type; the libraries of a shard are the text of an object of strings.",
    "B004": "`fingerprint` is the SHA-256 of `provenance` in UTF-8.",
    "B005": '`form` is `"parquet"` or `"webdataset"`.',
    "B006": "Shard names are unique plain file names; `file` is `data/`, the name and the form's "
    "suffix.",
    "B007": "Every listed shard is in the folder `data`, with the bytes and the sha256 listed.",
    "B008": "The rows listed of every shard are its rows, and `rows` of the set is their sum.",
    "B009": "`statistics` are those of the rows; `mean_area` to within 0.000001.",
    "B010": "The folder `data` holds no finished shard that the manifest does not list.",
    "B011": "Every shard can be read to its end as a file of its form.",
    "B012": "Every shard carries the entries `ccrop` and `ccrop_libraries`.",
    "B013": "Every shard has the provenance of the manifest, to the byte.",
    "B014": "A shard has the columns of section 4, each once and of its type, with no value "
    "missing.",
    "B015": "A Parquet row group has at most 65,536 rows.",
    "B016": "A WebDataset member is `<key>.box.json`; the key has no dot after its last slash, "
    "no first folder like `__this__`, and no more than 1,024 digits in a row.",
    "B017": "A key is Unicode text, not empty and without control characters (U+0000 to U+001F, "
    "U+007F to U+009F).",
    "B018": "A key occurs once in the whole box set.",
    "B019": "`status` is `ok`, `empty` or `unreadable`.",
    "B020": "Box edges are finite and in [0, 1].",
    "B021": "`x_min` < `x_max` and `y_min` < `y_max`.",
    "B022": "Rows that are `empty` or `unreadable` carry the full box 0, 0, 1, 1.",
    "B023": "`width` and `height` are at least 1, except in `unreadable` rows.",
    "B024": "Either every row of the box set has a heatmap or none has, all of one shape.",
    "B025": "Heatmap values are finite and in [0, 1].",
    "B026": "The rows of a shard are the images of its source shard, in source order.",
    "B027": "`image_hash` is the hash of the image as it now is in the source.",
    "B028": "Either every row of the box set has `choices` or none has.",
    "B029": "The `choices` of a row are one or more boxes, each of which keeps B020 and B021.",
    "B030": "The box of a row with `choices` is their union.",
    "B031": "`orientation` is from 1 to 8, and 1 in `unreadable` rows.",
    "B032": "The lookup cache that a machine keeps of a box set, if any, has the rows of its "
    "shards.",
}

_SHOWN, _LINE = 5, 300


class Problem(NamedTuple):
    """One breach of one rule.

    Attributes:
        rule: Id in `RULES`.
        where: File, and row (counted from 0) where there is one.
        message: What is wrong, with the value.
    """

    rule: str
    where: str
    message: str

    def __str__(self) -> str:
        """Return one line for people, of bounded length."""
        line = f"{self.rule} {self.where}: {self.message}"
        return line if len(line) <= _LINE else f"{line[:_LINE]}..."


def refuse(problems: Sequence[Problem], remedy: str) -> None:
    """Raise the problems, if there are any, as one error that ends with what to do.

    Raises:
        BoxSetError: If `problems` is not empty.
    """
    if not problems:
        return
    lines = [str(problem) for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN} more")
    raise BoxSetError("\n".join([*lines, remedy]))


def check_rows(table: BoxTable, where: str) -> list[Problem]:
    """Find every breach of the rules on keys, boxes, sizes, heatmaps and choices in a table."""
    return [
        Problem(rule, f"{where} row {row}", message)
        for check in (_keys, _boxes, _sizes, _heatmaps, _choices)
        for rule, row, message in check(table)
    ]


def _keys(table: BoxTable) -> Iterator[tuple[str, int, str]]:
    seen: set[str] = set()
    for row, key in enumerate(table.keys):
        if not key or NOT_IN_KEYS.search(key):
            yield "B017", row, f"the key {key!r} is empty or holds a control character"
        elif key in seen:
            yield "B018", row, f"the key {key!r} occurs twice in this shard"
        seen.add(key)


def _boxes(table: BoxTable) -> Iterator[tuple[str, int, str]]:
    boxes = table.boxes
    # Not the opposite comparison: NaN must fail as well.
    inside = np.all((boxes >= 0) & (boxes <= 1), axis=1)
    for row in _rows(~inside):
        yield "B020", row, f"the box {boxes[row].tolist()} leaves [0, 1]"
    turned = (boxes[:, 0] >= boxes[:, 2]) | (boxes[:, 1] >= boxes[:, 3])
    for row in _rows(turned & inside):
        yield "B021", row, f"the box {boxes[row].tolist()} has no area"
    partial = (table.status != OK) & (boxes != np.array(FULL_BOX, np.float32)).any(axis=1)
    for row in _rows(partial):
        status = STATUSES[table.status[row]]
        yield "B022", row, f"the row is {status} and has the box {boxes[row].tolist()}"


def _sizes(table: BoxTable) -> Iterator[tuple[str, int, str]]:
    for row in _rows((table.sizes == 0).any(axis=1) & (table.status != UNREADABLE)):
        width, height = table.sizes[row].tolist()
        yield "B023", row, f"the image is {width} wide and {height} high"
    wrong = (table.orientation < 1) | (table.orientation > 8)
    wrong |= (table.orientation != 1) & (table.status == UNREADABLE)
    for row in _rows(wrong):
        status = STATUSES[table.status[row]]
        yield "B031", row, f"the orientation is {table.orientation[row]}, and the row {status}"


def _heatmaps(table: BoxTable) -> Iterator[tuple[str, int, str]]:
    if table.heatmaps is None:
        return
    # Bit patterns of float16 in [0, 1] are 0 to 0x3C00, and that of -0: comparing integers is
    # several times faster than comparing float16, which has no hardware support.
    bits = table.heatmaps.view(np.uint16)
    for row in _rows(((bits > 0x3C00) & (bits != 0x8000)).any(axis=(1, 2))):
        low, high = table.heatmaps[row].min(), table.heatmaps[row].max()
        yield "B025", row, f"the heatmap runs from {low} to {high}"


def _choices(table: BoxTable) -> Iterator[tuple[str, int, str]]:
    choices = table.choices
    if choices is None:
        return
    for row in _rows(choices.counts == 0):
        yield "B029", row, "there is no box to choose"
    boxes = choices.boxes
    inside = np.all((boxes >= 0) & (boxes <= 1), axis=1)
    proper = inside & (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
    row_of = np.repeat(np.arange(len(choices)), choices.counts)
    for place in _rows(~proper):
        box = boxes[place].tolist()
        yield "B029", int(row_of[place]), f"the choice {box} leaves [0, 1] or has no area"
    sound = choices.counts > 0
    sound[row_of[~proper]] = False
    rows = np.flatnonzero(sound)
    unions = choices.take(rows).union()
    for row, union in zip(rows.tolist(), unions, strict=True):
        if (table.boxes[row] != union).any():
            message = f"the box {table.boxes[row].tolist()} is not the union {union.tolist()}"
            yield "B030", row, message


def _rows(mask: NDArray[np.bool_]) -> list[int]:
    rows: list[int] = np.flatnonzero(mask).tolist()
    return rows
