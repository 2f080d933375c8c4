"""Files that are either wholly there or not at all."""

import errno
import fcntl
import filecmp
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from ccrop_pipeline.base.addresses import Location, explained, file_system, is_address, local_path
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
        f"{path} cannot be written: {cause[0].lower()}{cause[1:]}. "
        f"{remedy}, then run again: what is finished is kept."
    )
    found.errno = error.errno
    return found


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
    """
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


def hidden_name(name: str) -> str:
    """Return a name of its own for a file that is being written; it tells the host as well."""
    return f".{name}.{_host()}{secrets.token_hex(4)}.tmp"


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
    hidden = re.compile(
        rf"\.{'.+' if name is None else re.escape(name)}\.([0-9a-f]{{8}})[0-9a-f]{{8}}\.tmp"
    )
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


# File systems of which a file shows up whole or not at all, without being written aside.
_ONE_PUT_IS_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf", "memory"}


class BoxFolder(Protocol):
    """What the format needs of a folder. Files appear whole, once, and never change."""

    def exists(self) -> bool:
        """Tell whether there is such a folder."""

    def inside(self, name: str) -> "BoxFolder":
        """Open the folder of this name within this one.

        It never holds anything but whole files: what is written to it is written aside in this one.
        """

    def files(self) -> dict[str, int]:
        """List the files that are not hidden, each with its bytes; none where no folder is."""

    def has(self, file: str) -> bool:
        """Tell whether a file is there."""

    def local(self, file: str) -> AbstractContextManager[Path]:
        """Give a local path of the same name to read a file from."""

    def written(self, file: str) -> AbstractContextManager[Path]:
        """Give a local path to write a new file to; it appears on leaving.

        A file with the very same bytes is left as it is, with others refused by `TargetTakenError`.
        """


def open_folder(location: Location) -> BoxFolder:
    """Open a local folder, or the one at an address such as `s3://bucket/boxes`.

    Nothing has to be there yet.

    Raises:
        CcropError: If there is no file system for the address, or its package is missing.
    """
    if not is_address(location):
        return LocalFolder(local_path(location))
    folder = RemoteFolder(str(location).rstrip("/"))
    files, path = file_system(folder.url)
    # Not through fsspec, which neither syncs nor writes aside.
    return LocalFolder(Path(path)) if "file" in _protocols(files) else folder


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine, or mounted on it."""

    path: Path
    aside: Path | None = None  # where files are hidden until they are whole; None: here

    def __str__(self) -> str:
        """Return the path."""
        return str(self.path)

    def exists(self) -> bool:
        """See `BoxFolder`."""
        return self.path.is_dir()

    def inside(self, name: str) -> "LocalFolder":
        """See `BoxFolder`."""
        return LocalFolder(self.path / name, self.path)

    def files(self) -> dict[str, int]:
        """See `BoxFolder`."""
        if not self.exists():
            return {}
        visible = (path for path in self.path.iterdir() if not path.name.startswith("."))
        return {path.name: path.stat().st_size for path in sorted(visible) if path.is_file()}

    def has(self, file: str) -> bool:
        """See `BoxFolder`."""
        return (self.path / file).is_file()

    def local(self, file: str) -> AbstractContextManager[Path]:
        """See `BoxFolder`."""
        return nullcontext(self.path / file)

    def written(self, file: str) -> AbstractContextManager[Path]:
        """See `BoxFolder`; written under a hidden name, synced and moved."""
        self.path.mkdir(parents=True, exist_ok=True)
        return written_aside(self.path / file, folder=self.aside)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder that fsspec reaches. Its files are read and written through local copies."""

    url: str
    aside: str | None = None  # as in `LocalFolder`

    def __str__(self) -> str:
        """Return the address."""
        return self.url

    def exists(self) -> bool:
        """See `BoxFolder`."""
        return bool(self._entries())

    def inside(self, name: str) -> "RemoteFolder":
        """See `BoxFolder`."""
        return RemoteFolder(f"{self.url}/{name}", self.url)

    def files(self) -> dict[str, int]:
        """See `BoxFolder`."""
        entries = (entry for entry in self._entries() if entry["type"] == "file")
        sizes = {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries}
        return {name: size for name, size in sorted(sizes.items()) if not name.startswith(".")}

    def _entries(self) -> list[dict[str, Any]]:
        files, folder = file_system(self.url)
        with explained(self.url):
            # What others wrote since must be seen.
            files.invalidate_cache(folder)
            try:
                return list(files.ls(folder, detail=True))
            except FileNotFoundError:
                return []

    def has(self, file: str) -> bool:
        """See `BoxFolder`."""
        files, folder = file_system(self.url)
        with explained(self.url):
            files.invalidate_cache(folder)
            return bool(files.exists(f"{folder}/{file}"))

    @contextmanager
    def local(self, file: str) -> Iterator[Path]:
        """See `BoxFolder`; a temporary copy."""
        files, folder = file_system(self.url)
        with TemporaryDirectory(prefix="ccrop-") as place:
            path = Path(place) / file
            with explained(f"{self.url}/{file}"):
                files.get_file(f"{folder}/{file}", str(path))
            yield path

    @contextmanager
    def written(self, file: str) -> Iterator[Path]:
        """See `BoxFolder`; a temporary file that is put there."""
        with TemporaryDirectory(prefix="ccrop-") as place:
            path = Path(place) / file
            yield path
            content = path.read_bytes()
        files, folder = file_system(self.url)
        with explained(f"{self.url}/{file}"):
            files.invalidate_cache(folder)
            try:
                _put(files, f"{folder}/{file}", content, file_system(self.aside or self.url)[1])
            except FileExistsError:
                if files.cat_file(f"{folder}/{file}") != content:
                    raise TargetTakenError(f"{self.url}/{file}") from None


def _put(files: Any, target: str, content: bytes, hidden: str) -> None:
    """Let a file appear whole; `FileExistsError` where one is there already.

    `hidden` is the folder in which it is written aside where that is needed.
    """
    if files.exists(target):
        raise FileExistsError(target)
    if _protocols(files) & _ONE_PUT_IS_WHOLE:
        _create(files, target, content)
        return
    parent, _, name = target.rpartition("/")
    aside = f"{hidden}/{hidden_name(name)}"
    # Not above: an object store would make a bucket of an address that was mistyped.
    files.makedirs(parent, exist_ok=True)
    try:
        files.pipe_file(aside, content)
        files.mv(aside, target)
    finally:
        if files.exists(aside):
            files.rm_file(aside)


def _create(files: Any, target: str, content: bytes) -> None:
    """Put a file that is not there yet; `FileExistsError` where it is.

    Of several writers at once, a store that can compare lets the first one stay. With one that
    cannot, the last one does, unless it looked before it put.
    """
    pauses = iter(_CONFLICT_PAUSES)
    while True:
        try:
            files.pipe_file(target, content, mode="create")
            return
        except FileExistsError:
            raise
        except Exception as error:
            status = _status(error)
            if status == 412:  # not every store says of which condition
                raise FileExistsError(target) from error
            if status in _NO_CONDITIONS or type(error).__name__ in _NO_CONDITIONS:
                break
            # Another one puts it: S3 asks to try again.
            pause = next(pauses, None) if status == 409 else None
            if pause is None:
                raise
        time.sleep(pause)
    files.invalidate_cache(target.rpartition("/")[0])
    if files.exists(target):
        raise FileExistsError(target)
    files.pipe_file(target, content)


_CONFLICT_PAUSES = (0.1, 0.3, 1.0, 3.0, 9.0)  # seconds
# What is answered, or raised before asking, where a put cannot have the condition.
_NO_CONDITIONS = {400, 501, "NotImplementedError", "ParamValidationError", "TypeError"}


def _status(error: Exception) -> int | None:
    """Return the HTTP status that an error of a store is about."""
    for found in (error, error.__cause__):
        response = getattr(found, "response", None)
        if isinstance(response, dict):  # of botocore
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            status = getattr(found, "status", getattr(found, "code", None))
        if str(status).isdecimal():
            return int(str(status))
    return None


def _protocols(files: Any) -> set[str]:
    return {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
