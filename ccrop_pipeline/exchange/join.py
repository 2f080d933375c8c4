"""Which annotation belongs to which image."""

from collections import Counter
from collections.abc import Callable, Sequence

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.sources import tar_key


def join(names: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """Find for each key the name of its annotation.

    A key and a name belong together if they are equal; else if they are equal without their file
    extensions, with dots as `ccrop data pack` changes them; else if their last parts are, with
    the extension; else without it. All but the first count only where no other key and no other
    name could be meant.

    Args:
        names: What the images are called in the annotations; unique.
        keys: What they are called in the source; unique.

    Returns:
        Names by key, without the keys that have none.
    """
    equal = set(names).intersection(keys)
    found, taken = dict(zip(equal, equal, strict=True)), set(equal)
    for form in (_packed, _last_part, _stem):
        names_by_form = _unique(names, form)
        for short, key in _unique(keys, form).items():
            name = names_by_form.get(short)
            if name is not None and key not in found and name not in taken:
                found[key] = name
                taken.add(name)
    return found


def refuse_no_match(names: Sequence[str], keys: Sequence[str], where: str) -> None:
    """Raise the error for annotations of other images.

    Raises:
        CcropError: Always.
    """
    raise CcropError(
        f"none of the {len(names)} annotated images is among the {len(keys)} of {where}: the "
        f"annotations name {_some(names)}, the source {_some(keys)}. Give the images that were "
        "annotated, or change the names; nothing was written."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:3]) or "nothing"


def _unique(names: Sequence[str], form: Callable[[str], str]) -> dict[str, str]:
    count = Counter(map(form, names))
    return {form(name): name for name in names if count[form(name)] == 1}


def _packed(name: str) -> str:
    # As `ccrop data pack` names members: without extension, and without other dots.
    return tar_key(name) if _last_part(name) and "\0" not in name else name


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    return _packed(_last_part(name))
