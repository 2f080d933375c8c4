"""Some rows of an index, as an index of their own."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.probes.images import LabelledImages
from ccrop_pipeline.sources import ImageIndex


class Subset:
    """The images of a `LabelledImages` by position, for the loaders of `views`.

    Args:
        images: Which rows of which index.
    """

    def __init__(self, images: LabelledImages) -> None:
        self._index: ImageIndex = images.index
        self._rows = images.rows
        keys = images.index.keys
        self._keys = [keys[row] for row in images.rows.tolist()]

    @property
    def keys(self) -> Sequence[str]:
        """Keys in the order of the rows."""
        return self._keys

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices, int64 (n,)."""
        labels: NDArray[np.int64] = self._index.labels[self._rows]
        return labels

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, i: int) -> bytes:
        """The encoded bytes of image `i`."""
        return self._index.read(int(self._rows[i]))
