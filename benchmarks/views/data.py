"""Sets of encoded images, all in memory before any clock starts."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ccrop_pipeline.images import decode, open_source

SOURCES = ("cifar10-webdataset", "clothing-webdataset", "objects-webdataset")
SMALL_IMAGES, PHOTOGRAPHS = 1024, 96  # images of a round, for one worker
SMALL_BATCH, PHOTOGRAPH_BATCH = 512, 32  # as in the recipes; three batches a worker


@dataclass(frozen=True)
class ImageSet:
    """Images with a box each.

    Attributes:
        name: For the table.
        encoded: JPEG files.
        boxes: Normalised x_min, y_min, x_max, y_max, float32 (n, 4).
        view_size: Side of a view in pixels.
        small: Whether training keeps these images decoded in memory, as the authors' CIFAR-10 and
            STL-10 data sets do: then nobody decodes while the clock runs. There is no blur in
            the authors' settings for such images.
    """

    name: str
    encoded: list[bytes]
    boxes: np.ndarray
    view_size: int
    small: bool

    @property
    def batch_size(self) -> int:
        """Images a batch, the same for all."""
        return min(SMALL_BATCH if self.small else PHOTOGRAPH_BATCH, len(self.encoded))

    def repeated(self, times: int) -> "ImageSet":
        """Return the same images several times over, so that each of so many workers has work."""
        boxes = np.tile(self.boxes, (times, 1))
        return ImageSet(self.name, self.encoded * times, boxes, self.view_size, self.small)

    def pixels(self) -> list[np.ndarray]:
        """Return decoded images, uint8 (height, width, 3)."""
        return [np.array(decode(image)) for image in self.encoded]


def missing_sources(folder: Path) -> list[str]:
    """Name the sources that are not in the data folder."""
    return [name for name in SOURCES if not (folder / name).is_dir()]


def image_sets(folder: Path, images: int | None = None) -> Iterator[ImageSet]:
    """Make the sets one after the other.

    Args:
        folder: Where the sources are.
        images: Images a set; None for enough to measure.
    """
    small, few = images or SMALL_IMAGES, images or PHOTOGRAPHS
    cifar, clothing, objects = (folder / name for name in SOURCES)
    mixed = [*_spread(clothing, 2 * few), *_spread(objects, 2 * few)]
    photographs = mixed[:: max(1, len(mixed) // few)][:few]
    yield _set("CIFAR-10, 32 px", _spread(cifar, small), 32, small=True)
    yield _set("photographs at 96 px", _resized(mixed, (96, 96), 95), 96)
    yield _set("clothing, 400 px and more", _spread(clothing, few), 224)
    yield _set("objects, mostly 640x480", _spread(objects, few), 224)
    yield _set("photographs at 500x375", _resized(photographs, (500, 375), 90), 224)
    yield _set("photographs at 1280x960", _resized(photographs, (1280, 960), 90), 224)


def _set(name: str, encoded: list[bytes], view_size: int, small: bool = False) -> ImageSet:
    random = np.random.default_rng(0)
    near, far = random.uniform(0, 0.3, (2, len(encoded), 2)).astype(np.float32)
    return ImageSet(name, encoded, np.hstack([near, 1 - far]), view_size, small)


def _spread(source: Path, count: int) -> list[bytes]:
    """So many training images from all over a source, some twice if there are not enough."""
    training = source / "train-*.tar"
    index = open_source(training if list(source.glob(training.name)) else source).index()
    rows = np.linspace(0, len(index), count, endpoint=False).astype(int)
    return [index.read(row) for row in rows]


def _resized(images: Sequence[bytes], size: tuple[int, int], quality: int) -> list[bytes]:
    return [
        _jpeg(decode(image).resize(size, Image.Resampling.LANCZOS), quality) for image in images
    ]


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
