"""Work done ahead: by a thread, or by the processes of a `DataLoader` of torch."""

import atexit
import errno
import os
import re
import resource
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from multiprocessing import connection, get_start_method, parent_process
from multiprocessing.util import get_temp_dir
from queue import SimpleQueue
from threading import Semaphore, Thread
from traceback import extract_tb
from typing import Generic, TypeVar

from ccrop_pipeline.errors import CcropError, counted

T = TypeVar("T")
_loader_processes: set[int] = set()  # this one, if it is one
_LAST_ITEM_SECONDS = 2.0  # that a caller who leaves waits for the item in work


class _Item(Generic[T]):
    """What is handed from thread to thread: a value, or what was raised in place of one."""

    def __init__(self, value: T | None, error: BaseException | None = None) -> None:
        self.value, self.error = value, error


def one_ahead(items: Generator[T]) -> Generator[T]:
    """Yield items that a thread makes, which has one ready while the caller is at work.

    What making one raises comes in its place. The thread ends with the items, or when the caller
    leaves.

    Args:
        items: Run, and closed in the end, by that thread only.
    """
    ready: SimpleQueue[_Item[T] | None] = SimpleQueue()
    taken, stopped = Semaphore(0), False

    def work() -> None:
        try:
            with closing(items):
                for item in items:
                    ready.put(_Item(item))
                    taken.acquire()
                    if stopped:
                        return
            ready.put(None)
        except BaseException as error:
            ready.put(_Item(None, error))

    # A daemon, since an item that never comes must not keep a process from ending.
    thread = Thread(target=work, name="ahead", daemon=True)

    def stop() -> None:
        nonlocal stopped
        stopped = True
        taken.release()
        thread.join(_LAST_ITEM_SECONDS)

    # A thread that is still inside a library as the interpreter ends would abort the process.
    atexit.register(stop)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if item.error is not None:
                raise item.error
            taken.release()
            yield item.value  # type: ignore[misc]
    finally:
        atexit.unregister(stop)
        stop()


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
    _loader_processes.add(os.getpid())


def in_loader_process() -> bool:
    """Return whether this is a loader process of ours, and none of a person's own `DataLoader`."""
    return os.getpid() in _loader_processes


def make_room_for_workers(workers: int, *, fewest: str = "`workers` to 0") -> None:
    """Let the process open the files that its loader processes take, before there are any.

    Without room torch loses batches, and waits for them for ever. Their sockets get a folder of
    this process, which removes it; one of their own would stay where a signal ends them all.

    Args:
        workers: How many there will be, each with two batches ahead.
        fewest: As in `from_workers`.

    Raises:
        CcropError: If the limit of open files is too low, and may not be raised.
    """
    if not workers:
        return
    get_temp_dir()
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return
    # Four pipe ends a process; a tensor in flight is a file on both sides, twice on that of the
    # sender, and a batch has five of them. A quarter of the limit is for tars that stay open.
    in_flight = max(10 * workers, 20) + 5
    needed = (len(os.listdir("/dev/fd")) + 8 + 4 * workers + in_flight) * 4 // 3  # noqa: PTH208
    if most >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        said = f"{counted(workers, 'loader process')} may need {needed:,}, and it is {hard:,}"
        raise CcropError(_no_room(said, fewest))
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _no_room(said: str, fewest: str) -> str:
    return (
        f"the limit of open files is reached: {said}. Raise it (`ulimit -n 4096`), or set "
        f"{fewest}, and run again: what is finished is kept."
    )


def from_workers(loader: Iterable[T], *, fewest: str = "`workers` to 0") -> Iterator[T]:
    """Begin to iterate over a `DataLoader`; what its processes give is yielded.

    Args:
        loader: Of torch.
        fewest: What to set for none of its processes, in words for people.

    Raises:
        CcropError: If one of them died, or no more files may be opened.
    """
    with _fetching(fewest):
        items = iter(loader)
    return _each(items, fewest)


def _each(items: Iterator[T], fewest: str) -> Iterator[T]:
    with _fetching(fewest):
        yield from items


@contextmanager
def deaths_explained(fewest: str) -> Iterator[None]:
    """Explain the death of a process that interrupts what goes on beside its `DataLoader`.

    torch tells of it by a handler of SIGCHLD, which may interrupt anything in the main thread.

    Args:
        fewest: As in `from_workers`.

    Raises:
        CcropError: If one of them died.
    """
    try:
        yield
    except RuntimeError as error:
        # torch has no class for it: torch.utils.data.dataloader, `_try_get_data`, and the handler.
        if not re.match(r"DataLoader worker \(pid", str(error)):
            raise
        raise _died(error, fewest) from error


@contextmanager
def _fetching(fewest: str) -> Iterator[None]:
    with deaths_explained(fewest):  # of a second one as well, while the first is looked into
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            # torch has words of its own for it, and shared memory is a RuntimeError.
            no_room = getattr(error, "errno", None) == errno.EMFILE
            if no_room or "Too many open files" in str(error):
                raise CcropError(_no_room("too many open files", fewest)) from error
            # Where processes are not forked, each imports the program that starts them, and one
            # that starts processes as it is imported fails; its parent then has a broken pipe, or
            # a death.
            if "bootstrapping phase" in str(error) or isinstance(error, BrokenPipeError):
                raise CcropError(f"loader processes cannot start: {_guard(fewest)}") from error
            # What a process has handed over is fetched from it, by a connection that its death
            # breaks.
            last = extract_tb(error.__traceback__)[-1].filename
            if isinstance(error, RuntimeError) or last != connection.__file__:
                raise
            raise _died(error, fewest) from error


def _died(error: Exception, fewest: str) -> CcropError:
    said = (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")
    return CcropError(
        f"a loader process died: {said}. Most often memory was short: use fewer "
        f"{fewest.split()[0]} or smaller batches, give /dev/shm more room, and run again: what is "
        "finished is kept." + ("" if get_start_method() == "fork" else f" Or: {_guard(fewest)}")
    )


def _guard(fewest: str) -> str:
    return (
        f"they are started by {get_start_method()!r}, which imports your program in each of them: "
        f'put its loop under `if __name__ == "__main__":`, or set {fewest}.'
    )
