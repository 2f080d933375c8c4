"""What grows with the number of shards: looking them up, resuming, listing, manifest and opening.

python -m benchmarks.scale.shards --shards 1000

What takes one shard is done with 1,000 of them at most, so that a cost that grows with the number
of all shards shows as more microseconds a shard.
"""

import argparse
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.scale.memory import made_up_table
from ccrop_pipeline.boxset import (
    BoxSet,
    Provenance,
    SourceInfo,
    missing_shards,
    shard_is_complete,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.images import Source, open_source

_SAMPLE = 1000
_MADE_UP = Provenance(None, None, SourceInfo("made up", "00"), rule="random boxes")


def main() -> None:
    """Print one JSON object of microseconds a shard, medians of all rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tars, boxes = Path(folder, "tars"), Path(folder, "boxes")
        tars.mkdir()
        names = [f"made-{number:06d}" for number in range(args.shards)]
        for number, name in enumerate(names):
            with (tars / f"{name}.tar").open("wb") as tar:
                tar.truncate(200_000)  # more than the 128 KiB that a fingerprint reads of it
            write_shard(boxes, name, made_up_table(number, rows=1), _MADE_UP)
        write_manifest(boxes, names, _MADE_UP)
        some = names[:: max(1, len(names) // _SAMPLE)]
        here, there = open_source(tars), open_source(f"file://{tars}/*.tar")
        steps: dict[str, tuple[int, Callable[[], Any]]] = {
            "open_source": (len(names), lambda: open_source(tars)),
            "read": (len(some), lambda: _read(here, some)),
            "remote_read": (len(some), lambda: _read(there, some)),
            "fingerprint": (len(names), lambda: open_source(tars).fingerprint()),
            "is_complete": (
                len(some),
                lambda: [shard_is_complete(boxes, name, _MADE_UP) for name in some],
            ),
            "listing": (len(names), lambda: missing_shards(boxes, names)),
            "manifest_there": (len(names), lambda: write_manifest(boxes, names, _MADE_UP)),
            "open": (len(names), lambda: BoxSet.open(boxes)),
        }
        result = {
            name: round(_median(step, args.rounds) / shards * 1e6, 1)
            for name, (shards, step) in steps.items()
        }
        size = (boxes / "manifest.json").stat().st_size
    print(json.dumps({"us_a_shard": result, "manifest_bytes_a_shard": size // args.shards}))


def _read(source: Source, shards: Sequence[str]) -> None:
    for shard in shards:
        deque(source.read(shard), maxlen=0)


def _median(step: Callable[[], Any], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


if __name__ == "__main__":
    main()
