"""One writer at a time in a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ccrop_pipeline.base.files import writing
from ccrop_pipeline.errors import CcropError

LOCK = ".ccrop.lock"

# Folders that this process holds: to the system, all locks of one process go together.
_held: dict[Path, int] = {}


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that write to it; made where it is missing.

    Held by a lock of POSIX records on a hidden file: the system releases it when the process ends,
    however it ends, and child processes do not inherit it. On NFS it holds between hosts where the
    mount has locks; when a host dies, the server releases its locks after a minute or two. Where a
    file system has no locks, nothing is held.

    Args:
        folder: Where this process writes, until the context is left.

    Raises:
        CcropError: If another process, or another place in this one, holds it.
        WriteError: If the hidden file cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    whole, own = folder.resolve(), os.getpid()
    if _held.get(whole) == own:  # one that was forked has its parent's entry
        raise _busy(folder, _own_name())
    descriptor = _locked(folder)
    _held[whole] = own
    try:
        yield
    finally:
        del _held[whole]
        # While it is held, so that nobody holds a file that is no longer there.
        with suppress(OSError):
            (folder / LOCK).unlink()
        os.close(descriptor)


def _locked(folder: Path) -> int:
    file = folder / LOCK
    while True:
        with writing(file):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the two answers that POSIX allows
            holder = os.read(descriptor, 200).decode(errors="replace")
            os.close(descriptor)
            raise _busy(folder, holder) from None
        except OSError:  # a file system without locks
            return descriptor
        # Its holder may have deleted it between the two calls.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                with suppress(OSError):  # a full disk: the lock itself needs no room
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, _own_name().encode())
                return descriptor
        os.close(descriptor)


def _own_name() -> str:
    return f"process {os.getpid()} on {os.uname().nodename}"


def _busy(folder: Path, holder: str) -> CcropError:
    return CcropError(
        f"{folder} is being written by {holder or 'another process'}. Wait until it has ended, "
        "stop it, or choose another folder."
    )
