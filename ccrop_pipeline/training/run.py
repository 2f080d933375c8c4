"""The folder of a run, and what it was started with."""

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccrop_pipeline.base.files import hidden_name, written_aside
from ccrop_pipeline.base.values import differences
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import FolderSource, ParquetSource, Source, TarSource, TorchvisionSource
from ccrop_pipeline.models.own_checkpoints import NEWEST
from ccrop_pipeline.recipes import Recipe
from ccrop_pipeline.training.inputs import Inputs
from ccrop_pipeline.training.metrics import Metrics

_STARTED = "run.json"
_PLACES = "places"  # what opens the images: another host may find the same ones elsewhere
_ID = "id"  # differs between runs that lie in one folder one after the other


@dataclass(frozen=True)
class Run:
    """A run on disk.

    It holds `run.json` (what it was started with), `metrics.jsonl`, `checkpoint.pt` (the
    newest), `checkpoints/` (those that boxes were computed from) and `boxes/`.

    Attributes:
        folder: Where it lies.
    """

    folder: Path

    @property
    def exists(self) -> bool:
        """Whether a run has been started here."""
        return (self.folder / _STARTED).is_file()

    @property
    def id(self) -> str | None:
        """What tells the run from any other that has lain here; None where there is none."""
        try:
            found: str | None = self.started().get(_ID)
        except FileNotFoundError:
            return None
        return found

    def started(self) -> dict[str, Any]:
        """Return what the run was started with: its identity, and what opens its images."""
        values: dict[str, Any] = json.loads((self.folder / _STARTED).read_text())
        return values

    def source(self) -> str:
        """Return what opens the images of the run again."""
        return str(self.started()[_PLACES]["source"])

    def start(self, identity: Mapping[str, Any], source: str = "", overwrite: bool = False) -> None:
        """Make the folder, or check that what is there was started in the same way.

        Args:
            identity: Everything that the result of the run depends on, as JSON values.
            source: What opens the images again.
            overwrite: Whether to delete a run that lies there.

        Raises:
            CcropError: If the folder holds a run of another identity, or something else.
        """
        if self.exists and not overwrite:
            self._check_same(identity)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        old = self._set_aside() if self.exists else None
        if not old and any(not entry.name.startswith(".") for entry in self._others()):
            raise CcropError(f"{self.folder} is not empty and holds no run; choose another folder.")
        content = {**identity, _PLACES: {"source": source}, _ID: secrets.token_hex(8)}
        with written_aside(self.folder / _STARTED, replace=True) as aside:
            aside.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        if old:
            # What another process holds open may stay, hidden: it is in nobody's way.
            shutil.rmtree(old, ignore_errors=True)

    def _others(self) -> list[Path]:
        return [entry for entry in self.folder.iterdir() if entry.name != _STARTED]

    def _set_aside(self) -> Path:
        # The newest checkpoint first and run.json never: whenever this ends early, there is a run,
        # and it begins anew. Renamed, so that a follower cannot write into what is deleted.
        aside = self.folder / hidden_name("old")
        entries = sorted(self._others(), key=lambda entry: entry.name != NEWEST)
        aside.mkdir()
        for entry in entries:
            entry.rename(aside / entry.name)
        return aside

    def metrics(self) -> list[dict[str, Any]]:
        """Return the records of all epochs so far."""
        return Metrics(self.folder).records("train")

    def _check_same(self, identity: Mapping[str, Any]) -> None:
        started = self.started().items()
        old = {name: value for name, value in started if name not in (_PLACES, _ID)}
        changed = differences(old, identity)
        if changed:
            raise CcropError(
                f"{self.folder} holds a run that was started differently:\n  "
                + "\n  ".join(changed)
                + "\nRepeat its settings to resume it, choose another folder, or start afresh "
                "with `overwrite`."
            )


def identity_of(inputs: Inputs, recipe: Recipe) -> dict[str, Any]:
    """Collect everything that the result of a run depends on."""
    source, boxes = inputs.source, inputs.boxes
    return {
        "recipe": recipe.to_dict(),
        "source": {"kind": source.kind, "fingerprint": source.fingerprint()},
        "boxes": BoxSet.open(boxes).manifest.provenance.fingerprint if boxes else None,
        "missing_boxes": inputs.missing_boxes,
        "weights": inputs.weights.fingerprint if inputs.weights else None,
    }


def expect_outside(folder: Path, inputs: Inputs) -> None:
    """Refuse to delete the folder of a run when it holds what the next run is made from.

    Raises:
        CcropError: If images, boxes or weights lie in it.
    """
    needed = {
        "the images": _places(inputs.source),
        "the images to probe on": _places(inputs.test_source) if inputs.test_source else (),
        "the boxes (`boxes`)": (inputs.boxes,) if inputs.boxes else (),
        "the weights (`load`)": (inputs.weights.path,) if inputs.weights else (),
    }
    whole = folder.resolve()
    for what, places in needed.items():
        inside = [place for place in places if place.resolve().is_relative_to(whole)]
        if inside:
            raise CcropError(
                f"{what} lie in the folder that `overwrite` would delete ({inside[0]} in "
                f"{folder}): choose another folder for the run, or copy them elsewhere first."
            )


def _places(source: Source) -> tuple[Path, ...]:
    if isinstance(source, TarSource | ParquetSource):
        return source.paths
    return (source.root,) if isinstance(source, FolderSource | TorchvisionSource) else ()
