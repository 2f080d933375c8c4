"""Recipes from TOML: files of one's own and those that come with the package."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.train.recipe import Recipe

T = TypeVar("T")


def bundled_recipes() -> dict[str, str]:
    """TOML texts of the recipes that come with the package, by name."""
    folder = resources.files("ccrop_pipeline.train") / "recipes"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {f.name.removesuffix(".toml"): f.read_text() for f in files if f.name.endswith(".toml")}


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        name: Name of a recipe that comes with the package, or path of a TOML file.
        overrides: Settings as ``NAME=VALUE`` with a TOML value, such as ``crop.alpha=0.1``;
            later ones win. A value that is no TOML is taken as text.

    Raises:
        CcropError: When there is no such recipe, or a setting is unknown or of a wrong kind.
    """
    values = _read(name)
    for override in overrides:
        _apply(values, override)
    try:
        return _build(Recipe, values, "")
    except ValueError as error:
        raise CcropError(f"recipe {name}: {error}") from error


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """The inverse of `Recipe.to_dict`."""
    return _build(Recipe, values, "")


def _read(name: str) -> dict[str, Any]:
    bundled = bundled_recipes()
    path = Path(name)
    if name not in bundled and not path.is_file():
        raise CcropError(
            f"no recipe {name!r}: neither a file nor one that comes with ccrop"
            f"{_did_you_mean(name, list(bundled))}. There are: {', '.join(bundled)}"
        )
    try:
        return tomllib.loads(bundled[name] if name in bundled else path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CcropError(f"recipe {name} is not TOML: {error}") from error


def _apply(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise CcropError(f"setting {override!r} is not of the form NAME=VALUE")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, last = name.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise CcropError(f"setting {override!r}: {table} is no table of the recipe")
    values[last] = value


def _build(kind: type[T], values: Mapping[str, Any], path: str) -> T:
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise CcropError(
                f"unknown setting {path}{name}{_did_you_mean(name, names)}. "
                f"{path.rstrip('.') or 'A recipe'} has: {', '.join(names)}"
            )
    return kind(
        **{name: _convert(hints[name], value, path + name) for name, value in values.items()}
    )


def _convert(kind: Any, value: Any, path: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise CcropError(f"{path} is {value!r}; it must be a table of settings")
        return _build(kind, value, path + ".")
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_convert(float, item, path) for item in value)
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    wanted = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind)
    raise CcropError(f"{path} is {value!r}; it must be {wanted.replace('typing.', '')}")


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
