"""Single parts: drawing windows, and opening a box set as large as ImageNet's."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch.distributions import Beta

from benchmarks.views.authors import official_window
from benchmarks.views.made_boxes import write_box_set
from benchmarks.views.rounds import interleaved
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.crops import UNIFORMS_PER_WINDOW, WINDOW, CropParams, sample_windows, uniforms

SHARD_ROWS = 10_000


def sampler(views: int, rounds: int) -> dict[str, Any]:
    """Draw a window for so many images: theirs one by one, ours at once.

    Both include drawing the random numbers. Ours are over so soon that they are drawn 20 times.
    """
    random = np.random.default_rng(0)
    sizes = random.integers(200, 800, (views, 2))
    near, far = random.uniform(0, 0.4, (2, views, 2))
    boxes = np.hstack([near, 1 - far]).astype(np.float32)
    hashes = random.integers(0, 2**63, views).astype(np.uint64)
    params, beta = CropParams("official", alpha=0.6), Beta(0.6, 0.6)
    their_sizes, their_boxes = sizes.tolist(), boxes[:, [1, 0, 3, 2]].tolist()

    def theirs() -> None:
        for size, box in zip(their_sizes, their_boxes, strict=True):
            official_window(size, box, beta)

    def ours() -> None:
        for epoch in range(20):
            draws = uniforms(0, epoch, hashes, 0, WINDOW, UNIFORMS_PER_WINDOW)
            sample_windows(boxes, sizes, draws, params)

    seconds = interleaved({"authors": theirs, "ours": ours}, rounds)
    seconds["ours"] = [taken / 20 for taken in seconds["ours"]]
    return {"views": views, "seconds": seconds}


def box_set(rows: int, rounds: int) -> dict[str, Any]:
    """Open a box set and its lookup, whose cache file is there already."""
    with tempfile.TemporaryDirectory() as name:
        folder = _make_box_set(Path(name), rows)
        BoxSet.open(folder).lookup()
        opening = {
            "opened": lambda: BoxSet.open(folder),
            "opened with its lookup": lambda: BoxSet.open(folder).lookup(),
        }
        return {"rows": rows, "seconds": interleaved(opening, rounds)}


def _make_box_set(folder: Path, rows: int) -> Path:
    random = np.random.default_rng(0)
    shards = {}
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        end = min(start + SHARD_ROWS, rows)
        near, far = random.uniform(0, 0.5, (2, end - start, 2)).astype(np.float32)
        keys = [f"{row:08d}" for row in range(start, end)]
        shards[f"train-{number:06d}"] = (keys, np.hstack([near, 1 - far]))
    return write_box_set(folder, shards)
