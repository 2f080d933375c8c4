"""The largest connected component of what is above the threshold.

Cells count as connected along edges and corners. Bilinear upsampling mixes the four cells around
a point, which are then all connected where they are content. So a component of cells and the
pixels that it turns into share no pixel's weights with any other component, and setting the others
to 0 leaves its pixels as they were.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

_WITHIN_A_MAP = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])


def only_largest(heatmaps: Tensor, threshold: float) -> Tensor:
    """Set all cells above the threshold to 0 but those of the largest component of each map.

    The largest has the most cells; of several the one with the most heat, and of several of
    these the one whose first cell, row by row, comes first.

    Args:
        heatmaps: float16 ``(n, h, w)`` in [0, 1].
        threshold: In [0, 1); cells strictly above it are content.

    Returns:
        float16 ``(n, h, w)`` on the same device; maps with one component or none are unchanged.
    """
    cells = heatmaps.cpu().numpy()
    # float64, or numpy would round the threshold to float16 before it compares.
    content = cells.astype(np.float64) > threshold
    labels, count = ndimage.label(content, structure=_WITHIN_A_MAP)
    _, first_cell = np.unique(np.append(labels, range(count + 1)), return_index=True)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    heat = np.bincount(labels.ravel(), weights=cells.ravel(), minlength=count + 1)
    map_of = first_cell // max(1, cells[:1].size)
    order = 1 + np.lexsort([values[1:] for values in (first_cell, -heat, -sizes, map_of)])
    _, largest = np.unique(map_of[order], return_index=True)
    kept = np.zeros(count + 1, bool)
    kept[order[largest]] = True
    others = torch.from_numpy(content & ~kept[labels])
    return heatmaps.masked_fill(others.to(heatmaps.device), 0)
