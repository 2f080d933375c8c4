"""From the plain values of TOML and JSON to the settings of a recipe, each checked for its kind."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.methods import METHODS, MethodSettings, settings_type
from ccrop_pipeline.recipes.recipe import Recipe

T = TypeVar("T")

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def build_recipe(values: Mapping[str, Any]) -> Recipe:
    """Makes a recipe of nested mappings.

    Args:
        values: Settings by name, as they stand in TOML, or in JSON with null for what is not
            there. Settings that are left out have their defaults; ``method`` has those of the
            method that its ``name`` says.

    Raises:
        CcropError: When a setting is unknown, of a wrong kind or out of its range.
        ValueError: When a setting of the crops is out of its range.
    """
    return _build(Recipe, values, "", "A recipe")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`` (did you mean NAME?)``, or nothing where no known name is like it."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _build(kind: type[T], values: Mapping[str, Any], path: str, owner: str) -> T:
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise CcropError(
                f"unknown setting {path}{name}{did_you_mean(name, names)}. "
                f"{owner} has: {', '.join(names)}"
            )
    return kind(
        **{name: _convert(hints[name], value, path + name) for name, value in values.items()}
    )


def _convert(kind: Any, value: Any, path: str) -> Any:
    if get_origin(kind) is UnionType:
        if value is None:
            return None
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise CcropError(f"{path} is {value!r}; it must be a table of settings")
        return _method(value) if kind is MethodSettings else _build(kind, value, path + ".", path)
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return _numbers(kind, value, path)
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise CcropError(f"{path} is {value!r}; it must be {_in_words(kind)}")


def _numbers(kind: Any, values: Sequence[Any], path: str) -> tuple[Any, ...]:
    item, *rest = get_args(kind)
    if rest != [Ellipsis] and len(values) != 1 + len(rest):
        raise CcropError(f"{path} is {list(values)}; it must be {_in_words(kind)}")
    return tuple(_convert(item, value, path) for value in values)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        item, *rest = get_args(kind)
        many = "" if rest == [Ellipsis] else f"{1 + len(rest)} "
        return f"a list of {many}{_WORDS[item].removeprefix('a ')}s"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return _WORDS[kind]


def _method(values: Mapping[str, Any]) -> MethodSettings:
    name = values.get("name")
    if not isinstance(name, str):
        raise CcropError(f"method.name is {name!r}; it must be the name of a method")
    kind = settings_type(name)
    own = {f.name for f in fields(kind)}
    others = {f.name for method in METHODS for f in fields(settings_type(method))} - own
    try:
        return _build(kind, values, "method.", f"The method {name}")
    except CcropError as error:
        if not others & values.keys():
            raise
        raise CcropError(
            f"{error}. What a recipe sets for its method stays when --set or --method chooses "
            f"another: take a recipe of {name}, or extend this one in a file, where another "
            "method.name starts from that method's defaults"
        ) from error
