"""Plain values, as TOML and JSON have them, and the frozen dataclasses that they become."""

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from ccrop_pipeline.errors import SettingError, shortened, shown

T = TypeVar("T")

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def ranged(default: Any, interval: str) -> Any:
    """Return a dataclass field with a range, which `check_ranges` holds it to.

    Args:
        default: Its default: a number, a tuple of numbers that all have the range, or None.
        interval: The range, such as "[0, 1)" or "(0, inf)".
    """
    return field(default=default, metadata={"interval": interval})


def check_ranges(settings: Any) -> None:
    """Check the numbers of a dataclass; to be called when it is made.

    Raises:
        SettingError: If a number is not finite, or a `ranged` one is out of its range.
    """
    for each in fields(settings):
        value, interval = getattr(settings, each.name), each.metadata.get("interval")
        for number in value if isinstance(value, list | tuple) else [value]:
            # NaN passes most comparisons with the ends of a range.
            if isinstance(number, float) and not math.isfinite(number):
                raise SettingError(f"{each.name} is {shown(value)}; it must be finite.")
            if interval and number is not None and not _within(number, interval):
                raise SettingError(f"{each.name} is {shown(value)}; it must be {_range(interval)}.")


def from_plain(
    kind: type[T],
    values: Mapping[str, Any],
    *,
    path: str = "",
    complete: bool = False,
    ignore_unknown: bool = False,
) -> T:
    """Make a dataclass, and those within it, from nested plain values.

    Kinds are strict, as far as JSON and TOML tell them apart: true is no number and 1.0 no whole
    one; a whole number is taken where any number is.

    Args:
        kind: The dataclass. Its fields are numbers, texts, truth values, literals, dataclasses,
            tuples and mappings of these, any of them or None.
        values: By name of the field. A value may also be there as what it is to become.
        path: What errors put before the name of a field, such as "crop.".
        complete: Whether fields with a default must be there, too.
        ignore_unknown: Whether names that are no fields are passed over.

    Raises:
        SettingError: If a field is unknown, missing, of a wrong kind, or out of its range.
    """
    if not isinstance(values, Mapping):
        raise SettingError(f"{path.rstrip('.') or 'all'} is {shown(values)}; it must be a table.")
    hints = get_type_hints(kind)
    names = [each.name for each in fields(kind) if each.init]  # type: ignore[arg-type]
    for name in values:
        if name not in names and not ignore_unknown:
            close = did_you_mean(name, names)
            raise SettingError(
                f"{path}{shortened(name)} is unknown{close}. Known are: {', '.join(names)}."
            )
    for name in names:
        if name not in values and (complete or _is_required(kind, name)):
            raise SettingError(f"{path}{name} is missing.")
    convert = _Converter(complete, ignore_unknown)
    given = {
        name: convert(hints[name], values[name], path + name) for name in names if name in values
    }
    try:
        return kind(**given)
    except ValueError as error:
        raise SettingError(f"{path}{error}") from error


# Halves of a surrogate pair, which only together are a character.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str) -> Any:
    """Parse JSON that every reader understands alike.

    Refused as well are a name that an object has twice, NaN and the infinities, numbers that no
    float64 holds such as 1e999, text that is no Unicode, and what is nested deeper than Python can
    follow.

    Raises:
        ValueError: If the text is no such JSON.
    """
    text.encode()  # what a tar holds may come as surrogates
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"an object has {twice!r} twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{shortened(text)} is larger than a float64 can be")
    return number


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def to_plain(value: Any) -> Any:
    """Return a dataclass, mapping or sequence as nested dicts and lists, as JSON has them."""
    if is_dataclass(value):
        return {each.name: to_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: to_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return where two nested mappings differ, one line each: `name.of.it: old -> new`.

    Of digests it is the beginning, and what it means that they differ.
    """
    before, after = dict(flat(old)), dict(flat(new))
    return [
        f"{name}: {_brief(before.get(name))} -> {_brief(after.get(name))}{_MEANING.get(name, '')}"
        for name in before | after
        if before.get(name) != after.get(name)
    ]


_MEANING = {
    "source.fingerprint": " (other images, or changed ones)",
    "encoder.weights_sha256": " (other weights)",
}


def _brief(value: object) -> str:
    """Return a value as text; the beginning of a digest."""
    text = str(value)
    return f"{text[:12]}..." if re.fullmatch("[0-9a-f]{64}", text) else text


def did_you_mean(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> str:
    """Return ` (did you mean NAME?)`, or nothing where no known name is like it.

    Args:
        name: What was given.
        known: What there is.
        most: Most names to offer.
        cutoff: Least likeness, in [0, 1], as `difflib.get_close_matches` has it.
    """
    close = difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _within(number: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = low <= number if interval[0] == "[" else low < number
    return above and (number <= high if interval[-1] == "]" else number < high)


def _range(interval: str) -> str:
    low, high = (end.strip() for end in interval[1:-1].split(","))
    if high != "inf":
        return f"in {interval}"
    return f"{low} or more" if interval[0] == "[" else f"above {low}"


def _is_required(kind: Any, name: str) -> bool:
    (found,) = (each for each in fields(kind) if each.name == name)
    return found.default is MISSING and found.default_factory is MISSING


class _Converter(NamedTuple):
    """From a plain value to what the type of a field says; see `from_plain`."""

    complete: bool
    ignore_unknown: bool

    def __call__(self, kind: Any, value: Any, path: str) -> Any:
        if get_origin(kind) is UnionType:
            if value is None:
                return None
            (kind,) = (part for part in get_args(kind) if part is not NoneType)
        origin, parts = get_origin(kind) or kind, get_args(kind)
        if origin is Literal and value in parts and type(value) in {type(part) for part in parts}:
            return value
        if origin is float and type(value) is int and abs(value) < 1 << 53:
            return float(value)
        if origin is tuple and isinstance(value, list | tuple):
            return self._items(kind, value, path)
        if is_dataclass(origin) and isinstance(value, Mapping):
            return from_plain(kind, value, path=f"{path}.", **self._asdict())
        if origin in (dict, Mapping) and isinstance(value, Mapping):
            return {name: self(parts[1], item, f"{path}.{name}") for name, item in value.items()}
        # Not isinstance alone: to Python, true is a whole number.
        if type(value) is origin or (is_dataclass(origin) and isinstance(value, kind)):
            return value
        raise SettingError(f"{path} is {shown(value)}; it must be {_in_words(kind)}.")

    def _items(self, kind: Any, values: Sequence[Any], path: str) -> tuple[Any, ...]:
        item, *rest = get_args(kind)
        if rest != [Ellipsis] and len(values) != 1 + len(rest):
            raise SettingError(f"{path} is {shown(list(values))}; it must be {_in_words(kind)}.")
        return tuple(self(item, each, f"{path}[{at}]") for at, each in enumerate(values))


def _in_words(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple:
        many = "" if parts[-1] is Ellipsis else f"{len(parts)} "
        return f"a list of {many}{_WORDS.get(parts[0], 'a table').removeprefix('a ')}s"
    return _WORDS.get(kind, "a table")


def flat(values: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the values of nested mappings by their dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{name}.")
        else:
            yield path + name, value
