"""Checkpoints: written whole or not at all, read without running code from the file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import Backbone, Encoder, build_backbone
from ccrop_pipeline.train.files import replacing
from ccrop_pipeline.train.recipe import Recipe
from ccrop_pipeline.train.recipe_files import recipe_from_dict

NEWEST = "checkpoint.pt"
_KIND = "ccrop checkpoint 1"
_PREFIX = {"online": "backbone.", "momentum": "momentum_backbone."}

Which = Literal["online", "momentum"]


@dataclass
class Checkpoint:
    """The state of a run between two epochs.

    Random numbers are no part of it: every step draws from a generator that is seeded by the
    recipe's seed and the number of the step.

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

    def backbone(self, which: Which = "online") -> Backbone:
        """The online or the momentum encoder of this state.

        Raises:
            CcropError: When the method has no momentum encoder.
        """
        prefix = _PREFIX[which]
        weights = {
            name.removeprefix(prefix): value
            for name, value in self.method.items()
            if name.startswith(prefix)
        }
        if not weights:
            raise CcropError(f"{self.recipe.method.name} has no {which} encoder")
        backbone = build_backbone(self.recipe.backbone)
        backbone.load_state_dict(weights)
        return backbone

    def encoder(self, device: torch.device | str = "cpu", which: Which = "online") -> Encoder:
        """One of the encoders as `compute_boxes` wants it."""
        backbone = self.backbone(which)
        return Encoder(
            backbone,
            backbone.layer,
            self.recipe.eval_size or self.recipe.image_size,
            name=backbone.name,
            epoch=self.epoch,
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
