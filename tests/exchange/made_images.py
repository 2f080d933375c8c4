"""Folders of plain images, and box sets as plain lists."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ccrop_pipeline.boxset import BoxSet

WIDTH, HEIGHT = 40, 20


def image(width: int = WIDTH, height: int = HEIGHT, shade: int = 0, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 0, 0)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def folder_of(root: Path, names: list[str], **sizes: tuple[int, int]) -> Path:
    """Images of 40 by 20 px, or of the size given for a stem."""
    for shade, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(*sizes.get(path.stem, (WIDTH, HEIGHT)), shade))
    return root


def boxes_by_key(box_set: BoxSet) -> dict[str, tuple[str, list[float], list[list[float]] | None]]:
    """Status, box and choices of each key."""
    found = {}
    for _, table in box_set.tables():
        for row, key in enumerate(table.keys):
            choices = None if table.choices is None else table.choices.of_row(row).tolist()
            status = ("ok", "empty", "unreadable")[table.status[row]]
            found[key] = (status, table.boxes[row].tolist(), choices)
    return found


def f32(*edges: float) -> list[float]:
    """Edges as a box set holds them."""
    return np.array(edges, np.float32).tolist()
