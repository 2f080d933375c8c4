"""The folder of a run, and what it was started with."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.train.files import replacing
from ccrop_pipeline.train.inputs import Inputs
from ccrop_pipeline.train.metrics import Metrics
from ccrop_pipeline.train.recipe import Recipe, differences

_STARTED = "run.json"
_PLACES = "places"  # what opens the images: another host may find the same ones elsewhere


@dataclass(frozen=True)
class Run:
    """A run on disk.

    It holds ``run.json`` (what it was started with), ``metrics.jsonl``, ``checkpoint.pt`` (the
    newest), ``checkpoints/`` (those that boxes were computed from) and ``boxes/``.

    Attributes:
        folder: Where it lies.
    """

    folder: Path

    @property
    def exists(self) -> bool:
        """Whether a run has been started here."""
        return (self.folder / _STARTED).is_file()

    def started(self) -> dict[str, Any]:
        """What the run was started with: its identity, and what opens its images."""
        values: dict[str, Any] = json.loads((self.folder / _STARTED).read_text())
        return values

    def source(self) -> str:
        """What opens the images of the run again."""
        return str(self.started()[_PLACES]["source"])

    def start(self, identity: Mapping[str, Any], source: str = "", overwrite: bool = False) -> None:
        """Makes the folder, or checks that what lies there was started in the same way.

        Args:
            identity: Everything that the result of the run depends on, as JSON values.
            source: What opens the images again.
            overwrite: Whether to delete a run that lies there.

        Raises:
            CcropError: When the folder holds a run of another identity, or something else.
        """
        if overwrite and self.exists:
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.exists:
            self._check_same(identity)
        elif any(entry for entry in self.folder.iterdir() if not entry.name.startswith(".")):
            raise CcropError(f"{self.folder} is not empty and holds no run; choose another folder")
        else:
            content = {**identity, _PLACES: {"source": source}}
            with replacing(self.folder / _STARTED) as file:
                file.write((json.dumps(content, indent=1) + "\n").encode())

    def metrics(self) -> list[dict[str, Any]]:
        """Records of all epochs so far."""
        return Metrics(self.folder).records("train")

    def _check_same(self, identity: Mapping[str, Any]) -> None:
        old = {name: value for name, value in self.started().items() if name != _PLACES}
        changed = differences(old, identity)
        if changed:
            raise CcropError(
                f"{self.folder} holds a run that was started differently:\n  "
                + "\n  ".join(changed)
                + "\nRepeat its settings to resume it, choose another folder, or start afresh "
                "with --overwrite"
            )


def identity_of(inputs: Inputs, recipe: Recipe) -> dict[str, Any]:
    """Everything that the result of a run depends on."""
    source, boxes = inputs.source, inputs.boxes
    return {
        "recipe": recipe.to_dict(),
        "source": {"kind": source.kind, "fingerprint": source.fingerprint()},
        "boxes": BoxSet.open(boxes).manifest.provenance.fingerprint if boxes else None,
        "missing_boxes": inputs.missing_boxes,
        "weights": inputs.weights.fingerprint if inputs.weights else None,
    }
