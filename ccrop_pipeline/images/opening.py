"""From what a person writes (a folder, a file, a pattern) to a source."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from glob import escape, glob, has_magic
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Final

from braceexpand import braceexpand

from ccrop_pipeline.base.addresses import explained, is_address, is_pipe, local_path
from ccrop_pipeline.base.tars import BOX_TAR
from ccrop_pipeline.errors import CcropError, SourceError, counted, few
from ccrop_pipeline.images.decode import extension_by_name
from ccrop_pipeline.images.folder import OUTWARD, SPECIAL, FolderSource
from ccrop_pipeline.images.keys import Keys
from ccrop_pipeline.images.parquet import ParquetSource
from ccrop_pipeline.images.parquet_columns import has_images, ignored_columns
from ccrop_pipeline.images.remote import RemoteTarSource, located
from ccrop_pipeline.images.source import (
    CLASSES_FILE,
    NO_EXTENSION,
    RECORD,
    Ignored,
    Source,
    refuse_no_text,
)
from ccrop_pipeline.images.splits import refuse_split_folders, refuse_split_shards
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
    follow_links: bool = False,
) -> Source:
    """Open images on a local disk, tars that are read from elsewhere, or a torchvision data set.

    Args:
        spec: A folder (of tars or Parquet files on its first level, or of images at any depth),
            one `.tar` or `.parquet` file, a glob pattern, or a pattern with braces: `{000..009}`
            counts, `{a,b}` enumerates, as in a shell.
            Or tars that are only read in order: addresses that fsspec knows (`s3://…`,
            `https://…`), or shell commands that write a tar (`pipe:…`), with the same
            patterns; commands have braces only. Or, where nothing of that name is there, the
            name of a torchvision data set in any case, such as `cifar10`.
        split: Of a torchvision data set: `train` or `test`.
        root: Folder in which torchvision keeps the files of its data sets.
        download: Whether torchvision may fetch what is missing.
        follow_links: Whether links out of a folder of images are followed.

    Raises:
        SourceError: If there is nothing of the kind, files of several kinds, several splits, or
            two files of the same stem.
    """
    location = str(spec)
    refuse_no_text(Path(spec))
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
        return _open_folder(location, path, follow_links=follow_links)
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
    return f"{Path.cwd()}/{location}"


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


# What else a folder of ours may be, by a file in it.
_OURS = {
    "manifest.json": "a box set, not images: the source that its boxes are of is needed here",
    "run.json": "a run, not images: the source that it was trained on is needed here",
}


def _open_folder(location: str, folder: Path, *, follow_links: bool) -> Source:
    source = FolderSource(location, folder, follow_links)
    shards, ignored = _shards_in(folder)
    if shards and not _goes_before(source, shards):
        return _open_files(location, tuple(shards), ignored)
    if len(source.keys) == 0:
        for name, what in _OURS.items():
            if (folder / name).is_file():
                raise SourceError(f"{folder} is {what}.")
        if not source.ignored.counts and ignored.counts["folders"]:
            empty = few(path.name for path in sorted(folder.iterdir()) if path.is_dir())
            raise SourceError(f"{folder} holds no images: found only empty folders ({empty}).")
        outward = "links out of it are followed where `follow_links` is set. "
        raise SourceError(
            f"{folder} holds no images: found {str(source.ignored) or 'nothing'}. "
            f"{outward if OUTWARD in source.ignored.counts else ''}{ACCEPTED}"
        )
    refuse_split_folders({key.rpartition("/")[0] for key in source.keys} - {""}, str(folder))
    return source


def _shards_in(folder: Path) -> tuple[list[Path], Ignored]:
    """Return the tars and the Parquet files with images in a folder, and what is beside them."""
    shards, ignored = [], Ignored()
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if path.name == RECORD:
            continue
        if path.name.startswith("."):
            ignored.add("hidden", path.name)
        elif path.is_dir():
            ignored.add("folders", path.name)
        elif not path.is_file():
            ignored.add("broken links" if path.is_symlink() else SPECIAL, path.name)
        elif path.name.endswith(BOX_TAR):
            ignored.add(BOX_TAR, path.name)
        elif suffix == ".tar" or (suffix == ".parquet" and has_images(path)):
            refuse_no_text(path)
            shards.append(path)
        elif path.name != CLASSES_FILE:
            ignored.add(suffix or NO_EXTENSION, path.name)
    return shards, ignored


def _goes_before(source: FolderSource, shards: list[Path]) -> bool:
    """Tell whether the images of a folder are meant, beside which a tar or so was left."""
    images: Keys | list[str] = []
    with suppress(SourceError):  # a folder that may not be listed concerns no shards
        images = source.keys
    if not images:
        return False
    numbered = any(path.stem[-1:].isdigit() for path in shards)
    if len(images) > len(shards) and not numbered:
        return True
    kinds = sorted({path.suffix for path in shards})
    raise SourceError(
        f"{source.root} holds {counted(len(shards), 'shard')} ({shards[0].name}, …) and "
        f"{counted(len(images), 'image')} "
        f"({images[0]}, …), and either may be meant. Open the shards as "
        f"'{source.root}/*{kinds[0]}', or move one kind to a folder of its own."
    )


def _open_files(location: str, paths: tuple[Path, ...], ignored: Ignored | None = None) -> Source:
    kinds = {path.suffix.lower() for path in paths}
    if ignored is not None and len(kinds) == 1:
        names = [path.stem for path in paths]
        refuse_split_shards(names, location, *kinds, folder=location.rstrip("/"))
    _refuse_equal_stems((path.stem, str(path)) for path in paths)
    if kinds == {".tar"}:
        return TarSource(location, paths, ignored or Ignored())
    if kinds == {".parquet"}:
        ignored = ignored or Ignored()
        for kind, column in ignored_columns(paths[0]):
            ignored.add(kind, column)
        return ParquetSource(location, paths, ignored)
    if all(extension_by_name(path.name) for path in paths):
        what = "is one image" if len(paths) == 1 else f"means {counted(len(paths), 'image')}"
        raise SourceError(f"{location} {what}. Give the folder, such as {str(paths[0].parent)!r}.")
    raise SourceError(
        f"{location} means files of type {', '.join(sorted(kinds)) or 'none'}. {ACCEPTED}"
    )


def _matching(pattern: str) -> tuple[Path, ...]:
    """Return the files that a pattern means; a folder that is there by its name is none."""
    place, rest = _literal(pattern)
    names = list(expand_braces(rest))
    paths: list[Path] = []
    for name in names:
        found = [place / name]
        if has_magic(name) and not found[0].is_file():
            found = [Path(p) for p in sorted(glob(f"{escape(str(place))}/{name}"))]  # noqa: PTH207 absolute patterns
        missing = [path for path in found or [place / name] if not path.is_file()]
        if missing and missing[0].is_dir():
            raise SourceError(
                f"a pattern names files, and {missing[0]} is a folder. Give the folder itself, or "
                f"the one that it is in, {str(missing[0].parent)!r}, without a pattern."
            )
        if missing:
            raise SourceError(f"there is no file {missing[0]}. {ACCEPTED}")
        if len(found) > 1:  # by one wildcard: braces name what they mean
            folder, names_below = _below(found)
            refuse_split_shards(names_below, str(place / name), found[0].suffix, folder=folder)
        paths.extend(found)
    return tuple(paths)


def _below(files: Sequence[PurePath]) -> tuple[str, list[str]]:
    """Return the folder that all files are in, and their paths below it without extensions."""
    above = os.path.commonpath([file.parent for file in files])
    return above, [file.relative_to(above).with_suffix("").as_posix() for file in files]


def _literal(pattern: str) -> tuple[Path, str]:
    """Split a pattern after the folders that are there by these very names."""
    first, *parts = Path(pattern).parts
    place = Path(first) if Path(first).is_absolute() else Path()
    parts = parts if Path(first).is_absolute() else [first, *parts]
    while len(parts) > 1 and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    return place, "/".join(parts)


def _open_remote(location: str) -> RemoteTarSource:
    urls = tuple(expand_braces(location))
    if not is_pipe(location):
        folders: dict[str, bool] = {}
        urls = tuple(url for pattern in urls for url in _matching_remote(pattern, folders))
    source = RemoteTarSource(location, urls)
    _refuse_equal_stems(zip(source.shards, urls, strict=True))
    return source


def _matching_remote(pattern: str, folders: dict[str, bool]) -> list[str]:
    files, (path,) = located([pattern])
    if not has_magic(path):
        return [pattern]
    with explained(pattern):
        escaped = _literal_remote(files, path, folders)
        if not has_magic(escaped.replace("[[]", "")) or ("[" in path and files.isfile(path)):
            return [pattern]
        found = sorted(files.glob(escaped))
    if not found:
        raise SourceError(f"nothing is found at {pattern}. {ACCEPTED}")
    folder, names = _below([PurePosixPath(name) for name in found])
    refuse_split_shards(names, pattern, ".tar", folder=files.unstrip_protocol(folder))
    return [files.unstrip_protocol(name) for name in found]


def _literal_remote(files: Any, path: str, folders: dict[str, bool]) -> str:
    """Escape the brackets of folders that are there by these very names, asking once for each."""
    *above, name = path.split("/")
    for i, part in enumerate(above):
        folder = "/".join(path.split("/")[: i + 1])
        if "[" in part and folder not in folders:
            folders[folder] = files.isdir(folder)
        if folders.get(folder):
            above[i] = part.replace("[", "[[]")
    return "/".join([*above, name])


def _refuse_equal_stems(shards: Iterable[tuple[str, str]]) -> None:
    first: dict[str, str] = {}
    for stem, place in shards:
        if stem in first:
            raise SourceError(
                f"two files give the shard name {stem!r}: {first[stem]} and {place}. "
                "A box set has one file a shard: rename one of them, or open them one by one."
            )
        first[stem] = place
