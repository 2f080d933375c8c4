"""Objects from the similarity of an image's own patches, without any training: LOST and TokenCut.

Both give masks, not heat: the heatmap is above 0.5 on the cells of the object and 0 elsewhere. An
object is a component of cells that touch along their edges. Each image is worked out by itself and
in float64, so that its mask does not depend on its batch.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.localize.cells import object_level
from ccrop_pipeline.localize.encoder import Encoder

CellSource = Literal["keys", "layer"]

_NEAREST = 100  # patches that may join the seed; k of LOST, section 3.3
_TAU = 0.2  # least cosine of patches that are alike; TokenCut, section 4.1
_FAINT = 1e-5  # edge between patches that are not alike; epsilon of TokenCut, section 3.2
_SAME = 1e-9  # eigenvalues of normalised Laplacians, in [0, 2], that rounding may have told apart
_TIE = 1e-6  # entries of an eigenvector, relative to the greatest, likewise


def cells_of(encoder: Encoder, images: Tensor, of: CellSource) -> tuple[Tensor, tuple[int, int]]:
    """Return one vector for each cell of the grid.

    Args:
        encoder: What looks at the images.
        images: As for `Encoder.features`.
        of: `keys` of the attention in the encoder's layer, those of all heads side by side, or
            the features of the `layer`.

    Returns:
        float32 `(B, N, C)`, the cells in rows from the top left; and rows and columns.

    Raises:
        ModelError: If there are no keys that can be read.
    """
    if of == "keys":
        attention = encoder.attention(images)
        keys = attention.keys[:, :, attention.prefix_tokens :]
        return keys.transpose(1, 2).flatten(2), attention.grid
    features = encoder.features(images)
    return features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3])


def compared_cells(encoder: Encoder, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return the cells that `lost` and `tokencut` compare: keys where they can be read.

    Else the features of the layer, around their mean over all cells and channels of an image, as
    in the code published with LOST: those of convolutions are mostly not negative, so that every
    two cells would be alike.
    """
    if encoder.has_attention:
        return cells_of(encoder, images, "keys")
    cells, grid = cells_of(encoder, images, "layer")
    return cells - cells.mean(dim=(1, 2), keepdim=True, dtype=torch.float64), grid


def lost(cells: Tensor, grid: tuple[int, int], objects: int = 1) -> Tensor:
    """Return the object that LOST finds in each image (arXiv:2109.14279, section 3).

    Two patches are alike where the product of their features is positive. The seed is the patch
    that the fewest resemble; of those the one with the least sum of positive products, then the
    first. Of the 100 patches that the fewest resemble, those like the seed join it. The mask is
    where the products with all of these sum to more than 0, and the object its component that
    holds the seed. Further objects are the other components, those with the greatest sum first.

    Args:
        cells: `(B, N, C)`, the patches in rows from the top left.
        grid: Rows and columns of the patches.
        objects: The most objects of an image, at most `MOST_OBJECTS`.

    Returns:
        Heatmaps on the CPU, float16 `(B, *grid)`: `object_level` of the object that a cell belongs
        to, else 0; all 0 where the features of an image are not finite, or all 0.
    """
    return _heatmaps([_lost(one, grid, objects) for one in cells.to(torch.float64)], grid)


def _lost(cells: Tensor, grid: tuple[int, int], objects: int) -> list[NDArray[np.bool_]]:
    if not cells.isfinite().all():
        return []
    products = cells @ cells.T
    alike = products > 0
    total = products.clamp(min=0).sum(dim=1)
    order = total.argsort(stable=True)
    order = order[alike.sum(dim=1)[order].argsort(stable=True)]
    nearest = order[:_NEAREST]
    joined = nearest[alike[order[0], nearest]]
    sums = products[joined].sum(dim=0).reshape(grid).cpu().numpy()
    found = _components(sums > 0)
    seed = int(order[0])
    found.sort(key=lambda one: (not one.flat[seed], -sums[one].sum()))
    return found[:objects]


def tokencut(cells: Tensor, grid: tuple[int, int], objects: int = 1) -> Tensor:
    """Return the object that TokenCut cuts out of each image (arXiv:2202.11539, section 3).

    The edge between two patches is 1 where the cosine of their features is above 0.2, else 1e-5.
    The eigenvector of the second smallest eigenvalue of (D - E) x = lambda D x parts the patches at
    its mean; the foreground has the entry of the greatest magnitude, and the object is its
    component with that entry. For further objects, as in MaskCut (arXiv:2301.11320), the patches
    of those that were found are left out and the rest is cut again, until the object holds two
    corners of the image or more, which is taken for background.

    Args:
        cells: As for `lost`.
        grid: As for `lost`.
        objects: As for `lost`.

    Returns:
        As for `lost`; all 0 also where no cut is better than every other, such as where all
        patches are alike.
    """
    return _heatmaps([_tokencut(one, grid, objects) for one in cells.to(torch.float64)], grid)


def _tokencut(cells: Tensor, grid: tuple[int, int], objects: int) -> list[NDArray[np.bool_]]:
    if not cells.isfinite().all():
        return []
    # Scaled first, so that no square is lost or infinite.
    cells = cells / cells.abs().amax().clamp(min=torch.finfo(torch.float64).tiny)
    directions = torch.nn.functional.normalize(cells, dim=1)
    alike = (directions @ directions.T > _TAU).cpu().numpy()
    left, found = np.ones(grid, bool), list[NDArray[np.bool_]]()
    while len(found) < objects and (one := _cut(alike, left)) is not None:
        if found and one[[0, 0, -1, -1], [0, -1, 0, -1]].sum() > 1:
            break
        found.append(one)
        left &= ~one
    return found


def _cut(alike: NDArray[np.bool_], left: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Cut the patches that are left; return the object, or None where no cut is the best."""
    from scipy.linalg import eigh  # a quarter of a second to import, and no other map needs it

    places = np.flatnonzero(left)
    if len(places) < 3:
        return None
    edges = np.where(alike[np.ix_(places, places)], 1.0, _FAINT)
    root = np.sqrt(edges.sum(axis=1))
    # With y = D^(1/2) x the problem is that of one symmetric matrix.
    laplacian = np.eye(len(places)) - edges / root / root[:, None]
    values, vectors = eigh(laplacian, subset_by_index=[1, 2])
    if values[1] - values[0] < _SAME:
        return None
    entries = vectors[:, 0] / root
    size = np.abs(entries)
    extreme = int(np.argmax(size >= size.max() * (1 - _TIE)))
    side = (entries - entries.mean()) * np.sign(entries[extreme]) > 0
    foreground = np.zeros(left.shape, bool)
    foreground.flat[places] = side
    return next(
        (one for one in _components(foreground) if one.flat[places[extreme]]),
        None,
    )


def _components(content: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return the components of a mask, each as a mask; cells touch along edges."""
    from scipy import ndimage

    labels, count = ndimage.label(content)
    return [labels == number for number in range(1, count + 1)]


def _heatmaps(found: list[list[NDArray[np.bool_]]], grid: tuple[int, int]) -> Tensor:
    heatmaps = np.zeros((len(found), *grid), np.float16)
    for heatmap, objects in zip(heatmaps, found, strict=True):
        for number, one in enumerate(objects):
            heatmap[one] = object_level(number)
    return torch.from_numpy(heatmaps)
