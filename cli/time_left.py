"""How long a run still takes, by what its epochs and refreshes have taken so far."""

import time
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from ccrop_pipeline.errors import duration

if TYPE_CHECKING:
    from ccrop_pipeline.recipes import Stage

# What is shorter is not worth a line; what a rate is measured on.
LONG_SECONDS, _MEASURED_SECONDS = 120.0, 10.0
# Until one is measured: a refresh sees an image once and only forward, where a step sees two views
# and goes back through the network as well, which takes about two forward passes more.
_REFRESH_EPOCHS = 1 / 6


class Estimate(NamedTuple):
    """Where a run is: seconds that it still takes, and the share of its work that is done."""

    seconds: float
    share: float


class TimeLeft:
    """Estimates for a whole run: all its epochs, and the refreshes that it computes itself.

    Args:
        plan: Stages of the run.
        clock: Seconds of a clock that only goes forward.
    """

    def __init__(self, plan: "Sequence[Stage]", clock: Callable[[], float] = time.perf_counter):
        from ccrop_pipeline.recipes import RefreshStage, TrainStage

        self.epochs = max(stage.stop for stage in plan if isinstance(stage, TrainStage))
        refreshes = [stage for stage in plan if isinstance(stage, RefreshStage)]
        self._refreshes = [stage.epoch for stage in refreshes if not stage.overlapped]
        self._clock = clock
        self._epoch_seconds: list[float] = []
        self._refresh_seconds: list[float] = []
        self._begun = self._first_step = 0.0

    def begin(self) -> None:
        """Start the clock of an epoch; what goes with it, such as its probe, is counted to it."""
        self._begun = self._clock()

    def epoch_done(self) -> None:
        """Keep what the epoch took, and start the clock of the next one."""
        self._epoch_seconds.append(self._clock() - self._begun)
        self.begin()

    def refreshed(self, seconds: float) -> None:
        """Keep what a refresh took."""
        self._refresh_seconds.append(seconds)

    def in_epoch(self, epoch: int, step: int, steps: int) -> Estimate | None:
        """Estimate after a step of an epoch, which is counted from 0; None after the very first.

        That one waits for workers to start, and for compilers.
        """
        if step == 1:
            self._first_step = self._clock()
        if not self._epoch_seconds and step == 1:
            return None
        seconds = (self._clock() - self._first_step) / max(1, step - 1) * steps
        done = sum(after <= epoch for after in self._refreshes)
        return self._estimate(seconds, epoch + step / steps, done)

    def in_refresh(self, epoch: int, share: float) -> Estimate | None:
        """Estimate when a share of the refresh after so many epochs is done."""
        if not self._epoch_seconds:
            return None
        return self._estimate(0, epoch, sum(after < epoch for after in self._refreshes) + share)

    def after_epoch(self, epoch: int) -> Estimate:
        """Estimate after so many epochs, the last of which is measured."""
        return self._estimate(0, epoch, sum(after < epoch for after in self._refreshes))

    def refreshes_after(self, epoch: int) -> int:
        """Return how many refreshes are to come after so many epochs."""
        return sum(after > epoch for after in self._refreshes)

    def _estimate(self, seconds: float, epochs: float, refreshes: float) -> Estimate:
        an_epoch = fmean(self._epoch_seconds) if self._epoch_seconds else seconds
        a_refresh = _REFRESH_EPOCHS * an_epoch
        if self._refresh_seconds:
            a_refresh = fmean(self._refresh_seconds)
        whole = self.epochs * an_epoch + len(self._refreshes) * a_refresh
        done = epochs * an_epoch + refreshes * a_refresh
        return Estimate(whole - done, done / whole if whole else 1.0)


class Outlook:
    """Says once, of many images, how long the rest of them takes.

    Args:
        clock: Seconds of a clock that only goes forward.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._begun, self._before, self._said = clock, 0.0, -1, False

    def after(self, done: int, total: float | None) -> str | None:
        """Return a line for people; None: too little is measured, little is left, or it was said.

        Args:
            done: Images so far; measuring begins with the first call.
            total: All images, where it is known.
        """
        now = self._clock()
        if self._before < 0:
            self._begun, self._before = now, done
        elif total and not self._said and now - self._begun >= _MEASURED_SECONDS:
            left = (total - done) * (now - self._begun) / max(1, done - self._before)
            self._said = left >= LONG_SECONDS
            if self._said:
                return f"about {duration(left)} left for the rest of {_many(total)} images"
        return None


def _many(number: float) -> str:
    return f"{number / 1e6:.1f} million" if number >= 999_950 else f"{number:,.0f}"
