"""The boxes of keys, or an error that says why there are none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset.choices import Choices
from ccrop_pipeline.boxset.reader import BoxSet
from ccrop_pipeline.errors import CcropError

MissingBoxes = Literal["error", "full"]


class BoxFinder:
    """Finds boxes by key in a memory-mapped file that all workers share.

    Args:
        boxes: Folder of a box set: a local path, or an address that fsspec knows.
        missing: What to do with a key that has no box: fail, or take the full box.

    Raises:
        CcropError: If the folder holds no complete box set.
    """

    def __init__(self, boxes: str | Path, missing: MissingBoxes = "error") -> None:
        if missing not in ("error", "full"):
            raise ValueError(f"missing must be 'error' or 'full', not {missing!r}")
        self._box_set = BoxSet.open(boxes)
        self._lookup = self._box_set.lookup()
        self._missing = missing

    def find(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Return the boxes of keys, normalised x_min, y_min, x_max, y_max, (n, 4).

        Where an image has several boxes, this is their union.

        Raises:
            CcropError: If a key has no box and that is an error.
        """
        boxes, found = self._lookup.find(keys)
        if self._missing == "error" and not found.all():
            absent = [keys[i] for i in np.flatnonzero(~found)[:3]]
            raise CcropError(
                f"{np.count_nonzero(~found)} of {len(keys)} images have no box in "
                f"{self._box_set.folder}, such as {', '.join(map(repr, absent))}; its keys look "
                f"like {self._some_key()!r}. Give the keys of the source that the boxes were "
                "computed from, compute boxes for these images, or let them keep the full box "
                '(missing="full"; --missing-boxes full).'
            )
        return boxes

    def choices(self, keys: Sequence[str]) -> Choices | None:
        """Return the boxes that a sampler may draw from, n rows; None where each key has one box.

        Raises:
            CcropError: If a key has no box and that is an error.
        """
        choices = self._lookup.choices(keys)
        if choices is not None and self._missing == "error":
            self.find(keys)
        return choices

    def _some_key(self) -> str | None:
        tables = self._box_set.tables(heatmaps=False)
        return next((table.keys[0] for _, table in tables if len(table.keys)), None)
