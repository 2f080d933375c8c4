"""Folders of box sets, on a disk or in a store: files appear whole, once, and never change."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ccrop_pipeline.base.addresses import (
    Location,
    explained,
    file_system,
    is_address,
    local_path,
    unanswered,
)
from ccrop_pipeline.base.files import (
    TargetTakenError,
    hidden_name,
    temporary_folder,
    written_aside,
)

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

    def remove(self, file: str) -> None:
        """Remove a file, if it is there and may be removed."""


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

    def remove(self, file: str) -> None:
        """See `BoxFolder`."""
        path = self.path / file
        with suppress(OSError):  # of a folder with anything in it as well: that is not ours
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


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
            try:  # of a web server, `exists` takes no answer for a no
                return bool(files.info(f"{folder}/{file}")["type"] == "file")
            except FileNotFoundError as error:
                if unanswered(error):
                    raise
                return False

    @contextmanager
    def local(self, file: str) -> Iterator[Path]:
        """See `BoxFolder`; a temporary copy."""
        files, folder = file_system(self.url)
        with temporary_folder() as place:
            path = place / file
            with explained(f"{self.url}/{file}"):
                files.get_file(f"{folder}/{file}", str(path))
            yield path

    @contextmanager
    def written(self, file: str) -> Iterator[Path]:
        """See `BoxFolder`; a temporary file that is put there."""
        with temporary_folder() as place:
            path = place / file
            yield path
            content = path.read_bytes()
        files, folder = file_system(self.url)
        with explained(self.url if file.startswith(".") else f"{self.url}/{file}"):
            files.invalidate_cache(folder)
            try:
                _put(files, f"{folder}/{file}", content, file_system(self.aside or self.url)[1])
            except FileExistsError:
                if files.cat_file(f"{folder}/{file}") != content:
                    raise TargetTakenError(f"{self.url}/{file}") from None

    def remove(self, file: str) -> None:
        """See `BoxFolder`."""
        files, folder = file_system(self.url)
        with suppress(OSError):
            files.rm_file(f"{folder}/{file}")


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
