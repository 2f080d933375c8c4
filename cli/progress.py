"""Progress on stderr: a live line on a terminal, silence elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ccrop_pipeline.base import Observer, StageSeconds
from ccrop_pipeline.errors import printable

console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def say(text: object, style: str = "") -> None:
    """Print a line for people on stderr, above the live line if there is one."""
    console.print(Text(printable(text), style=style))


def bar() -> Progress:
    """Return a bar with counts, time left and a free text; it vanishes when it is done."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class Display:
    """Something with a bar, which lives as long as a `with` block."""

    _prefix = ""

    def __init__(self) -> None:
        self._bar = bar()

    def warning(self, note: str) -> None:
        """Say what is wrong."""
        say(f"{self._prefix}Warning: {note}")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def _add(self, description: str, total: int | None) -> TaskID:
        return self._bar.add_task(printable(description), total=total, note="")

    def _advance(self, task: TaskID, steps: int, note: str, *, total: float | None = None) -> None:
        self._bar.update(task, advance=steps, total=total, note=printable(note))


class Counter(Display, Observer):
    """Shows a count of images and images/s.

    Args:
        description: What is counted.
        total: Number of all images, where it is known.
    """

    def __init__(self, description: str, total: int | None = None) -> None:
        super().__init__()
        self._task = self._add(description, total)
        self._started, self._done = time.perf_counter(), 0

    def images_done(
        self, images: int, _shard: str = "", _stages: StageSeconds | None = None
    ) -> None:
        """Move the bar."""
        self._done += images
        rate = self._done / (time.perf_counter() - self._started)
        self._advance(self._task, images, f"{rate:,.0f} images/s")
