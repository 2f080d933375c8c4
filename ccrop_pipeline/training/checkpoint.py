"""Checkpoints: written whole or not at all, read without running code from the file."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.files import written_aside
from ccrop_pipeline.errors import ModelError
from ccrop_pipeline.localize import Backbone, Encoder, state_sha256, weights_sha256
from ccrop_pipeline.methods import Method
from ccrop_pipeline.models import open_encoder
from ccrop_pipeline.models.checkpoints import Checkpoint as WeightsFound
from ccrop_pipeline.models.fitting import fit, with_positions_for
from ccrop_pipeline.models.own_checkpoints import (
    OWN_KIND,
    Which,
    expect_own,
    own_backbone,
    own_encoder,
    unfitting,
    within,
)
from ccrop_pipeline.models.sealed_files import NEWEST, earlier_checkpoints
from ccrop_pipeline.models.weight_files import save_sealed
from ccrop_pipeline.recipes import Recipe
from ccrop_pipeline.recipes.recipe import is_backbone


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
        """Return the online or the momentum encoder of this state.

        Raises:
            ModelError: If the method has no momentum encoder.
        """
        return own_backbone(self.recipe, self.method, which)

    def encoder(self, device: torch.device | str = "cpu", which: Which = "online") -> Encoder:
        """Return one of the encoders as `compute_boxes` wants it."""
        content = {"epoch": self.epoch, "recipe": self.recipe.to_dict(), "method": self.method}
        return own_encoder(content, device, which)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint aside, sync it and move it to `path`, replacing an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"kind": OWN_KIND, **vars(checkpoint), "recipe": checkpoint.recipe.to_dict()}
    # Into an open file: torch writes the name of a path into it, and tells no cause of a failure.
    with written_aside(path, replace=True) as aside, aside.open("w+b") as file:
        save_sealed(content, file)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or the newest one of a run.

    Args:
        path: A checkpoint file or the folder of a run.

    Raises:
        ModelError: If there is none, or the file is none of ours.
    """
    content = expect_own(path)
    names = ("epoch", "method", "optimizer")
    recipe = Recipe.from_dict(content["recipe"])
    return Checkpoint(recipe=recipe, **{name: content[name] for name in names})


def load_newest(run: Path) -> tuple[Checkpoint, str] | None:
    """Load the newest checkpoint of a run that is there and intact.

    Args:
        run: Folder of the run.

    Returns:
        The checkpoint, and what is wrong with newer ones, "" where there are none; None where the
        run has no checkpoint.

    Raises:
        ModelError: If none is intact.
    """
    newest, earlier, wrong = run / NEWEST, earlier_checkpoints(run), ""
    if not newest.is_file() and not earlier:
        return None
    for file in (newest, *earlier):
        try:
            return load_checkpoint(file), wrong
        except ModelError as error:
            wrong = wrong or str(error)
    raise ModelError(f"{wrong} There is none before it: start afresh with `overwrite`.")


@dataclass(frozen=True)
class StartingWeights:
    """The weights of a checkpoint, to begin another run with; its epochs are not counted.

    Args:
        path: A checkpoint of ours, or the folder of a run.
    """

    path: Path

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint.

        Raises:
            ModelError: If there is none.
        """
        return load_checkpoint(self.path)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of names, types and values of all weights."""
        return state_sha256(self.checkpoint.method)

    def load_into(self, method: nn.Module, name: str, backbone: str) -> str:
        """Load all weights into the same method, or the encoders into another one.

        Args:
            method: Method that takes the weights.
            name: Its name.
            backbone: Name of its backbone.

        Returns:
            What was loaded, in a line for people.

        Raises:
            ModelError: If the backbones differ, or parts of the same method do.
        """
        recipe = self.checkpoint.recipe
        if recipe.backbone != backbone:
            raise ModelError(
                f"the weights in {self.path} are of the backbone {recipe.backbone!r}; this recipe "
                f"has {backbone!r}. Set backbone to {recipe.backbone!r}, or leave out `load`."
            )
        state = self.checkpoint.method
        if recipe.method.name == name:
            self._load_all(method, state)
            return f"all weights of {self.path} (epoch {self.checkpoint.epoch})"
        with within(self.path):
            weights = self.checkpoint.backbone().state_dict()
        encoders = [own for own in ("backbone", "momentum_backbone") if getattr(method, own, None)]
        for own in encoders:
            getattr(method, own).load_state_dict(weights)
        return (
            f"the online encoder of {self.path} ({recipe.method.name}, "
            f"epoch {self.checkpoint.epoch}); what {name} adds to it starts afresh"
        )

    def _load_all(self, method: nn.Module, state: dict[str, Any]) -> None:
        try:
            method.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(
                f"the weights in {self.path} do not fit this recipe: {unfitting(error)}. Give the "
                "method the settings it had there."
            ) from error


@dataclass(frozen=True)
class PretrainedEncoder:
    """The weights of whatever `open_encoder` opens, for the encoder that a run trains.

    Args:
        spec: The model.
        weights: As for `open_encoder`, like the two that follow.
        unsafe: See `weights`.
        partial: See `weights`.
    """

    spec: str | Path
    weights: str | Path | None = None
    unsafe: bool = False
    partial: bool = False

    @cached_property
    def encoder(self) -> Encoder:
        """The model.

        Raises:
            ModelError: If it cannot be opened.
        """
        return open_encoder(
            self.spec, weights=self.weights, unsafe=self.unsafe, partial=self.partial
        )

    @property
    def path(self) -> Path:
        """The file or folder that the weights are in; of a network with its own, its name."""
        return local_path(self.weights or self.spec)

    @property
    def backbone(self) -> str | None:
        """The backbone that trains this network; None where no name of one is known."""
        name = self.encoder.name
        return name if is_backbone(name) else None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of names, types and values of all weights."""
        return weights_sha256(self.encoder.module)

    def load_into(self, method: Method, name: str, backbone: str) -> str:
        """Load the weights into the encoders of a method, position embeddings resampled.

        Args:
            method: Method that takes the weights.
            name: Its name.
            backbone: Name of its backbone.

        Returns:
            What was loaded, in a line for people.

        Raises:
            ModelError: If they are not those of the backbone.
        """
        network = method.backbone.whole
        found = WeightsFound(self.path, self.encoder.module.state_dict())
        found = with_positions_for(network, found)
        own = network.state_dict()
        same_network = own.keys() <= found.state.keys()
        if same_network:
            found = replace(found, state={key: found.state[key] for key in own})
        try:
            fit(network, found, partial=self.partial, say=lambda _line: None)
            if same_network:  # `fit` passes over norms behind the pooling
                network.load_state_dict(found.state)
        except ModelError as error:
            raise ModelError(
                f"{error} This run trains the backbone {backbone!r}: set backbone to the network "
                "that the weights are of."
            ) from error
        if method.momentum_backbone is not None:
            method.momentum_backbone.load_state_dict(method.backbone.state_dict())
        return (
            f"the weights of {self.encoder.name} ({self.path}); what {name} adds to them starts "
            "afresh"
        )
