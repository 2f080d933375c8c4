"""Generated demo data: textured objects off the centre of natural-looking backgrounds."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from ccrop_pipeline.sources.keys import Keys
from ccrop_pipeline.sources.shards import shard_names, shard_range
from ccrop_pipeline.sources.source import Sample, digest
from ccrop_pipeline.sources.textures import OUTLINES, TEXTURES, Floats, background, coverage

# The pair is the class: three textures and two shapes occur in several classes, and colours
# are drawn without regard to it.
CLASSES = (
    ("striped", "disc"),
    ("barred", "panel"),
    ("checkered", "panel"),
    ("checkered", "kite"),
    ("dotted", "disc"),
    ("dotted", "triangle"),
    ("ringed", "disc"),
    ("ringed", "panel"),
    ("spoked", "star"),
    ("woven", "cross"),
)
SIDE = (0.30, 0.55)  # of the image's side, each axis by itself
OUTER = 0.25  # share of the free range next to either border, used on at least one axis
JPEG_QUALITY = 92
_RECIPE = "scenes 1"  # part of the fingerprint: raise it whenever the pictures change


@dataclass(frozen=True)
class Scenes:
    """Ten classes of objects with exact boxes, for demonstrations and tests.

    Image i depends on ``seed``, ``split`` and i alone (for given NumPy and Pillow). Its label is
    i modulo ten. One object an image, its box 30 to 55 % of the side on each axis; along one
    axis chosen by chance the box lies in the outer quarters of its free range, so the object
    is off centre: the fixed centre box (.25, .25, .75, .75) meets the truth with a mean IoU
    of .22, and reaches .5 in one image of a hundred.

    Attributes:
        count: Number of images.
        size: Height and width in pixels, at least 16.
        seed: Any other seed gives other images.
        split: ``train``, ``test`` or any other word: start of the keys.
    """

    kind: ClassVar[str] = "scenes"
    random_access: ClassVar[bool] = True
    count: int
    size: int = 64
    seed: int = 0
    split: str = "train"

    def __post_init__(self) -> None:
        """Refuse sizes too small to show a texture."""
        if self.count < 1 or self.size < 16 or self.seed < 0:
            raise ValueError(f"need count >= 1, size >= 16 and seed >= 0, not {self}")

    @property
    def location(self) -> str:
        """The parameters, for people."""
        return f"{self.count} generated scenes, {self.size} px, seed {self.seed}, {self.split}"

    @property
    def shards(self) -> tuple[str, ...]:
        """``train-000000`` and so on."""
        return shard_names(self.split, self.count)

    @property
    def classes(self) -> tuple[str, ...]:
        """``striped disc`` and nine more."""
        return tuple(" ".join(pair) for pair in CLASSES)

    def read(self, shard: str) -> Iterator[Sample]:
        """Yield the samples of one shard."""
        for i in shard_range(self.shards, shard, self.count):
            yield self.sample(i)

    def sample(self, i: int) -> Sample:
        """Draw image ``i``, with its label and its box as an annotation."""
        pixels, (x_min, y_min, x_max, y_max) = _draw(self._rng(i), i % len(CLASSES), self.size)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        box = [edge / self.size for edge in (y_min, x_min, y_max, x_max)]
        annotation = {
            "boxes": [box],
            "labels": [self.classes[i % len(CLASSES)]],
            "source": self.kind,
            "height": self.size,
            "width": self.size,
        }
        return Sample(
            f"{self.split}-{i:06d}",
            buffer.getvalue(),
            i % len(CLASSES),
            json.dumps(annotation).encode(),
        )

    def fingerprint(self) -> str:
        """Return a digest of the parameters."""
        entries = [(f"{_RECIPE} {self.split}", self.count), ("size", self.size)]
        return digest(self.kind, [*entries, ("seed", self.seed)])

    def index(self) -> "ScenesIndex":
        """Return random access; images are drawn when read."""
        return ScenesIndex(self)

    def _rng(self, i: int) -> np.random.Generator:
        split = xxhash.xxh32_intdigest(self.split.encode())
        return np.random.default_rng([self.seed, split, self.size, i])


class ScenesIndex:
    """Random access to generated scenes."""

    def __init__(self, source: Scenes) -> None:
        self.keys = Keys(f"{source.split}-{i:06d}" for i in range(source.count))
        self.labels = np.arange(source.count, dtype=np.int64) % len(CLASSES)
        self._source = source

    def __len__(self) -> int:
        """Number of images."""
        return len(self.keys)

    def read(self, i: int) -> bytes:
        """Draw image ``i`` and return its encoded bytes."""
        return self._source.sample(int(i)).image


def _draw(
    rng: np.random.Generator, label: int, size: int
) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """Return uint8 pixels ``(size, size, 3)`` and the exact pixel box of the object."""
    texture, shape = CLASSES[label]
    angle = rng.uniform(-0.3, 0.3)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    target = _place(rng, size)
    alpha = coverage(OUTLINES[shape] @ turn, target, size)
    inside = alpha >= 0.5
    if rng.random() < 0.3:
        alpha = inside.astype(np.float32)
    scene = background(size, rng)
    surface = _surface(rng, texture, angle, target, size, scene[inside].mean())
    scene += alpha[..., None] * (surface - scene)
    scene += rng.normal(0, 0.012, scene.shape)
    pixels = (np.clip(scene, 0, 1) * 255 + 0.5).astype(np.uint8)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return pixels, (
        int(columns[0]),
        int(rows[0]),
        int(columns[-1]) + 1,
        int(rows[-1]) + 1,
    )


def _place(rng: np.random.Generator, size: int) -> tuple[int, int, int, int]:
    """Choose the pixels an object is to fill, off centre on one axis at least."""
    sides = np.round(rng.uniform(*SIDE, 2) * size).astype(int)
    position = rng.uniform(0, 1, 2)
    outer = rng.uniform(0, OUTER)
    position[rng.integers(2)] = outer if rng.random() < 0.5 else 1 - outer
    x, y = np.round(position * (size - sides)).astype(int)
    return int(x), int(y), int(x + sides[0]), int(y + sides[1])


def _surface(
    rng: np.random.Generator,
    texture: str,
    angle: float,
    box: tuple[int, int, int, int],
    size: int,
    behind: float,
) -> Floats:
    """Colour the texture in two random colours, one of them unlike what lies behind."""
    x, y = np.arange(size, dtype=np.float32) + 0.5, np.arange(size, dtype=np.float32)[:, None] + 0.5
    x, y = x - (box[0] + box[2]) / 2, y - (box[1] + box[3]) / 2
    # Periods across the object: few enough to be seen at 32 pixels.
    wave = 2 * np.pi * rng.uniform(3.5, 5.0) / max(box[2] - box[0], box[3] - box[1])
    u = wave * (np.cos(angle) * x + np.sin(angle) * y)
    v = wave * (np.cos(angle) * y - np.sin(angle) * x)
    if texture not in ("ringed", "spoked"):
        u, v = u + rng.uniform(0, 2 * np.pi), v + rng.uniform(0, 2 * np.pi)
    share = TEXTURES[texture](u, v)[..., None]
    first, second = _colours(rng, behind)
    light = 1 + 0.15 * (np.cos(phi := rng.uniform(0, 2 * np.pi)) * x + np.sin(phi) * y) / size * 4
    shaded = (first + (second - first) * share) * light[..., None]
    return np.asarray(shaded, dtype=np.float32)


def _colours(rng: np.random.Generator, behind: float) -> tuple[Floats, Floats]:
    tints = rng.uniform(-0.22, 0.22, (2, 3))
    near = behind + rng.uniform(-0.1, 0.1)
    step = rng.uniform(0.28, 0.42)
    far = near + step if near < 0.5 else near - step
    colours = np.clip(np.array([[near], [far]]) + tints, 0.03, 0.97).astype(np.float32)
    return colours[0], colours[1]
