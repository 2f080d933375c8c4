"""Loading a set of images as pairs of views: the rivals and ours in turns."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.views.data import ImageSet
from benchmarks.views.ours import OurViews, our_threads
from benchmarks.views.rivals import RIVALS, rival_loader
from benchmarks.views.rounds import interleaved


def measure(
    images: ImageSet, complete: bool, workers: int, rounds: int, folder: Path
) -> dict[str, Any]:
    """Time whole epochs.

    Args:
        images: What to load.
        complete: Augmented and normalised float views, or uint8 crops alone.
        workers: Loader processes of the rivals and, for photographs, of ours; 0 for one process
            with one thread.
        rounds: How often each program runs.
        folder: Empty; the boxes go there.
    """
    threads = our_threads(images, workers)
    torch.set_num_threads(threads)
    images = images.repeated(max(1, workers))
    programs = {
        name: partial(_exhaust, rival_loader(name, images, complete, workers)) for name in RIVALS
    }
    programs["ours"] = OurViews(images, complete, workers, folder).epoch
    return {
        "set": images.name,
        "view_px": images.view_size,
        "complete": complete,
        "workers": workers,
        "our_torch_threads": threads,
        "images": len(images.encoded),
        "batch_size": images.batch_size,
        "decoded_beforehand": images.small,
        "mean_bytes": round(float(np.mean([len(image) for image in images.encoded]))),
        "seconds": interleaved(programs, rounds),
    }


def _exhaust(batches: Iterable[object]) -> None:
    for _ in batches:
        pass
