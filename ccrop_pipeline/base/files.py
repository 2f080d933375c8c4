"""Files that are either wholly there or not at all."""

import filecmp
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from ccrop_pipeline.base.addresses import Location, explained, file_system, is_address
from ccrop_pipeline.errors import CcropError


class TargetTakenError(CcropError):
    """A file that was to be written is there already, with other content."""

    def __init__(self, target: object) -> None:
        super().__init__(
            f"{target} is already there with other content. "
            "It is never overwritten: move or delete it, or choose another folder."
        )


@contextmanager
def written_aside(
    target: Path, *, replace: bool = False, folder: Path | None = None
) -> Iterator[Path]:
    """Yield a hidden path to write to; on leaving, sync it and move it to `target`.

    Where writing fails, as on a full disk, `target` stays as it was, and nothing is left behind.

    Args:
        target: The file to write.
        replace: As in `appear`.
        folder: Where the hidden path is, on the same disk; None: beside `target`.

    Raises:
        TargetTakenError: If `target` may not be replaced and is there with other bytes.
    """
    aside = (folder or target.parent) / hidden_name(target.name)
    try:
        yield aside
        appear(aside, target, replace=replace)
    finally:
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
    """Return a name of its own for a file that is being written."""
    return f".{name}.{secrets.token_hex(8)}.tmp"


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

    Without the folder's, a new name can be lost with the power.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        return LocalFolder(Path(location))
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
        # Of several writers at once, a store that can compare lets the first one stay.
        files.pipe_file(target, content, mode="create")
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


def _protocols(files: Any) -> set[str]:
    return {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
