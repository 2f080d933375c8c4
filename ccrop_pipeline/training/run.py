"""The folder of a run: what it was started with, and what it has measured."""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ccrop_pipeline.base import is_address
from ccrop_pipeline.base.addresses import local_path
from ccrop_pipeline.base.files import hidden_name, remove_leftovers, writing, written_aside
from ccrop_pipeline.base.lock import LOCK
from ccrop_pipeline.base.values import differences
from ccrop_pipeline.boxset import BoxSet, iou
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import FolderSource, ParquetSource, Source, TarSource, TorchvisionSource
from ccrop_pipeline.models.own_checkpoints import NEWEST
from ccrop_pipeline.recipes import Recipe
from ccrop_pipeline.training.inputs import Inputs

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


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

    def start(
        self, identity: Mapping[str, Any], source: str = "", *, overwrite: bool = False
    ) -> None:
        """Make the folder, or check that what is there was started in the same way.

        Args:
            identity: Everything that the result of the run depends on, as JSON values.
            source: What opens the images again.
            overwrite: Whether to delete a run that lies there.

        Raises:
            CcropError: If the folder holds a run of another identity, or something else.
        """
        remove_leftovers(self.folder)
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
        return [entry for entry in self.folder.iterdir() if entry.name not in (_STARTED, LOCK)]

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
        "boxes": BoxSet.open(boxes).manifest.sha256 if boxes else None,
        "missing_boxes": inputs.missing_boxes,
        "weights": inputs.weights.fingerprint if inputs.weights else None,
    }


def expect_outside(folder: Path, inputs: Inputs) -> None:
    """Refuse to delete the folder of a run when it holds what the next run is made from.

    Raises:
        CcropError: If images, boxes or weights lie in it.
    """
    boxes = inputs.boxes
    needed = {
        "the images": _places(inputs.source),
        "the images to probe on": _places(inputs.test_source) if inputs.test_source else (),
        "the boxes (`boxes`)": (local_path(boxes),) if boxes and not is_address(boxes) else (),
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


_METRICS = "metrics.jsonl"


class Metrics:
    """The records of a run, one JSON object a line.

    Every record has an entry `epoch`, the epochs trained so far, and `stage`: "train" for
    an epoch of training, "refresh" for a box set.

    Args:
        folder: Folder of the run.
        tensorboard: Whether numbers also go to `tensorboard/` in it.

    Raises:
        CcropError: If TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self._file = folder / _METRICS
        self._folder = folder / "tensorboard" if tensorboard else None
        self._writer: SummaryWriter | None = None
        if tensorboard:
            _expect_tensorboard()

    def records(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Return all whole records so far, or those of one kind of stage."""
        lines = self._file.read_text().splitlines(keepends=True) if self._file.is_file() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in records if stage in (None, record.get("stage"))]

    def truncate_after(self, epoch: int) -> None:
        """Drop records of epochs after `epoch`, which are about to be trained again."""
        kept = [record for record in self.records() if record["epoch"] <= epoch]
        with written_aside(self._file, replace=True) as aside:
            aside.write_text("".join(json.dumps(record) + "\n" for record in kept), "utf-8")
        if self._folder:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=epoch + 1)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one record; it is on the disk before the checkpoint that it goes with."""
        with writing(self._file), self._file.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._writer:
            for name, value in record.items():
                if isinstance(value, int | float) and name != "epoch":
                    self._writer.add_scalar(f"{record['stage']}/{name}", value, record["epoch"])
            self._writer.flush()


def box_metrics(box_set: BoxSet, previous: BoxSet | None) -> dict[str, float | None]:
    """Return what a run records of a box set.

    Args:
        box_set: The new boxes.
        previous: Those that were used before, of the same source; None: random crops.

    Returns:
        `mean_area` of its boxes; `share_full` and `share_empty`, the shares of images whose box is
        the whole image and of those in which nothing was found; and `iou_with_previous`, the mean
        IoU of the two boxes of an image, None without images in common, or where equal hashes of
        keys keep them from being joined.
    """
    found = box_set.manifest.statistics
    numbers = {
        "mean_area": found.mean_area,
        "share_full": found.share(found.full),
        "share_empty": found.share(found.counts["empty"]),
        "iou_with_previous": None,
    }
    common = None if previous is None else box_set.lookup().common(previous.lookup())
    if common and len(common[0]):
        new, old = common
        numbers["iou_with_previous"] = float(iou(new, old.astype(np.float64)).mean())
    return {name: None if n is None else round(n, 4) for name, n in numbers.items()}


def _expect_tensorboard() -> None:
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise CcropError(
            "`tensorboard` needs the package tensorboard, which is not installed. Install it, or "
            "leave it out: metrics.jsonl has the same numbers."
        ) from error
