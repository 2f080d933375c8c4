"""Recipes from TOML: files of one's own and those that come with the package.

A file may take another recipe as its base with `extends = "NAME"`. Tables are merged and its
own values win, but for two things that only make sense whole: naming another method starts from
that method's defaults, and giving a schedule of refreshes replaces the schedule of the base.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.values import did_you_mean, flat
from ccrop_pipeline.errors import SettingError, reading, shortened, shown
from ccrop_pipeline.recipes.recipe import Recipe

_MOST_BASES = 20
_MAY_BE_AUTO = ("boxes.threshold", "probe.k")
_SCHEDULES = ("refresh_at", "refresh_every", "refresh_epochs")


def bundled_recipes() -> dict[str, str]:
    """Return the TOML texts of the recipes that come with the package, by name."""
    folder = resources.files("ccrop_pipeline") / "recipes" / "toml"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {f.name.removesuffix(".toml"): f.read_text() for f in files if f.name.endswith(".toml")}


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: Name of a recipe that comes with the package, or path of a TOML file.
        overrides: Settings as `NAME=VALUE` with a TOML value, such as `crop.alpha=0.1`;
            later ones win. A value that is no TOML is taken as text. Another `method.name`
            keeps what the recipe set for its method, and has defaults for the rest.

    Raises:
        SettingError: If there is no such recipe, a setting is unknown, of a wrong kind or out of
            its range, or recipes extend each other in a circle.
    """
    try:
        values = _read(name, Path(), ())
        for override in overrides:
            values = _merge(values, _parse(override))
        for part, name_there in (name.split(".") for name in _MAY_BE_AUTO):
            table = values.get(part)
            if isinstance(table, Mapping) and table.get(name_there) == "auto":
                values = {**values, part: {**table, name_there: None}}  # TOML has no null
        return Recipe.from_dict(values)
    except SettingError as error:
        if name in str(error) or name in bundled_recipes():
            raise
        raise SettingError(f"recipe {name}: {error}") from error


def _read(name: str, folder: Path, readers: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of a recipe with its bases under them.

    Args:
        name: A bundled recipe, or a path.
        folder: What the path is relative to.
        readers: The recipes that led here, each extending the next.
    """
    bundled = bundled_recipes()
    path = folder / local_path(name)
    with reading(f"recipe {shortened(name)}", "cannot be found", "", SettingError):
        identity = name if name in bundled else str(path.resolve())
        exists = name in bundled or path.is_file()
    if identity in readers:
        circle = " -> ".join([*readers[readers.index(identity) :], identity])
        raise SettingError(f"recipes extend each other in a circle: {circle}. Break it somewhere.")
    if not exists:
        raise SettingError(_no_recipe(name, path, readers, list(bundled)))
    with reading(f"recipe {shortened(name)}", "is not TOML", "", SettingError):
        text = bundled[name] if name in bundled else path.read_text("utf-8-sig")
        own = tomllib.loads(text)
    base = own.pop("extends", None)
    if base is None:
        return own
    if not isinstance(base, str):
        raise SettingError(
            f"recipe {name}: extends is {shown(base)}; it must be the name of a recipe."
        )
    if len(readers) == _MOST_BASES:
        raise SettingError(
            f"recipe {readers[0]} extends another, which extends another, {_MOST_BASES} times and "
            "more. Write what it needs into fewer files."
        )
    below = _read(base, path.parent, (*readers, identity))
    return _merge(_without_another_method(below, own), own)


def _no_recipe(name: str, path: Path, readers: tuple[str, ...], bundled: list[str]) -> str:
    who = f"recipe {readers[-1]} extends {shown(name)}: " if readers else ""
    where = f" ({shortened(str(path))})" if readers else ""
    return (
        f"{who}no recipe {shown(name)}: neither a file{where} nor one that comes with ccrop"
        f"{did_you_mean(name, bundled)}. `ccrop recipes` lists them."
    )


def overrides_to(recipe: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the overrides that make one recipe into another; none where none can.

    Args:
        recipe: As `Recipe.to_dict` returns it.
        wanted: The same of the other one.
    """
    own, other = dict(flat(recipe)), dict(flat(wanted))
    changed = [name for name in own | other if own.get(name) != other.get(name)]
    autos = [name for name in changed if other.get(name) is None]
    if {*autos} - {*_MAY_BE_AUTO} or not {*changed} <= own.keys() & other.keys():
        return []
    return [f"{name}={_as_toml(other[name])}" for name in changed]


def _as_toml(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or "auto"
    return json.dumps(value, separators=(",", ":"))


def _parse(override: str) -> dict[str, Any]:
    """Return what `crop.alpha=1` stands for as nested tables."""
    name, equals, text = override.partition("=")
    parts = [part.strip() for part in name.split(".")]
    if not equals or not all(parts):
        raise SettingError(f"setting {shown(override)} is not of the form NAME=VALUE.")
    if parts == ["extends"]:
        raise SettingError("extends belongs in a recipe's file; name that recipe instead.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def _merge(base: Mapping[str, Any], own: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    merged = dict(base)
    for name, value in own.items():
        below = base.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            if path + name == "boxes":
                below = _without_another_schedule(below, value)
            merged[name] = _merge(below, value, f"{path}{name}.")
        elif isinstance(value, Mapping) and below is not None:
            raise SettingError(f"{path}{name} is no table of the recipe, but {shown(below)}.")
        else:
            merged[name] = value
    return merged


def _without_another_method(base: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    old, new = base.get("method"), own.get("method")
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return base
    if new.get("name", old.get("name")) == old.get("name"):
        return base
    return {name: value for name, value in base.items() if name != "method"}


def _without_another_schedule(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    if own.get("kind", "encoder") != "encoder":
        replaced = {*_SCHEDULES, "warmup_epochs", "overlapped"}
    elif own.get("refresh_every"):
        replaced = {*_SCHEDULES}
    elif own.keys() & {*_SCHEDULES}:
        replaced = {*_SCHEDULES, "warmup_epochs"}
    else:
        replaced = set()
    return {name: value for name, value in base.items() if name not in replaced}
