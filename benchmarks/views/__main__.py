"""Times loading and augmenting of views, ours against others: make bench.

    python -m benchmarks.views run [DATA] [--out FILE]
    python -m benchmarks.views table FILE

`run` writes JSON with the seconds of every round, and the tables to standard error; `table` prints
the tables of such a file again. Run it from the root of the repository, on a quiet machine.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

# As the command line of ccrop has it, and here for all that is measured.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch

from benchmarks.views.data import ImageSet, image_sets, missing_sources
from benchmarks.views.loading import measure
from benchmarks.views.machine import cores, describe_machine
from benchmarks.views.parts import box_set, sampler
from benchmarks.views.stages import stages
from benchmarks.views.table import loading_table, markdown

DATA = Path(__file__).parents[2] / "../shared/data"


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and returns the exit status."""
    chosen = _options().parse_args(arguments)
    if chosen.command == "table":
        print(markdown(json.loads(chosen.file.read_text())))
        return 0
    if missing := missing_sources(chosen.data):
        print(
            f"{chosen.data} has no {', '.join(missing)}. Name a folder that holds these sources: "
            "python -m benchmarks.views run DATA",
            file=sys.stderr,
        )
        return 1
    sets = image_sets(chosen.data, chosen.images)
    results = run(sets, chosen.rounds, chosen.workers, chosen.rows)
    text = json.dumps(results, indent=1)
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(text + "\n")
    else:
        print(text)
    print(markdown(results), file=sys.stderr)
    return 0


def run(sets: Iterable[ImageSet], rounds: int, workers: int, rows: int) -> dict[str, Any]:
    """Measure everything.

    Args:
        sets: What views are made of.
        rounds: How often each program runs.
        workers: Loader processes where one process with one thread is not meant.
        rows: Rows of the box set to open.
    """
    results: dict[str, Any] = {"machine": describe_machine(), "loading": [], "stages": []}
    torch.set_num_threads(1)
    results["sampler"] = sampler(512, rounds)
    results["box_set"] = box_set(rows, rounds)
    for images_of_set in sets:
        for processes, complete in product((0, workers), (False, True)):
            with tempfile.TemporaryDirectory() as folder:
                measured = measure(images_of_set, complete, processes, rounds, Path(folder))
            results["loading"].append(measured)
            print(loading_table([measured])[-1], file=sys.stderr)
        results["stages"].append(stages(images_of_set, rounds))
    return results


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.views",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = options.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("run", help="measure")
    measuring.add_argument("data", type=Path, nargs="?", default=DATA, help="folder of the sources")
    measuring.add_argument("--out", type=Path, help="file for the JSON; standard output if absent")
    measuring.add_argument("--rounds", type=int, default=5)
    measuring.add_argument("--workers", type=int, default=cores(), help="all cores if not given")
    measuring.add_argument("--images", type=int, help="images a set and worker, for a short look")
    measuring.add_argument("--rows", type=int, default=1_281_167, help="of the box set; ImageNet's")
    showing = commands.add_parser("table", help="print the tables of a file")
    showing.add_argument("file", type=Path)
    return options


if __name__ == "__main__":
    sys.exit(main())
