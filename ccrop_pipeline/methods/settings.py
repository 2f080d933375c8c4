"""Settings of methods: plain numbers, each with the range it must lie in."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from ccrop_pipeline.errors import CcropError


@dataclass(frozen=True)
class MethodSettings:
    """What the settings of every method have; each method adds its own numbers.

    Args:
        name: One of `METHODS`.

    Raises:
        CcropError: When a number is out of its range.
    """

    name: str

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if "holds" in each.metadata and not each.metadata["holds"](value):
                raise CcropError(f"method.{each.name} is {value}; it must {each.metadata['range']}")


def positive(default: float) -> Any:
    """A number above 0."""
    return _field(default, lambda value: 0 < value < math.inf, "be above 0")


def weight(default: float) -> Any:
    """The weight of a term: 0 or more."""
    return _field(default, lambda value: 0 <= value < math.inf, "be 0 or more")


def share(default: float) -> Any:
    """A number in [0, 1)."""
    return _field(default, lambda value: 0 <= value < 1, "lie in [0, 1)")


def count(default: int, least: int = 1) -> Any:
    """A whole number of `least` or more."""
    return _field(default, lambda value: value >= least, f"be {least} or more")


def _field(default: float, holds: Callable[[Any], bool], text: str) -> Any:
    return field(default=default, metadata={"holds": holds, "range": text})
