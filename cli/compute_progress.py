"""What a person sees while shards are computed: a live line on a terminal, else one in a while."""

import time
from typing import TYPE_CHECKING

from rich.progress import TaskID

from ccrop_pipeline.base import Observer, StageSeconds
from ccrop_pipeline.errors import counted, duration

from .progress import Display, console, say
from .time_left import Outlook

if TYPE_CHECKING:
    from ccrop_pipeline.images import Source

_QUIET_SECONDS = 30.0  # between two lines of a log


def count(source: "Source", processes: int = 1) -> int | None:
    """Return the number of the images to come, where it is known without reading them all."""
    cheap = source.random_access and (source.kind != "tar" or len(source.shards) == 1)
    return len(source.index()) if cheap and processes == 1 else None


class ComputeProgress(Display, Observer):
    """Shows on stderr shards, images, images/s, time left, and how busy each stage is.

    Args:
        images: Number of all images to come, None where it is not known.
        prefix: Put before each line, to tell processes apart.
        what: What is computed.
    """

    def __init__(self, images: int | None, prefix: str = "", *, what: str = "boxes") -> None:
        super().__init__()
        self._total, self._prefix, self._what = images, prefix, what
        self._task: TaskID | None = None
        self._reset(0)

    def _reset(self, shards: int) -> None:
        self._started = self._said = time.perf_counter()
        self._shards, self._written, self._done = shards, 0, 0
        self._last, self._outlook = StageSeconds(), Outlook()

    def choosing(self) -> None:
        """Say what goes before."""
        say(f"{self._prefix}the box rule sets itself by some of the images")

    def begun(self, shards: int, kept: int) -> None:
        """Say how much there is to do."""
        before = f", {kept} were complete" if kept else ""
        say(f"{self._prefix}{counted(shards, 'shard')} to compute{before}")
        self._reset(shards)
        if kept:
            self._total = None
        self._drop()
        self._task = self._add(f"{self._prefix}{self._what}", self._total)

    def _drop(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def images_done(self, images: int, shard: str = "", stages: StageSeconds | None = None) -> None:
        """Move the bar; where nobody sees one, print a line from time to time."""
        self._done += images
        now = time.perf_counter()
        self._last = stages or self._last
        figures = self._figures(self._last, now)
        note = f"shard {self._written + 1}/{self._shards} {shard}  {figures}"
        total = self._expected()
        assert self._task is not None
        self._advance(self._task, images, note, total=total)
        if line := self._outlook.after(self._done, total):
            say(f"{self._prefix}{line}")
        if not console.is_terminal and now - self._said >= _QUIET_SECONDS:
            left = (total - self._done) * (now - self._started) / self._done if total else 0
            far = f"  {duration(left)} left" if left > 0 else ""
            say(f"{self._prefix}{counted(self._done, 'image')}  {note}{far}")
            self._said = now

    def shard_written(self, shard: str, images: int, unreadable: int = 0) -> None:
        """Count the shard, and name it when some of its images could not be decoded."""
        self._written += 1
        if unreadable:
            say(f"{self._prefix}{shard}: {unreadable} of {images} images are unreadable")

    def batch_halved(self, batch_size: int) -> None:
        """Say that the GPU has less memory than was hoped for."""
        say(
            f"{self._prefix}out of GPU memory: {counted(batch_size, 'image')} at a time from now on"
        )

    def summary(self) -> None:
        """Print how fast it was, and which stage was the busiest."""
        if self._done:
            seconds = time.perf_counter() - self._started
            figures = self._figures(self._last, time.perf_counter())
            say(f"{self._prefix}{counted(self._done, 'image')} in {seconds:.1f} s  {figures}")

    def _figures(self, stages: StageSeconds, now: float) -> str:
        seconds = max(now - self._started, 1e-9)
        busy = "  ".join(f"{name} {spent / seconds:.0%}" for name, spent in vars(stages).items())
        return f"{self._done / seconds:,.0f} images/s  busy: {busy}"

    def _expected(self) -> float | None:
        """Return the number of all images: known, or guessed from the shards so far."""
        if self._total is not None or not self._written:
            return self._total
        return max(self._done, round(self._done / (self._written + 0.5) * self._shards))
