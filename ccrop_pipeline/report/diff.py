"""What changed from one box set to another over the same images."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset import STATUSES, BoxSet, iou
from ccrop_pipeline.errors import BoxSetError

_BINS = 10


@dataclass(frozen=True)
class Mover:
    """An image whose box moved: its key, both boxes as x_min, y_min, x_max, y_max, their IoU."""

    key: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    iou: float


@dataclass(frozen=True)
class BoxDiff:
    """Comparison of two box sets, joined by key.

    Attributes:
        both: Number of images in both sets.
        only_before: Number of images in the first set alone.
        only_after: Number of images in the second set alone.
        examples: Keys that are in one set alone, at most three of each.
        images_changed: Number of images in both whose bytes are not the same; images whose hash
            is 0 in either set, because it was not known, are left out.
        identical: Number of images in both whose boxes are equal bit for bit.
        mean_iou: Mean intersection over union of the boxes of an image; None if `both` is 0.
        deciles: 0th, 10th, ... 100th percentile of it; empty if `both` is 0.
        histogram: Number of images with an IoU up to 0.1, up to 0.2, ...; 0 counts to the first.
        status_changes: Number of images for each change, such as `ok -> empty`.
        movers: Images whose boxes have the least IoU, the least first, equal ones by key; none
            with an IoU of 1.
    """

    both: int
    only_before: int
    only_after: int
    examples: tuple[str, ...]
    images_changed: int
    identical: int
    mean_iou: float | None
    deciles: tuple[float, ...]
    histogram: tuple[int, ...]
    status_changes: dict[str, int]
    movers: tuple[Mover, ...]


@dataclass
class _Rows:
    """All rows of a box set but the heatmaps."""

    keys: list[str]
    boxes: NDArray[np.float32]
    status: NDArray[np.uint8]
    hashes: NDArray[np.uint64]


def diff(before: BoxSet, after: BoxSet, movers: int = 10) -> BoxDiff:
    """Compare two box sets; their shards need not be the same.

    Args:
        before: The one box set.
        after: The other one.
        movers: Number of images to name whose boxes have the least in common.
    """
    one, other = _rows(before), _rows(after)
    partner = after.lookup().rows(one.keys)
    mine = np.flatnonzero(partner >= 0)
    theirs = partner[mine]
    only_before = [one.keys[row] for row in np.flatnonzero(partner < 0)]
    in_both = np.zeros(len(other.keys), bool)
    in_both[theirs] = True
    only_after = [other.keys[row] for row in np.flatnonzero(~in_both)]
    a, b = one.boxes[mine], other.boxes[theirs]
    overlap = iou(a, b.astype(np.float64))
    known = (one.hashes[mine] != 0) & (other.hashes[theirs] != 0)
    bins = np.clip(np.ceil(overlap * _BINS).astype(int) - 1, 0, _BINS - 1)
    return BoxDiff(
        both=len(mine),
        only_before=len(only_before),
        only_after=len(only_after),
        examples=(*only_before[:3], *only_after[:3]),
        images_changed=int((known & (one.hashes[mine] != other.hashes[theirs])).sum()),
        identical=int((a == b).all(axis=1).sum()),
        mean_iou=float(overlap.mean()) if len(mine) else None,
        deciles=tuple(np.quantile(overlap, np.arange(11) / 10).tolist()) if len(mine) else (),
        histogram=tuple(np.bincount(bins, minlength=_BINS).tolist()),
        status_changes=_status_changes(one.status[mine], other.status[theirs]),
        movers=_movers([one.keys[row] for row in mine], a, b, overlap, movers),
    )


def _rows(box_set: BoxSet) -> _Rows:
    tables = [table for _, table in box_set.tables(heatmaps=False)]
    return _Rows(
        keys=[key for table in tables for key in table.keys],
        boxes=np.concatenate([np.empty((0, 4), np.float32), *(t.boxes for t in tables)]),
        status=np.concatenate([np.empty(0, np.uint8), *(t.status for t in tables)]),
        hashes=np.concatenate([np.empty(0, np.uint64), *(t.image_hash for t in tables)]),
    )


def _status_changes(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> dict[str, int]:
    changed = before != after
    pairs = Counter(zip(before[changed].tolist(), after[changed].tolist(), strict=True))
    return {f"{STATUSES[a]} -> {STATUSES[b]}": count for (a, b), count in sorted(pairs.items())}


def _movers(
    keys: list[str],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    overlap: NDArray[np.float64],
    count: int,
) -> tuple[Mover, ...]:
    moved = np.flatnonzero(overlap < 1).tolist()
    moved.sort(key=lambda row: (overlap[row], keys[row]))
    return tuple(
        Mover(
            keys[row],
            tuple(before[row].tolist()),
            tuple(after[row].tolist()),
            float(overlap[row]),
        )
        for row in moved[:count]
    )


def nothing_shared(box_set: BoxSet, other: BoxSet) -> BoxSetError:
    """Return the error of a box set to compare with that has other images."""
    return BoxSetError(
        f"{other.folder} has none of these images of {box_set.folder}: give as `against` another "
        "box set of the same images."
    )
