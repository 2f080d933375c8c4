"""Progress on stderr: a live line on a terminal, silence elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=True)


def bar() -> Progress:
    """Return a bar with counts, time left and a free text; it vanishes when it is done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class Display:
    """Something with a bar, which lives as long as a `with` block."""

    def __init__(self) -> None:
        self._bar = bar()

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


@contextmanager
def counter(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a count of images and images/s; yield the function that adds to it."""
    started, done = time.perf_counter(), 0
    with bar() as shown:
        task = shown.add_task(description, total=total, note="")

        def advance(images: int) -> None:
            nonlocal done
            done += images
            rate = done / (time.perf_counter() - started)
            shown.update(task, advance=images, note=f"{rate:,.0f} images/s")

        yield advance
