"""Checkpoints of `ccrop train` as one more format of weights; what a run is is not known here."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.errors import ModelError, SettingError, shortened, shown
from ccrop_pipeline.localize import Backbone, Encoder
from ccrop_pipeline.models.sealed_files import (
    NEWEST,
    before,
    expect_newest,
    is_intact,
    kind_of_file,
)
from ccrop_pipeline.models.trainable import backbone_encoder, open_backbone
from ccrop_pipeline.models.weight_files import read_weights, tensors_in
from ccrop_pipeline.recipes import Recipe

OWN_KIND = "ccrop checkpoint 1"

Which = Literal["online", "momentum"]
_PREFIX = {"online": "backbone.", "momentum": "momentum_backbone."}


def own_backbone(recipe: Recipe, method: Mapping[str, Any], which: Which = "online") -> Backbone:
    """Build one of the encoders of a method from its state dict.

    Args:
        recipe: Says which backbone it is, and of which size its images are.
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
    backbone = open_backbone(recipe.backbone, recipe.sizes())
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"the weights of this checkpoint are not those of its backbone {recipe.backbone!r}: "
            f"{unfitting(error)}."
        ) from error
    return backbone


@contextmanager
def within(place: Path) -> Iterator[None]:
    """Say in front of errors about the content of a checkpoint where it is."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"in {place}: {error}") from error


def unfitting(error: Exception) -> str:
    """Return what torch says last of a state dict that does not fit: which of the weights."""
    return shortened(str(error).splitlines()[-1].strip(" \t."))


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
    recipe = Recipe.from_dict(content["recipe"])
    backbone = own_backbone(recipe, content["method"], which)
    size = recipe.eval_size or recipe.image_size
    return backbone_encoder(backbone, size, epoch=content["epoch"], device=device)


def read_own(path: str | Path) -> dict[str, Any] | None:
    """Read a checkpoint of `ccrop train`, or the newest one in the folder of a run.

    Returns:
        Its content; None where `path` is anything else.

    Raises:
        ModelError: If the file cannot be read, or a run has lost its newest checkpoint.
    """
    file = local_path(path)
    file = file / NEWEST if file.is_dir() else file
    expect_newest(file)
    if not file.is_file() or kind_of_file(file) != "pickle":
        return None
    content = read_checkpoint(file, unsafe=None)
    return content if is_own(content) else None


def expect_own(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint as `read_own` does.

    Raises:
        ModelError: If there is none, or the file is none of ours.
    """
    content = read_own(path)
    if content is None:
        raise ModelError(
            f"no checkpoint of `ccrop train` at {path}. Give the folder of a run that has trained "
            "for at least one epoch, or one of its checkpoints."
        )
    return content


def read_checkpoint(file: Path, *, unsafe: bool | None) -> Any:
    """Read the content of a checkpoint of any training code; one of ours as it was written.

    Args:
        file: The file.
        unsafe: As in `read_weights`.

    Raises:
        ModelError: If it cannot be read, or is one of ours and damaged. Of the newest checkpoint
            of a run, the message names the one before.
    """
    try:
        content = read_weights(file, unsafe=unsafe)
        if is_own(content):
            content = _checked(content, file)
    except ModelError as error:
        raise ModelError(f"{error}{before(file)}") from error
    return content


def _checked(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the content, every setting of its recipe there, once all of it makes sense."""
    if not is_intact(file):
        raise ModelError(
            f"{file} carries no checksum: it is damaged, or was written by other code than this."
        )
    kinds = {"epoch": int, "recipe": dict, "method": dict, "optimizer": dict}
    for name, kind in kinds.items():
        value = content.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ModelError(f"{file} is no checkpoint: its {name!r} is no {kind.__name__}.")
    weights = content["method"].items()
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights):
        raise ModelError(f"{file} is no checkpoint: its 'method' is no state dict.")
    for tensor in tensors_in(content):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise ModelError(
                f"{file} is no checkpoint: it has a sparse, quantized or complex tensor, of the "
                f"shape {shown(tuple(tensor.shape))}."
            )
    try:
        recipe = Recipe.from_dict(content["recipe"])
    except SettingError as error:
        raise ModelError(f"{file} is no checkpoint: in its recipe, {error}") from error
    if not 0 <= content["epoch"] <= recipe.epochs:
        raise ModelError(
            f"{file} is no checkpoint: its epoch is {shown(content['epoch'])}, of "
            f"{recipe.epochs} that its recipe has."
        )
    return {**content, "recipe": recipe.to_dict()}


def is_own(content: Any) -> bool:
    """Tell whether the content of a file is a checkpoint of `ccrop train`."""
    return isinstance(content, dict) and content.get("kind") == OWN_KIND
