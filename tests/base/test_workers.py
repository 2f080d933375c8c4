import errno
import re
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Client, Listener
from multiprocessing.util import get_temp_dir

import pytest

from ccrop_pipeline.base.workers import (
    deaths_explained,
    from_workers,
    make_room_for_workers,
    one_ahead,
)
from ccrop_pipeline.errors import CcropError


class Made:
    """Numbers, and in which threads they were made and the making was ended."""

    def __init__(self):
        self.count, self.made_in, self.closed_in = 0, set(), None

    def numbers(self, end, error=None):
        try:
            for number in range(end):
                self.count += 1
                self.made_in.add(threading.current_thread())
                yield number
            if error:
                raise error
        finally:
            self.closed_in = threading.current_thread()


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_a_process_that_is_ended_leaves_no_folder_of_its_own():
    make_room_for_workers(1)
    ours, theirs = Pipe()
    worker = get_context("fork").Process(target=lambda: theirs.send(get_temp_dir()))
    worker.start()
    assert ours.recv() == get_temp_dir()
    worker.join()


def test_items_come_in_order_from_one_other_thread():
    made = Made()
    assert list(one_ahead(made.numbers(50))) == list(range(50))
    assert len(made.made_in) == 1
    assert threading.current_thread() not in made.made_in


def test_one_item_is_ready_and_no_more():
    made = Made()
    items = one_ahead(made.numbers(50))
    next(items)
    wait_for(lambda: made.count == 2)
    time.sleep(0.1)
    assert made.count == 2
    items.close()


def test_an_error_comes_after_the_items_before_it():
    items = one_ahead(Made().numbers(3, ValueError("broken")))
    assert [next(items), next(items), next(items)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_a_caller_that_leaves_ends_the_work_in_its_own_thread():
    made = Made()
    items = one_ahead(made.numbers(50))
    next(items)
    items.close()
    wait_for(lambda: made.closed_in is not None)
    assert made.closed_in in made.made_in
    wait_for(lambda: not made.closed_in.is_alive())


def test_a_program_that_ends_in_the_middle_ends_the_work_first():
    program = (
        "from ccrop_pipeline.base.workers import deaths_explained, one_ahead\n"
        "def numbers():\n"
        "    try:\n"
        "        yield from range(50)\n"
        "    finally:\n"
        "        print('ended', flush=True)\n"
        "items = one_ahead(numbers())\n"
        "print(next(items), flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\nended\n", "")


def test_an_item_that_never_comes_keeps_no_program_from_ending():
    program = (
        "import time\n"
        "from ccrop_pipeline.base.workers import deaths_explained, one_ahead\n"
        "def numbers():\n"
        "    yield 0\n"
        "    time.sleep(3600)\n"
        "items = one_ahead(numbers())\n"
        "print(next(items), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "0\n")


def from_one_that_ended():
    mine, its = Pipe()
    yield 0
    its.close()
    mine.recv()


def from_one_that_is_gone():
    yield 0
    with Listener(family="AF_UNIX") as of_it:
        address = of_it.address
    Client(address)


def reading_fails():
    yield 0
    raise EOFError("no more bytes")


def test_a_process_that_dies_as_it_hands_over_is_said_to_have_died():
    """torch lets the `EOFError` or `OSError` of the connection through."""
    for items in (from_one_that_ended(), from_one_that_is_gone()):
        given = from_workers(items)
        assert next(given) == 0
        with pytest.raises(CcropError, match="a loader process died: "):
            next(given)
    with pytest.raises(EOFError, match="no more bytes"):
        list(from_workers(reading_fails()))


def test_a_death_that_interrupts_anything_is_explained_and_nothing_else_is():
    with (
        pytest.raises(CcropError, match=r"a loader process died: .* use fewer `threads`"),
        deaths_explained("`threads` to 1"),
    ):
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    for other in (RuntimeError("CUDA error"), BrokenPipeError(), CcropError("bad")):
        with pytest.raises(type(other)) as told, deaths_explained("`threads` to 1"):
            raise other
        assert told.value is other


ROOM = """
import resource, sys
from ccrop_pipeline.base.workers import from_workers, make_room_for_workers
from ccrop_pipeline.errors import CcropError
resource.setrlimit(resource.RLIMIT_NOFILE, (40, int(sys.argv[1])))
make_room_for_workers(0)
assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 40
try:
    make_room_for_workers(2)
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    make_room_for_workers(1)  # never lowers it
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except CcropError as error:
    print(error)
"""


@pytest.mark.parametrize("hard", [40, 4096])
def test_the_limit_of_open_files_is_raised_for_workers_or_told(hard):
    command = [sys.executable, "-c", ROOM, str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if hard == 40:
        assert re.fullmatch(
            r"the limit of open files is reached: 2 loader processes may need \d+, and it is 40\. "
            r"Raise it \(`ulimit -n 4096`\), or set `workers` to 0, and run again: .*\n",
            done.stdout,
        )
    else:
        first, second = map(int, done.stdout.split())
        assert 45 < first == second < 120


def opening_fails(error):
    yield 0
    raise error


def test_too_many_open_files_are_told_in_whatever_way_torch_says_so():
    for error in (
        OSError(errno.EMFILE, "Too many open files"),
        RuntimeError(
            "unable to open shared memory object </t> in read-write mode: Too many open files (24)"
        ),
        RuntimeError("Too many open files. Communication with the workers is no longer possible."),
    ):
        with pytest.raises(CcropError, match=r"limit of open files is reached: .*`ulimit -n"):
            list(from_workers(opening_fails(error)))


def test_a_program_that_each_process_imports_is_told_to_guard_its_loop():
    for error in (BrokenPipeError(), RuntimeError("... finished its bootstrapping phase.")):
        with pytest.raises(CcropError) as told:
            list(from_workers(opening_fails(error)))
        assert re.fullmatch(
            r"loader processes cannot start: they are started by '\w+', which imports your program "
            r'in each of them: put its loop under `if __name__ == "__main__":`, or set `workers` '
            r"to 0\.",
            str(told.value),
        )
