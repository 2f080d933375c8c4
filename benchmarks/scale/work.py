"""Images and a worker for the programs beside this: small enough to be about everything else."""

from pathlib import Path

import torch

from ccrop_pipeline.base import Observer, Ranks
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.images import Scenes, open_source, pack
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer, build_backbone

SIZE = 32  # pixels
SETTINGS = {"batch_size": 64, "threads": 1}


def make_source(folder: Path, shards: int, images: int, size: int = SIZE) -> None:
    """Pack scenes into so many shards of so many images."""
    pack(Scenes(shards * images, size=size), folder, max_images=images)


def small_localizer(size: int = SIZE) -> Localizer:
    """Return the smallest encoder, with the same random weights in every process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = build_backbone("small")
    return Localizer(
        Encoder(backbone, backbone.layer, size, name="small", epoch=0), rule=BoxRule(0.1)
    )


def work(
    source: str, out: str, rank: int, world_size: int, observer: Observer | None = None
) -> bool:
    """Compute one portion; tell whether the box set is complete now."""
    ranks = Ranks(rank, world_size)
    observer = observer or Observer()
    opened, localizer = open_source(source), small_localizer()
    made = compute_boxes(opened, localizer, out, **SETTINGS, ranks=ranks, observer=observer)
    return made is not None


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file that is not hidden, with its bytes."""
    visible = (path for path in folder.rglob("*.*") if path.name[0] != ".")
    return {path.name: path.read_bytes() for path in visible}
