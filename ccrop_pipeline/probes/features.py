"""Labelled images of a source, and how they are split by key."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccrop_pipeline.base import SILENT, Observer
from ccrop_pipeline.errors import SourceError
from ccrop_pipeline.images import ImageIndex, Source
from ccrop_pipeline.images.squares import resized_images
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.views.batch import hash_keys
from ccrop_pipeline.views.cutter import decode_or_note

_HELD_OUT = 6  # one image in six asks, the others answer, when there is no test source
_VALIDATION = 10  # one training image in ten chooses the settings of a linear probe
_BATCH = 256  # images a forward pass


@dataclass(frozen=True)
class LabelledImages:
    """Some labelled rows of an index, and an `ImageIndex` of these alone.

    Attributes:
        whole: The index that they are in.
        rows: int64 (n,) positions in the index.
    """

    whole: ImageIndex
    rows: NDArray[np.int64]

    @cached_property
    def keys(self) -> Sequence[str]:
        """Keys in the order of the rows."""
        keys = self.whole.keys
        return [keys[row] for row in self.rows.tolist()]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices, int64 (n,)."""
        labels: NDArray[np.int64] = self.whole.labels[self.rows]
        return labels

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: int) -> bytes:
        """Return the encoded bytes of image `i` of these."""
        return self.whole.read(int(self.rows[i]))


def labelled(index: ImageIndex, location: str) -> LabelledImages:
    """Return all labelled images of an index.

    Args:
        index: Images by position.
        location: Where they come from, for people.

    Raises:
        SourceError: If there is none.
    """
    rows = np.flatnonzero(index.labels >= 0)
    if not len(rows):
        raise SourceError(f"no image of {location} has a label, so there is nothing to probe with.")
    return LabelledImages(index, rows)


def several_classes(index: ImageIndex) -> bool:
    """Tell whether labels tell images apart."""
    return len(np.unique(index.labels[index.labels >= 0])) > 1


def bank_and_queries(
    train: Source, index: ImageIndex, test: Source | None
) -> tuple[LabelledImages, LabelledImages]:
    """Return the labelled images that answer, and those that are asked about.

    Without a test, or where it has the same images, about a sixth is held out by key: images
    that answer would know themselves.

    Args:
        train: Where the images that answer come from.
        index: Its images by position; also that of the queries where some are held out.
        test: Where those that are asked about come from.

    Raises:
        SourceError: If one of the two has no labels, or those that answer only one; when they have
            other classes, or when there are too few images to hold some out.
    """
    bank = labelled(index, train.location)
    if not several_classes(index):
        raise SourceError(
            f"all labelled images of {train.location} are of one class, so there is nothing to "
            "tell apart. Give images of two classes or more, a folder each."
        )
    if test is None or test.fingerprint() == train.fingerprint():
        return held_out(bank)
    expect_same_classes(train, test)
    return bank, labelled(test.index(), test.location)


def expect_same_classes(train: Source, test: Source) -> None:
    """Check that a label means the same class in two sources that name their classes.

    Raises:
        SourceError: If it does not: in a folder without images of one class, for example, the
            classes after it have other labels.
    """
    for label, (ours, theirs) in enumerate(zip(train.classes, test.classes, strict=False)):
        if ours != theirs:
            raise SourceError(
                f"label {label} is {ours!r} in {train.location} and {theirs!r} in "
                f"{test.location}, so that an accuracy would mean nothing. Give both images of "
                "the same classes."
            )


def held_out(images: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """Split images by key into a bank and about a sixth of them as queries.

    Raises:
        SourceError: If a part would be empty.
    """
    bank, queries = _without(images, hash_keys(images.keys) % np.uint64(_HELD_OUT) == 0)
    if not len(bank) or not len(queries):
        raise SourceError(
            f"too few images are labelled ({len(images)}) to hold out a sixth of them for a "
            "test. Give other images for the test, or take no probe (probe.every=0 in a run)."
        )
    return bank, queries


def at_most(images: LabelledImages, count: int) -> LabelledImages:
    """Return so many of the images, or all of fewer; chosen by key, whatever their order."""
    if len(images) <= count:
        return images
    chosen = np.argsort(hash_keys(images.keys), kind="stable")[:count]
    return LabelledImages(images.whole, np.sort(images.rows[chosen]))


def validation_split(images: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """Split training images by key: those to fit, and about a tenth to choose settings on.

    The same images on every machine, and independent of `held_out`, so that its bank can be
    split again.

    Raises:
        SourceError: If a part would be empty.
    """
    chosen = hash_keys(images.keys) // np.uint64(_HELD_OUT) % np.uint64(_VALIDATION) == 0
    fitted, validation = _without(images, chosen)
    if not len(fitted) or not len(validation):
        raise SourceError(
            f"too few images are labelled ({len(images)}) to choose the settings of a linear "
            "probe on a tenth of them. Use the kNN probe."
        )
    return fitted, validation


def _without(
    images: LabelledImages, chosen: NDArray[np.bool_]
) -> tuple[LabelledImages, LabelledImages]:
    return (
        LabelledImages(images.whole, images.rows[~chosen]),
        LabelledImages(images.whole, images.rows[chosen]),
    )


@dataclass(frozen=True)
class Features:
    """Features of labelled images.

    Attributes:
        values: float32 (n, channels), in main memory.
        labels: int64 (n,).
        problems: Key and reason of images that cannot be decoded, and so are left out.
    """

    values: Tensor
    labels: Tensor
    problems: tuple[str, ...] = ()


def numbered(*parts: Features) -> tuple[tuple[Features, ...], Tensor]:
    """Return several sets of images with their classes numbered from 0 on.

    A label is a name: one of 10^9 is not a billion classes.

    Returns:
        The parts with the new labels, and the labels as they were: sorted, by new label.
    """
    names = torch.cat([part.labels for part in parts]).unique()  # type: ignore[no-untyped-call]
    return tuple(
        Features(part.values, torch.searchsorted(names, part.labels)) for part in parts
    ), names


def embed(
    images: LabelledImages,
    encoder: Encoder,
    *,
    threads: int = 2,
    observer: Observer = SILENT,
) -> Features:
    """Return the encoder's pooled features; unreadable images are left out.

    Args:
        images: What to read.
        encoder: Frozen; evaluation mode is its own business.
        threads: Images decoded at a time, see `compute_boxes`.
        observer: Hears how it goes.

    Raises:
        SourceError: If none of the images can be read.
    """
    encoded: Iterable[bytes] = map(images.read, range(len(images)))
    values, readable = [], []
    kind = torch.device(encoder.device).type
    for batch in resized_images(
        encoded, encoder.input_size, batch_size=_BATCH, threads=threads, device=kind
    ):
        values.append(encoder.pooled(torch.from_numpy(batch.pixels)).cpu())
        readable.append(batch.readable)
        observer.images_done(len(batch.readable))
    kept = np.concatenate([np.zeros(0, bool), *readable])
    if not kept.any():
        raise SourceError(f"none of {len(images)} labelled images can be read.")
    return Features(
        torch.cat(values)[torch.from_numpy(kept)],
        torch.from_numpy(images.labels[kept]),
        _problems(images, np.flatnonzero(~kept)),
    )


def _problems(images: LabelledImages, unreadable: NDArray[np.integer]) -> tuple[str, ...]:
    found: dict[int, str] = {}
    for i in unreadable.tolist():
        decode_or_note(images.read(i), images.keys[i], found, i)
    return tuple(found.values())
