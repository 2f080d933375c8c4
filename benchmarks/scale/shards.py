"""What grows with the number of shards: looking them up, resuming, listing, manifest and opening.

What takes one shard is done with 1,000 of them at most, so that a cost that grows with the number
of all shards shows as more microseconds a shard. Seconds of the processor and not of the clock, so
that other programs disturb little. Tars are holes but for a header, and box shards copies of one
without rows, so that many are soon made.

    python -m benchmarks.scale.shards --shards 1000
    TMPDIR=/dev/shm python -m benchmarks.scale.shards --shards 100000
"""

import argparse
import json
import tarfile
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

_SAMPLE = 1000
_MADE_UP = Provenance(None, None, SourceInfo("made up", "00"), rule="random boxes")


def main() -> None:
    """Print one JSON object of CPU microseconds a shard, medians of all rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tars, boxes = Path(folder, "tars"), Path(folder, "boxes")
        names = [f"made-{number:06d}" for number in range(args.shards)]
        _make(tars, boxes, names)
        some = names[:: max(1, len(names) // _SAMPLE)]
        here, there = open_source(tars), open_source(f"file://{tars}/*.tar")
        box_set = BoxSet.open(boxes)
        steps: dict[str, tuple[list[str], Callable[[], Any]]] = {
            "open_source": (names, lambda: open_source(tars)),
            "read": (some, lambda: [next(here.read(name)) for name in some]),
            "remote_read": (some, lambda: [next(there.read(name)) for name in some]),
            "fingerprint": (names, lambda: open_source(tars).fingerprint()),
            "is_complete": (some, lambda: [_is_complete(boxes, name) for name in some]),
            "listing": (names, lambda: missing_shards(boxes, names)),
            "manifest_there": (names, lambda: write_manifest(boxes, names, _MADE_UP)),
            "open": (names, lambda: BoxSet.open(boxes)),
            "read_boxes": (some, lambda: [box_set.read(name) for name in some]),
        }
        result = {
            name: round(_median(step, args.rounds) / len(shards) * 1e6, 1)
            for name, (shards, step) in steps.items()
        }
        size = (boxes / "manifest.json").stat().st_size
    print(json.dumps({"us_a_shard": result, "manifest_bytes_a_shard": size // args.shards}))


def _make(tars: Path, boxes: Path, names: list[str]) -> None:
    write_shard(boxes, names[0], made_up_table(0, rows=0), _MADE_UP)
    write_manifest(boxes, names[:1], _MADE_UP)
    (first,) = boxes.rglob("*.parquet")
    manifest = json.loads((boxes / "manifest.json").read_text())
    (entry,) = manifest["shards"]
    manifest["shards"] = [
        entry | {"name": name, "file": entry["file"].replace(names[0], name)} for name in names
    ]
    (boxes / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    header = tarfile.TarInfo("0.jpg")
    header.size = 200_000  # so that a tar has more than the 128 KiB that a fingerprint reads
    content = first.read_bytes()
    tars.mkdir()
    for name in names:
        first.with_name(f"{name}.parquet").write_bytes(content)
        with (tars / f"{name}.tar").open("wb") as tar:
            tar.write(header.tobuf())
            tar.truncate(header.size + tarfile.RECORDSIZE)


def _is_complete(boxes: Path, shard: str) -> bool:
    return shard_is_complete(boxes, shard, _MADE_UP)


def _median(step: Callable[[], Any], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    return median(seconds)


if __name__ == "__main__":
    main()
