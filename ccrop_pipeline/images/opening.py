"""From what a person writes (a folder, a file, a pattern) to a source."""

from collections import Counter
from collections.abc import Iterable, Iterator
from glob import escape, glob, has_magic
from pathlib import Path
from typing import Final

from braceexpand import braceexpand

from ccrop_pipeline.base.addresses import explained, is_address, is_pipe, local_path
from ccrop_pipeline.errors import CcropError, SourceError
from ccrop_pipeline.images.folder import FolderSource
from ccrop_pipeline.images.parquet import ParquetSource
from ccrop_pipeline.images.remote import RemoteTarSource, located
from ccrop_pipeline.images.source import Source
from ccrop_pipeline.images.tar import TarSource
from ccrop_pipeline.images.torchvision_data import Split, open_torchvision

_CACHE: Final = Path("~/.cache/ccrop")
ACCEPTED = (
    "Accepted are a folder of .tar shards, of .parquet files or of images, one .tar or .parquet "
    "file, and patterns of such files: 'train-*.tar', 'train-{000000..000009}.tar'. Tars may also "
    "be addresses, 's3://bucket/train-*.tar', or commands, 'pipe:curl https://host/a.tar'."
)


def open_source(
    spec: str | Path,
    *,
    split: Split = "train",
    root: str | Path = _CACHE,
    download: bool = True,
) -> Source:
    """Open images on a local disk, tars that are read from elsewhere, or a torchvision data set.

    Args:
        spec: A folder (tars on its first level go before Parquet files, and those before
            images at any depth), one `.tar` or `.parquet` file, a glob pattern, or a
            pattern with braces: `{000..009}` counts, `{a,b}` enumerates, as in a shell.
            Or tars that are only read in order: addresses that fsspec knows (`s3://…`,
            `https://…`), or shell commands that write a tar (`pipe:…`), with the same
            patterns; commands have braces only. Or, where nothing of that name is there, the
            name of a torchvision data set in any case, such as `cifar10`.
        split: Of a torchvision data set: `train` or `test`.
        root: Folder in which torchvision keeps the files of its data sets.
        download: Whether torchvision may fetch what is missing.

    Raises:
        SourceError: If there is nothing of the kind, files of several kinds, or two files of
            the same stem.
    """
    location = str(spec)
    if not _is_place(spec):
        try:
            return open_torchvision(location, local_path(root), split, download=download)
        except CcropError as error:
            raise SourceError(
                f"there is no file or folder {location!r}, and as a name: {error}"
            ) from None
    if is_address(location) or is_pipe(location):
        return _open_remote(location)
    path = local_path(spec)
    if path.is_dir():
        return _open_folder(location, path)
    if path.is_file():
        return _open_files(location, (path,))
    return _open_files(location, _matching(str(path)))


def absolute_spec(spec: str | Path) -> str:
    """Return what opens the same source from any working directory: local paths made absolute.

    Addresses and names of data sets hold anywhere as they are. So do commands (`pipe:...`), as
    long as they name no relative path: what in them is a path, nobody can tell.
    """
    location = str(spec)
    if not _is_place(spec) or is_address(location) or is_pipe(location):
        return location
    path = local_path(location)
    if path.exists():
        return str(path.absolute())
    if Path(next(expand_braces(str(path)))).is_absolute():
        return str(path)
    # A pattern: what is before it must not be taken for a part of it.
    return f"{escape(str(Path.cwd()))}/{location}"


def _is_place(spec: str | Path) -> bool:
    location = str(spec)
    named = any(mark in location for mark in "/\\.*{?:")
    return isinstance(spec, Path) or named or local_path(location).exists()


def expand_braces(pattern: str) -> Iterator[str]:
    """Return the strings that a pattern with braces means, as in a shell.

    A pattern with a brace that has no partner means itself, and so does a backslash.
    """
    try:
        return braceexpand(pattern, escape=False)
    except ValueError:  # unbalanced
        return iter([pattern])


def _open_folder(location: str, folder: Path) -> Source:
    for extension in (".tar", ".parquet"):
        paths = sorted(p for p in folder.glob(f"*{extension}") if not p.name.startswith("."))
        if paths:
            return _open_files(location, tuple(paths))
    source = FolderSource(location, folder)
    if len(source.keys) == 0:
        raise SourceError(f"{folder} holds no images: found {_contents(folder)}. {ACCEPTED}")
    return source


def _open_files(location: str, paths: tuple[Path, ...]) -> Source:
    _refuse_equal_stems((path.stem, str(path)) for path in paths)
    kinds = {path.suffix.lower() for path in paths}
    if kinds == {".tar"}:
        return TarSource(location, paths)
    if kinds == {".parquet"}:
        return ParquetSource(location, paths)
    raise SourceError(
        f"{location} means files of type {', '.join(sorted(kinds)) or 'none'}. {ACCEPTED}"
    )


def _matching(pattern: str) -> tuple[Path, ...]:
    paths: list[Path] = []
    for name in expand_braces(pattern):
        found = sorted(glob(name)) if has_magic(name) else [name]  # noqa: PTH207 absolute patterns
        missing = [path for path in found or [name] if not Path(path).is_file()]
        if missing:
            raise SourceError(f"there is no file {missing[0]}. {ACCEPTED}")
        paths.extend(Path(path) for path in found)
    return tuple(paths)


def _open_remote(location: str) -> RemoteTarSource:
    urls = tuple(expand_braces(location))
    if not is_pipe(location):
        urls = tuple(url for pattern in urls for url in _matching_remote(pattern))
    source = RemoteTarSource(location, urls)
    _refuse_equal_stems(zip(source.shards, urls, strict=True))
    return source


def _matching_remote(pattern: str) -> list[str]:
    files, (path,) = located([pattern])
    if not has_magic(path):
        return [pattern]
    with explained(pattern):
        found = sorted(files.glob(path))
    if not found:
        raise SourceError(f"nothing is found at {pattern}. {ACCEPTED}")
    return [files.unstrip_protocol(name) for name in found]


def _refuse_equal_stems(shards: Iterable[tuple[str, str]]) -> None:
    first: dict[str, str] = {}
    for stem, place in shards:
        if stem in first:
            raise SourceError(
                f"two files give the shard name {stem!r}: {first[stem]} and {place}. "
                "A box set has one file a shard: rename one of them, or open them one by one."
            )
        first[stem] = place


def _contents(folder: Path) -> str:
    kinds = Counter(
        "folders" if path.is_dir() else path.suffix or "files without extension"
        for path in folder.iterdir()
    )
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5)) or "nothing"
