"""From encoded bytes to pixels, and from a crop window to a view of fixed size."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccrop_pipeline.errors import CcropError


class UnreadableImage(CcropError):  # noqa: N818 - it names what was met, as its readers say it
    """The bytes are no image, a damaged one, or one too large to be meant."""


def decode(image: bytes) -> Image.Image:
    """Decode an image into its image frame: the stored pixels, EXIF orientation not applied.

    Alpha is dropped, 16-bit grey keeps its upper eight bits, and of several frames the first one
    counts.

    Args:
        image: the bytes of a file in any format Pillow reads.

    Returns:
        The image in mode RGB, fully loaded.

    Raises:
        UnreadableImage: the bytes cannot be decoded whole, or Pillow takes the size for an attack
            (`PIL.Image.MAX_IMAGE_PIXELS`, twice that without warnings being errors).
    """
    # Pillow's plugins raise whatever a damaged file makes them stumble over (ValueError,
    # SyntaxError, struct.error, IndexError ...): nothing narrower holds the promise above.
    try:
        loaded = Image.open(io.BytesIO(image))
        loaded.load()
        return _to_rgb(loaded)
    except Exception as error:
        raise UnreadableImage(
            f"cannot decode {len(image)} bytes as an image: {error or type(error).__name__}; "
            "re-create the file or leave it out"
        ) from error


def crop_and_resize(
    image: Image.Image, window: Sequence[int] | NDArray[np.int64], size: int
) -> NDArray[np.uint8]:
    """Cut a crop window out and resize it to a square, bilinear and antialiased.

    Equal bit for bit to torchvision's resized_crop of a PIL image. Cutting comes first: Pillow's
    `resize(box=...)` would let pixels outside of the window bleed into the view's rim.

    Args:
        image: mode RGB.
        window: top, left, height, width in pixels.
        size: width and height of the view in pixels.

    Returns:
        (size, size, 3) uint8, writable.
    """
    top, left, height, width = (int(number) for number in window)
    cut = image.crop((left, top, left + width, top + height))
    return np.array(cut.resize((size, size), Image.Resampling.BILINEAR))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255, which turns nearly all of it white.
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
