"""NumPy archives, as scripts save their boxes."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.boxset import OK, STATUSES
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange.annotations import (
    Annotated,
    Annotations,
    expect_shares,
    file_digest,
    grouped,
)


def read_npz(path: Path, pixels: bool) -> Annotations:
    """Read boxes from an archive of either layout.

    Either `keys`, text (n,), and `boxes`, numbers (n, 4), with a key as often as it has boxes, and
    perhaps `status`, text (n,), where anything but `ok` says that the image has no box. Or an
    array for each image, named by its key, of shape (k, 4) or (4,).

    Args:
        path: The file.
        pixels: Whether edges are pixels of the stored image, and not shares of it.

    Raises:
        CcropError: If it is no such archive, or the numbers are pixels and that was not said.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        found = _table(arrays) if {"keys", "boxes"} <= set(arrays) else _by_key(arrays)
    # np.load raises nearly anything for a file of another kind.
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise CcropError(
            f"{path} is no archive of boxes ({error}). It needs the arrays keys (n,) of text and "
            "boxes (n, 4), or for each image an array (k, 4) of its key."
        ) from error
    if not pixels:
        for boxes in found.values():
            expect_shares(boxes, path)
    frame: Any = "stored" if pixels else "shares"
    kind = "npz in pixels" if pixels else "npz"
    return Annotations(
        kind, list(found), lambda name: Annotated(found[name], frame), file_digest(path)
    )


def _table(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    keys, boxes = arrays["keys"], arrays["boxes"].astype(np.float64)
    if keys.ndim != 1 or keys.dtype.kind != "U" or boxes.shape != (len(keys), 4):
        raise ValueError(f"keys are {keys.dtype} {keys.shape} and boxes {boxes.shape}")
    if "status" in arrays:
        boxes[arrays["status"] != STATUSES[OK]] = np.nan
    return grouped(keys.tolist(), boxes)


def _by_key(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    for name, array in arrays.items():
        if array.shape != (4,) and array.shape[1:] != (4,):
            raise ValueError(f"the array {name!r} is {array.shape}")
    return {name: array.astype(np.float64).reshape(-1, 4) for name, array in arrays.items()}
