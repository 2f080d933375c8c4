"""Peak memory and seconds of each stage in the life of a box set, by number of rows.

Computes boxes of images of 8 x 8 pixels with a network of one layer, so that all is done for
each row that a real computation does; writes shards of 10,000 rows with heatmaps of 7 x 7 cells,
checks them for the manifest, validates and opens them. Each stage runs in a process of its own, so
that no stage hides the peak of another.

    python -m benchmarks.scale.memory --rows 100000 1000000
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ccrop_pipeline.boxset import (
    BoxSet,
    BoxTable,
    Provenance,
    SourceInfo,
    validate,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.images import Sample

ROWS_PER_SHARD = 10_000
STAGES = ("nothing", "compute", "shards", "manifest", "validate", "lookup")
_MADE_UP = Provenance(None, None, SourceInfo("made up", "00"), rule="random boxes")


def main() -> None:
    """Print one JSON line a stage: rows, seconds and peak resident memory in MB."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--stage", nargs=2, metavar=("STAGE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(measured(args.stage[0], Path(args.stage[1]), args.rows[0])))
        return
    for _ in range(args.rounds):
        for rows in args.rows:
            with tempfile.TemporaryDirectory() as folder:
                for stage in STAGES:
                    # `-m` finds this file beside the package that is being measured.
                    command = [sys.executable, "-m", "benchmarks.scale.memory"]
                    command += ["--stage", stage, folder, "--rows", str(rows)]
                    subprocess.run(command, check=True)


def measured(stage: str, folder: Path, rows: int) -> dict[str, float | str]:
    """Run one stage and tell its seconds and the peak of this process."""
    shards = [f"made-{i:06d}" for i in range(rows // ROWS_PER_SHARD)]
    started = time.perf_counter()
    if stage == "compute":
        compute(folder / "computed", rows)
    elif stage == "shards":
        for number, shard in enumerate(shards):
            write_shard(folder, shard, made_up_table(number), _MADE_UP)
    elif stage == "manifest":
        write_manifest(folder, shards, _MADE_UP)
    elif stage == "validate":
        assert validate(folder) == []
    elif stage == "lookup":
        BoxSet.open(folder).lookup()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"stage": stage, "rows": rows, "seconds": round(seconds, 2), "peak_mb": round(peak, 1)}


class TinyImages:
    """So many times the same image, in shards, under keys of their own."""

    kind, random_access, location, classes = "made up", False, "nowhere", ()

    def __init__(self, rows: int) -> None:
        out = io.BytesIO()
        Image.linear_gradient("L").resize((8, 8)).save(out, "PNG")
        self._image = out.getvalue()
        self.shards = tuple(f"made-{i:06d}" for i in range(rows // ROWS_PER_SHARD))

    def read(self, shard: str) -> Iterator[Sample]:
        """Yield the samples of one shard."""
        for row in range(ROWS_PER_SHARD):
            yield Sample(f"{shard}/{row:08d}", self._image, None)

    def fingerprint(self) -> str:
        """Return the same for equal numbers of images."""
        return f"{len(self.shards)} shards"


def compute(folder: Path, rows: int) -> None:
    """Compute a box set with heatmaps of 7 x 7 cells."""
    import torch

    from ccrop_pipeline.compute import compute_boxes
    from ccrop_pipeline.localize import BoxRule, Encoder, Localizer

    torch.set_num_threads(1)
    encoder = Encoder(torch.nn.Conv2d(3, 4, 2), "", 8)
    compute_boxes(TinyImages(rows), Localizer(encoder, rule=BoxRule(0.1)), folder, batch_size=256)


def made_up_table(number: int, rows: int = ROWS_PER_SHARD) -> BoxTable:
    """Make the rows of one shard: plausible boxes, keys and maps, the same each time."""
    rng, n = np.random.default_rng(number), rows
    low, high = rng.integers(0, 100, (n, 2)), rng.integers(101, 225, (n, 2))
    return BoxTable(
        keys=[f"n{number:08d}/made_up_{row:08d}" for row in range(n)],
        boxes=(np.concatenate([low, high], axis=1) / 224).astype(np.float32),
        sizes=rng.integers(300, 500, (n, 2)).astype(np.uint32),
        orientation=np.ones(n, np.uint8),
        status=np.zeros(n, np.uint8),
        image_hash=rng.integers(0, 2**64, n, np.uint64),
        heatmaps=rng.random((n, 7, 7)).astype(np.float16),
    )


if __name__ == "__main__":
    main()
