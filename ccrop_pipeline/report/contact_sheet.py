"""A picture of boxes at work: images, heatmaps, boxes and the views that come of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ccrop_pipeline.boxset import BoxSet, BoxTable, Choices
from ccrop_pipeline.boxset.rejoined import images_of
from ccrop_pipeline.crops import CHOICE, CropParams, uniforms
from ccrop_pipeline.errors import SourceError, printable
from ccrop_pipeline.images import Sample, Source, UnreadableImage, decode, image_hash, true_boxes

CELL, GAP, HEADER, CAPTION, MARGIN = 144, 6, 44, 18, 8  # pixels; the margin is left and right
TRUE, FOUND, AROUND, OTHER = (60, 220, 90), (255, 70, 50), (255, 170, 40), (70, 150, 255)
_VIEWS = 2
_LONGEST = 24  # characters of the name of a box set


@dataclass(frozen=True, eq=False)
class Shown:
    """An image and what is drawn of it.

    Attributes:
        key: Its name.
        image: Encoded bytes; those that cannot be decoded are said to be so.
        box: float32 (4,).
        choices: The boxes that a sampler may draw from, float32 (k, 4); the box where it is one.
        heatmap: float16 (h, w), in [0, 1]; None without.
        truth: True boxes, (m, 4).
        other: Its box in another box set, float32 (4,); None without.
        changed: Whether its box is from other bytes than these.
    """

    key: str
    image: bytes
    box: NDArray[np.float32]
    choices: NDArray[np.float32]
    heatmap: NDArray[np.float16] | None
    truth: NDArray[np.float64]
    other: NDArray[np.float32] | None = None
    changed: bool = False

    @classmethod
    def of_row(
        cls, table: BoxTable, row: int, sample: Sample, other: NDArray[np.float32] | None = None
    ) -> "Shown":
        """Join a row of a box set with its image, and its box in another box set."""
        stored = int(table.image_hash[row])
        return cls(
            sample.key,
            sample.image,
            table.boxes[row],
            table.boxes[[row]] if table.choices is None else table.choices.of_row(row),
            None if table.heatmaps is None else table.heatmaps[row],
            true_boxes(sample.annotation),
            other,
            stored not in (0, image_hash(sample.image)),
        )


def contact_sheet(
    box_set: BoxSet, source: Source, params: CropParams, *, count: int = 12, across: int = 3
) -> Image.Image:
    """Draw the first readable images of a source with their boxes.

    Args:
        box_set: Boxes, with heatmaps or without.
        source: The images they belong to.
        params: How the windows of the views are drawn.
        count: Number of images.
        across: Images side by side.

    Raises:
        SourceError: If the source has no readable image.
    """
    source = images_of(box_set, source)
    shard = source.shards[0]
    table = box_set.read(shard)
    row_of = {key: row for row, key in enumerate(table.keys)}
    readable = (sample for sample in source.read(shard) if _decoded(sample.image))
    samples = list(islice(readable, count))
    if not samples:
        raise SourceError(f"no image of {source.location} can be shown.")
    shown = [Shown.of_row(table, row_of[sample.key], sample) for sample in samples]
    return draw_sheet(shown, params, across=across)


def draw_sheet(
    shown: Sequence[Shown],
    params: CropParams,
    *,
    across: int = 2,
    names: tuple[str, str] = ("found box", "other box"),
) -> Image.Image:
    """Draw images with their keys below them, row by row.

    Up to four cells an image, the ratio of its sides kept: the image with its boxes, its heatmap
    laid over it (where any has one), and two views without colour changes.

    Args:
        shown: One or more images.
        params: How the windows of the views are drawn.
        across: Images side by side.
        names: What the found boxes are called, and those of another box set.
    """
    heated = any(each.heatmap is not None for each in shown)
    titles = ("image and boxes", *(("heatmap",) if heated else ()), "view 1", "view 2")
    step = len(titles) * (CELL + GAP) + 2 * GAP, CELL + CAPTION + GAP
    across = min(across, len(shown))
    size = across * step[0] - 3 * GAP + 2 * MARGIN, HEADER + -(-len(shown) // across) * step[1]
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    start = float(MARGIN)
    for colour, text in _legend(shown, names):
        pen.text((start, 2), text, fill=colour, font=font)
        start += font.getlength(text) + 3 * GAP
    for place, (each, views) in enumerate(zip(shown, _views(shown, params), strict=True)):
        left, top = MARGIN + place % across * step[0], HEADER + place // across * step[1]
        cells = [*_cells(each, heated=heated), *views]
        for number, cell in enumerate(cells):
            at = left + number * (CELL + GAP)
            sheet.paste(cell, (at, top))
            if top == HEADER:
                pen.text((at, 22), titles[number], fill="black", font=font)
        _caption(pen, each, (left, top + CELL + 1), len(cells) * (CELL + GAP) - GAP)
    return sheet


def _legend(
    shown: Sequence[Shown], names: tuple[str, str]
) -> Iterator[tuple[tuple[int, ...], str]]:
    found, other = (name if len(name) <= _LONGEST else f"…{name[-_LONGEST:]}" for name in names)
    yield FOUND, found
    if any(len(each.choices) > 1 for each in shown):
        yield AROUND, "around several"
    if any(len(each.truth) for each in shown):
        yield TRUE, "true box"
    if any(each.other is not None for each in shown):
        yield OTHER, other


def _caption(pen: ImageDraw.ImageDraw, each: Shown, at: tuple[int, int], width: int) -> None:
    font = ImageFont.load_default(12)
    before = "other bytes than its box is from: " if each.changed else ""
    text = before + (key := printable(each.key))
    while font.getlength(text) > width and key:  # the end of a path tells images apart
        key = key[1:]
        text = f"{before}…{key}"
    pen.text(at, text, fill=FOUND if each.changed else "black", font=font)


def _decoded(image: bytes) -> Image.Image | None:
    try:
        return decode(image)
    except UnreadableImage:
        return None


def _views(shown: Sequence[Shown], params: CropParams) -> list[list[Image.Image]]:
    # These bring torch, which the other reports start without.
    from ccrop_pipeline.views import ViewCutter, ViewGroup
    from ccrop_pipeline.views.batch import hash_keys

    keys = [each.key for each in shown]
    hashes = hash_keys(keys)
    # Of several boxes the one that a loader draws in the first epoch of a run with seed 0.
    boxes = Choices.of([each.choices for each in shown]).pick(
        uniforms(0, 0, hashes, 0, CHOICE, 1)[:, 0]
    )
    cutter = ViewCutter((ViewGroup(_VIEWS, CELL, **vars(params)),))
    (views,), _ = cutter.cut([each.image for each in shown], keys, hashes, boxes, epoch=0)
    pixels = views.permute(1, 0, 3, 4, 2).numpy()
    return [[Image.fromarray(view) for view in image] for image in pixels]


def _cells(each: Shown, *, heated: bool) -> list[Image.Image]:
    image = _decoded(each.image)
    if image is None:
        cell = Image.new("RGB", (CELL, CELL), "lightgrey")
        ImageDraw.Draw(cell).text((8, CELL // 2 - 8), "cannot be decoded", fill="black")
        return [cell] * (1 + heated)
    scale = CELL / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
        Image.Resampling.BILINEAR,
    )
    boxed = image.copy()
    pen = ImageDraw.Draw(boxed)
    for truth in each.truth:
        _outline(pen, truth, image.size, TRUE)
    if each.other is not None:
        _outline(pen, each.other, image.size, OTHER)
    if len(each.choices) > 1:
        _outline(pen, each.box, image.size, AROUND)
    for choice in each.choices:
        _outline(pen, choice, image.size, FOUND)
    return [_centred(boxed), *([_centred(_heated(image, each.heatmap))] if heated else [])]


def _centred(image: Image.Image) -> Image.Image:
    cell = Image.new("RGB", (CELL, CELL), "white")
    cell.paste(image, ((CELL - image.width) // 2, (CELL - image.height) // 2))
    return cell


def _outline(
    pen: ImageDraw.ImageDraw,
    box: NDArray[np.floating],
    size: tuple[int, int],
    colour: tuple[int, ...],
) -> None:
    left, top, right, bottom = (
        round(float(edge) * side) for edge, side in zip(box, size * 2, strict=True)
    )
    # Half-open; of a box of no pixel the nearest one is drawn.
    pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=2)


def draw_mean_heatmap(
    heatmap: Sequence[Sequence[float]], box: Sequence[float], side: int = 256
) -> Image.Image:
    """Draw a mean heatmap, white where it is hot and cells as they are, and a box in red.

    Args:
        heatmap: Rows of values in [0, 1].
        box: Normalised x_min, y_min, x_max, y_max.
        side: Of the picture, in pixels.
    """
    grey = Image.fromarray(np.rint(np.array(heatmap) * 255).astype(np.uint8))
    picture = grey.resize((side, side), Image.Resampling.NEAREST).convert("RGB")
    _outline(ImageDraw.Draw(picture), np.array(box), picture.size, FOUND)
    return picture


def _heated(image: Image.Image, heatmap: NDArray[np.float16] | None) -> Image.Image:
    grey = image.convert("L").convert("RGB")
    if heatmap is None:
        return grey
    heat = Image.fromarray(np.uint8(heatmap.astype(np.float32) * 255))
    mask = heat.resize(image.size, Image.Resampling.BILINEAR).point(lambda value: value * 0.75)
    return Image.composite(Image.new("RGB", image.size, (255, 60, 0)), grey, mask)
