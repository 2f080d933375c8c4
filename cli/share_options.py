"""The options that say which share of the shards is for this process."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def share_options(told_by: str) -> Callable[[Command], Command]:
    """Adds `--rank` and `--world-size`.

    Args:
        told_by: Who says so where the options do not, for people.
    """
    rank = click.option(
        "--rank",
        type=click.IntRange(0),
        default=None,
        help=f"Which share of the shards to compute.  [default: from {told_by}, else all]",
    )
    world_size = click.option(
        "--world-size", type=click.IntRange(1), default=None, help="Number of shares."
    )
    return lambda command: rank(world_size(command))
