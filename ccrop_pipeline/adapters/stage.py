"""Boxes in a webdataset pipeline."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import PIL.Image

from ccrop_pipeline.adapters.dataset import chosen
from ccrop_pipeline.boxset import Boxes, BoxFinder, MissingBoxes
from ccrop_pipeline.crops import attach_box
from ccrop_pipeline.errors import CcropError

_Samples = Iterable[dict[str, Any]]


def add_boxes(
    boxes: Boxes, *, missing: MissingBoxes = "error"
) -> Callable[[_Samples], Iterator[dict[str, Any]]]:
    """Make a pipeline stage that attaches its box to every decoded image, joined by `__key__`.

    It stands after `decode("pil")` and before anything that changes images.

    Args:
        boxes: A box set, or its folder: a local path or an address. Where an image has several
            boxes, one is drawn each time the sample is read, from torch's global generator.
        missing: What to do with an image that has no box: fail, or take the full box.

    Returns:
        For `compose`; iterating it raises `CcropError` at a sample that has no box or no PIL
        image.

    Raises:
        CcropError: If the folder holds no complete box set.
    """
    return partial(_with_boxes, BoxFinder(boxes, missing))


def _with_boxes(finder: BoxFinder, samples: _Samples) -> Iterator[dict[str, Any]]:
    for sample in samples:
        images = [value for value in sample.values() if isinstance(value, PIL.Image.Image)]
        if not images:
            raise CcropError(
                f"sample {sample['__key__']!r} has no PIL image, only "
                f"{', '.join(name for name in sample if not name.startswith('__'))}. Put "
                'decode("pil") before add_boxes, and what makes tensors behind it.'
            )
        keys = [sample["__key__"]]
        (box,) = chosen(finder.find(keys), finder.choices(keys))
        for image in images:
            attach_box(image, box)
        yield sample
