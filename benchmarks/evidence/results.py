"""The file of results: one JSON object a line, ordered by study, arm and seed."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def read_results(file: Path) -> list[Result]:
    """Return all results of a file; none if there is no such file yet."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def identity(result: Result) -> tuple[str, str, int]:
    """Return what there is one result of: study, arm and seed."""
    return result["study"], result["arm"], result["seed"]


def add_results(file: Path, results: Iterable[Result]) -> None:
    """Add results to a file; one of the same study, arm and seed is replaced.

    Several processes may do so at once, and one that is killed leaves the file as it was.
    """
    with alone_in(file.parent):
        every = {identity(result): result for result in (*read_results(file), *results)}
        part = file.with_suffix(".part")
        with part.open("w") as lines:
            lines.writelines(json.dumps(every[key]) + "\n" for key in sorted(every))
            lines.flush()
            os.fsync(lines.fileno())
        part.replace(file)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; it is let go of when the process ends, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
