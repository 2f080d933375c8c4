"""Ground-truth boxes from the JSON that lies beside an image."""

import json

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.errors import CcropError


def true_boxes(annotation: bytes) -> NDArray[np.float64]:
    """Read the true boxes of one image.

    Args:
        annotation: JSON object whose ``boxes`` is a list of ``[h0, w0, h1, w1]``: top, left,
            bottom and right edge, normalised by the image's height and width.

    Returns:
        Boxes ``x_min, y_min, x_max, y_max``, shape ``(m, 4)``, values in [0, 1].

    Raises:
        CcropError: If there is no such list, or one of its boxes is none.
    """
    try:
        rows = json.loads(annotation)["boxes"]
        edges = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    except (ValueError, KeyError, TypeError) as error:
        raise CcropError(
            f"annotation {annotation[:60]!r} holds no boxes ({type(error).__name__}: {error}); "
            'expected {"boxes": [[h0, w0, h1, w1], …]} with normalised edges.'
        ) from error
    boxes = edges[:, [1, 0, 3, 2]]
    proper = (boxes[:, :2] < boxes[:, 2:]).all(axis=1) & ((boxes >= 0) & (boxes <= 1)).all(axis=1)
    if not proper.all():
        raise CcropError(
            f"true box {edges[~proper][0].tolist()} is not [h0, w0, h1, w1] with "
            "0 <= h0 < h1 <= 1 and 0 <= w0 < w1 <= 1."
        )
    return boxes
