"""The box sets of a run one after the other: which there are, and how far boxes move."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccrop_pipeline.base import is_address
from ccrop_pipeline.boxset import BoxSet, iou

_REFRESH = re.compile(r"epoch-(\d+)")
_MOVED = 0.5  # of IoU: less is a box of something else


@dataclass(frozen=True)
class Drift:
    """How far the boxes of images moved from one box set to the next.

    Attributes:
        images: Number of images in both.
        mean_iou: Mean IoU of the two boxes of an image.
        moved: Share of images whose two boxes have an IoU below 0.5.
        same: Share of images whose two boxes are equal bit for bit.
    """

    images: int
    mean_iou: float
    moved: float
    same: float


def drift(before: BoxSet, after: BoxSet) -> Drift | None:
    """Return how far boxes moved; None where no image is in both sets, or keys cannot be joined."""
    common = after.lookup().common(before.lookup())
    if common is None or not len(common[0]):
        return None
    new, old = common
    overlap = iou(new, old.astype(np.float64))
    return Drift(
        images=len(new),
        mean_iou=float(overlap.mean()),
        moved=float((overlap < _MOVED).mean()),
        same=float((new == old).all(axis=1).mean()),
    )


def refreshes_in(folder: Path) -> dict[int, Path]:
    """Return the folders of the complete box sets of refreshes, by epoch, the earliest first.

    Args:
        folder: Folder `boxes` of a run.
    """
    paths = folder.iterdir() if folder.is_dir() else ()
    found = {int(name[1]): path for path in paths if (name := _REFRESH.fullmatch(path.name))}
    return {at: found[at] for at in sorted(found) if (found[at] / "manifest.json").is_file()}


def refresh_before(box_set: BoxSet) -> BoxSet | None:
    """Return the box set of the refresh before, where a box set is one of a run on this disk."""
    place = str(box_set.folder)
    here = None if is_address(place) else _REFRESH.fullmatch(Path(place).name)
    if here is None:
        return None
    before = [
        path
        for epoch, path in refreshes_in(Path(place).absolute().parent).items()
        if epoch < int(here[1])
    ]
    return BoxSet.open(before[-1]) if before else None


def refresh_name(boxes: BoxSet | str) -> str:
    """Return what to call a box set among others of its run: `epoch 20`, else its folder's name."""
    name = boxes if isinstance(boxes, str) else Path(str(boxes.folder)).name
    epoch = _REFRESH.fullmatch(name)
    return f"epoch {int(epoch[1])}" if epoch else name
