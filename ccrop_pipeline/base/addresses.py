"""Paths, addresses such as `s3://bucket/boxes`, commands, and the file systems behind addresses."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ccrop_pipeline.errors import CcropError, SettingError

Location = Path | str

PIPE = "pipe:"
# A protocol has two letters or more, so that C:\\ is a path; `::` chains one with another.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")


def is_address(location: Location) -> bool:
    """Tell whether a location is an address that fsspec may know, rather than a local path."""
    return isinstance(location, str) and _ADDRESS.match(location) is not None


def local_path(location: Location) -> Path:
    """Return a local path, a leading `~` or `~user` made the folder that it stands for.

    Raises:
        SettingError: If it is an address, of which `Path` would make a folder `https:`.
    """
    if is_address(location):
        raise SettingError(f"{location} is an address; here it has to be a path of this machine.")
    return Path(os.path.expanduser(location))  # noqa: PTH111 - Path's raises for unknown users


def absolute(location: Location) -> str:
    """Return an address as it is, or the absolute path without symbolic links."""
    return str(location) if is_address(location) else str(local_path(location).resolve())


def is_pipe(location: Location) -> bool:
    """Tell whether a location is a command that writes a tar, `pipe:...`."""
    return isinstance(location, str) and location.startswith(PIPE)


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path in it.

    To be called in the process that uses it: file systems with an event loop of their own do
    not survive a fork.

    Raises:
        CcropError: If there is no file system for the address, or its package is missing.
    """
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url)
    except ImportError as error:
        raise CcropError(f"{url} needs another package: {error}.") from error
    except ValueError as error:
        raise CcropError(
            f"{url} cannot be opened ({error}). Addresses begin with a protocol that fsspec "
            "knows, such as s3://, gs://, https:// or file://."
        ) from error
    return files, path


class UnreachableError(CcropError):
    """An address that gives no answer, or none that says what is there."""


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn whatever goes wrong at an address into a `CcropError` that says what to do.

    Raises:
        UnreachableError: If it is anything else than that nothing is there.
        CcropError: If nothing is there.
    """
    try:
        yield
    except CcropError:
        raise
    # Every file system raises errors of its own, many of them no OSError.
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not unanswered(error):
            raise CcropError(f"nothing is found at {url} ({error}). Check the address.") from error
        cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
        raise UnreachableError(
            f"{url} cannot be used ({type(cause).__name__}: {cause}). Check address, connection "
            "and permissions, and run again: what is finished is kept."
        ) from error


def unanswered(error: FileNotFoundError) -> bool:
    """Tell whether there was no answer that nothing is there.

    fsspec says of all that goes wrong with a web server that the file is not found.
    """
    cause = error.__cause__
    if isinstance(cause, OSError):
        return not isinstance(cause, FileNotFoundError)
    return getattr(cause, "status", 404) not in (404, 410)
