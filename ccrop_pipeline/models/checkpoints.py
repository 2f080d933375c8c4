"""Where in a checkpoint the weights are, and which of its encoders to take.

Repositories wrap the same few networks in names of their own. The names below were read in the
repositories; what is not here is found all the same if a known network is under any prefix.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ccrop_pipeline.errors import ModelError, few
from ccrop_pipeline.models.pickles import Inert

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
    entries = [content] if isinstance(content, Inert) else [_entry(content, k) for k, _ in _PLACES]
    whole = sorted({type(entry).__name__ for entry in entries if isinstance(entry, Inert)})
    if whole:
        raise ModelError(
            f"{path} holds a whole object ({few(whole)}) where its weights should be, and "
            "building it can run any code with your rights. If you trust where the file comes "
            "from, set `unsafe`; or save it again with the state dict alone."
        )
    found = few(map(str, content), 10) if isinstance(content, Mapping) else type(content).__name__
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
    if isinstance(entry, nn.Module):
        entry = entry.state_dict()
    if not isinstance(entry, Mapping):
        return {}
    tensors = {k: v for k, v in entry.items() if isinstance(k, str) and isinstance(v, Tensor)}
    return tensors if len(tensors) > len(entry) / 2 else {}


def _usual_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in {match[1] for name in state if (match := _NUMBERED.fullmatch(name))}:
        state = _named_stages(state, prefix)
    for name in [name for name in state if name.endswith("register_tokens")]:
        state = _registers_apart(state, name.removesuffix("register_tokens"))
    state = {_renamed(name): value for name, value in state.items()}
    # DINOv2 in chunks numbers its blocks throughout; others begin anew in each of their stages.
    whole = {_IN_CHUNKS.sub(r"\1blocks.\2.", name): value for name, value in state.items()}
    return whole if len(whole) == len(state) else state


_IN_CHUNKS = re.compile(r"(^|\.)blocks\.\d+\.(\d+)\.")


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
    return re.sub(r"(layer\d\.\d+)\.shortcut\.", r"\1.downsample.", name)  # CIFAR ResNets
