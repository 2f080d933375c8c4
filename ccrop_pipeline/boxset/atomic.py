"""Files that are either wholly there or not at all."""

import filecmp
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ccrop_pipeline.errors import CcropError


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """Give a hidden path beside `target` to write to; on leaving, sync it and rename it.

    A target with the very same bytes is left as it is, so that work done twice does no harm.

    Raises:
        CcropError: If `target` is there with other bytes; it is not touched.
    """
    aside = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield aside
        if not target.exists():
            _sync(aside)
            aside.replace(target)
            _sync(target.parent)
        elif not filecmp.cmp(aside, target, shallow=False):
            raise CcropError(
                f"{target} is already there with other content. "
                "It is never overwritten: move or delete it, or choose another folder."
            )
    finally:
        aside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    # A folder is synced too: without that, the rename itself can be lost with the power.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
