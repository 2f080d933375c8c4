"""Boxes of a source from an encoder: one data shard in, one box shard out.

A shard that is complete is never computed again, so a run that was killed is taken up by
running it again.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from ccrop_pipeline.boxset import (
    EMPTY,
    FORMS,
    FULL_BOX,
    OK,
    UNREADABLE,
    BoxSet,
    BoxTable,
    LocalizerInfo,
    Provenance,
    SourceInfo,
    shard_is_complete,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import Encoder, boxes_from_heatmaps, channel_sum, min_max
from ccrop_pipeline.sources import Sample, Source, image_hash
from ccrop_pipeline.views.whole import WholeImages, whole_images

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class ComputeSettings:
    """How boxes are computed.

    Args:
        threshold: Heatmap cells strictly above it are content.
        batch_size: Images a forward pass.
        threads: Decoding threads.
        heatmaps: Whether heatmaps are kept beside the boxes.
        form: `parquet` or `webdataset`.
    """

    threshold: float = 0.1
    batch_size: int = 256
    threads: int = 2
    heatmaps: bool = True
    form: str = "parquet"


def compute_boxes(
    source: Source,
    encoder: Encoder,
    folder: Path,
    settings: ComputeSettings,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> BoxSet:
    """Computes the box of every image of a source and writes a box set.

    Args:
        source: Images.
        encoder: What computes the heatmaps.
        folder: Where the box set goes. Complete shards of the same encoder, settings and source
            that already lie there are kept.
        settings: Threshold, batch size, threads, form.
        progress: If given, called with the shard and the number of its images done since the
            last call; a shard that is kept is not reported.
        overwrite: Whether to delete a box set that lies in `folder`.

    Raises:
        CcropError: When `folder` holds boxes of something else, or the source cannot be read or
            names two images with one key.
    """
    if overwrite:
        _remove_box_set(folder)
    if source.random_access:
        source.index()  # refuses keys that stand twice, before hours of work depend on them
    provenance = provenance_of(source, encoder, settings)
    for shard in source.shards:
        if not shard_is_complete(folder, shard, provenance, settings.form):
            table = _compute_shard(
                source.read(shard),
                encoder,
                settings,
                partial(progress, shard) if progress else None,
            )
            write_shard(folder, shard, table, provenance, settings.form)
    write_manifest(folder, source.shards, provenance, settings.form)
    return BoxSet.open(folder)


def provenance_of(source: Source, encoder: Encoder, settings: ComputeSettings) -> Provenance:
    """What a box set of these records about its making."""
    return Provenance(
        encoder=encoder.info,
        localizer=LocalizerInfo(
            reduction="channel sum, min-max",
            threshold=settings.threshold,
            interpolation="bilinear",
            input_size=encoder.input_size,
            preprocessing=_preprocessing(encoder),
        ),
        source=SourceInfo(source.kind, source.fingerprint()),
        libraries={
            name: version(name) for name in ("ccrop-pipeline", "torch", "torchvision", "pillow")
        },
    )


def _preprocessing(encoder: Encoder) -> str:
    return (
        "whole image squeezed to a square, bilinear with antialiasing; "
        f"mean {list(encoder.mean)}, std {list(encoder.std)}; {encoder.precision}"
    )


def _remove_box_set(folder: Path) -> None:
    """Deletes a box set, whole or unfinished, and refuses to delete anything else."""
    if not folder.exists():
        return
    known = ("manifest.json", *(form.suffix for form in FORMS.values()))
    strangers = [
        e.name
        for e in folder.iterdir()
        if not e.name.startswith(".") and not e.name.endswith(known)
    ]
    if strangers:
        raise CcropError(
            f"{folder} holds more than a box set, such as {strangers[0]!r}: it was not deleted. "
            "Choose another folder"
        )
    shutil.rmtree(folder)


@dataclass
class _Located:
    boxes: np.ndarray
    sizes: np.ndarray
    status: np.ndarray
    heatmaps: np.ndarray


def _compute_shard(
    samples: Iterable[Sample],
    encoder: Encoder,
    settings: ComputeSettings,
    report: Callable[[int], None] | None,
) -> BoxTable:
    keys: list[str] = []
    hashes: list[int] = []

    def images() -> Iterator[bytes]:
        for sample in samples:
            keys.append(sample.key)
            hashes.append(image_hash(sample.image))
            yield sample.image

    located = []
    for batch in whole_images(images(), encoder.input_size, settings.batch_size, settings.threads):
        located.append(_locate(batch, encoder, settings.threshold))
        if report:
            report(len(batch.readable))
    if not located:
        return _empty_table()
    return BoxTable(
        keys=keys,
        boxes=np.concatenate([rows.boxes for rows in located]),
        sizes=np.concatenate([rows.sizes for rows in located]),
        status=np.concatenate([rows.status for rows in located]),
        image_hash=np.array(hashes, np.uint64),
        heatmaps=np.concatenate([rows.heatmaps for rows in located]) if settings.heatmaps else None,
    )


def _empty_table() -> BoxTable:
    return BoxTable(
        keys=[],
        boxes=np.empty((0, 4), np.float32),
        sizes=np.empty((0, 2), np.uint32),
        status=np.empty(0, np.uint8),
        image_hash=np.empty(0, np.uint64),
    )


def _locate(batch: WholeImages, encoder: Encoder, threshold: float) -> _Located:
    features = encoder.features(torch.from_numpy(batch.pixels))
    heatmaps, usable = min_max(channel_sum(features))
    boxes, found = boxes_from_heatmaps(heatmaps, threshold, encoder.input_size)
    status = np.where((usable & found).cpu().numpy(), OK, EMPTY).astype(np.uint8)
    status[~batch.readable] = UNREADABLE
    rows = _Located(boxes.cpu().numpy(), batch.sizes, status, heatmaps.cpu().numpy())
    rows.boxes[status != OK] = FULL_BOX
    rows.heatmaps[~batch.readable] = 0
    return rows
