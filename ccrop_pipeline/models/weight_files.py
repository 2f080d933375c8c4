"""Files of weights, read without running code from them."""

import warnings
from collections.abc import Iterator, Mapping
from io import BufferedRandom, BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ccrop_pipeline.base.values import parse_json
from ccrop_pipeline.errors import ModelError, few, reading, shown
from ccrop_pipeline.localize import state_sha256
from ccrop_pipeline.models.pickles import load_without_code, refused_names
from ccrop_pipeline.models.sealed_files import damaged, is_intact, kind_of_file, seal

_INDEX = ".safetensors.index.json"
# In the metadata of a safetensors file of ours: `state_sha256` of its tensors.
DIGEST = "ccrop_sha256"
_SMALL = 1 << 28  # bytes of a tensor that repeats its values, of whatever file
_MOST_PARTS = 1_000_000  # of a checkpoint, looked at one by one
_DAMAGED = (
    "cannot be read as a checkpoint: it is damaged, cut short, or no file of torch.save. Copy or "
    "download it again."
)


def read_weights(path: Path, *, unsafe: bool | None) -> Any:
    """Read the content of a checkpoint, on the CPU.

    Args:
        path: A file of `torch.save`, or of safetensors; a folder with one or with its shards.
        unsafe: Whether the file may run code of its own while it is read; None: never, and
            nobody is told that it might.

    Raises:
        ModelError: If there is no such file, it is damaged, it cannot be read, or not without
            running code.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise ModelError(f"there is no file of weights at {path}.")
    if is_intact(path) is False:
        raise damaged(path)
    kind = kind_of_file(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind == "torchscript":
        return _read_torchscript(path, unsafe=unsafe)
    if kind == "export":
        raise ModelError(
            f"{path} is a program of torch.export, no file of weights. Give it as the model "
            "itself, or save its state dict with torch.save."
        )
    content = _read_pickle(path, unsafe=unsafe)
    _expect_values(content, path)
    return content


def _read_pickle(path: Path, *, unsafe: bool | None) -> Any:
    try:
        if unsafe:
            return torch.load(path, map_location="cpu", weights_only=False)
        return load_without_code(path)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{path} holds objects of the package {error.name!r}, which is not installed here. "
            f"Install it, or save the file again with the state dict alone."
        ) from error
    except UnpicklingError as error:
        needed = [] if unsafe else refused_names(path, str(error))
        if not needed:
            raise ModelError(f"{path} {_DAMAGED}") from error
        raise ModelError(
            f"{path} holds more than weights: to read it, Python would have to build "
            f"{few(needed, 10)}, and a file that may build objects can run any code with your "
            f"rights. {_remedy('save it again with the state dict alone.', unsafe=unsafe)}"
        ) from error
    except Exception as error:  # torch raises half a dozen kinds for files it cannot read
        raise ModelError(f"{path} {_DAMAGED}") from error


def tensors_in(content: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested mappings, lists and tuples, in no order."""
    waiting, seen = [content], 0
    while waiting and seen < _MOST_PARTS:
        seen += 1
        part = waiting.pop()
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, Mapping):
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part


def _expect_values(content: Any, path: Path) -> None:
    """Refuse tensors without values, or of so many that repeat each other that it is a trap."""
    for part in tensors_in(content):
        if part.device.type == "meta" or part.numel() * part.element_size() > _stored(part):
            raise ModelError(
                f"{path} holds a tensor of the shape {shown(tuple(part.shape))} whose "
                "values are not all in the file. Save it again from the network itself."
            )


def _stored(tensor: Tensor) -> int:
    """Return how many bytes a tensor may have."""
    strided = tensor.layout == torch.strided
    return max(_SMALL, tensor.untyped_storage().nbytes() if strided else 0)


def save_sealed(content: Any, file: BufferedRandom | BytesIO) -> None:
    """Write a file of `torch.save` with a checksum into one that is open to read and write.

    Raises:
        OSError: If it cannot be written, such as on a full disk.
        MemoryError: If there is too little of it.
    """
    try:
        torch.save(content, file)
    except RuntimeError as error:
        # Closing what it could not write, torch complains of that, and no longer says why.
        if isinstance(error.__context__, OSError | MemoryError):
            raise error.__context__ from None
        raise
    seal(file)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with reading(path, "cannot be read as safetensors", "Copy or download it again.", ModelError):
        state = load_file(path)
        with safe_open(path, "pt") as file:
            digest = (file.metadata() or {}).get(DIGEST)
    if digest not in (None, state_sha256(state)):
        raise ModelError(f"{path} is damaged: its weights are not those that its checksum is of.")
    return state


def _remedy(remedy: str, *, unsafe: bool | None) -> str:
    if unsafe is None:
        return remedy[0].upper() + remedy[1:]
    return f"If you trust where it comes from, set `unsafe`; or {remedy}"


def _read_torchscript(path: Path, *, unsafe: bool | None) -> dict[str, Tensor]:
    if not unsafe:
        raise ModelError(
            f"{path} is TorchScript, a program, and reading weights from one lets it run. "
            f"{_remedy('give a file of its state dict alone.', unsafe=unsafe)}"
        )
    state: dict[str, Tensor] = load_torchscript(path).state_dict()
    return state


def load_torchscript(path: Path) -> Any:
    """Load a module saved by `torch.jit.save`, on the CPU.

    Raises:
        ModelError: If the file cannot be loaded.
    """
    try:
        with warnings.catch_warnings():  # it is deprecated, and the files are there all the same
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # RuntimeError, ValueError and others, by what is damaged
        raise unreadable_program(path, "TorchScript") from error


def unreadable_program(path: Path, kind: str) -> ModelError:
    """Return the error for a program that cannot be loaded."""
    return ModelError(
        f"{path} cannot be read as a {kind} program: it is damaged, cut short, or of another "
        "version of torch. Save it again with the one that is installed here."
    )


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a folder, in one safetensors file or in shards with their index."""
    files = sorted(folder.glob("*.safetensors"))
    indices = sorted(folder.glob(f"*{_INDEX}"))
    if len(indices) == 1:
        files = _listed(indices[0])
    elif len(files) != 1:
        names = [path.name for path in files]
        raise ModelError(
            f"{folder} is no folder of weights: it needs one file *.safetensors, or shards and "
            f"their index *{_INDEX}. It has {few(names, 10) or 'none'}. Name the one that is "
            "meant."
        )
    state: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            raise ModelError(f"{indices[0]} lists {file.name}, which is not there: fetch it.")
        state |= _read_safetensors(file)
    return state


def _listed(index: Path) -> list[Path]:
    with reading(index, "is no index of safetensors", "Download it again.", ModelError):
        names = sorted(set(parse_json(index.read_text("utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
        if outside or not names:
            raise ValueError(f"its files are {shown(outside)}, not beside it")
        return [index.parent / name for name in names]
