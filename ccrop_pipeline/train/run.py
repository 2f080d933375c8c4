"""The folder of a run: what it was started with, and what it has measured."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.train.files import replacing
from ccrop_pipeline.train.recipe import differences

_IDENTITY = "run.json"
_METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Run:
    """A run on disk.

    It holds ``run.json`` (what it was started with), ``metrics.jsonl``, ``checkpoint.pt`` (the
    newest), ``checkpoints/`` (those that boxes were computed from) and ``boxes/``.

    Attributes:
        folder: Where it lies.
    """

    folder: Path

    def start(self, identity: Mapping[str, Any], overwrite: bool = False) -> None:
        """Makes the folder, or checks that what lies there was started in the same way.

        Args:
            identity: Everything that the result of the run depends on, as JSON values.
            overwrite: Whether to delete a run that lies there.

        Raises:
            CcropError: When the folder holds a run of another identity, or something else.
        """
        if overwrite and (self.folder / _IDENTITY).is_file():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / _IDENTITY
        if file.is_file():
            self._check_same(json.loads(file.read_text()), identity)
        elif any(entry for entry in self.folder.iterdir() if not entry.name.startswith(".")):
            raise CcropError(f"{self.folder} is not empty and holds no run; choose another folder")
        else:
            _write_whole(file, json.dumps(identity, indent=1) + "\n")

    def _check_same(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        changed = differences(old, new)
        if changed:
            raise CcropError(
                f"{self.folder} holds a run that was started differently:\n  "
                + "\n  ".join(changed)
                + "\nRepeat its settings to resume it, choose another folder, or start afresh "
                "with --overwrite"
            )

    def keep_metrics_until(self, epoch: int) -> None:
        """Drops records of epochs after `epoch`, which are about to be trained again."""
        kept = [record for record in self.metrics() if record["epoch"] <= epoch]
        lines = "".join(json.dumps(record) + "\n" for record in kept)
        _write_whole(self.folder / _METRICS, lines)

    def add_metrics(self, record: Mapping[str, Any]) -> None:
        """Appends one record, which has an entry ``epoch``: epochs trained so far."""
        with (self.folder / _METRICS).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All whole records so far."""
        file = self.folder / _METRICS
        lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]


def _write_whole(file: Path, text: str) -> None:
    with replacing(file) as out:
        out.write(text.encode())
