"""Files that are either wholly there or not at all."""

import errno
import fcntl
import filecmp
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ccrop_pipeline.errors import CcropError


class TargetTakenError(CcropError):
    """A file that was to be written is there already, with other content."""

    def __init__(self, target: object, *, replaceable: bool = False) -> None:
        remedy = (
            "Choose another name, or set `overwrite`."
            if replaceable
            else "It is never overwritten: move or delete it, or choose another folder."
        )
        super().__init__(f"{target} is already there with other content. {remedy}")


class WriteError(CcropError, OSError):
    """A file that the system does not let us write, such as on a full disk.

    An `OSError` as well, for those who then try another place.
    """


_REMEDIES = {
    errno.ENOSPC: "Make room",
    errno.EDQUOT: "Make room",
    errno.EIO: "Check the disk",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`)",
}


def write_error(path: object, error: OSError) -> WriteError:
    """Return the error that says which file could not be written, why and what to do."""
    cause = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, "Check its folder and your rights there")
    found = WriteError(
        in_place_of_folder(path, error)
        or f"{path} cannot be written: {cause[0].lower()}{cause[1:]}. "
        f"{remedy}, then run again: what is finished is kept."
    )
    found.errno = error.errno
    return found


def in_place_of_folder(path: object, error: OSError) -> str | None:
    """Say which file is where a folder has to be; None if the error is of something else."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        for place in (Path(str(path)), *Path(str(path)).parents):
            if place.exists() and not place.is_dir():
                return f"{place} is a file, and a folder is needed there. Choose another."
    return None


@contextmanager
def writing(path: Path, aside: Path | None = None) -> Iterator[None]:
    """Name the file in what the system says of it while it is written.

    Raises:
        WriteError: If it cannot be written.
    """
    try:
        yield
    except OSError as error:
        ours = {None, str(path), str(aside), str(path.parent)}
        if isinstance(error, CcropError) or error.filename not in ours:
            raise
        raise write_error(path, error) from error


@contextmanager
def temporary_folder(prefix: str = "ccrop-") -> Iterator[Path]:
    """Yield an empty folder for temporary files, which is removed on leaving.

    Args:
        prefix: What its name begins with.

    Raises:
        WriteError: If its disk is full; what the system says of that names no file.
    """
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        try:
            yield Path(folder)
        except (OSError, CcropError) as error:
            full = error.__cause__ if isinstance(error, CcropError) else error
            if not isinstance(full, OSError) or full.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            if isinstance(error, WriteError) or not str(full.filename or folder).startswith(folder):
                raise
            found = WriteError(
                f"there is no room for temporary files in {Path(folder).parent}: "
                f"{os.strerror(full.errno).lower()}. Make room there, or set TMPDIR to a folder "
                "on another disk, then run again: what is finished is kept."
            )
            found.errno = full.errno
            raise found from error


@contextmanager
def written_aside(
    target: Path, *, replace: bool = False, folder: Path | None = None
) -> Iterator[Path]:
    """Yield the hidden path of an empty file; on leaving, sync it and move it to `target`.

    Where writing fails, as on a full disk, `target` stays as it was, and nothing is left behind.
    What was left beside `target` by a process that was killed while writing it is removed.

    Args:
        target: The file to write.
        replace: As in `appear`.
        folder: Where the hidden path is, on the same disk, and where whoever writes there removes
            what was left; None: beside `target`.

    Raises:
        TargetTakenError: If `target` may not be replaced and is there with other bytes.
        WriteError: If it cannot be written.
        CcropError: If it is a device, which a file would take the place of.
    """
    if target.is_char_device() or target.is_block_device():
        raise CcropError(
            f"{target} is a device, and would be replaced by a file. Choose the name of a file."
        )
    if folder is None:
        remove_leftovers(target.parent, target.name)
    aside = (folder or target.parent) / hidden_name(target.name)
    try:
        with writing(target, aside), aside.open("xb") as file:
            # Tells those who remove leftovers that the writer lives; the system lets go of it.
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield aside
            appear(aside, target, replace=replace)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


@contextmanager
def output_file(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Write a file that a person named, as `written_aside`, in a folder that is made if need be.

    Args:
        target: The file.
        overwrite: Whether it takes the place of a file that is there with other content.

    Raises:
        TargetTakenError: If it does not, and there is one; the message then advises it.
        WriteError: If it cannot be written.
        CcropError: If it is a device.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with written_aside(target, replace=overwrite) as aside:
            yield aside
    except TargetTakenError:
        raise TargetTakenError(target, replaceable=True) from None


def appear(aside: Path, target: Path, *, replace: bool = False) -> None:
    """Sync a file that was written aside and move it to `target`.

    Args:
        aside: The file, on the same disk as `target`.
        target: Where it is to be.
        replace: Whether it takes the place of a file that is there. If not, one with the very same
            bytes is left as it is, so that work done twice does no harm, and of several writers at
            once the first one stays.

    Raises:
        TargetTakenError: If `target` may not be replaced and is there with other bytes.
    """
    # Nothing is synced for a file that is there already.
    if replace or not target.exists():
        sync(aside)
    if replace:
        aside.replace(target)
    elif not _link(aside, target):
        if not filecmp.cmp(aside, target, shallow=False):
            raise TargetTakenError(target)
        return
    sync(target.parent)


@contextmanager
def folder_written_aside(target: Path) -> Iterator[Path]:
    """Yield the hidden path of an empty folder; on leaving, sync it and move it to `target`.

    Of what is there, only an empty folder is replaced, and one with the very same files is left as
    it is. Where writing fails, or whoever writes is killed, it is as for `written_aside`.

    Raises:
        TargetTakenError: If `target` is there and has other files.
        WriteError: If it cannot be written.
    """
    remove_leftovers(target.parent, target.name)
    aside = target.parent / hidden_name(target.name)
    try:
        with writing(target, aside):
            aside.mkdir()
            descriptor = os.open(aside, os.O_RDONLY)
            try:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield aside
                _move_folder(aside, target)
            finally:
                os.close(descriptor)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _move_folder(aside: Path, target: Path) -> None:
    os.sync()  # all files at once: one by one, a million take an hour
    try:
        aside.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        mine, theirs = _files_below(aside), _files_below(target)
        if mine != theirs or filecmp.cmpfiles(aside, target, mine, shallow=False)[0] != mine:
            raise TargetTakenError(target) from None
        return
    sync(target.parent)


def _files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def hidden_name(name: str) -> str:
    """Return a name of its own for a file that is being written; it tells the host as well."""
    return f".{name}.{_host()}{secrets.token_hex(4)}.tmp"


def expect_free(folder: Path, what: str) -> None:
    """Refuse a folder in which something is, hidden files apart, or a file in its place.

    Args:
        folder: The folder; it need not be there.
        what: What is to be made in it, and is not there yet.

    Raises:
        CcropError: If it is not free.
    """
    refuse_file(folder)
    if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise CcropError(f"{folder} is not empty and holds no {what}; choose another folder.")


def refuse_file(folder: Path) -> None:
    """Refuse a file where a folder goes.

    Raises:
        CcropError: If it is one.
    """
    if folder.is_file():
        raise CcropError(f"{folder} is a file, and a folder is needed there. Choose another.")


def is_hidden_name(name: str) -> bool:
    """Tell whether `hidden_name` gives such names: what has one is a leftover of a writer."""
    return _hidden(".+").fullmatch(name) is not None


def _hidden(name: str) -> re.Pattern[str]:
    """Return the pattern of hidden names of files that `name`, a pattern, matches; host first."""
    return re.compile(rf"\.{name}\.([0-9a-f]{{8}})[0-9a-f]{{8}}\.tmp")


def _host() -> str:
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]


_DAY = 86400


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what writers that were killed left hidden in a folder.

    A writer that lives holds a lock on its file. Locks may not reach other hosts, so that what one
    of those left is removed only when it is a day old.

    Args:
        folder: Where they wrote; it need not be there.
        name: Name of the file that was written; None: of any.
    """
    hidden = _hidden(".+" if name is None else re.escape(name))
    with suppress(OSError):
        for path in [path for path in folder.iterdir() if path.name.startswith(".")]:
            found = hidden.fullmatch(path.name)
            if found and (found[1] == _host() or time.time() - path.stat().st_mtime > _DAY):
                _remove_unless_locked(path)


def _remove_unless_locked(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        finally:
            os.close(descriptor)


def _link(aside: Path, target: Path) -> bool:
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


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Without the folder's, a new name can be lost with the power. Some file systems (gocryptfs, NFS
    and SMB mounts) cannot sync folders, and some folders may be written and not read: their names
    are then as safe as the system makes them.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC or not path.is_dir():
            raise


_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
