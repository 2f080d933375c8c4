"""The rules that can be judged from the rows of one shard alone."""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset.rules import Problem
from ccrop_pipeline.boxset.table import FULL_BOX, OK, STATUSES, UNREADABLE, BoxTable

# Control characters, and halves of surrogate pairs, which UTF-8 cannot hold.
_NOT_IN_KEYS = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


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
        if not key or _NOT_IN_KEYS.search(key):
            yield "B017", row, f"the key {key!r} is empty or holds a control character"
        elif key in seen:
            yield "B018", row, f"the key {key!r} stands twice in this shard"
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
