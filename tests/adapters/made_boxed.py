"""Dark pictures with a white box in one corner, their box set, and what a view shows of them."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ccrop_pipeline.errors import CcropError
from tests.given_rows import box_set_of, rows_of

COUNT, WIDTH, HEIGHT = 16, 40, 30
# Windows far smaller than the picture: one that is not drawn from the box shows nothing white.
SMALL = (0.02, 0.06)


def box_of(i: int) -> tuple[float, float, float, float]:
    """A fifth of either side, in the corner numbered i modulo 4."""
    left, top = (i % 2) * 0.8, (i // 2 % 2) * 0.8
    return (left, top, left + 0.2, top + 0.2)


def picture(i: int) -> Image.Image:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = 3 * np.arange(WIDTH), 4 * np.arange(HEIGHT)[:, None]
    left, top, right, bottom = np.multiply(box_of(i), (WIDTH, HEIGHT, WIDTH, HEIGHT)).round()
    pixels[int(top) : int(bottom), int(left) : int(right)] = 255
    pixels[0, 0, 2] = i  # no two pictures are alike
    return Image.fromarray(pixels)


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def image_folder(root: Path) -> list[str]:
    """Write the pictures into folders of two classes; return their keys, in ImageFolder's order."""
    keys = [f"{'ab'[i >= COUNT // 2]}/{i:03d}.png" for i in range(COUNT)]
    for i, key in enumerate(keys):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(root / key)
    return keys


def box_set(folder: Path, keys: list[str], orientation: int = 1) -> Path:
    """Write the boxes of pictures 0, 1, 2, ... under these keys, in another order."""
    order = np.random.default_rng(0).permutation(len(keys)).tolist()
    rows = rows_of(
        [keys[i] for i in order],
        [box_of(i) for i in order],
        sizes=(WIDTH, HEIGHT),
        orientation=orientation,
    )
    box_set_of(folder, rows)
    return folder


def error_of(loader: Iterable[object]) -> str:
    """Read a loader to its error and return the message."""
    try:
        for _ in loader:
            pass
    except (CcropError, ValueError) as error:
        error.__traceback__ = None  # would keep the workers, which then take 5 s to end
        return f"{type(error).__name__}: {error}"
    return "no error"


def share_of_white(views: torch.Tensor) -> torch.Tensor:
    """Share of pixels of each view (n, 3, S, S), in [0, 1], that are more white than dark.

    A window drawn from the box shares half of the smaller of both along each axis with it: white
    fills a quarter of a window smaller than the box, and no less than a tenth of any `SMALL` one.
    """
    return (views > 0.5).float().mean(dim=(1, 2, 3))
