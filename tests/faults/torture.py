"""Every command that writes, under every fault, at every operation: `make torture`.

Cases that are in the record are not run again, so that it goes on where it was stopped.
"""

import argparse
import json
import operator
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from attacks import (
    ALL,
    COMMANDS,
    COUNT,
    FAULTS,
    HERE,
    KILL,
    KINDS,
    LACKS,
    ONCE,
    STRAITS,
    Command,
    Fault,
    Server,
    Strait,
    judge_end,
    judge_fault,
    judge_strait,
    make_inputs,
    snapshot,
)


class Torture:
    """Runs cases in a folder of its own.

    Args:
        folder: For inputs and outputs, on a disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.server = Server(self.folder)
        self.inputs = self.folder / "inputs"
        if not self.inputs.exists():
            make_inputs(self.server, self.inputs)
        self._whole: dict[str, tuple[dict[str, str], list[str]]] = {}

    def undisturbed(self, command: Command) -> tuple[dict[str, str], list[str]]:
        """Return what a command leaves, and the operations that it does."""
        if command.name not in self._whole:
            out = self.fresh(command)
            done = self.run(command, out)
            if done["status"] != 0:
                raise RuntimeError(f"{command.name}: {done['output']}")
            self._whole[command.name] = snapshot(out), done["operations"]
        return self._whole[command.name]

    def case(self, command: Command, fault: Fault, n: int) -> dict[str, Any]:
        """Let the N-th operation fail, run the command again, and judge."""
        expected, _ = self.undisturbed(command)
        out = self.fresh(command)
        done = self.run(command, out, (n, fault.mode, fault.error, fault.kinds))
        wrong = judge_fault(fault, done, out)
        whole = done["status"] == 0 and snapshot(out) == expected
        if not wrong and not whole:
            hit = done["operations"][n - 1 : n if fault.mode == ONCE else None]
            undeletable = bool(fault.error) and "unlink" in hit
            again = self.run(command, out)
            wrong = judge_end(again, expected, out, undeletable=undeletable)
        return self._record(command, fault.name, n, [done], wrong)

    def strait(self, command: Command, strait: Strait, n: int) -> dict[str, Any]:
        """Start a command with limits, or twice at once, then run it again, and judge."""
        expected, operations = self.undisturbed(command)
        out, limits = self.fresh(command), dict(strait.limits)
        if strait.kill:
            self.run(command, out, (len(operations) // 2, KILL, 0, ALL))
        arguments = command.filled(command.arguments, self.inputs, out)
        done = self.server.runs([arguments] * strait.starts, out, **limits)
        wrong = next(filter(None, map(judge_strait, done)), None)
        complete = [each for each in done if each["status"] == 0]
        wrong = wrong or judge_end(
            complete[0] if complete else self.run(command, out), expected, out
        )
        return self._record(command, strait.name, n, done, wrong)

    def _record(
        self, command: Command, name: str, n: int, done: list[dict[str, Any]], wrong: str | None
    ) -> dict[str, Any]:
        first = done[0]
        errors = [each["output"].rpartition("Error: ")[2] for each in done if each["status"] == 1]
        return {
            "command": command.name,
            "fault": name,
            "n": n,
            "operation": (*first["operations"], *[""] * n)[n - 1] if len(done) == 1 else "",
            "ended": sorted(
                f"exit {each['status']}" if each["status"] in (0, 1) else "killed" for each in done
            ),
            "wrong": wrong,
            "messages": [" ".join(error.split()) for error in errors],
            "state": state(),
        }

    def numbers(self, command: Command, fault: Fault) -> list[int]:
        """Return the numbers of the operations of a command that a fault can meet.

        Of writes that follow one another only the first and the last: what is between them differs
        by the bytes of a hidden file.
        """
        _, operations = self.undisturbed(command)
        met = [name for name in operations if 1 << KINDS.index(name) & fault.kinds]
        ends = [*map(operator.ne, met, met[1:]), True]
        starts = [True, *ends]
        return [
            n for n, name in enumerate(met, 1) if name != "write" or ends[n - 1] or starts[n - 1]
        ]

    def fresh(self, command: Command) -> Path:
        """Return an empty folder, or one with what is there before the command starts."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if command.before:
            done = self.server.run(command.filled(command.before, self.inputs, out), out)
            assert done["status"] == 0, done["output"]
        return out

    def run(
        self, command: Command, out: Path, fault: tuple[int, ...] = (0, COUNT, 0, ALL), **of: int
    ) -> dict[str, Any]:
        """Run a command once."""
        arguments = command.filled(command.arguments, self.inputs, out)
        return self.server.run(arguments, out, fault, **of)


PASSES = 8


def cases(torture: Torture, only: str) -> list[tuple[Command, Any, int]]:
    """Return every case: command, fault or strait, and its number.

    In passes over all commands and faults, so that a record that is not complete covers all alike.
    """
    found: list[tuple[int, Command, Any, int]] = []
    for command in COMMANDS:
        numbers: Counter[str] = Counter()
        for fault in (*STRAITS, *LACKS, *FAULTS):
            if not re.search(only, f"{command.name}: {fault.name}"):
                continue
            if isinstance(fault, Fault):
                every = torture.numbers(command, fault)
                every = every[:1] if fault in LACKS else every
                found += [(k % PASSES, command, fault, n) for k, n in enumerate(every)]
            else:
                numbers[fault.name] += 1
                found.append((0, command, fault, numbers[fault.name]))
    return [case for _, *case in sorted(found, key=lambda each: each[0])]


def tables(records: list[dict[str, Any]]) -> str:
    """Return what was found as Markdown, wrong cases in brackets."""
    faults = list(dict.fromkeys(each.name for each in (*FAULTS, *LACKS, *STRAITS)))
    found = Counter((record["command"], record["fault"]) for record in records)
    wrong = Counter((record["command"], record["fault"]) for record in records if record["wrong"])

    def cell(command: str, fault: str) -> str:
        bad = wrong[command, fault]
        return f"{found[command, fault]}" + (f" (**{bad}**)" if bad else "")

    first = [
        headline(records),
        "",
        "| command | " + " | ".join(faults) + " |",
        "|---" * (len(faults) + 1) + "|",
        *(
            f"| `{command.name}` | "
            + " | ".join(cell(command.name, fault) for fault in faults)
            + " |"
            for command in COMMANDS
        ),
    ]
    ends = Counter((record["fault"], end) for record in records for end in record["ended"])
    kinds = ("killed", "exit 1", "exit 0")
    second = [
        "| fault | killed | exit 1, one message | exit 0 | run again: identical | wrong |",
        "|---|---|---|---|---|---|",
    ]
    for fault in faults:
        of = [record for record in records if record["fault"] == fault]
        bad = sum(bool(record["wrong"]) for record in of)
        counts = " | ".join(str(ends[fault, kind]) for kind in kinds)
        second.append(f"| {fault} | {counts} | {len(of) - bad} | {bad} |")
    return "\n".join([*first, "", *second])


END = "<!-- end of what it wrote -->"


def write_page(page: Path, by: str, text: str) -> None:
    """Put a text between the marks of a page that name the script."""
    begin = f"<!-- written by {by} -->"
    before, _, rest = page.read_text().partition(begin)
    if not rest:
        raise ValueError(f"{page} has no mark {begin}")
    page.write_text(f"{before}{begin}\n{text}\n{END}{rest.partition(END)[2]}")


@cache
def state() -> str:
    """Return the day and the commit that a case is run on."""
    commit = ["git", "log", "-1", "--format=%h"]
    done = subprocess.run(commit, cwd=HERE, capture_output=True, text=True, check=True)
    return f"{date.today():%d %B %Y}, {done.stdout.strip()}"


def headline(records: list[dict[str, Any]]) -> str:
    """Return how many cases there are, how many are wrong, and of what state of the code."""
    wrong = sum(bool(record["wrong"]) for record in records)
    states = ", ".join(dict.fromkeys(record["state"] for record in records))
    return f"{len(records):,} cases, {wrong} wrong; {states}."


def read(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path, help="JSON lines, one a case; gone on with")
    parser.add_argument("--page", type=Path, help="Markdown to write the tables into")
    parser.add_argument("--folder", type=Path, help="where to work; kept, with its inputs")
    parser.add_argument("--only", default="", help="pattern of 'COMMAND: FAULT'")
    options = parser.parse_args()
    done = {(each["command"], each["fault"], each["n"]) for each in read(options.record)}
    options.record.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ccrop-torture-") as folder:
        torture = Torture(options.folder or Path(folder))
        for command, fault, n in cases(torture, options.only):
            if (command.name, fault.name, n) in done:
                continue
            run = torture.strait if isinstance(fault, Strait) else torture.case
            result = run(command, fault, n)
            with options.record.open("a") as file:
                file.write(json.dumps(result) + "\n")
            if result["wrong"]:
                where = f"{command.name}, {fault.name} at {n} ({result['operation']})"
                print(f"{where}: {result['wrong']}", flush=True)  # noqa: T201
        torture.server.close()
    if options.page:
        write_page(options.page, "tests/faults/torture.py", tables(read(options.record)))


if __name__ == "__main__":
    main()
