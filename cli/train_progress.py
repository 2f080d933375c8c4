"""What a person sees of a run: a line for each stage and epoch, a live bar within an epoch."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.progress import TaskID

from ccrop_pipeline.base import Observer, StageSeconds, StepReport
from ccrop_pipeline.boxset import BoxSet

from .boxes_audit import warn_if_useless
from .progress import Display, say
from .sources import remember

_COLLAPSED = 0.05  # of 1, when embeddings spread evenly over the sphere


class TrainProgress(Display, Observer):
    """Shows a run on stderr.

    Args:
        epochs: Epochs of the run.
        prefix: Put before each line, to tell runs apart.
    """

    def __init__(self, epochs: int, prefix: str = "") -> None:
        super().__init__()
        self._epochs, self._prefix = epochs, prefix
        self._images: int | None = None
        self._task: TaskID | None = None
        self._started = 0.0
        self._located = 0

    def opened(self, source: Any) -> None:
        """Remember the source, of which is said at the end what was read."""
        remember(source)

    def loading(self, images: int | None, note: str) -> None:
        """Say how images are loaded."""
        self._images = images or 0
        say(f"{self._prefix}{note}")

    def loaded(self, note: str) -> None:
        """Say what the weights start from."""
        say(f"{self._prefix}begins with {note}")

    def stage(self, stage: Mapping[str, Any]) -> None:
        """Name the stage."""
        self._drop_task()
        say(f"{self._prefix}{stage['text']}", style="bold")
        if stage["stage"] == "refresh" and not stage["overlapped"]:
            self._begin("boxes", self._images)
            self._started, self._located = time.perf_counter(), 0

    def step(self, report: StepReport) -> None:
        """Move the bar of the epoch."""
        if self._task is None:
            self._begin(f"epoch {report.epoch + 1}/{self._epochs}", report.steps)
        rate, waited = report.images / report.seconds, report.waited / report.seconds
        self._move(1, f"{rate:,.0f} images/s, data wait {waited:.0%}")

    def epoch_done(self, record: Mapping[str, Any]) -> None:
        """Print the record of the epoch."""
        self._drop_task()
        knn = f"  {knn_of(record)}" if "knn" in record else ""
        grey = f"  {record['unreadable']} unreadable" if record["unreadable"] else ""
        say(
            f"{self._prefix}epoch {record['epoch']}/{self._epochs}  loss {record['loss']:.4f}  "
            f"lr {record['lr']:.4f}  {record['images_per_s']:,.0f} images/s  "
            f"data wait {record['data_wait']:.0%}{grey}{knn}"
        )
        if record["embedding_std"] < _COLLAPSED:
            self.warning(
                "the embeddings of all images are nearly the same (embedding_std "
                f"{record['embedding_std']:.3f}; 1 is spread evenly): the method has collapsed. "
                "Lower the learning rate, or look at the settings of the method"
            )

    def images_done(
        self, images: int, shard: str = "", _stages: StageSeconds | None = None
    ) -> None:
        """Move the bar of the refresh."""
        self._located += images
        rate = self._located / (time.perf_counter() - self._started)
        self._move(images, f"{shard}, {rate:,.0f} images/s")

    def refreshed(self, boxes: str, seconds: float | None) -> None:
        """Say how long the refresh took, and warn when its boxes are of no use."""
        self._drop_task()
        box_set = BoxSet.open(boxes)
        area = box_set.manifest.statistics.mean_area
        what = "new boxes are there" if seconds is None else f"boxes after {seconds:.1f} s"
        say(f"{self._prefix}{what}, mean area {area:.0%}")
        warn_if_useless(box_set)

    def _begin(self, description: str, total: int | None) -> None:
        self._task = self._add(self._prefix + description, total)

    def _move(self, steps: int, note: str) -> None:
        assert self._task is not None
        self._advance(self._task, steps, note)

    def _drop_task(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def knn_of(record: Mapping[str, Any]) -> str:
    """Return the kNN accuracy of a record, with the settings that make it comparable."""
    settings = f"k={record['knn_k']}, temperature={record['knn_temperature']:g}"
    return f"kNN {record['knn']:.1%} ({settings})"


class StageClock(TrainProgress):
    """A progress display that also adds up the seconds of each kind of stage.

    Args:
        epochs: Epochs of the run.
        name: Name of the run; put before each line and each kind of stage.
        seconds: Where the sums go, by name of run and kind of stage.
    """

    def __init__(self, epochs: int, name: str, seconds: dict[str, float]) -> None:
        super().__init__(epochs, f"{name}: ")
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
