"""Progress on stderr: a live line on a terminal, silence elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ccrop_pipeline.base import Observer, StageSeconds
from ccrop_pipeline.errors import duration, printable

from .printing import wrapped
from .time_left import Outlook

console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def say(text: object, style: str = "") -> None:
    """Print a line for people on stderr, above the live line if there is one."""
    shown = printable(text)
    console.print(
        Text(wrapped(shown, console.width) if console.is_terminal else shown, style=style)
    )


class _Line(ProgressColumn):
    """What is done, a bar, how far it is, the time left, and as much of a note as has room."""

    _least, _most, _gap = 6, 40, 2  # cells of the bar, and between two parts

    def render(self, task: Task) -> Table:
        """Return the line at the terminal's width."""
        if task.fields["far"]:
            return self._row(task, [task.fields["far"]])
        after = [f"{task.completed:,.0f}" + (f"/{task.total:,.0f}" if task.total else "")]
        if task.time_remaining is not None:
            after.append(f"{duration(task.time_remaining)} left")
        return self._row(task, after)

    def _row(self, task: Task, after: list[str]) -> Table:
        room = console.width - sum(cell_len(part) + self._gap for part in after)
        name = task.description
        if cell_len(name) > room:
            name = _cut(name, max(1, room))
        room -= cell_len(name) + self._gap
        note = task.fields["note"]
        spare = room - self._gap - 10  # the note is cut before the bar is
        note = note if cell_len(note) <= spare else _cut(note, spare) if spare >= 12 else ""
        bar_width = min(self._most, room - (cell_len(note) + self._gap if note else 0))
        parts: list[Text | ProgressBar] = [Text(name)]
        if bar_width >= self._least:
            parts.append(ProgressBar(task.total, task.completed, width=bar_width))
        parts += [Text(part) for part in (*after, note) if part]
        row = Table.grid(padding=(0, self._gap, 0, 0), pad_edge=False)
        for _ in parts:
            row.add_column(no_wrap=True)
        row.add_row(*parts)
        return row


def _cut(text: str, cells: int) -> str:
    return set_cell_size(text, cells - 1).rstrip() + "…"


def bar() -> Progress:
    """Return a live line for each thing that goes on; it vanishes when that is done."""
    return Progress(
        _Line(),
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
        say(f"{self._prefix}Warning: {note}", style="yellow")

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

    def _add(self, description: str, total: int | None, *, far: str = "") -> TaskID:
        return self._bar.add_task(printable(description), total=total, note="", far=far)

    def _advance(self, task: TaskID, steps: int, note: str, *, total: float | None = None) -> None:
        self._bar.update(task, advance=steps, total=total, note=printable(note))

    def _place(self, task: TaskID, share: float, far: str, note: str) -> None:
        """Move a bar to a share of something longer, and say how far that is."""
        self._bar.update(task, completed=share, total=1, far=far, note=printable(note))


class Counter(Display, Observer):
    """Shows a count of images and images/s.

    Args:
        description: What is counted.
        total: Number of all images, where it is known.
    """

    def __init__(self, description: str, total: int | None = None) -> None:
        super().__init__()
        self._task, self._total = self._add(description, total), total
        self._started, self._done, self._outlook = time.perf_counter(), 0, Outlook()
        self._outlook.after(0, total)

    def images_done(
        self, images: int, _shard: str = "", _stages: StageSeconds | None = None
    ) -> None:
        """Move the bar."""
        self._done += images
        rate = self._done / (time.perf_counter() - self._started)
        self._advance(self._task, images, f"{rate:,.0f} images/s")
        if line := self._outlook.after(self._done, self._total):
            say(line)
