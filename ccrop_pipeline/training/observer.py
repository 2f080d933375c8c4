"""What a run tells whoever watches it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ccrop_pipeline.base import ComputeObserver
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.recipes import Stage


@dataclass(frozen=True)
class StepReport:
    """How far an epoch is after one of its steps.

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


class Observer(ComputeObserver):
    """Hears of everything and says nothing; a progress display overrides what it shows.

    During a refresh it hears of the computation of boxes as well.
    """

    def loading(self, images: int | None, note: str) -> None:
        """So many images were found; `note` says how they are loaded."""

    def warning(self, note: str) -> None:
        """The run goes on, but not as it should; `note` says why and what to do."""

    def loaded(self, note: str) -> None:
        """The run begins with the weights of another; `note` says which."""

    def stage(self, stage: Stage) -> None:
        """A stage begins, or is taken up again."""

    def step(self, report: StepReport) -> None:
        """A training step is done."""

    def epoch_done(self, record: Mapping[str, Any]) -> None:
        """An epoch is trained and saved; `record` is what was written to the metrics."""

    def refreshed(self, box_set: BoxSet, seconds: float | None) -> None:
        """A box set is complete, after so many seconds; None: another process computed it."""
