"""A picture of boxes at work: images, heatmaps, boxes and the views that come of them."""

from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import SourceError
from ccrop_pipeline.images import Sample, Source, UnreadableImage, decode, true_boxes

_CELL, _GAP, _HEADER = 144, 6, 44
_TRUE, _FOUND = (60, 220, 90), (255, 70, 50)
_TITLES = ("image and boxes", "heatmap", "view 1", "view 2")


def contact_sheet(
    box_set: BoxSet, source: Source, params: CropParams, *, count: int = 12, across: int = 3
) -> Image.Image:
    """Draw the first images of a source with their boxes.

    Four cells an image: the image with its found boxes (red) and true boxes (green, where the
    source has them), its heatmap laid over it, and two views without colour changes.

    Args:
        box_set: Boxes, with heatmaps or without.
        source: The images they belong to.
        params: How the windows of the views are drawn.
        count: Number of images.
        across: Images side by side.

    Raises:
        SourceError: If the source has no readable image.
    """
    shard = source.shards[0]
    table = box_set.read(shard)
    row_of = {key: row for row, key in enumerate(table.keys)}
    readable = (sample for sample in source.read(shard) if _is_readable(sample))
    samples = list(islice(readable, count))
    if not samples:
        raise SourceError(f"no image of {source.location} can be shown.")
    sheet = _empty_sheet(len(samples), across)
    for place, sample in enumerate(samples):
        row = row_of[sample.key]
        choices = table.boxes[[row]] if table.choices is None else table.choices.of_row(row)
        heatmap = None if table.heatmaps is None else table.heatmaps[row]
        left = (place % across) * (4 * (_CELL + _GAP) + 2 * _GAP)
        top = _HEADER + (place // across) * (_CELL + _GAP)
        for cell, picture in enumerate(_cells(sample, table.boxes[row], choices, heatmap, params)):
            sheet.paste(picture, (left + cell * (_CELL + _GAP), top))
    return sheet


def _is_readable(sample: Sample) -> bool:
    try:
        decode(sample.image)
    except UnreadableImage:
        return False
    return True


def _empty_sheet(images: int, across: int) -> Image.Image:
    rows = -(-images // across)
    width = across * (4 * (_CELL + _GAP) + 2 * _GAP) - 3 * _GAP
    sheet = Image.new("RGB", (width, _HEADER + rows * (_CELL + _GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pen.text((2, 2), "found box", fill=_FOUND, font=font)
    pen.text((90, 2), "true box", fill=_TRUE, font=font)
    for image in range(min(across, images)):
        for cell, title in enumerate(_TITLES):
            left = image * (4 * (_CELL + _GAP) + 2 * _GAP) + cell * (_CELL + _GAP)
            pen.text((left + 2, 22), title, fill="black", font=font)
    return sheet


def _cells(
    sample: Sample,
    box: NDArray[np.float32],
    choices: NDArray[np.float32],
    heatmap: NDArray[np.float16] | None,
    params: CropParams,
) -> list[Image.Image]:
    # These bring torch, which the other reports start without.
    from ccrop_pipeline.views import ViewCutter, ViewGroup
    from ccrop_pipeline.views.batch import hash_keys

    image = decode(sample.image).resize((_CELL, _CELL), Image.Resampling.BILINEAR)
    boxed = image.copy()
    pen = ImageDraw.Draw(boxed)
    for truth in true_boxes(sample.annotation) if sample.annotation else ():
        _outline(pen, truth, _TRUE)
    for choice in choices:
        _outline(pen, choice, _FOUND)
    cutter = ViewCutter((ViewGroup(2, _CELL, **vars(params)),))
    (views,), _ = cutter.cut(
        [sample.image], [sample.key], hash_keys([sample.key]), box[None], epoch=0
    )
    shown = [Image.fromarray(view.numpy()) for view in views[:, 0].permute(0, 2, 3, 1)]
    return [boxed, _heated(image, heatmap), *shown]


def _outline(pen: ImageDraw.ImageDraw, box: NDArray[np.floating], colour: tuple[int, ...]) -> None:
    x_min, y_min, x_max, y_max = (float(edge) * _CELL for edge in box)
    pen.rectangle((x_min, y_min, x_max - 1, y_max - 1), outline=colour, width=2)


def _heated(image: Image.Image, heatmap: NDArray[np.float16] | None) -> Image.Image:
    grey = image.convert("L").convert("RGB")
    if heatmap is None:
        return grey
    heat = Image.fromarray(np.uint8(heatmap.astype(np.float32) * 255))
    mask = heat.resize(image.size, Image.Resampling.BILINEAR).point(lambda value: value * 0.75)
    return Image.composite(Image.new("RGB", image.size, (255, 60, 0)), grey, mask)
