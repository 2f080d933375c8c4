"""Weights of an earlier run as the start of another one."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import state_sha256
from ccrop_pipeline.train.checkpoint import Checkpoint, load_checkpoint


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
            CcropError: When there is none.
        """
        return load_checkpoint(self.path)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of names, types and values of all weights."""
        return state_sha256(self.checkpoint.method)

    def give_to(self, method: nn.Module, name: str, backbone: str) -> str:
        """Loads all weights into the same method, or the encoders into another one.

        Args:
            method: Method that takes the weights.
            name: Its name.
            backbone: Name of its backbone.

        Returns:
            What was loaded, in a line for people.

        Raises:
            CcropError: When the backbones differ, or parts of the same method do.
        """
        recipe = self.checkpoint.recipe
        if recipe.backbone != backbone:
            raise CcropError(
                f"the weights in {self.path} are of the backbone {recipe.backbone!r}; this recipe "
                f"has {backbone!r}. Set backbone to {recipe.backbone!r}, or leave out --load"
            )
        state = self.checkpoint.method
        if recipe.method.name == name:
            self._load_all(method, state)
            return f"all weights of {self.path} (epoch {self.checkpoint.epoch})"
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
            reason = str(error).splitlines()[-1].strip()
            raise CcropError(
                f"the weights in {self.path} do not fit this recipe: {reason}. Give the method "
                "the settings it had there"
            ) from error
