"""Files that are either wholly there or not at all."""

import filecmp
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ccrop_pipeline.errors import CcropError


class TargetTakenError(CcropError):
    """A file that was to be written is there already, with other content."""

    def __init__(self, target: object) -> None:
        super().__init__(
            f"{target} is already there with other content. "
            "It is never overwritten: move or delete it, or choose another folder."
        )


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """Give a hidden path beside `target` to write to; on leaving, sync it and move it there.

    A target with the very same bytes is left as it is, so that work done twice does no harm. Of
    several writers at once the first one stays.

    Raises:
        TargetTakenError: If `target` is there with other bytes; it is not touched.
    """
    aside = target.with_name(hidden_name(target.name))
    try:
        yield aside
        # Nothing is synced for a file that is there already.
        if not target.exists():
            _sync(aside)
        if _appear(aside, target):
            _sync(target.parent)
        elif not filecmp.cmp(aside, target, shallow=False):
            raise TargetTakenError(target)
    finally:
        aside.unlink(missing_ok=True)


def hidden_name(name: str) -> str:
    """Give a name of its own for a file that is being written."""
    return f".{name}.{secrets.token_hex(8)}.tmp"


def _appear(aside: Path, target: Path) -> bool:
    # Unlike a rename, a link never takes the place of what another process wrote meanwhile.
    try:
        target.hardlink_to(aside)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if target.exists():
            return False
        aside.replace(target)
    return True


def _sync(path: Path) -> None:
    # A folder is synced too: without that, the new name itself can be lost with the power.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
