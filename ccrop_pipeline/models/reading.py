"""Reading files of weights without running code from them."""

import re
from argparse import Namespace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch

from ccrop_pipeline.errors import CcropError


def kind_of_file(path: Path) -> str:
    """`torchscript`, `export`, `safetensors` or `pickle`, by the content where it can tell."""
    if path.suffix == ".safetensors":
        return "safetensors"
    if is_zipfile(path):
        try:
            names = ZipFile(path).namelist()
        except BadZipFile:
            return "pickle"
        if path.suffix == ".pt2" or any(name.endswith("archive_format") for name in names):
            return "export"
        if any(Path(name).name == "constants.pkl" for name in names):
            return "torchscript"
    return "pickle"


def read_weights(path: Path, unsafe: bool) -> Any:
    """The content of a checkpoint, on the CPU.

    Args:
        path: A file of ``torch.save``, or of safetensors.
        unsafe: Whether the file may run code of its own while it is read.

    Raises:
        CcropError: There is no such file, it cannot be read, or not without running code.
    """
    if not path.is_file():
        raise CcropError(f"There is no file of weights at {path}.")
    if kind_of_file(path) == "safetensors":
        return _read_safetensors(path)
    try:
        # Argument lists are plain attributes, and DINO saves one in every checkpoint.
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except ModuleNotFoundError as error:
        raise CcropError(
            f"{path} holds objects of the package {error.name!r}, which is not installed here. "
            f"Install it, or save the file again with the state dict alone."
        ) from error
    except UnpicklingError as error:
        needed = _needed_globals(path, str(error))
        if not needed or unsafe:
            raise CcropError(f"{path} cannot be read as a checkpoint: {_first(error)}") from error
        raise CcropError(
            f"{path} holds more than weights: to read it, Python would have to build "
            f"{', '.join(needed)}, and a file that may build objects can run any code with your "
            "rights. If you trust where it comes from, pass --unsafe; or save it again with the "
            "state dict alone."
        ) from error
    except Exception as error:  # torch raises half a dozen kinds for files it cannot read
        raise CcropError(f"{path} cannot be read as a checkpoint: {_first(error)}") from error


def _needed_globals(path: Path, message: str) -> list[str]:
    try:
        with torch.serialization.safe_globals([Namespace]):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not for files before the zip format; the message then names the first one
        return re.findall(r"GLOBAL ([\w.]+)", message)[:1]


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CcropError(f"{path} cannot be read as safetensors: {_first(error)}") from error


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
