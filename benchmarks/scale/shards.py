"""What grows with the number of shards: fingerprint, resuming, listing, manifest and opening.

python -m benchmarks.scale.shards --shards 1000
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
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
from ccrop_pipeline.images import open_source

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
            # More than the 128 KiB that a fingerprint reads of a tar.
            (tars / f"{name}.tar").write_bytes(bytes(200_000))
            write_shard(boxes, name, made_up_table(number, rows=1), _MADE_UP)
        write_manifest(boxes, names, _MADE_UP)
        steps: dict[str, Callable[[], Any]] = {
            "open_source": lambda: open_source(tars),
            "fingerprint": lambda: open_source(tars).fingerprint(),
            "is_complete": lambda: [shard_is_complete(boxes, name, _MADE_UP) for name in names],
            "listing": lambda: missing_shards(boxes, names),
            "manifest_there": lambda: write_manifest(boxes, names, _MADE_UP),
            "open": lambda: BoxSet.open(boxes),
        }
        seconds = {name: _median(step, args.rounds) for name, step in steps.items()}
        size = (boxes / "manifest.json").stat().st_size
    result = {name: round(one / args.shards * 1e6, 1) for name, one in seconds.items()}
    print(json.dumps({"us_a_shard": result, "manifest_bytes_a_shard": size // args.shards}))


def _median(step: Callable[[], Any], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


if __name__ == "__main__":
    main()
