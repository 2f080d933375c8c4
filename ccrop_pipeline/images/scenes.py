"""Generated demo data: textured objects off the centre of natural-looking backgrounds."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.images.keys import Keys, numbered_shards
from ccrop_pipeline.images.source import Sample, digest, part_of

Floats = NDArray[np.floating[Any]]

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
SCAN_LINES = 4  # a row; along a line, coverage is exact

# Rows: brightness, yellow against blue, red against green.
_OPPONENT = np.array([[1.0, 1.0, 1.0], [0.7, 0.7, -1.4], [1.2, -1.2, 0.0]])
_RECIPE = "scenes 1"  # part of the fingerprint: raise it whenever the pictures change


@dataclass(frozen=True)
class Scenes:
    """Ten classes of objects with exact boxes, for demonstrations and tests.

    Image i depends on `seed`, `split` and i alone (for given NumPy and Pillow). Its label is
    i modulo ten. One object an image, its box 30 to 55 % of the side on each axis; along one
    axis chosen by chance the box is in the outer quarters of its free range, so the object
    is off centre: the fixed centre box (.25, .25, .75, .75) meets the truth with a mean IoU
    of .22, and reaches .5 in one image of a hundred.

    Attributes:
        count: Number of images.
        size: Height and width in pixels, at least 16.
        seed: Any other seed gives other images.
        split: `train`, `test` or any other word: start of the keys.
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
            raise SettingError(
                f"{self} needs a count of 1 or more, a size of 16 or more and a seed of 0 or more."
            )

    @property
    def location(self) -> str:
        """The parameters, for people."""
        return f"{self.count} generated scenes, {self.size} px, seed {self.seed}, {self.split}"

    @cached_property
    def _rows(self) -> dict[str, range]:
        return numbered_shards(self.split, self.count)

    @cached_property
    def shards(self) -> tuple[str, ...]:
        """`train-000000` and so on."""
        return tuple(self._rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """`striped disc` and nine more."""
        return tuple(" ".join(pair) for pair in CLASSES)

    def read(self, shard: str) -> Iterator[Sample]:
        """Yield the samples of one shard."""
        for i in part_of(self._rows, shard):
            yield self.sample(i)

    def sample(self, i: int) -> Sample:
        """Draw image `i`, with its label and its box as an annotation."""
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
        """Return the number of images."""
        return len(self.keys)

    def read(self, i: int) -> bytes:
        """Draw image `i` and return its encoded bytes."""
        return self._source.sample(int(i)).image


def _draw(
    rng: np.random.Generator, label: int, size: int
) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """Return uint8 pixels `(size, size, 3)` and the exact pixel box of the object."""
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


def coverage(outline: Floats, box: tuple[int, int, int, int], size: int) -> Floats:
    """Draw an outline stretched to fill a box.

    Args:
        outline: Corners, shape `(n, 2)`, in any units.
        box: Pixels `x_min, y_min, x_max, y_max`, half-open.
        size: Height and width of the image.

    Returns:
        Share of each pixel inside the outline, shape `(size, size)`, values in [0, 1].
    """
    low, high = outline.min(axis=0), outline.max(axis=0)
    corner, extent = np.array(box[:2]), np.array(box[2:]) - box[:2]
    points = corner + (outline - low) / (high - low) * extent
    lines = (np.arange(size * SCAN_LINES) + 0.5) / SCAN_LINES
    crossings = _crossings(points, lines)
    pixels = np.arange(1, size + 1)
    # Between odd and even crossings a line runs inside: each adds, or takes away, all of the
    # line to its right.
    right_of = np.clip(pixels - crossings[..., None], 0, 1)
    signs = np.where(np.arange(crossings.shape[1]) % 2 == 0, 1.0, -1.0)
    share = np.einsum("lcp,c->lp", right_of, signs)
    return np.asarray(share.reshape(size, SCAN_LINES, size).mean(axis=1), dtype=np.float32)


def _crossings(points: Floats, lines: Floats) -> Floats:
    """Return the sorted x at which horizontal lines cross a polygon's edges, inf beyond the last.

    Shape `(lines, most crossings of any line)`.
    """
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    y = lines[:, None]
    rise = np.where(y0 == y1, 1.0, y1 - y0)
    crossed = (y < y0) != (y < y1)
    crossings = np.sort(np.where(crossed, x0 + (y - y0) / rise * (x1 - x0), np.inf), axis=1)
    return np.asarray(crossings[:, : int(crossed.sum(axis=1).max())])


def _polygon(corners: int, phase: float = 0.0) -> Floats:
    angle = 2 * np.pi * (np.arange(corners) + phase) / corners
    return np.stack([np.sin(angle), -np.cos(angle)], axis=1)


def _star(points: int, inner: float) -> Floats:
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return _polygon(2 * points) * radius[:, None]


def _cross(arm: float) -> Floats:
    quarter = np.array([[arm, -1.0], [arm, -arm], [1.0, -arm]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


# Outlines about the origin; y points down, as in images.
OUTLINES: dict[str, Floats] = {
    "disc": _polygon(48),
    "panel": _polygon(4, phase=0.5),
    "kite": _polygon(4),
    "triangle": _polygon(3),
    "star": _star(5, inner=0.5),
    "cross": _cross(arm=0.36),
}


def background(size: int, rng: np.random.Generator) -> Floats:
    """Draw coloured noise whose amplitude falls about as 1/f, as in photographs.

    Field (1987), Journal of the Optical Society of America A 4(12), found the law, Tolhurst et
    al. (1992), Ophthalmic and Physiological Optics 12(2), exponents of 0.8 to 1.5 from image
    to image: 1.4 or 1.5 here. Colour varies mostly along brightness, less along blue-yellow,
    least along red-green, the axes Ruderman et al. (1998), JOSA A 15(8), found in natural
    images; that it varies more slowly than brightness, and by how much, is our choice.

    Returns:
        RGB, shape `(size, size, 3)`, mostly within [0, 1], not clipped.
    """
    step = int(rng.integers(4, 6))
    decay = np.stack([_decay(size, step), colour := _decay(size, step + 3), colour])
    spectrum = rng.standard_normal((2, *decay.shape), dtype=np.float32)
    planes = np.fft.irfft2((spectrum[0] + 1j * spectrum[1]) * decay, s=(size, size))
    planes /= planes.std(axis=(1, 2), keepdims=True)
    contrast = rng.uniform(0.8, 1.2) * np.array([0.05, 0.014, 0.01])
    mean = np.array([rng.uniform(0.42, 0.55), rng.normal(0, 0.012), rng.normal(0, 0.008)])
    planes = planes * contrast[:, None, None] + mean[:, None, None]
    # Light from above, or below, as over a landscape.
    planes[0] += rng.normal(0, 0.04) * np.linspace(-1, 1, size)[:, None]
    return np.asarray(np.moveaxis(planes, 0, -1) @ _OPPONENT, dtype=np.float32)


@lru_cache(maxsize=64)
def _decay(size: int, step: int) -> Floats:
    vertical = np.fft.fftfreq(size)[:, None]
    frequency = np.hypot(vertical, np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    return np.asarray(frequency ** -(1.0 + 0.1 * step))


def _surface(
    rng: np.random.Generator,
    texture: str,
    angle: float,
    box: tuple[int, int, int, int],
    size: int,
    behind: float,
) -> Floats:
    """Colour the texture in two random colours, one of them unlike what is behind."""
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


def _edge(wave: Floats) -> Floats:
    # Between a sine and a square wave: sharp, yet without stair-steps.
    return np.asarray(0.5 + 0.5 * np.tanh(3.0 * wave))


def _dots(u: Floats, v: Floats) -> Floats:
    return _edge(np.cos(u) + np.cos(v) - 0.6)


# Textures over coordinates in radians, each with values in [0, 1].
TEXTURES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "striped": lambda _u, v: _edge(np.sin(v)),
    "barred": lambda u, _v: _edge(np.sin(u)),
    "checkered": lambda u, v: _edge(2.0 * np.sin(0.8 * u) * np.sin(0.8 * v)),
    "dotted": _dots,
    "ringed": lambda u, v: _edge(np.sin(np.hypot(u, v))),
    "spoked": lambda u, v: _edge(np.sin(7.0 * np.arctan2(v, u))),
    "woven": lambda u, v: _edge(np.sin(0.7 * (u + v))),
}
