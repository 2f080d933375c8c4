"""Masks: a PNG an image, not zero where the content is."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange.annotations import Annotated, Annotations, folder_digest


def read_masks(folder: Path) -> Annotations:
    """Find the PNG files in a folder at any depth; each is decoded when its image comes.

    Raises:
        CcropError: If there is none.
    """
    files = sorted(folder.rglob("*.png"))
    if not files:
        raise CcropError(f"{folder} holds no masks *.png. Check the path.")
    names = [path.relative_to(folder).as_posix() for path in files]
    return Annotations("masks", names, partial(_read, folder), folder_digest(folder, files))


def _read(folder: Path, name: str) -> Annotated:
    try:
        with Image.open(folder / name) as mask:
            # The numbers of a palette's colours, and grey of any depth, are kept as they are.
            pixels = np.asarray(mask)
            transparent = mask.mode in ("LA", "RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise CcropError(f"the mask {folder / name} cannot be decoded: {error}") from error
    if transparent:
        pixels = pixels[..., :-1]
    content = pixels != 0 if pixels.ndim == 2 else (pixels != 0).any(axis=-1)
    height, width = content.shape
    return Annotated(_box(content), (width, height))


def _box(content: np.ndarray) -> np.ndarray:
    columns, rows = (np.flatnonzero(content.any(axis=axis)) for axis in (0, 1))
    if not len(rows):
        return np.empty((0, 4))
    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return np.array([edges], np.float64)
