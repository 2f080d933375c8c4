"""Types of options: paths of this machine, numbers that are finite, names that shells complete."""

import math
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.errors import SettingError


def complete_recipe(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the recipes that come with ccrop and begin like this, and leave files to the shell."""
    from ccrop_pipeline.recipes import bundled_recipes

    found = [CompletionItem(name) for name in bundled_recipes() if name.startswith(incomplete)]
    return [*found, CompletionItem(incomplete, type="file")]


class LocalPath(click.Path):
    """A path of this machine, with `~` expanded: no shell does that behind `--option=`."""

    def __init__(self, **rules: bool) -> None:
        super().__init__(path_type=Path, **rules)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Expand, then check as click does."""
        try:
            path = local_path(value)
        except SettingError as error:
            self.fail(str(error), param, ctx)
        return Path(str(super().convert(path, param, ctx)))


class FiniteRange(click.FloatRange):
    """A range of numbers, without NaN, which passes every comparison, and without infinity."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number, if it is one."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no number.", param, ctx)
        return number
