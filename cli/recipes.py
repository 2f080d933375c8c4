"""`ccrop recipes`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from .option_types import complete_recipe
from .printing import print_as_is, print_json, print_line

# What the first part of a recipe's name says; the others are named like a method.
_DATA = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tinyimagenet": "Tiny ImageNet",
    "stl10": "STL-10",
    "in200": "ImageNet-200",
    "in1k": "ImageNet-1K",
}
_SMALL = "Small enough for two CPU cores"
_VIT = "Photographs; transformers of timm"
_OWN = "A few thousand images of one's own"


@click.command("recipes")
@click.argument("name", required=False, shell_complete=complete_recipe)
@click.option("--resolved", is_flag=True, help="All settings, bases and defaults included.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; of one recipe, all settings.")
def recipes(name: str | None, resolved: bool, as_json: bool) -> None:
    """List the recipes that come with ccrop, or print NAME: one of them, or a file.

    A recipe holds all that changes the result of `ccrop train`. One that comes with ccrop is
    printed as it is written, or with --resolved in full; a file always in full. Redirected into
    a file, it is a start for a recipe of one's own.

    \b
    Example:
      ccrop recipes photos-simclr-2core
    """
    if resolved and name is None:
        raise click.UsageError("--resolved needs the NAME of a recipe.")
    from ccrop_pipeline.recipes import bundled_recipes, load_recipe

    texts = bundled_recipes()
    if name is None:
        _print_list(texts, as_json)
    elif name in texts and not (resolved or as_json):
        _print_lines(texts[name].splitlines())
    else:
        settings = load_recipe(name).to_dict()
        if as_json:
            print_json(settings)
        else:
            if settings["boxes"]["threshold"] is None:
                settings["boxes"]["threshold"] = "auto"
            _print_lines(toml_lines(settings))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print_as_is(line)


def toml_lines(settings: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Write nested plain values as TOML; None is left out, as TOML has none."""
    tables = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    for name, value in settings.items():
        if name not in tables and value is not None:
            # JSON writes text, numbers, truth values and lists as TOML does.
            yield f"{name} = {json.dumps(value, ensure_ascii=False)}"
    for name, value in tables.items():
        yield from ("", f"[{path}{name}]")
        yield from toml_lines(value, f"{path}{name}.")


def _print_list(texts: Mapping[str, str], as_json: bool) -> None:
    entries = [
        {"name": name, "group": _group(name), "purpose": _purpose(text)}
        for name, text in texts.items()
    ]
    if as_json:
        print_json(entries)
        return
    width = max(len(name) for name in texts)
    groups = {_group(name): None for name in ("any", "-vit", "continue-photos", *_DATA, "demo")}
    for group in groups:
        print_line(group)
        for entry in entries:
            if entry["group"] == group:
                print_line(f"  {entry['name']:<{width}}  {entry['purpose']}")
    print_line()
    print_line(
        "To compare, train the same recipe with --set boxes.kind=none (random crops), centre (a "
        "fixed central box) or full (the whole image)."
    )


def _group(name: str) -> str:
    if name == "demo" or name.endswith("-2core"):
        return _SMALL
    if name.endswith("-vit"):
        return _VIT
    if name == "continue-photos":
        return _OWN
    return _DATA.get(name.partition("-")[0], "Photographs; what --method alone means")


def _purpose(text: str) -> str:
    """Return the first line of a recipe's header."""
    return text.partition("\n")[0].removeprefix("#").strip()
