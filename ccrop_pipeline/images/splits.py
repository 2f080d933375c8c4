"""Splits of a data set, recognised by name, so that they are never merged or taken for classes."""

import re
from collections.abc import Iterable, Iterator, Mapping

from ccrop_pipeline.errors import SourceError


class SplitsError(SourceError):
    """What was named is divided into splits.

    Attributes:
        splits: What opens each of them, by "train", "validation", "test" or "unlabeled", if one
            place does.
    """

    def __init__(self, message: str, splits: Mapping[str, str]) -> None:
        super().__init__(message)
        self.splits = dict(splits)


_SPLITS = {
    "train": "train trn training trainval",
    "validation": "val valid validation dev",
    "test": "test tst testing eval evaluation holdout heldout",
    "unlabeled": "unlabeled unlabelled extra",
}
_SPLIT_OF = {
    word + ending: split
    for split, words in _SPLITS.items()
    for word in words.split()
    for ending in ("", "set", "data", "images")
}
# `trainA`, `train_a` and `TRAIN_A` have the word `train`.
_WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def refuse_split_shards(shards: Iterable[str], place: str, extension: str, *, folder: str) -> None:
    """Refuse shards of several splits, or of one and none, such as `train-000` beside `000`.

    Args:
        shards: Names of the files without extension, with the folders that differ.
        place: Folder or pattern that means them.
        extension: Of the files, such as `.tar`.
        folder: What the names are in.

    Raises:
        SplitsError: If the names tell several splits, or some of them a split.
    """
    first: dict[str, str] = {}
    for shard in shards:
        for split in _splits_in(shard) or {"of no split"}:
            first.setdefault(split, shard)
    if len(first) > 1:
        named = " and ".join(f"{shard}{extension} ({split})" for split, shard in first.items())
        stems = [shard.rstrip("0123456789") or "[0-9]" for shard in first.values()]
        patterns = [f"{folder}/{stem}*{extension}" for stem in stems]
        places = dict(zip(first, patterns, strict=True))
        raise SplitsError(
            f"{place} holds several splits: {named}. Open one of them by a pattern, such as "
            f"'{places.get('train', patterns[0])}', or all of them by one that names each, "
            f"'{folder}/{{{','.join(dict.fromkeys(stems))}}}*{extension}'.",
            places,
        )


def refuse_split_folders(folders: Iterable[str], root: str) -> None:
    """Refuse folders of several splits, such as `train/` beside `test/`, at any depth.

    A name counts as it is, with digits after it (`val2017`) or, where all folders beside each other
    are named so, as a word of the name (`seg_train`): `train` beside `bus` is a class.

    Args:
        folders: Relative POSIX paths of the folders that hold images, themselves or further down.
        root: The folder that was opened.

    Raises:
        SplitsError: If there are several splits, or the only folder of the first level is one.
    """
    divided = [*_divided(folders)]
    for parent, split_of, _ in divided:
        place, names = f"{root}/{parent}".rstrip("/"), [*split_of]
        first = f"{place}/{names[0]}"
        places = {split: f"{place}/{name}" for name, split in reversed(split_of.items())}
        raise SplitsError(
            f"{place} is divided into splits ({', '.join(names[:6])}), which are no classes and "
            f"are not merged. Open one of them, such as {places.get('train', first)}, or rename a "
            "folder that is none.",
            places if len(divided) == 1 else {},  # else each is only a part of its split
        )


def refuse_split_keys(keys: Iterable[str], place: str) -> None:
    """Refuse keys in folders of several splits, as of a tar of `train/` and `test/`.

    Raises:
        SourceError: If there are several splits.
    """
    for parent, split_of, several in _divided({key.rpartition("/")[0] for key in keys} - {""}):
        if several:
            shown = ", ".join(f"{parent}/{name}".lstrip("/") for name in [*split_of][:6])
            raise SourceError(
                f"the keys in {place} are of several splits ({shown}), which are not merged. "
                "Unpack it, and pack each split by itself with `ccrop data pack`."
            )


def _divided(folders: Iterable[str]) -> Iterator[tuple[str, dict[str, str], bool]]:
    """Yield where folders are splits, the split of each by its name, and whether of several."""
    beside: dict[str, set[str]] = {}
    for folder in folders:
        parts = folder.split("/")
        for depth, name in enumerate(parts):
            beside.setdefault("/".join(parts[:depth]), set()).add(name)
    for parent, names in beside.items():
        exact = {name: split for name in sorted(names) if (split := _split_named(name))}
        loose = {name: split for name in sorted(names) for split in _splits_in(name)}
        found = exact if len({*exact.values()}) > 1 else loose
        several = len({*found.values()}) > 1 and (found is exact or len(loose) == len(names))
        if several or (parent == "" and len(exact) == len(names)):
            yield parent, found if several else exact, several


def _split_named(name: str) -> str | None:
    return _SPLIT_OF.get(name.lower().rstrip("0123456789_-"))


def _splits_in(name: str) -> set[str]:
    words = (word.lower() for word in _WORD.findall(name))
    return {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
