"""The same box for every image."""

from pathlib import Path
from typing import Final, Literal

import numpy as np

from ccrop_pipeline.boxset import FULL_BOX, BoxSet
from ccrop_pipeline.exchange.writing import Advance, write_boxes
from ccrop_pipeline.sources import Source

# SimCCrop: half of the height and of the width, in the middle. From the README of the code of
# ContrastiveCrop (Peng et al., CVPR 2022, arXiv 2202.03278); the paper does not have it.
CENTRE_BOX: Final = (0.25, 0.25, 0.75, 0.75)
BOXES: Final = {"centre": CENTRE_BOX, "full": FULL_BOX}


def fixed_boxes(
    source: Source,
    folder: str | Path,
    name: Literal["centre", "full"],
    advance: Advance | None = None,
) -> BoxSet:
    """Write a box set with one box for all images.

    Args:
        source: Images.
        folder: Where the box set goes; complete shards of the same are kept.
        name: `centre` for SimCCrop's box, `full` for the whole image.
        advance: If given, called with numbers of images that are done.

    Raises:
        CcropError: If the folder holds other boxes, or the source cannot be read.
    """
    boxes = np.array([BOXES[name]], np.float32)
    return write_boxes(source, folder, name, lambda *_: boxes, advance=advance)
