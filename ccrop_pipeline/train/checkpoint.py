"""Checkpoints: written whole or not at all, read without running code from the file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import Backbone, Encoder, build_backbone
from ccrop_pipeline.train.files import replacing
from ccrop_pipeline.train.recipe import Recipe
from ccrop_pipeline.train.recipe_files import recipe_from_dict

NEWEST = "checkpoint.pt"
_KIND = "ccrop checkpoint 1"
_BACKBONE = "backbone."


@dataclass
class Checkpoint:
    """The state of a run between two epochs.

    Attributes:
        epoch: Epochs trained so far.
        recipe: Recipe of the run.
        method: State dict of the method, queue and momentum encoder included.
        optimizer: State dict of the optimizer.
    """

    epoch: int
    recipe: Recipe
    method: dict[str, Any]
    optimizer: dict[str, Any]

    def backbone(self) -> Backbone:
        """The online encoder of this state."""
        backbone = build_backbone(self.recipe.backbone)
        backbone.load_state_dict(
            {
                name.removeprefix(_BACKBONE): value
                for name, value in self.method.items()
                if name.startswith(_BACKBONE)
            }
        )
        return backbone

    def encoder(self, device: torch.device | str = "cpu") -> Encoder:
        """The online encoder as `compute_boxes` wants it."""
        return encoder_of(self.backbone(), self.recipe, self.epoch, device)


def encoder_of(
    backbone: Backbone, recipe: Recipe, epoch: int, device: torch.device | str
) -> Encoder:
    """A backbone in the middle of a run as an encoder of boxes."""
    return Encoder(
        backbone,
        backbone.layer,
        recipe.eval_size or recipe.image_size,
        name=backbone.name,
        epoch=epoch,
        device=device,
    )


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint aside, syncs it and moves it to `path`, replacing an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"kind": _KIND, **vars(checkpoint), "recipe": checkpoint.recipe.to_dict()}
    with replacing(path) as file:
        torch.save(content, file)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint, or the newest one of a run.

    Args:
        path: A checkpoint file or the folder of a run.

    Raises:
        CcropError: When there is none, or the file is none of ours.
    """
    file = path / NEWEST if path.is_dir() else path
    if not file.is_file():
        raise CcropError(
            f"no checkpoint at {file}. Give the folder of a run that `ccrop train` has trained "
            "for at least one epoch, or one of its checkpoints"
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for files it cannot read
        raise CcropError(f"{file} cannot be read as a checkpoint: {error}") from error
    if not isinstance(content, dict) or content.pop("kind", None) != _KIND:
        raise CcropError(
            f"{file} is no checkpoint of `ccrop train`: it has no entry kind = {_KIND!r}"
        )
    return Checkpoint(**{**content, "recipe": recipe_from_dict(content["recipe"])})
