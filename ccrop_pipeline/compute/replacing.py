"""Finished work in the place of other finished work: the new is made beside the old."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from ccrop_pipeline.base import Location, Ranks, is_address
from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.files import refuse_file, sync, writing
from ccrop_pipeline.base.lock import only_writer
from ccrop_pipeline.errors import CcropError


def expect_replaceable(
    folder: Location, ranks: Ranks, strangers: Callable[[Path], list[str]], what: str
) -> None:
    """Refuse what cannot be replaced.

    Args:
        folder: What would be replaced; it need not be there.
        ranks: Who this process is.
        strangers: Finds what is in a folder and would be lost though it is no part of the work.
        what: What the work is, for people.

    Raises:
        CcropError: If it holds more than that, or cannot be moved.
    """
    if ranks.world_size > 1:
        raise CcropError(
            "`overwrite` is for a process alone: of several, the last to start would begin again "
            f"what the others have done. Delete {folder} first."
        )
    if is_address(folder):
        raise CcropError(f"`overwrite` is for local folders only. Delete {folder} first.")
    path = local_path(folder).resolve()
    if path.is_mount():
        raise CcropError(f"`overwrite` cannot replace {folder}: something is mounted there.")
    refuse_file(path)
    found = strangers(path) if path.exists() else []
    if found:
        raise CcropError(
            f"{folder} holds more than {what}, such as {found[0]!r}: it was not replaced. "
            "Choose another folder."
        )


@contextmanager
def replaced(folder: Location, expect: Callable[[], None], *what: object) -> Iterator[Path]:
    """Yield the hidden folder in which what is to replace a folder is made; on leaving, it does.

    Meanwhile no other process can do so. The hidden folder stays when the work is stopped, for the
    same call to go on with.

    Args:
        folder: What is replaced; it need not be there.
        expect: Is called once more before that, since files may have come.
        what: What is made, on which the name of the hidden folder depends: none goes on with the
            shards of another one.
    """
    folder = local_path(folder).resolve()
    name = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
    aside = folder.with_name(f".{folder.name}.{name}.new")
    lock = folder.with_name(f".{folder.name}.overwrite")
    try:
        with only_writer(lock):
            yield aside
            expect()
            _replace(folder, aside)
    finally:
        with suppress(OSError):  # another process has it by now
            lock.rmdir()


def _replace(folder: Path, new: Path) -> None:
    """Put what is complete in the place of a folder; at any time one of them is whole."""
    old = new.with_suffix(".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    with writing(folder):
        new.rename(folder)
        sync(folder.parent)
    # With what was left by calls that were killed; what cannot be removed goes the next time.
    for ending in ("new", "old"):
        for left in folder.parent.glob(f".{escape(folder.name)}.{'?' * 16}.{ending}"):
            shutil.rmtree(left, ignore_errors=True)
