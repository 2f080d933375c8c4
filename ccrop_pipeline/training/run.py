"""The folder of a run: what is in it, what it was started with, and whose it is."""

import json
import re
import secrets
import shlex
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccrop_pipeline.base import is_address
from ccrop_pipeline.base.addresses import is_pipe, local_path
from ccrop_pipeline.base.files import (
    expect_free,
    hidden_name,
    is_hidden_name,
    remove_leftovers,
    written_aside,
)
from ccrop_pipeline.base.values import differences, parse_json
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.boxset.writing import strangers
from ccrop_pipeline.errors import CcropError, SettingError, SourceError, few, printable, reading
from ccrop_pipeline.images import FolderSource, ParquetSource, Source, TarSource, TorchvisionSource
from ccrop_pipeline.models.sealed_files import NEWEST, earlier_checkpoints
from ccrop_pipeline.recipes import Recipe
from ccrop_pipeline.recipes.plan import checkpoint_file
from ccrop_pipeline.recipes.recipe_files import overrides_to
from ccrop_pipeline.training.metrics import METRICS, Metrics

if TYPE_CHECKING:
    from ccrop_pipeline.training.inputs import Inputs

_STARTED = "run.json"
UNREADABLE = "unreadable.txt"
_PLACES = "places"  # what opens the images: another host may find the same ones elsewhere
_ID = "id"  # differs between runs that are in one folder one after the other
_CHECKPOINTS = "checkpoints"
_PARTS = (_CHECKPOINTS, "boxes", "tensorboard")
_OWN = re.compile(
    rf"run\.json|metrics\.jsonl|unreadable\.txt|checkpoint\.pt|{'|'.join(_PARTS)}|checkpoints/epoch-\d+\.pt"
    r"|boxes/(epoch-\d+|centre|full)|tensorboard/events\.out\.tfevents\..+"
)
_ELSEWHERE = "Move it away if it is of another program, or choose another folder for the run."


@dataclass(frozen=True)
class Run:
    """A run on disk.

    It holds `run.json` (what it was started with), `metrics.jsonl`, `checkpoint.pt` (the
    newest), `checkpoints/` (those that boxes were computed from), `boxes/`, and `unreadable.txt`
    where images cannot be decoded.

    Attributes:
        folder: Where it lies.
    """

    folder: Path

    @property
    def exists(self) -> bool:
        """Whether a run has been started here."""
        return (self.folder / _STARTED).is_file()

    @property
    def trained(self) -> bool:
        """Whether it has a checkpoint, and with it something that took time."""
        own = self.folder / checkpoint_file(0)  # before the first epoch
        return (self.folder / NEWEST).is_file() or any(
            file != own for file in earlier_checkpoints(self.folder)
        )

    @property
    def id(self) -> str | None:
        """What tells the run from any other that has lain here; None where there is none."""
        try:
            found: str | None = self.started().get(_ID)
        except FileNotFoundError:
            return None
        return found

    def started(self) -> dict[str, Any]:
        """Return what the run was started with: its identity, and what opens its images.

        Raises:
            CcropError: If the file is damaged, or none that a run has written.
        """
        file = self.folder / _STARTED
        content = file.read_bytes()
        with reading(file, "does not say what a run was started with", _ELSEWHERE):
            values: dict[str, Any] = parse_json(content.decode())
            texts = values[_PLACES]["source"], values.get(_ID, "")
            if not all(isinstance(text, str) for text in texts):
                raise ValueError(f"{_PLACES} or {_ID} is not of the kind it should be")
        return values

    def recipe(self) -> Recipe:
        """Return the recipe that the run was started with.

        Raises:
            CcropError: If it cannot be read.
        """
        with reading(self.folder / _STARTED, "has no recipe that can be read", _ELSEWHERE):
            try:
                return Recipe.from_dict(self.started()["recipe"])
            except SettingError as error:
                raise ValueError(error) from error

    def source_fingerprint(self) -> str:
        """Return the fingerprint of its images.

        Raises:
            CcropError: If it cannot be read.
        """
        with reading(self.folder / _STARTED, "tells no fingerprint of its images", _ELSEWHERE):
            return str(self.started()["source"]["fingerprint"])

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
            overwrite: Whether to delete a run that is there.

        Raises:
            CcropError: If the folder holds a trained run of another identity, or something else.
        """
        remove_leftovers(self.folder)
        if self.exists and not overwrite:
            before = self._identity()
            if not differences(before, identity):
                return
            if self.trained:
                raise self._started_differently(before, identity)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._expect_own()
        old = self._set_aside() if self.exists else None
        content = {**identity, _PLACES: {"source": source}, _ID: secrets.token_hex(8)}
        with written_aside(self.folder / _STARTED, replace=True) as aside:
            aside.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        if old:
            # What another process holds open may stay, hidden: it is in nobody's way.
            shutil.rmtree(old, ignore_errors=True)

    def _expect_own(self) -> None:
        """Refuse to start beside, or to delete, what no run has written."""
        if self.exists:
            self.started()  # or it is another program's
            if foreign := self._foreign():
                raise CcropError(
                    f"{self.folder} holds files that no run has written: {few(foreign, 10)}. "
                    "Move them elsewhere, or choose another folder for the run."
                )
        else:
            expect_free(self.folder, "run")

    def _foreign(self) -> list[str]:
        # Hidden files of others beside run.json stay where they are.
        found = [name for name in self._names(".") if not name.startswith(".")]
        found += [name for part in _PARTS for name in self._names(part)]
        foreign = [name for name in found if not _OWN.fullmatch(name)]
        for box_set in (self.folder / name for name in found if name.startswith("boxes/")):
            if box_set.is_dir() and not box_set.is_symlink():
                foreign += [f"boxes/{box_set.name}/{name}" for name in strangers(box_set)]
        return sorted({*foreign})

    def _names(self, part: str) -> list[str]:
        folder = self.folder / part
        inside = folder.is_dir() and not folder.is_symlink()
        entries = (
            [entry for entry in folder.iterdir() if not is_hidden_name(entry.name)]
            if inside
            else []
        )
        return [entry.relative_to(self.folder).as_posix() for entry in entries]

    def _set_aside(self) -> Path:
        # Earlier checkpoints first, then the newest, and run.json never: whenever this ends early,
        # there is a run, the old one or one that begins anew, and none that goes on from an earlier
        # checkpoint. Renamed, so that a follower cannot write into what is deleted.
        aside = self.folder / hidden_name("old")
        names = [_CHECKPOINTS, NEWEST, METRICS, UNREADABLE, *_PARTS]
        aside.mkdir()
        for entry in (self.folder / name for name in names):
            if entry.exists() or entry.is_symlink():
                entry.rename(aside / entry.name)
        return aside

    def list_unreadable(self, problems: Iterable[str]) -> list[str]:
        """Add images to `unreadable.txt`, each once in the life of a run.

        Args:
            problems: Key and reason of each.

        Returns:
            Those that are new, as they are listed: a line each.
        """
        file = self.folder / UNREADABLE
        known = file.read_text("utf-8", "replace").splitlines() if file.is_file() else []
        new = sorted({*map(printable, problems)} - {*known})
        if new:
            with written_aside(file, replace=True) as aside:
                aside.write_text("".join(f"{line}\n" for line in [*known, *new]), "utf-8")
        return new

    def metrics(self) -> list[dict[str, Any]]:
        """Return the records of all epochs so far."""
        return Metrics(self.folder).records("train")

    def last_record(self, *needed: str) -> dict[str, Any]:
        """Return the record of the last epoch.

        Args:
            needed: Numbers that it must have.

        Raises:
            CcropError: If it is lost, or lacks one of them.
        """
        record = next(iter(self.metrics()[-1:]), {})
        missing = [name for name in needed if type(record.get(name)) not in (int, float)]
        if missing or not record:
            what = f"no {missing[0]}" if missing else "no record"
            raise CcropError(
                f"{self.folder / METRICS} has {what} of the last epoch: it was changed since. The "
                "weights of the run are not concerned."
            )
        return record

    def _identity(self) -> dict[str, Any]:
        started = self.started().items()
        old = {name: value for name, value in started if name not in (_PLACES, _ID)}
        with suppress(CcropError):  # settings that are younger than the run have their defaults
            old["recipe"] = self.recipe().to_dict()
        return old

    def _started_differently(
        self, old: Mapping[str, Any], identity: Mapping[str, Any]
    ) -> CcropError:
        settings = overrides_to(identity["recipe"], old["recipe"])
        typed = " ".join(f"`set` {shlex.quote(setting)}" for setting in settings)
        return CcropError(
            f"{self.folder} holds a run that was started differently:\n  "
            + "\n  ".join(differences(old, identity))
            + f"\nRepeat its settings to resume it{typed and f' (add {typed})'}, choose another "
            "folder, or start afresh "
            "with `overwrite`. To begin another run with its weights, choose another folder and "
            f"set `load` to {self.folder}."
        )


def identity_of(inputs: "Inputs", recipe: Recipe) -> dict[str, Any]:
    """Collect everything that the result of a run depends on."""
    source, boxes = inputs.source, inputs.boxes
    return {
        "recipe": recipe.to_dict(),
        "source": {"kind": source.kind, "fingerprint": source.fingerprint()},
        "boxes": BoxSet.open(boxes).manifest.sha256 if boxes else None,
        "missing_boxes": inputs.missing_boxes,
        "weights": inputs.weights.fingerprint if inputs.weights else None,
    }


def expect_no_command(folder: Path, spec: str) -> str:
    """Return what opens the images of a run: no command, since whoever made the run wrote it.

    Raises:
        SourceError: If it is one.
    """
    if is_pipe(spec):
        raise SourceError(
            f"{folder} reads its images from the command {spec!r}, which could be anything. If you "
            "trust it, give it as `source`."
        )
    return spec


def expect_outside(folder: Path, inputs: "Inputs") -> None:
    """Refuse to delete the folder of a run when it holds what the next run is made from.

    Raises:
        CcropError: If images, boxes or weights are in it.
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
                f"{what} are in the folder of the run, which would be deleted ({inside[0]} in "
                f"{folder}): choose another folder for the run, or copy them elsewhere first."
            )


def _places(source: Source) -> tuple[Path, ...]:
    if isinstance(source, TarSource | ParquetSource):
        return source.paths
    return (source.root,) if isinstance(source, FolderSource | TorchvisionSource) else ()
