"""Where in a checkpoint the weights are, and which of its encoders to take.

Repositories wrap the same few networks in names of their own. The names below were read in the
repositories; what is not here is found all the same if a known network is under any prefix.
"""

import hashlib
import os
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedRandom, BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from torch import Tensor

from ccrop_pipeline.base.values import parse_json
from ccrop_pipeline.errors import ModelError, reading, shortened, shown, stand_in
from ccrop_pipeline.localize import state_sha256

# The way to the state dict, and who saves it so. The first that is there counts: DINO's teacher
# before its student, for the teacher is what the paper evaluates (arXiv:2104.14294, section 3).
_PLACES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("classy_state_dict", "base_model", "model", "trunk"), "VISSL"),
    (("teacher",), "DINO"),
    (("student",), "DINO"),
    (("moco_state",), "xyupeng/ContrastiveCrop"),
    (("byol_state",), "xyupeng/ContrastiveCrop"),
    (("simclr_state",), "xyupeng/ContrastiveCrop"),
    (("simsiam_state",), "xyupeng/ContrastiveCrop"),
    (("online_network_state_dict",), "BYOL"),
    (("model_state_dict",), ""),
    (("model_state",), ""),
    (("state_dict",), ""),
    (("model",), ""),
    (("net",), ""),
    (("encoder",), ""),
    (("backbone",), ""),
)

# What the prefix of the backbone says about the format, where its place says nothing.
_PREFIXES: tuple[tuple[str, str], ...] = (
    (r"encoder_[qk]\.$", "MoCo"),
    (r"(base|momentum)_encoder\.$", "MoCo v3"),
    (r"_feature_blocks\.$", "VISSL"),
    (r"(student|teacher)[\w.]*\.$", "DINO"),
    (r"online_(encoder|network|backbone)[\w.]*\.$", "BYOL"),
)


_INDEX = ".safetensors.index.json"
_DAMAGED = (
    "cannot be read as a checkpoint: it is damaged, cut short, or no file of torch.save. Copy or "
    "download it again."
)


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file, under the names that torchvision and timm use.

    Attributes:
        path: The file.
        state: The weights by name; prefixes are still there.
        place: Names of the entries on the way to them; empty for the file itself.
        format: Who saves them there, if that is known.
        arch: Name of the architecture, if the file tells one.
        epoch: Epochs trained, if the file tells.
        lightning: Whether Lightning saved the file.
        bare_stem: Whether no ReLU follows the first normalisation. lightly's own ResNet has none
            among its children, so that a sequence of them, which it trains, goes without.
    """

    path: Path
    state: dict[str, Tensor]
    place: str = ""
    format: str = ""
    arch: str | None = None
    epoch: int | None = None
    lightning: bool = False
    bare_stem: bool = False

    def format_under(self, prefix: str) -> str:
        """Name of the format, once it is known under which prefix the backbone stands."""
        if self.format:
            return self.format
        for pattern, name in _PREFIXES:
            if re.search(pattern, prefix):
                return name
        if self.lightning and "classifier.weight" in self.state:
            return "solo-learn"
        return "Lightning" if self.lightning else "state dict"


def find_weights(content: Any, path: Path) -> Checkpoint:
    """Find the state dict in the content of a checkpoint file.

    Raises:
        ModelError: If there is none.
    """
    for keys, name in ((), ""), *_PLACES:
        state = _tensors(_entry(content, keys))
        if state:
            outer = content if keys else {}
            arch, epoch = outer.get("arch"), outer.get("epoch")
            lightning = "pytorch-lightning_version" in outer
            return Checkpoint(
                path,
                _usual_names(state),
                ".".join(keys),
                name,
                arch if isinstance(arch, str) else None,
                # Lightning counts the epoch that it is in, the others those that are done.
                epoch if isinstance(epoch, int) and not lightning else None,
                lightning,
                any(re.search(r"(^|\.)2\.0\.conv1\.weight$", name) for name in state),
            )
    found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise ModelError(
        f"{path} holds no weights where any known format has them; it has: {found}. "
        "Save the state dict of the network alone, or write a factory (module.py:function)."
    )


def _entry(content: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _tensors(entry: Any) -> dict[str, Tensor]:
    """Return the entry, if it is a state dict: names and tensors, with little else in between."""
    if not isinstance(entry, Mapping):
        return {}
    tensors = {k: v for k, v in entry.items() if isinstance(k, str) and isinstance(v, Tensor)}
    return tensors if len(tensors) > len(entry) / 2 else {}


def _usual_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in {match[1] for name in state if (match := _NUMBERED.fullmatch(name))}:
        state = _named_stages(state, prefix)
    for name in [name for name in state if name.endswith("register_tokens")]:
        state = _registers_apart(state, name.removesuffix("register_tokens"))
    return {_renamed(name): value for name, value in state.items()}


# A ResNet as nn.Sequential of its children: the first block of one of its four stages.
_NUMBERED = re.compile(r"(|.*?\.)\d+\.0\.conv1\.weight")


def _named_stages(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    numbers = sorted(
        int(match[1])
        for name in state
        if (match := re.fullmatch(re.escape(prefix) + r"(\d+)\.0\.conv1\.weight", name))
    )
    first = state.get(f"{prefix}0.weight")
    if len(numbers) != 4 or first is None or first.ndim != 4:
        return state
    names = {0: "conv1", 1: "bn1"} | dict(zip(numbers, _STAGES, strict=True))
    renamed = {}
    for name, value in state.items():
        match = re.match(re.escape(prefix) + r"(\d+)\.", name)
        stage = names.get(int(match[1])) if match else None
        renamed[f"{prefix}{stage}.{name[match.end() :]}" if match and stage else name] = value
    return renamed


def _registers_apart(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Rename the registers of DINOv2 for timm: the class token carries its own position."""
    positions = state[f"{prefix}pos_embed"]
    moved = {
        f"{prefix}reg_token": state[f"{prefix}register_tokens"],
        f"{prefix}cls_token": state[f"{prefix}cls_token"] + positions[:, 0],
        f"{prefix}pos_embed": positions[:, 1:],
    }
    return {k: v for k, v in state.items() if k != f"{prefix}register_tokens"} | moved


_STAGES = ("layer1", "layer2", "layer3", "layer4")


def _renamed(name: str) -> str:
    name = re.sub(r"(layer\d\.\d+)\.shortcut\.", r"\1.downsample.", name)  # CIFAR ResNets
    return re.sub(r"(^|\.)blocks\.\d+\.(\d+)\.", r"\1blocks.\2.", name)  # DINOv2 in chunks


def kind_of_file(path: Path) -> str:
    """Tell `torchscript`, `export`, `safetensors` or `pickle`, by content where it can.

    Raises:
        ModelError: If another thing is in the place of the file.
    """
    if instead := stand_in(path):
        raise ModelError(f"{path} holds no weights: {instead}.")
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


def read_weights(path: Path, *, unsafe: bool) -> Any:
    """Read the content of a checkpoint, on the CPU.

    Args:
        path: A file of `torch.save`, or of safetensors; a folder with one or with its shards.
        unsafe: Whether the file may run code of its own while it is read.

    Raises:
        ModelError: If there is no such file, it is damaged, it cannot be read, or not without
            running code.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise ModelError(f"there is no file of weights at {path}.")
    if is_intact(path) is False:
        raise ModelError(f"{path} is damaged: its bytes are not those that its checksum is of.")
    if kind_of_file(path) == "safetensors":
        return _read_safetensors(path)
    try:
        # Argument lists are plain attributes, and DINO saves one in every checkpoint.
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{path} holds objects of the package {error.name!r}, which is not installed here. "
            f"Install it, or save the file again with the state dict alone."
        ) from error
    except UnpicklingError as error:
        needed = _needed_globals(path, str(error))
        if not needed or unsafe:
            raise ModelError(f"{path} {_DAMAGED}") from error
        raise ModelError(
            f"{path} holds more than weights: to read it, Python would have to build "
            f"{', '.join(needed)}, and a file that may build objects can run any code with your "
            "rights. If you trust where it comes from, set `unsafe`; or save it again with the "
            "state dict alone."
        ) from error
    except Exception as error:  # torch raises half a dozen kinds for files it cannot read
        raise ModelError(f"{path} {_DAMAGED}") from error


# In front of the checksum, as the comment of a zip archive, which torch and others pass over.
_SEAL = b"ccrop sha256 "
_DIGITS = 64
# In the metadata of a safetensors file of ours: `state_sha256` of its tensors.
DIGEST = "ccrop_sha256"


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


def seal(file: BufferedRandom | BytesIO) -> None:
    """Add the SHA-256 of its bytes to a file of `torch.save`, which is a zip archive.

    The archive ends with the length of its comment (2 bytes, little-endian) and the comment
    (APPNOTE.TXT 4.3.16), which becomes `ccrop sha256 ` and the digest in hex of all bytes before.

    Args:
        file: The whole file, open to read and write.
    """
    file.seek(-2, os.SEEK_END)
    file.write((len(_SEAL) + _DIGITS).to_bytes(2, "little") + _SEAL)
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0, os.SEEK_END)
    file.write(digest.encode())


def is_intact(path: Path) -> bool | None:
    """Tell whether a file has the bytes that its checksum is of; None: it carries none."""
    left = path.stat().st_size - _DIGITS
    with path.open("rb") as file:
        file.seek(max(0, left - len(_SEAL)))
        if file.read(len(_SEAL)) != _SEAL:
            return None
        found, digest = file.read(), hashlib.sha256()
        file.seek(0)
        while left and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return found == digest.hexdigest().encode()


def _needed_globals(path: Path, message: str) -> list[str]:
    try:
        with torch.serialization.safe_globals([Namespace]):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not for files before the zip format; the message then names the first one
        return re.findall(r"GLOBAL ([\w.]+)", message)[:1]


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


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a folder, in one safetensors file or in shards with their index."""
    files = sorted(folder.glob("*.safetensors"))
    indices = sorted(folder.glob(f"*{_INDEX}"))
    if len(indices) == 1:
        files = _listed(indices[0])
    elif len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise ModelError(
            f"{folder} is no folder of weights: it needs one file *.safetensors, or shards and "
            f"their index *{_INDEX}. It has {shortened(found)}. Name the file that is meant."
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
