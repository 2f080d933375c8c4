"""Files of `torch.save` read without running code from them.

Training codes keep configurations, losses as NumPy scalars, paths and dates beside the weights.
torch's own reader for weights builds what is on its list and nothing else; here all other names
are given to it as classes that ignore whatever they are told. Nothing is imported for them.
"""

import builtins
import re
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

# What the standard library has of plain values. Every other name of it, such as `os.system` or
# `builtins.eval`, stands in a file only to do something, and refuses the file.
_VALUES = {
    *("argparse", "collections", "copyreg", "dataclasses", "datetime", "decimal", "enum"),
    *("fractions", "functools", "numbers", "pathlib", "types", "typing", "uuid", "zoneinfo"),
}


class Inert(list[Any]):
    """What stands for an object that is not built: it holds nothing and does nothing.

    A list, since torch's reader appends to nothing else, and compared by identity, since an
    object may be the key of a dictionary. Its class has the whole name of what it stands for.
    """

    def __new__(cls, *_args: object) -> "Inert":
        """Return a new one, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_args: object) -> None:
        """Keep none of the arguments."""

    def __setstate__(self, _state: object) -> None:
        """Keep nothing of the state."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__  # type: ignore[assignment]


class _InertMapping:
    """Gives a plain dictionary for a subclass of `dict`, since torch sets items of no other."""

    def __new__(cls, *_args: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def load_without_code(path: Path) -> Any:
    """Read a file of `torch.save`, on the CPU, with `Inert` in place of objects of other code.

    Raises:
        UnpicklingError: If it is damaged, or names what is no value.
    """
    kinds = {name: _inert(name) for name in _listed(path) if _is_value(name)}
    while True:
        try:
            known: Any = [(kind, name) for name, kind in kinds.items()]
            with warnings.catch_warnings(), torch.serialization.safe_globals(known):
                warnings.simplefilter("ignore")  # such as what to tell the makers of torch
                return torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            more = _more(str(error), kinds)
            if not more:
                raise
            kinds |= more


def refused_names(path: Path, message: str) -> list[str]:
    """Return the names in a file that no inert object may stand for.

    Args:
        path: The file.
        message: What `load_without_code` raised.
    """
    first = _blocked(message)
    names = _listed(path) or ([first] if first else [])
    return sorted(name for name in names if not _is_value(name))


def _is_value(name: str) -> bool:
    module, _, rest = name.partition(".")
    if module == "builtins":
        return isinstance(getattr(builtins, rest, None), type)
    return module in _VALUES or module == "__main__" or module not in sys.stdlib_module_names


def _inert(name: str) -> type:
    return type(name, (Inert,), {})


def _listed(path: Path) -> list[str]:
    """Return the names that torch does not know; none for files before the zip format."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of many kinds; reading the file then says what is wrong with it
        return []


def _more(message: str, kinds: dict[str, type]) -> dict[str, type]:
    """Return what torch has to be given so that it gets further than its message says."""
    name = _blocked(message)
    if name and name not in kinds and _is_value(name):
        return {name: _inert(name)}
    if "SETITEM" in message:
        return {name: _InertMapping for name in kinds if f"{__name__}.{name}'>" in message}
    return {}


def _blocked(message: str) -> str | None:
    found = re.search(r"(?:Unsupported global|unsupported GLOBAL)\S* (?:GLOBAL )?([\w.]+)", message)
    if not found:
        return None
    return found[1] if "." in found[1] else f"builtins.{found[1]}"
