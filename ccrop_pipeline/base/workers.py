"""What a `DataLoader` of torch gives from its processes, how they end, and what is said of deaths."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_start_method, parent_process
from threading import Thread
from typing import TypeVar

from ccrop_pipeline.errors import CcropError

T = TypeVar("T")


def end_with_parent(_worker: int) -> None:
    """Let a loader process end as soon as the one that started it has ended, however it did.

    torch looks only between batches, so that one that waits for an image would stay.
    """
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def from_workers(loader: Iterable[T]) -> Iterator[T]:
    """Begin to iterate over a `DataLoader`; what its processes give is yielded.

    Raises:
        CcropError: If one of them died.
    """
    with _deaths_explained():
        items = iter(loader)
    return _each(items)


def _each(items: Iterator[T]) -> Iterator[T]:
    with _deaths_explained():
        yield from items


@contextmanager
def _deaths_explained() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, BrokenPipeError) as error:
        method = get_start_method()
        # Where processes are not forked, each imports the program that starts them, and one that
        # starts processes as it is imported fails; its parent then has a broken pipe, or a death.
        if "bootstrapping phase" in str(error) or isinstance(error, BrokenPipeError):
            raise CcropError(f"loader processes cannot start. {_GUARD.format(method)}") from error
        # torch has no class for it: torch.utils.data.dataloader, `_try_get_data`, and its handler
        # of SIGCHLD, which may interrupt anything.
        if not re.match(r"DataLoader worker \(pid", str(error)):
            raise
        raise CcropError(
            f"a loader process died: {str(error).splitlines()[0].rstrip('. ')}. Most often memory "
            "was short: use fewer `workers` or smaller batches, give /dev/shm more room, and run "
            "again: what is finished is kept."
            + ("" if method == "fork" else f" Or: {_GUARD.format(method)}")
        ) from error


_GUARD = (
    "they are started by {!r}, which imports your program in each of them: put its loop under "
    '`if __name__ == "__main__":`, or set `workers` to 0.'
)
