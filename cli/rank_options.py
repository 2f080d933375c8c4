"""The options that say which portion of the shards is for this process."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def rank_options(told_by: str) -> Callable[[Command], Command]:
    """Add `--rank` and `--world-size`.

    Args:
        told_by: Who says so where the options do not, for people.
    """
    rank = click.option(
        "--rank",
        type=click.IntRange(0),
        default=None,
        help=f"Number of this process.  [default: from {told_by}, else alone]",
    )
    world_size = click.option(
        "--world-size", type=click.IntRange(1), default=None, help="Number of processes."
    )
    return lambda command: rank(world_size(command))
