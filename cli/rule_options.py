"""Options that say what a box is drawn around, shared by the commands that make boxes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ccrop_pipeline.errors import CcropError

from .option_types import FiniteRange

if TYPE_CHECKING:
    from ccrop_pipeline.localize import BoxRule

AUTO = "auto"


class _Threshold(click.ParamType[float | str]):
    """A number in [0, 1), or `auto`."""

    name = "threshold"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        """Return the number, or `auto` as it is."""
        if value == AUTO:
            return AUTO
        try:
            float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor {AUTO}.", param, ctx)
        return FiniteRange(0, 1, max_open=True).convert(value, param, ctx)


_OPTIONS = (
    click.option(
        "--threshold",
        metavar=f"K|{AUTO}",
        type=_Threshold(),
        default=None,
        help="Box around what is above K in the upsampled heatmap; `auto`: it sets itself by some "
        "of the images.  [default: as in the recipe of the run, or as it was; else auto]",
    ),
    click.option(
        "--mean-share",
        metavar="F",
        type=FiniteRange(0, 2),
        default=None,
        help="Add F times the mean of the image's own heatmap to K.  [default: 0, or as it was]",
    ),
    click.option(
        "--mass",
        metavar="Q",
        type=FiniteRange(0, 1, min_open=True),
        default=None,
        help="Smallest box with the share Q of the heat, in place of a threshold.",
    ),
    click.option(
        "--objects",
        metavar="N",
        type=click.IntRange(1, 32),
        default=None,
        help="Up to N boxes per image, each around an object of its own, in place of one around "
        "all.  [default: 1, or as it was]",
    ),
    click.option(
        "--component",
        type=click.Choice(["all", "largest"]),
        default=None,
        help="All that is above the threshold, or its largest connected part.  "
        "[default: all, or as it was]",
    ),
    click.option(
        "--centre-weight",
        metavar="W",
        type=FiniteRange(0, 1),
        default=None,
        help="Move the box to the central 80 % of the image: 0 leaves it, 1 is that box.  "
        "[default: 0, or as it was; half the way for weak boxes where the threshold sets itself]",
    ),
    click.option(
        "--margin",
        metavar="M",
        type=FiniteRange(0, 100),
        default=None,
        help="Widen the box by M times its side at each side.  [default: 0, or as it was]",
    ),
    click.option(
        "--min-size",
        metavar="S",
        type=FiniteRange(0, 1),
        default=None,
        help="Least side of a box as a share of the image's.  [default: 0, or as it was]",
    ),
)

# Names of the arguments that `rule_from` takes of a command with these options.
RULE_OPTIONS = (
    *("threshold", "mean_share", "mass", "objects", "component"),
    *("centre_weight", "margin", "min_size"),
)


def rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options; they arrive as the keyword arguments of `rule_from`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def rule_from(
    base: "BoxRule | None" = None,
    *,
    threshold: float | str | None,
    mean_share: float | None,
    mass: float | None,
    objects: int | None,
    component: str | None,
    centre_weight: float | None,
    margin: float | None,
    min_size: float | None,
) -> "BoxRule":
    """Return the rule that the options ask for.

    Args:
        base: What holds where an option is not given; a rule that sets itself if None.
        threshold: As given on the command line, like the rest; None where it was not.
        mean_share: Likewise; goes with a threshold, and 0 where only that is given.
        mass: Likewise; takes the place of the base's threshold, and a threshold that of its mass.
        objects: Likewise.
        component: Likewise.
        centre_weight: Likewise; where only a threshold or a mass is given, that of `BoxRule`.
        margin: Likewise.
        min_size: Likewise.

    Raises:
        click.UsageError: Two options exclude each other.
    """
    expect_one_cut(threshold, mass)
    from dataclasses import replace

    from ccrop_pipeline.localize import BoxRule

    changes: dict[str, Any] = {"objects": objects, "component": component}
    changes |= {"margin": margin, "min_size": min_size}
    changes = {name: value for name, value in changes.items() if value is not None}
    if threshold is not None or mass is not None:
        number = None if threshold == AUTO else threshold
        changes |= {"threshold": number, "mass": mass, "mean_share": 0.0, "centre_weight": None}
    given = {"mean_share": mean_share, "centre_weight": centre_weight}
    changes |= {name: value for name, value in given.items() if value is not None}
    base = base or BoxRule()
    if mass is not None and component is None:
        changes["component"] = "all"
    try:
        return replace(base, **changes)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def expect_one_cut(threshold: float | str | None, mass: float | None) -> None:
    """Refuse two options that exclude each other.

    Raises:
        click.UsageError: If both are given.
    """
    if threshold is not None and mass is not None:
        raise click.UsageError("give --threshold or --mass, not both.")


def rule_of_run(model: str) -> "BoxRule | None":
    """Return the rule that a run or checkpoint of ours was trained with; None for other models."""
    from ccrop_pipeline.localize import BoxRule
    from ccrop_pipeline.models import read_own

    try:
        content = read_own(model)
    except CcropError:  # another's checkpoint, which may need to be trusted first
        return None
    return None if content is None else BoxRule(content["recipe"]["boxes"]["threshold"])
