"""How hostile inputs are judged and counted: taken, refused by a message, or a fault."""

import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ccrop_pipeline.errors import CcropError

# Of the processor, for all ways of reading together: more for so small a file is a hang. A machine
# that others use too takes up to twice the seconds for the same work.
SECONDS = 20
WAITING = 120  # seconds without work, which a crowded machine does not make of a busy process
MEMORY = 2 << 30  # bytes; more than before for so small a file is a bomb that went off
FINE = ("taken", "refused")


class HangError(BaseException):
    """It took too long."""


class WrongError(Exception):
    """It was taken and gave what it should not."""


def _hang(*_: Any) -> None:
    raise HangError


def _watch() -> None:
    """Raise where this process waits; not where others keep it from the processor."""
    before = time.process_time()

    def look(*_: Any) -> None:
        if time.process_time() - before < WAITING / 1_000:
            raise HangError
        _watch()

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, WAITING)


def judged(use: Callable[[], Any], names: Iterable[str]) -> str:
    """`taken`, `refused` by a message that has one of the names; else what went wrong."""
    signal.signal(signal.SIGPROF, _hang)
    before = _most_memory(afresh=True)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    _watch()
    said = _said(use, names)
    used = _most_memory() - before
    return said if used <= MEMORY else f"{used / 2**30:.1f} GiB, {said}"


def _said(use: Callable[[], Any], names: Iterable[str]) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            use()
    except CcropError as error:
        named = any(name in str(error) for name in names)
        long = len(str(error)) > 2_000
        return "too long" if long else "refused" if named else f"unnamed: {str(error)[:80]}"
    except HangError:
        return "hang"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:80]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "taken"


def _most_memory(*, afresh: bool = False) -> int:
    """Return the most memory that this process has had, in bytes; since now on, if afresh."""
    if not Path("/proc/self/clear_refs").exists():  # Linux alone tells
        return 0
    if afresh:
        Path("/proc/self/clear_refs").write_text("5")  # proc_pid_clear_refs(5)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def counted(kind: str, seeds: range, verdict: Callable[[str, int, Path], str]) -> Counter[str]:
    """Count the verdicts of a kind; each input has a folder of its own."""
    found: Counter[str] = Counter()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            said = verdict(kind, seed, Path(folder))
        if said not in FINE:
            print(f"{kind} {seed}: {said}", flush=True)
        found[said] += 1
    return found


def main(kinds: Iterable[str], verdicts: Callable[[str, range], Counter[str]]) -> None:
    """Run as many inputs as the command line says, and print a table of kinds and verdicts."""
    kinds, count = list(kinds), int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    started, total = time.perf_counter(), Counter[str]()
    print("| kind | inputs | taken | refused |\n|---|---|---|---|")
    for kind in kinds:
        found = verdicts(kind, range(count // len(kinds) + 1))
        total += found
        print(
            f"| {kind} | {sum(found.values())} | {found['taken']} | {found['refused']} |",
            flush=True,
        )
    others = {said: n for said, n in total.items() if said not in FINE}
    print(
        f"{sum(total.values())} inputs in {time.perf_counter() - started:.0f} s; others: {others}"
    )
    sys.exit(bool(others))
