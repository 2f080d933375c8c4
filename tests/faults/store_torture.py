"""Commands on box sets in a store, whose N-th answer fails, for every N: `make torture`.

The long run: `python tests/faults/store_torture.py build/store-torture.jsonl`.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
from attacks import Command, Server, make_inputs, snapshot
from failing_store import ANSWERS, BUCKET, Answer, FailingStore
from torture import headline, read, state, write_page

STORED = f"s3://{BUCKET}/boxes"
OUT = f"s3://{BUCKET}/out/boxes"
COMMANDS = (
    Command("boxes full", ("boxes", "full", "{inputs}/tars", OUT)),
    Command("boxes compute", ("boxes", "compute", "{inputs}/tars", OUT, "--model", "{inputs}/run")),
    Command(
        "boxes import", ("boxes", "import", "{inputs}/tars", OUT, "--coco", "{inputs}/coco.json")
    ),
    Command("boxes rethreshold", ("boxes", "rethreshold", STORED, OUT, "--threshold", "0.4")),
    Command("boxes export", ("boxes", "export", STORED, "{out}/boxes.json", "--form", "coco")),
    Command("boxes validate", ("boxes", "validate", STORED)),
    Command("boxes info", ("boxes", "info", STORED)),
)


PASSES = 8


class StoreTorture:
    """Runs cases against a service of its own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder.resolve(), FailingStore()
        os.environ |= self.store.environment
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        self.files = fsspec.filesystem("s3", use_listings_cache=False)
        self.files.mkdir(BUCKET)
        self.server, self.inputs = Server(self.folder), self.folder / "inputs"
        make_inputs(self.server, self.inputs)
        self.files.put(f"{self.inputs}/boxes/", f"{BUCKET}/boxes/", recursive=True)
        self._whole: dict[str, tuple[dict[str, str], list[str]]] = {}

    def close(self) -> None:
        self.server.close()
        self.store.close()

    def fresh(self) -> Path:
        """Remove what is written, in the store and in the folder of outputs."""
        if self.files.exists(f"{BUCKET}/out"):
            self.files.rm(f"{BUCKET}/out", recursive=True)
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        self.store.arm()
        return out

    def found(self, out: Path) -> dict[str, str]:
        """Return a hash for every object and file that is there."""
        objects = {
            name: hashlib.sha256(self.files.cat_file(name)).hexdigest()
            for name in self.files.find(BUCKET)
        }
        return {**objects, **snapshot(out)}

    def run(self, command: Command, out: Path, starts: int = 1) -> list[dict[str, Any]]:
        arguments = command.filled(command.arguments, self.inputs, out)
        return self.server.runs([arguments] * starts, out)

    def undisturbed(self, command: Command) -> tuple[dict[str, str], list[str]]:
        """Return what a command leaves, and the requests that it makes."""
        if command.name not in self._whole:
            out = self.fresh()
            (done,) = self.run(command, out)
            requests = [*self.store.requests]
            assert done["status"] == 0, done["output"]
            self._whole[command.name] = self.found(out), requests
        return self._whole[command.name]

    def case(self, command: Command, answer: Answer | None, n: int) -> dict[str, Any]:
        """Let the N-th answer fail, or start four at once; run the command again, and judge."""
        expected, _ = self.undisturbed(command)
        out = self.fresh()
        self.store.arm(answer, n)
        done = self.run(command, out, 1 if answer else 4)
        self.store.arm()
        wrong = next(filter(None, (judge(answer, each) for each in done)), None)
        ended = [each["status"] for each in done]
        if not wrong and 0 not in ended:
            (again,) = self.run(command, out)
            wrong = None if again["status"] == 0 else f"run again: {again['output'][-300:]}"
        if not wrong and self.found(out) != expected:
            other = self.found(out).items() ^ expected.items()
            wrong = f"another result: {sorted({name for name, _ in other})}"
        fault = answer.name if answer else "four starts at once"
        of = {"command": command.name, "fault": fault, "n": n, "state": state()}
        return {**of, "ended": ended, "wrong": wrong}


def judge(answer: Answer | None, done: dict[str, Any]) -> str | None:
    """Return what is wrong with how a command ended; None where nothing is."""
    status, output = done["status"], done["output"]
    if status == 0 or (status == -9 and answer and answer.name.startswith("kill")):
        return None
    messages = re.findall(r"^Error: [^\0]*", output, re.MULTILINE)
    message = " ".join(" ".join(messages).split())
    if "Traceback" in output or "Exception ignored" in output:
        return "traceback: " + output.strip().splitlines()[-1]
    if status != 1 or not messages:
        return f"status {status}: {output[-300:]}"
    if f"s3://{BUCKET}" not in message or len(message) > 1_500:
        return f"no address, or too long: {message[-300:]}"
    # One answer that is worth another try is given one.
    return None if not answer or answer.always else f"not tried again: {message}"


def cases(torture: StoreTorture) -> list[tuple[Command, Answer | None, int]]:
    """Return every case; those that take long at four requests of each command.

    In passes over all commands and faults, so that a record that is not complete covers all alike.
    """
    found: list[tuple[int, Command, Answer | None, int]] = []
    for command in COMMANDS:
        _, requests = torture.undisturbed(command)
        found += [(0, command, None, n) for n in range(1, 4)]
        for answer in ANSWERS:
            count = sum(answer.method in ("", method) for method in requests)
            step = max(1, count // 4) if answer.always or answer.name == "slow" else 1
            numbers = range(1, count + 1, step)
            found += [(k % PASSES, command, answer, n) for k, n in enumerate(numbers)]
    return [case for _, *case in sorted(found, key=lambda each: each[0])]


def table(records: list[dict[str, Any]]) -> str:
    """Return what was found as Markdown."""
    lines = ["| fault | cases | killed | exit 1 | exit 0 | wrong |", "|---|---|---|---|---|---|"]
    for fault in (*(answer.name for answer in ANSWERS), "four starts at once"):
        of = [each for each in records if each["fault"] == fault]
        ends = Counter(status for each in of for status in each["ended"])
        wrong = sum(bool(each["wrong"]) for each in of)
        lines.append(f"| {fault} | {len(of)} | {ends[-9]} | {ends[1]} | {ends[0]} | {wrong} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path, help="JSON lines, one a case; gone on with")
    parser.add_argument("--page", type=Path, help="Markdown to write the table into")
    options = parser.parse_args()
    record, records = options.record, read(options.record)
    record.parent.mkdir(parents=True, exist_ok=True)
    done = {(each["command"], each["fault"], each["n"]) for each in records}
    with tempfile.TemporaryDirectory(prefix="ccrop-torture-") as folder:
        torture = StoreTorture(Path(folder))
        for command, answer, n in cases(torture):
            fault = answer.name if answer else "four starts at once"
            if (command.name, fault, n) in done:
                continue
            records.append(torture.case(command, answer, n))
            with record.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
            if records[-1]["wrong"]:
                print(f"{command.name}, {fault} at {n}: {records[-1]['wrong']}", flush=True)  # noqa: T201
        torture.close()
    if options.page:
        text = f"{headline(records)}\n\n{table(records)}"
        write_page(options.page, "tests/faults/store_torture.py", text)


if __name__ == "__main__":
    main()
