"""Names of images in the files of another tool, and the keys of the same images in a source."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from unicodedata import normalize

from ccrop_pipeline.base.tars import name_in_tar
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange.annotations import Annotations


def join(names: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """Find for each key the name of its annotation.

    A key and a name belong together if they are equal; else if they are equal without their file
    extensions, with dots as `ccrop data pack` changes them; else if the name ends so with the key,
    which has a folder; else if their last parts are equal, with the extension; else without it.
    All but the first count only where no other key and no other name could be meant, and take
    accents in either form of Unicode, backslashes, and `./` at the beginning for the same.

    Args:
        names: What the images are called in the annotations; unique.
        keys: What they are called in the source; unique.

    Returns:
        Names by key, without the keys that have none.
    """
    equal = set(names).intersection(keys)
    found, taken = dict(zip(equal, equal, strict=True)), set(equal)
    for pairs in (
        _alike(names, keys, _in_tar),
        _ending(names, keys),
        _alike(names, keys, _last_part),
        _alike(names, keys, _stem),
    ):
        for name, key in pairs:
            if key not in found and name not in taken:
                found[key] = name
                taken.add(name)
    return found


def _alike(
    names: Sequence[str], keys: Sequence[str], form: Callable[[str], str]
) -> list[tuple[str, str]]:
    names_by_form = _unique(names, form)
    pairs = ((names_by_form.get(short), key) for short, key in _unique(keys, form).items())
    return [(name, key) for name, key in pairs if name is not None]


def _ending(names: Sequence[str], keys: Sequence[str]) -> list[tuple[str, str]]:
    """Pair names such as `photos/cats/1.jpg` with the keys that they end with, `cats/1.jpg`."""
    by_form: dict[str, list[str]] = {}
    for key in keys:
        by_form.setdefault(_in_tar(key), []).append(key)
    deepest = max((form.count("/") for form in by_form), default=0)
    pairs: list[tuple[str, str]] = []
    for name in names:
        *parts, last = _in_tar(name).rsplit("/", deepest + 1)
        tails = accumulate(reversed(parts[1:]), lambda tail, part: f"{part}/{tail}", initial=last)
        pairs += [(name, key) for tail in list(tails)[1:] for key in by_form.get(tail, ())]
    times = Counter(chain.from_iterable((("name", name), ("key", key)) for name, key in pairs))
    return [pair for pair in pairs if times["name", pair[0]] == times["key", pair[1]] == 1]


def _unique(names: Sequence[str], form: Callable[[str], str]) -> dict[str, str]:
    count = Counter(map(form, names))
    return {form(name): name for name in names if count[form(name)] == 1}


def _plain(name: str) -> str:
    """Return a name with accents in one of their two forms, and as POSIX writes paths."""
    return normalize("NFC", name).replace("\\", "/").removeprefix("./")


def _in_tar(name: str) -> str:
    return name_in_tar(_plain(name))


def _last_part(name: str) -> str:
    return _plain(name).rpartition("/")[2]


def _stem(name: str) -> str:
    return name_in_tar(_last_part(name))


def refuse_no_match(annotations: Annotations, keys: Sequence[str], where: str) -> None:
    """Raise the error for annotations of other images.

    Raises:
        CcropError: Always.
    """
    names = annotations.names
    raise CcropError(
        f"none of the {len(names)} annotated images is among the {len(keys)} of {where}: the "
        f"annotations name {_some(names)}, the source {_some(keys)}. {annotations.advice} "
        "Nothing was written."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:3]) or "nothing"
