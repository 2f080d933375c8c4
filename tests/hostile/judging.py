"""How hostile inputs are judged and counted: taken, refused by a message, or a fault."""

import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

from ccrop_pipeline.errors import CcropError

# Of the processor, for all ways of reading together: more for so small a file is a hang. A machine
# that others use too takes up to twice the seconds for the same work.
SECONDS = 20
WAITING = 120  # seconds without work, which a crowded machine does not make of a busy process
MEMORY = 2 << 30  # bytes; more than before for so small a file is a bomb that went off
ROOT = Path(__file__).parents[2]
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
        if time.process_time() - before < WAITING / 100:
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
    """Run as many inputs as the command line says, and print a table of kinds and verdicts.

    A page named behind their number gets its rows.
    """
    kinds, count = list(kinds), int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    started, total, rows = time.perf_counter(), Counter[str](), list[str]()
    print("| kind | inputs | taken | refused |\n|---|---|---|---|")
    for kind in kinds:
        found = verdicts(kind, range(count // len(kinds) + 1))
        total += found
        counts = sum(found.values()), found["taken"], found["refused"]
        print(f"| {kind} | {' | '.join(map(str, counts))} |", flush=True)
        rows.append(f"| {kind} | {' | '.join(map(str, (*counts, 2 * counts[0] - sum(counts))))} |")
    others = {said: n for said, n in total.items() if said not in FINE}
    print(
        f"{sum(total.values())} inputs in {time.perf_counter() - started:.0f} s; others: {others}"
    )
    if len(sys.argv) > 2:
        write_rows(Path(sys.argv[2]), Path(sys.argv[0]).stem.removeprefix("hostile_"), rows)
    sys.exit(bool(others))


def write_rows(page: Path, room: str, rows: Iterable[str]) -> None:
    """Put rows into the table of a page, for those of the room, and count all inputs anew."""
    before, mark, rest = page.read_text().partition("<!-- of make hostile -->\n")
    table, end, after = rest.partition("<!-- end of it -->")
    if not end:
        raise ValueError(f"{page} has no table of `make hostile`")
    _, *lines = table.splitlines()
    own = [at for at, line in enumerate(lines) if line.startswith(f"| {room} |")]
    place = own[0] if own else len(lines)
    lines = [line for at, line in enumerate(lines) if at not in own]
    lines[place:place] = [f"| {room} {row}" for row in rows]
    cells = [line.split(" | ") for line in lines[3:]]
    inputs, faults = (
        sum(int(row[2]) for row in cells),
        sum(int(row[5].rstrip(" |")) for row in cells),
    )
    head = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(head, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    day = f"{date.today():%-d %B %Y}"
    first = f"{inputs:,} inputs, {faults:,} faults; {day}, {commit.strip()}."
    page.write_text(before + mark + "\n".join([first, *lines]) + "\n" + end + after)
