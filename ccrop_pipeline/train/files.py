"""Files that are replaced whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ccrop_pipeline.boxset.atomic import hidden_name


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Gives a file beside `target` to write to; on leaving, syncs it and moves it there.

    Where writing fails, as on a full disk, nothing is left behind.
    """
    aside = target.with_name(hidden_name(target.name))
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
