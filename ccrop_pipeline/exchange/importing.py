"""Boxes from another tool, joined to a source by key, as a box set."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from ccrop_pipeline.base import SILENT, Observer
from ccrop_pipeline.boxset import UNREADABLE, BoxSet
from ccrop_pipeline.boxset import upright as turn_upright
from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.exchange.annotations import Annotated, Annotations
from ccrop_pipeline.exchange.fixed import write_boxes
from ccrop_pipeline.exchange.joining import join, refuse_no_match
from ccrop_pipeline.images import ImageHeader, Source

# The orientation that turns back what another has turned; the others undo themselves.
_BACK: Final = {6: 8, 8: 6}
_FORMS = re.compile(r"union|largest|(keep|top):([1-9]\d{0,8})")

# YOLO labels have six decimals: rounding may lead them out of the image, but not this far.
_BEYOND = 1e-5


@dataclass(frozen=True)
class Several:
    """The rule for images with several boxes.

    Attributes:
        text: `union` takes the box around all, `largest` the one of the largest area; `keep:K`
            keeps the K largest, and `top:K` those of the K highest scores, for a sampler to draw
            from.

    Raises:
        SettingError: If the text is another.
    """

    text: str = "union"

    def __post_init__(self) -> None:
        """Refuse what is no rule."""
        if not _FORMS.fullmatch(self.text):
            raise SettingError(
                f"{self.text!r} is not union, largest, keep:K or top:K with K at least 1."
            )

    @property
    def keeps_choices(self) -> bool:
        """Whether images keep several boxes."""
        return ":" in self.text

    @property
    def by_score(self) -> bool:
        """Whether scores decide."""
        return self.text.startswith("top")

    def apply(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float64] | None = None
    ) -> NDArray[np.float32]:
        """Choose or join boxes.

        Args:
            boxes: float32 (k, 4), k at least 1.
            scores: float64 (k,), for `top:K`.

        Returns:
            float32 (j, 4): for `union` and `largest` one box, for `keep:K` and `top:K` at most K,
            the largest or best first. Equal ones stay in their order.
        """
        if self.text == "union":
            return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])[None]
        widths, heights = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).T
        weights = scores if self.by_score and scores is not None else widths * heights
        count = int(self.text.partition(":")[2]) if self.keeps_choices else 1
        return boxes[np.argsort(-weights, kind="stable")[:count]]


UNION: Final = Several()


@dataclass
class ImportCounts:
    """What an import met.

    Attributes:
        matched: Images of the source that are annotated.
        unannotated: Images of the source that are not.
        without_image: Annotated images that the source does not have.
        boxes: Boxes that were taken.
        clipped: Boxes among them that reached beyond their image and were cut off there.
        dropped: Boxes that were left out since they have no area within their image.
        misfits: Images whose annotation is for an image of another shape, such as one that was
            turned by its EXIF orientation; they count as images without a box.
        unlisted: Annotations of images that their own file does not list.
        below: Boxes that were left out since their score is too low.
    """

    matched: int = 0
    unannotated: int = 0
    without_image: int = 0
    boxes: int = 0
    clipped: int = 0
    dropped: int = 0
    misfits: int = 0
    unlisted: int = 0
    below: int = 0


def import_boxes(
    source: Source,
    annotations: Annotations,
    folder: str | Path,
    *,
    several: Several = UNION,
    min_score: float | None = None,
    upright: bool = False,
    observer: Observer = SILENT,
) -> tuple[BoxSet, ImportCounts]:
    """Write a box set from annotations.

    Images without a box in them get the full box and the status `empty`. A source that can only
    be read in order is read twice, first for its keys.

    Args:
        source: Images.
        annotations: Boxes.
        folder: Where the box set goes; complete shards of the same are kept.
        several: How images with several boxes are treated.
        min_score: Boxes of lower scores are left out.
        upright: Whether the boxes were drawn on images turned upright by their EXIF orientation,
            as most tools show them, and not on the stored pixels.
        observer: Hears how it goes.

    Returns:
        The box set, and what was met, in shards that were kept as well.

    Raises:
        CcropError: If no annotation belongs to an image, scores are needed and missing or all too
            low, pixels can only be shares, the folder holds other boxes, or something cannot be
            read.
    """
    keys = _keys(source)
    name_of = join(annotations.names, keys)
    if not name_of:
        refuse_no_match(annotations, keys, source.location)
    _expect_pixels(annotations, name_of.values())
    if several.by_score or min_score is not None:
        _expect_scores(annotations, name_of.values(), min_score)
    placing = _Placing(annotations, name_of, several, min_score, upright)
    settings = [f"import {annotations.kind}", several.text]
    settings += [] if min_score is None else [f"score at least {min_score:g}"]
    settings += ["upright"] if upright else []
    rule = ", ".join([*settings, f"sha256 {annotations.digest}"])
    box_set = write_boxes(
        source,
        folder,
        rule=rule,
        place=placing,
        several=several.keeps_choices,
        observer=observer,
    )
    placing.count_again(box_set)
    counts = placing.counts
    counts.matched = len(name_of)
    counts.unannotated = len(keys) - len(name_of)
    counts.unlisted = annotations.unlisted
    counts.without_image = len(annotations.names) - len(name_of)
    return box_set, counts


def _keys(source: Source) -> list[str]:
    if source.random_access:
        return list(source.index().keys)
    return [sample.key for shard in source.shards for sample in source.read(shard)]


def _expect_pixels(annotations: Annotations, names: Iterable[str]) -> None:
    """Refuse pixels of which none lies beyond the first of its image; stops at the first other."""
    some = False
    for name in names:
        boxes, frame, _ = annotations.read(name)
        if annotations.kind == "masks" or frame == "shares" or np.nanmax(boxes, initial=0) > 1:
            return
        some = some or len(boxes) > 0
    if some:
        raise CcropError(
            f"all boxes ({annotations.kind}) lie within the first pixel of their image: they are "
            "shares of the image and no pixels. Leave out `pixels`, or where the form demands "
            "pixels multiply by width and height."
        )


def _expect_scores(annotations: Annotations, names: Iterable[str], min_score: float | None) -> None:
    best = -np.inf
    for name in names:
        boxes, _, scores = annotations.read(name)
        if len(boxes) and (scores is None or np.isnan(scores).any()):
            raise CcropError(
                f"a box of {name!r} has no score ({annotations.kind}). Leave out `min_score`, and "
                "take keep:K in place of top:K, or give the file with the scores."
            )
        best = max(best, np.max(scores, initial=-np.inf) if scores is not None else best)
    if min_score is not None and best > -np.inf and not best >= min_score:
        raise CcropError(
            f"no box has a score of {min_score:g}: the highest is {best:g}. Lower `min_score`."
        )


@dataclass
class _Placing:
    """The boxes of an image by its key and size, and the counts of what was met."""

    annotations: Annotations
    name_of: dict[str, str]
    several: Several
    min_score: float | None
    upright: bool
    counts: ImportCounts = field(default_factory=ImportCounts)
    seen: set[str] = field(default_factory=set)

    def __call__(self, key: str, header: ImageHeader) -> NDArray[np.float32]:
        """Return the boxes of an image, float32 (k, 4), k = 0 where there is none."""
        self.seen.add(key)
        nothing = np.empty((0, 4), np.float32)
        name = self.name_of.get(key)
        if name is None:
            return nothing
        annotated = self._sure(self.annotations.read(name))
        with np.errstate(over="ignore", invalid="ignore"):  # numbers near the end of all floats
            shares = self._shares(annotated, header)
        if shares is None:
            self.counts.misfits += 1
            return nothing
        boxes = np.clip(shares, 0, 1).astype(np.float32)
        # NaN is neither: a box with one is dropped.
        proper = (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
        beyond = ((shares < -_BEYOND) | (shares > 1 + _BEYOND)).any(axis=1)
        self.counts.boxes += int(proper.sum())
        self.counts.clipped += int((beyond & proper).sum())
        self.counts.dropped += int((~proper).sum())
        scores = None if annotated.scores is None else annotated.scores[proper]
        return self.several.apply(boxes[proper], scores) if proper.any() else nothing

    def _sure(self, annotated: Annotated) -> Annotated:
        """Return the boxes without those whose score is too low."""
        boxes, frame, scores = annotated
        if self.min_score is None or scores is None:
            return annotated
        kept = scores >= self.min_score
        self.counts.below += int((~kept).sum())
        return Annotated(boxes[kept], frame, scores[kept])

    def _shares(self, annotated: Annotated, header: ImageHeader) -> NDArray[np.float64] | None:
        """Return boxes in shares of the stored pixels of their image; None for a misfit."""
        width, height, orientation = header
        if not self.upright:
            return in_shares(annotated, width, height)
        shares = in_shares(annotated, *((height, width) if orientation > 4 else (width, height)))
        if shares is None:
            return None
        orientation = _BACK.get(orientation, orientation)
        return cast(NDArray[np.float64], turn_upright(cast(Any, shares), orientation))

    def count_again(self, box_set: BoxSet) -> None:
        """Count what was met in shards that an earlier call had completed."""
        manifest = box_set.manifest
        if len(self.seen) == manifest.rows - manifest.statistics.counts["unreadable"]:
            return
        for _, table in box_set.tables(heatmaps=False):
            for row in np.flatnonzero(table.status != UNREADABLE).tolist():
                if table.keys[row] not in self.seen:
                    width, height = table.sizes[row].tolist()
                    header = ImageHeader(width, height, int(table.orientation[row]))
                    self(table.keys[row], header)


def in_shares(annotated: Annotated, width: int, height: int) -> NDArray[np.float64] | None:
    """Turn boxes into shares of an image.

    Args:
        annotated: Boxes and what they are measured in.
        width: Of the stored image, in pixels.
        height: Of the stored image, in pixels.

    Returns:
        float64 (k, 4), or None where they belong to an image of another shape.
    """
    boxes, frame, _ = annotated
    if frame == "shares":
        return boxes
    if isinstance(frame, tuple):
        if not _same_shape(frame, (width, height)):
            return None
        width, height = frame
    sides = np.array([width, height, width, height], np.float64)
    shares: NDArray[np.float64] = boxes / sides
    return shares


def _same_shape(frame: tuple[int, int], stored: tuple[int, int]) -> bool:
    (width, height), (w, h) = frame, stored
    if frame == stored:
        return True
    # Resized, both sides are rounded to pixels: each is off by less than one.
    turned = (width, height) == (h, w)
    return not turned and abs(width * h - height * w) < width + height
