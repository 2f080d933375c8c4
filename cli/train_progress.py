"""What a person sees of a run: a line for each stage and epoch, a live bar within an epoch."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.progress import TaskID

from ccrop_pipeline.base import Observer, StageSeconds, StepReport
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import counted, duration

from .boxes_audit import warn_if_useless
from .boxes_info import box_rule
from .progress import Display, console, say
from .sources import remember
from .time_left import LONG_SECONDS, Estimate, TimeLeft

if TYPE_CHECKING:
    from ccrop_pipeline.recipes import Stage

# Steps or seconds that are measured before the time of a whole run is said, if it is long.
_MEASURED_STEPS, _MEASURED_SECONDS = 20, 60.0
_QUIET_SECONDS = 300.0  # between two lines within an epoch where there is no terminal


class TrainProgress(Display, Observer):
    """Shows a run on stderr.

    Args:
        plan: Stages of the run.
        prefix: Put before each line, to tell runs apart.
        machine: What it trains on, for people.
        advice: What to think of with so many images, for people, if anything.
        clock: Seconds of a clock that only goes forward.

    Attributes:
        trained: Whether there was anything left to train.
    """

    def __init__(
        self,
        plan: "Sequence[Stage]",
        prefix: str = "",
        *,
        machine: str = "this machine",
        advice: Callable[[int], str | None] = lambda _images: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__()
        self._time, self._prefix, self._machine, self._clock = (
            TimeLeft(plan, clock),
            prefix,
            machine,
            clock,
        )
        self._epochs = self._time.epochs
        self._images: int | None = None
        self._advice = advice
        self._task: TaskID | None = None
        self._started = self._said = 0.0
        self._located = self._refresh = 0
        self._promised = self.trained = self._waits = False

    def opened(self, source: Any) -> None:
        """Remember the source, of which is said at the end what was read."""
        remember(source)

    def loading(self, images: int | None, note: str) -> None:
        """Say how images are loaded."""
        self._images = images or 0
        say(f"{self._prefix}{note}")
        if images and (advice := self._advice(images)):
            self.warning(re.sub(r"`(\w+)`", r"--\1", advice))

    def loaded(self, note: str) -> None:
        """Say what the weights start from."""
        say(f"{self._prefix}begins with {note}")

    def stage(self, stage: Mapping[str, Any]) -> None:
        """Name the stage."""
        self._drop_task()
        say(f"{self._prefix}{stage['text']}", style="bold")
        self._time.begin()
        if stage["stage"] == "train":  # its first step may take minutes, and nothing is known yet
            self._begin("training", None, "waiting for the first step")
        if stage["stage"] == "refresh" and not stage["overlapped"]:
            self._refresh = stage["epoch"]
            self._begin(f"boxes after epoch {self._refresh}/{self._epochs}", self._images)
            self._started, self._located = self._clock(), 0

    def step(self, report: StepReport) -> None:
        """Move the bar of the epoch."""
        if not self.trained and report.epoch:
            say(f"{self._prefix}goes on after epoch {report.epoch} of {self._epochs}")
        self.trained = True
        name = f"epoch {report.epoch + 1}/{self._epochs}"
        if self._task is None or self._waits:
            self._drop_task()
            self._begin(name, report.steps)
            self._said = self._clock()
        left = self._time.in_epoch(report.epoch, report.step, report.steps)
        rate, waited = report.images / report.seconds, report.waited / report.seconds
        note = f"step {report.step}/{report.steps}, {rate:,.0f} images/s, data wait {waited:.0%}"
        self._move(1, note, left)
        if left and (report.step > _MEASURED_STEPS or report.seconds > _MEASURED_SECONDS):
            self._promise(report.epoch, left)
        if not console.is_terminal and self._clock() - self._said >= _QUIET_SECONDS:
            self._said = self._clock()
            say(f"{self._prefix}{name}  {note}{_left(left)}")

    def epoch_done(self, record: Mapping[str, Any]) -> None:
        """Print the record of the epoch."""
        self._drop_task()
        self._time.epoch_done()
        left = self._time.after_epoch(record["epoch"])
        knn = f"  {knn_of(record)}" if "knn" in record else ""
        grey = f"  {record['unreadable']} unreadable" if record["unreadable"] else ""
        say(
            f"{self._prefix}epoch {record['epoch']}/{self._epochs}  loss {record['loss']:.4f}  "
            f"lr {record['lr']:.4f}  {record['images_per_s']:,.0f} images/s  "
            f"data wait {record['data_wait']:.0%}{grey}{knn}{_left(left)}"
        )
        verdict = f"{record['verdict']}: {record['why']}"
        if record["verdict"] in ("collapsing", "not learning"):
            self.warning(verdict)
        else:
            say(f"{self._prefix}  {verdict}")
        self._promise(record["epoch"], left)

    def images_done(
        self, images: int, shard: str = "", _stages: StageSeconds | None = None
    ) -> None:
        """Move the bar of the refresh."""
        self._located += images
        rate = self._located / max(self._clock() - self._started, 1e-9)
        share = min(1.0, self._located / self._images) if self._images else 0.0
        left = self._time.in_refresh(self._refresh, share)
        self._move(images, f"{shard}, {rate:,.0f} images/s", left)

    def refreshed(self, boxes: str, seconds: float | None) -> None:
        """Say how long the refresh took, and warn when its boxes are of no use."""
        self._drop_task()
        if seconds is not None:
            self._time.refreshed(seconds)
        box_set = BoxSet.open(boxes)
        area = box_set.manifest.statistics.mean_area
        what = "new boxes are there" if seconds is None else f"boxes after {seconds:.1f} s"
        say(f"{self._prefix}{what}, mean area {area:.0%}, {box_rule(box_set)}")
        warn_if_useless(box_set)

    def _begin(self, description: str, total: int | None, waits_for: str = "") -> None:
        self._task = self._add(self._prefix + description, total, far=waits_for)
        self._waits = bool(waits_for)

    def _move(self, steps: int, note: str, left: Estimate | None) -> None:
        assert self._task is not None
        if left is None:
            self._advance(self._task, steps, note)
        else:
            far = f"{left.share:.0%}  {duration(left.seconds)} left"
            self._place(self._task, left.share, far, note)

    def _promise(self, epoch: int, left: Estimate) -> None:
        """Say once, when enough is measured, how long a long run takes."""
        if self._promised or left.seconds < LONG_SECONDS:
            return
        self._promised = True
        to_go = counted(self._epochs - epoch, "epoch")
        if refreshes := self._time.refreshes_after(epoch):
            to_go += f" and {counted(refreshes, 'refresh')}"
        say(f"{self._prefix}{to_go}, about {duration(left.seconds)} on {self._machine}")

    def _drop_task(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def _left(estimate: Estimate | None) -> str:
    return f"  {duration(estimate.seconds)} left" if estimate and estimate.seconds > 0 else ""


def knn_of(record: Mapping[str, Any]) -> str:
    """Return the kNN accuracy of a record, with the settings that make it comparable."""
    images = f" of {counted(record['knn_queries'], 'image')}" if "knn_queries" in record else ""
    parts = [f"{record['knn_start']:.1%} before training"] if "knn_start" in record else []
    if "knn_chance" in record:
        parts.append(f"chance {record['knn_chance']:.1%}")
    if "knn_input_size" in record:
        parts.append(f"{record['knn_input_size']} px")
    parts += [f"k={record['knn_k']}", f"temperature={record['knn_temperature']:g}"]
    return f"kNN {record['knn']:.1%}{images} ({', '.join(parts)})"


class StageClock(TrainProgress):
    """A progress display that also adds up the seconds of each kind of stage.

    Args:
        plan: Stages of the run.
        name: Name of the run; put before each line and each kind of stage.
        seconds: Where the sums go, by name of run and kind of stage.
    """

    def __init__(self, plan: "Sequence[Stage]", name: str, seconds: dict[str, float]) -> None:
        super().__init__(plan, f"{name}: ")
        self._seconds = seconds
        self._kind = ""
        self._since = 0.0

    def stage(self, stage: Mapping[str, Any]) -> None:
        """Start the clock of the stage."""
        self._stop()
        if stage["stage"] != "train":
            self._kind = "compute boxes"
        else:
            self._kind = "train from boxes" if stage["boxes"] else "train with random crops"
        self._since = time.perf_counter()
        super().stage(stage)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
        super().__exit__(kind, error, traceback)

    def _stop(self) -> None:
        if self._kind:
            name = self._prefix + self._kind
            taken = time.perf_counter() - self._since
            self._seconds[name] = self._seconds.get(name, 0.0) + taken
