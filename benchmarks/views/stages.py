"""Where our time goes in one thread: a run of its own, apart from the timed ones."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.views.data import ImageSet
from benchmarks.views.ours import OurViews, view_group
from benchmarks.views.rounds import interleaved
from ccrop_pipeline.crops import crop_and_resize, reduction_for
from ccrop_pipeline.images import decode_reduced, open_source, pack, stored_size
from ccrop_pipeline.views import Batch, ViewCutter, ViewGroup
from ccrop_pipeline.views.augment import Augment
from ccrop_pipeline.views.batch import hash_keys


def stages(images: ImageSet, rounds: int) -> dict[str, Any]:
    """Median seconds of each stage for all images of a set, in the order of work.

    Small images are read and decoded once for a whole training: only what is done in every epoch
    is listed.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        loading = OurViews(images, False, 0, Path(name) / "boxes")
        batches = list(loading.loader.crops(0))
        if images.small:
            programs: dict[str, Callable[[], object]] = {"crop and resize": loading.epoch}
        else:
            programs = _photograph_stages(images, Path(name))
        seconds = _medians(programs, rounds) | _augment_stages(images, batches, rounds)
    return {"set": images.name, "images": len(images.encoded), "seconds": seconds}


def _photograph_stages(images: ImageSet, folder: Path) -> dict[str, Callable[[], object]]:
    """Do what `ViewCutter.cut` does, part by part, after reading from a tar in the page cache."""
    index = _packed(images, folder).index()
    group = view_group(images)
    cutter = ViewCutter((group,), seed=0)
    hashes = hash_keys(list(index.keys))

    def windows() -> np.ndarray:
        sizes = np.array([stored_size(image) for image in images.encoded])
        return cutter.windows(hashes, sizes, images.boxes, epoch=0)

    drawn = windows()
    reductions = reduction_for(drawn, cutter.view_sizes).tolist()
    work = list(zip(images.encoded, reductions, strict=True))
    decoded = [decode_reduced(image, reduction) for image, reduction in work]
    return {
        "read": lambda: [index.read(row) for row in range(len(index))],
        "windows": windows,
        "decode": lambda: [decode_reduced(image, reduction) for image, reduction in work],
        "crop and resize": lambda: [
            crop_and_resize(*image, window, group.size)
            for view in drawn
            for image, window in zip(decoded, view, strict=True)
        ],
    }


def _packed(images: ImageSet, folder: Path) -> Any:
    (folder / "files").mkdir()
    for row, image in enumerate(images.encoded):
        (folder / "files" / f"{row:06d}.jpg").write_bytes(image)
    pack(open_source(folder / "files"), folder / "tars")
    return open_source(folder / "tars")


def _augment_stages(images: ImageSet, batches: list[Batch], rounds: int) -> dict[str, float]:
    """Seconds that each kind of change adds when it is switched on after those before it."""
    group = view_group(images)
    full = group.augment
    nothing = replace(full, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0, flip_p=0.0)
    flipped = replace(nothing, flip_p=full.flip_p)
    coloured = replace(flipped, jitter_p=full.jitter_p, grayscale_p=full.grayscale_p)
    settings = {"to float, normalise": nothing, "flip": flipped, "colour": coloured}
    if full.blur_p:
        settings["blur"] = full
    programs = {
        name: _augmenting(replace(group, augment=chosen), batches)
        for name, chosen in settings.items()
    }
    seconds = _medians(programs, rounds)
    added = {later: seconds[later] - seconds[earlier] for earlier, later in pairwise(seconds)}
    return {**seconds, **added}


def _augmenting(group: ViewGroup, batches: list[Batch]) -> Callable[[], object]:
    augment = Augment((group,), 0, "cpu")
    return lambda: [augment(batch, 0) for batch in batches]


def _medians(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    return {name: median(seconds) for name, seconds in interleaved(programs, rounds).items()}
