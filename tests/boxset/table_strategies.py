"""Tables for property tests: any values that the rules allow."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from ccrop_pipeline.boxset import (
    FULL_BOX,
    OK,
    UNREADABLE,
    BoxTable,
    Choices,
    EncoderInfo,
    LocalizerInfo,
    Provenance,
    SourceInfo,
)

PROVENANCE = Provenance(
    EncoderInfo("resnet18", "layer4", "ab" * 32, 100),
    LocalizerInfo("sum", 0.1, None, "all", 0, 0, "bilinear", 224, "resize to 224"),
    SourceInfo("tar", "cd" * 32),
    libraries={"torch": "2.7.0", "numpy": "2.0"},
)

_letters = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="./")
_words = st.text(_letters, min_size=1, max_size=12)
# Words begin with a letter, for WebDataset skips folders like __this__.
keys = st.builds("/k".join, st.lists(_words.map("k".__add__), min_size=1, max_size=3))
_edges = st.floats(0, 1, width=32)
_cells = st.integers(0, 0x3C00) | st.just(0x8000)  # the bits of float16 in [0, 1]
_sizes = st.integers(1, 2**32 - 1)


@st.composite
def tables(draw: Any, max_rows: int = 12) -> BoxTable:
    names = draw(st.lists(keys, unique=True, max_size=max_rows))
    n = len(names)
    status = np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), np.uint8)
    boxes = np.array([draw(_boxes()) for _ in names], np.float32).reshape(n, 4)
    boxes[status != OK] = FULL_BOX
    sizes = np.array([(draw(_sizes), draw(_sizes)) for _ in names], np.uint32).reshape(n, 2)
    turns = np.array([draw(st.integers(1, 8)) for _ in names], np.uint8)
    turns[status == UNREADABLE] = 1
    hashes = draw(st.lists(st.integers(0, 2**64 - 1), min_size=n, max_size=n))
    choices = draw(_choices(status)) if n and draw(st.booleans()) else None
    boxes = boxes if choices is None else choices.union()
    return BoxTable(
        names, boxes, sizes, turns, status, np.array(hashes, np.uint64), draw(_grids(n)), choices
    )


@st.composite
def _choices(draw: Any, status: np.ndarray) -> Choices:
    rows = [draw(st.lists(_boxes(), min_size=1, max_size=4)) for _ in status]
    rows = [r if s == OK else [FULL_BOX] for r, s in zip(rows, status, strict=True)]
    return Choices.of([np.array(row, np.float32) for row in rows])


@st.composite
def _boxes(draw: Any) -> list[float]:
    x = sorted(draw(st.lists(_edges, min_size=2, max_size=2, unique=True)))
    y = sorted(draw(st.lists(_edges, min_size=2, max_size=2, unique=True)))
    return [x[0], y[0], x[1], y[1]]


@st.composite
def _grids(draw: Any, n: int) -> np.ndarray | None:
    h, w = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    if n == 0 or draw(st.booleans()):
        return None
    bits = draw(st.lists(_cells, min_size=n * h * w, max_size=n * h * w))
    return np.array(bits, np.uint16).view(np.float16).reshape(n, h, w)


def make_table(keys: list[str], seed: int = 0, heatmaps: bool = True) -> BoxTable:
    """A table of plausible boxes on a grid of 7 x 7."""
    rng, n = np.random.default_rng(seed), len(keys)
    low, high = rng.integers(0, 100, (n, 2)), rng.integers(101, 225, (n, 2))
    return BoxTable(
        keys,
        (np.concatenate([low, high], axis=1) / 224).astype(np.float32),
        rng.integers(300, 500, (n, 2)).astype(np.uint32),
        rng.integers(1, 9, n).astype(np.uint8),
        np.zeros(n, np.uint8),
        rng.integers(0, 2**64, n, np.uint64),
        rng.random((n, 7, 7)).astype(np.float16) if heatmaps else None,
    )


def assert_same(one: BoxTable, two: BoxTable) -> None:
    """Equal to the last bit, dtypes and signs of zeros included."""
    assert one.keys == two.keys
    for name in ("boxes", "sizes", "orientation", "status", "image_hash", "heatmaps"):
        a, b = getattr(one, name), getattr(two, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name
    assert (one.choices is None) == (two.choices is None)
    if one.choices is not None:
        assert one.choices.boxes.tobytes() == two.choices.boxes.tobytes()
        assert one.choices.starts.tolist() == two.choices.starts.tolist()
