"""``classes.txt``: one class name a line, in the order of the labels."""

from collections.abc import Sequence
from pathlib import Path

CLASSES_FILE = "classes.txt"


def read_classes(folder: Path) -> tuple[str, ...]:
    """Return the class names that lie in a folder, none where there is no such file."""
    path = folder / CLASSES_FILE
    return tuple(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """Write class names into a folder that is not yet complete."""
    text = "".join(f"{name}\n" for name in classes)
    (folder / CLASSES_FILE).write_text(text, encoding="utf-8")
