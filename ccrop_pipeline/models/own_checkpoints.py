"""Checkpoints of `ccrop train` as one more format of weights; what a run is is not known here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from ccrop_pipeline.errors import ModelError
from ccrop_pipeline.localize import Backbone, Encoder, build_backbone
from ccrop_pipeline.models.checkpoints import kind_of_file, read_weights

OWN_KIND = "ccrop checkpoint 1"
NEWEST = "checkpoint.pt"

Which = Literal["online", "momentum"]
_PREFIX = {"online": "backbone.", "momentum": "momentum_backbone."}


def own_backbone(name: str, method: Mapping[str, Any], which: Which = "online") -> Backbone:
    """Build one of the encoders of a method from its state dict.

    Args:
        name: Name of the backbone, as `build_backbone` knows it.
        method: State dict of the method.
        which: The online encoder, or its momentum copy.

    Raises:
        ModelError: If the method has no such encoder.
    """
    prefix = _PREFIX[which]
    weights = {
        key.removeprefix(prefix): value for key, value in method.items() if key.startswith(prefix)
    }
    if not weights:
        raise ModelError(f"the method of this checkpoint has no {which} encoder.")
    backbone = build_backbone(name)
    backbone.load_state_dict(weights)
    return backbone


def own_encoder(
    content: Mapping[str, Any], device: torch.device | str = "cpu", which: Which = "online"
) -> Encoder:
    """Open one of the encoders of a checkpoint as `compute_boxes` wants it.

    Args:
        content: `epoch`, `recipe` (nested plain values) and `method` (state dict) of a checkpoint.
        device: Where it runs.
        which: The online encoder, or its momentum copy.

    Raises:
        ModelError: If the method has no such encoder.
    """
    recipe = content["recipe"]
    backbone = own_backbone(recipe["backbone"], content["method"], which)
    return Encoder(
        backbone,
        backbone.layer,
        recipe["eval_size"] or recipe["image_size"],
        name=backbone.name,
        epoch=content["epoch"],
        device=device,
    )


def read_own(path: str | Path) -> dict[str, Any] | None:
    """Read a checkpoint of `ccrop train`, or the newest one in the folder of a run.

    Returns:
        Its content; None where `path` is anything else.

    Raises:
        ModelError: If the file cannot be read.
    """
    file = Path(path)
    file = file / NEWEST if file.is_dir() else file
    if not file.is_file() or kind_of_file(file) != "pickle":
        return None
    content = read_weights(file, unsafe=False)
    return content if is_own(content) else None


def is_own(content: Any) -> bool:
    """Tell whether the content of a file is a checkpoint of `ccrop train`."""
    return isinstance(content, dict) and content.get("kind") == OWN_KIND
