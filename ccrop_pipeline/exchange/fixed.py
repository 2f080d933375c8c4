"""The same box for every image."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base import SILENT, Observer
from ccrop_pipeline.boxset import (
    EMPTY,
    FULL_BOX,
    OK,
    UNREADABLE,
    BoxSet,
    BoxTable,
    Choices,
    Provenance,
    SourceInfo,
    left_to_write,
    library_versions,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.images import (
    ImageHeader,
    Sample,
    Source,
    UnreadableImage,
    image_hash,
    read_header,
)

# From the key and header of an image to its boxes, float32 (k, 4); none where it has no content.
Place = Callable[[str, ImageHeader], NDArray[np.float32]]

# SimCCrop: half of the height and of the width, in the middle. From the README of the code of
# ContrastiveCrop (Peng et al., CVPR 2022, arXiv 2202.03278); the paper does not have it.
CENTRE_BOX: Final = (0.25, 0.25, 0.75, 0.75)
BOXES: Final = {"centre": CENTRE_BOX, "full": FULL_BOX}
_FULL = np.array([FULL_BOX], np.float32)
_UNREAD = ImageHeader(0, 0, 1)


def fixed_boxes(
    source: Source,
    folder: str | Path,
    name: Literal["centre", "full"],
    *,
    observer: Observer = SILENT,
) -> BoxSet:
    """Write a box set with one box for all images.

    Args:
        source: Images.
        folder: Where the box set goes; complete shards of the same are kept.
        name: `centre` for SimCCrop's box, `full` for the whole image.
        observer: Hears how it goes.

    Raises:
        CcropError: If the folder holds other boxes, or the source cannot be read.
    """
    boxes = np.array([BOXES[name]], np.float32)
    return write_boxes(source, folder, rule=name, place=lambda *_: boxes, observer=observer)


def write_boxes(
    source: Source,
    folder: str | Path,
    *,
    rule: str,
    place: Place,
    several: bool = False,
    observer: Observer = SILENT,
) -> BoxSet:
    """Write a box for every image of a source.

    Complete shards of the same rule and source that are already in the folder are kept, and
    nothing is overwritten. Only the header of an image is decoded.

    Args:
        source: Images.
        folder: Where the box set goes.
        rule: How the boxes come about: all that they depend on besides the source.
        place: Gives the boxes of an image; called for readable images, in source order.
        several: Whether images keep all boxes that `place` gives, for a sampler to draw from.
        observer: Hears how it goes.

    Raises:
        CcropError: If the folder holds other boxes, or the source cannot be read.
    """
    provenance = Provenance(
        encoder=None,
        localizer=None,
        source=SourceInfo(source.kind, source.fingerprint()),
        rule=rule,
        libraries=library_versions("numpy", "pillow"),
    )
    for shard in left_to_write(folder, source.shards, provenance):
        table = _table(source.read(shard), place, observer, several=several)
        write_shard(folder, shard, table, provenance)
    write_manifest(folder, source.shards, provenance)
    return BoxSet.open(folder)


def _table(
    samples: Iterable[Sample], place: Place, observer: Observer, *, several: bool
) -> BoxTable:
    keys, headers, hashes, status, rows = [], [], [], [], []
    for sample in samples:
        header, boxes = _one(sample, place)
        keys.append(sample.key)
        headers.append(header)
        hashes.append(image_hash(sample.image))
        status.append(UNREADABLE if header is _UNREAD else OK if len(boxes) else EMPTY)
        rows.append(boxes if len(boxes) else _FULL)
        observer.images_done(1)
    choices = Choices.of(rows)
    return BoxTable(
        keys=keys,
        boxes=choices.union(),
        sizes=np.array([header[:2] for header in headers], np.uint32).reshape(-1, 2),
        orientation=np.array([header.orientation for header in headers], np.uint8),
        status=np.array(status, np.uint8),
        image_hash=np.array(hashes, np.uint64),
        choices=choices if several else None,
    )


def _one(sample: Sample, place: Place) -> tuple[ImageHeader, NDArray[np.float32]]:
    try:
        header = read_header(sample.image)
    except UnreadableImage:
        return _UNREAD, _FULL[:0]
    return header, place(sample.key, header)
