"""What long work tells the one who watches it: one observer for all of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class StageSeconds:
    """Seconds that each stage of computing boxes has been at work so far, several at a time.

    Attributes:
        read: Reading encoded images from the source.
        decode: Decoding and resizing, the mean over all that decode at a time.
        forward: Forward passes, heatmaps and boxes, waiting for the device included.
        write: Writing shards.
    """

    read: float = 0.0
    decode: float = 0.0
    forward: float = 0.0
    write: float = 0.0


@dataclass(frozen=True)
class StepReport:
    """How far an epoch of training is after one of its steps.

    Attributes:
        epoch: Epoch, counted from 0.
        step: Steps done in this epoch.
        steps: Steps an epoch.
        images: Images trained on in this epoch.
        seconds: Seconds since the epoch began.
        waited: Seconds of these that training waited for its data.
    """

    epoch: int
    step: int
    steps: int
    images: int
    seconds: float
    waited: float


class Observer:
    """Hears of everything and says nothing; a display overrides what it shows.

    Each kind of work calls the methods that concern it: packing and whatever makes box sets the
    first group, training all of them.
    """

    def choosing(self) -> None:
        """Hear that a box rule sets itself, before any box is computed."""

    def begun(self, shards: int, kept: int) -> None:
        """Hear that so many shards are to be made; others of the portion were complete."""

    def images_done(self, images: int, shard: str = "", stages: StageSeconds | None = None) -> None:
        """Hear that so many more images are done, of a shard where work goes shard by shard."""

    def shard_written(self, shard: str, images: int, unreadable: int = 0) -> None:
        """Hear that a shard is on disk, with so many images."""

    def batch_halved(self, batch_size: int) -> None:
        """Hear that a batch did not fit into GPU memory; from now on this many go at a time."""

    def warning(self, note: str) -> None:
        """Hear that the work goes on, but not as it should; `note` says why and what to do."""

    def opened(self, source: Any) -> None:
        """Hear that a source of images was opened from what names it."""

    def loading(self, images: int | None, note: str) -> None:
        """Hear how many images there are to train on, if known; `note` says how they load."""

    def loaded(self, note: str) -> None:
        """Hear that the run begins with the weights of another; `note` says which."""

    def stage(self, stage: Mapping[str, Any]) -> None:
        """Hear that a stage of a run begins, or is resumed; see `recipes.plan.as_record`."""

    def step(self, report: StepReport) -> None:
        """Hear that a training step is done."""

    def epoch_done(self, record: Mapping[str, Any]) -> None:
        """Hear that an epoch is trained and saved; `record` is what was written to the metrics."""

    def refreshed(self, boxes: str, seconds: float | None) -> None:
        """Hear that the box set at a path is complete; None: another process computed it."""

    def waiting(self, what: str) -> None:
        """Hear that a process that follows a run waits for something; told once for each time."""

    def refreshing(self, epoch: int) -> None:
        """Hear that boxes are about to be computed from the checkpoint after so many epochs."""


SILENT = Observer()
