"""What made a box set: the one text that the manifest and every shard carry."""

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ccrop_pipeline.base.values import differences, from_plain, parse_json, to_plain
from ccrop_pipeline.boxset.rules import Problem

FORMAT = {"format": "ccrop-boxes", "version": 1}
COMPONENTS = ("all", "largest")
_FIXED = FORMAT | {
    "frame": "stored pixels, EXIF orientation not applied, origin top left",
    "box": "x_min, y_min, x_max, y_max; normalised to the image frame; half-open",
}
# Fields of the localizer that are not written where they have these values.
_ABSENT: dict[str, Any] = {
    "mean_share": 0.0,
    "centre_weight": 0.0,
    "objects": 1,
    "choice": None,
}
# The texts in the head of a shard, by name.
Entries = dict[str, str]
TEXT, LIBRARIES = "ccrop", "ccrop_libraries"


@dataclass(frozen=True)
class EncoderInfo:
    """The encoder whose features became heatmaps.

    Attributes:
        name: Architecture, such as `resnet18`.
        layer: Where the feature map was taken.
        weights_sha256: Hash of the weights, lower-case hex.
        epoch: Finished epochs of training; None where not known.
    """

    name: str
    layer: str
    weights_sha256: str
    epoch: int | None


@dataclass(frozen=True)
class RuleChoice:
    """On what a box rule set itself: thresholds beside the same share of the mean, and no label.

    How the figures come about is in `localize.rule_choice`. The four lists are equally long.

    Attributes:
        images: How many images were looked at.
        windows: How many windows were cut from each.
        worthless: Whether no threshold gives boxes that carry anything of their images.
        threshold: The thresholds tried, in order; none where there are too few images.
        kappa: Agreement of the boxes of images with those of windows cut from them, beyond what
            boxes of other images have: 1 is perfect, 0 chance.
        freedom: How far the centres of boxes spread, over how far those of boxes of their size
            would if they were anywhere in the image.
        mean_area: Mean share of its image that a box covers.

    Raises:
        ValueError: If the lists differ in length, or a number leaves its range.
    """

    images: int
    windows: int
    worthless: bool
    threshold: tuple[float, ...] = ()
    kappa: tuple[float, ...] = ()
    freedom: tuple[float, ...] = ()
    mean_area: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the lengths."""
        lists = (self.threshold, self.kappa, self.freedom, self.mean_area)
        if len({len(each) for each in lists}) > 1:
            raise ValueError("threshold, kappa, freedom and mean_area must be equally long.")
        for name, count in (("images", self.images), ("windows", self.windows)):
            if count < 0:
                raise ValueError(f"{name} is {count}; it must be 0 or more.")
        ranges = (("kappa", -math.inf, 1), ("freedom", 0, math.inf), ("mean_area", 0, 1))
        for name, low, high in ranges:
            if any(not low <= figure <= high for figure in getattr(self, name)):
                raise ValueError(f"{name} has figures that are outside [{low}, {high}].")


def _expect_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it must be in [0, 1].")


@dataclass(frozen=True)
class LocalizerInfo:
    """How a feature map became a box.

    Attributes:
        map: What made one heatmap of the features, such as `sum`, the sum over channels.
        threshold: Cells strictly above it are content; k of the ContrastiveCrop paper (arXiv
            2202.03278); in [0, 1]. None where `mass` is given.
        mass: Share of the heat, in (0, 1], that the smallest box had to hold. None where
            `threshold` is given.
        mean_share: What is added to the threshold: this share of the heatmap's own mean.
        centre_weight: Weight of the central 80 % of each side in the mean of it and the box.
        objects: The most boxes of an image, each around an object of its own where more than 1.
        component: `all` content, or its `largest` connected component alone.
        margin: Share of the box's own side that was added on each side; at least 0.
        min_size: Least side of a box as a share of the image's, in [0, 1].
        interpolation: From the native grid to the input size, such as `bilinear`.
        input_size: Side of the square that the encoder saw, in pixels.
        preprocessing: From the stored image to that square.
        choice: On what threshold, mean_share and centre_weight set themselves; None where they
            were given.

    Raises:
        ValueError: If a number leaves its range, or not exactly one of threshold and mass is
            given, or `choice` is and the threshold is none of those it tried.
    """

    map: str
    threshold: float | None
    mass: float | None
    component: str
    margin: float
    min_size: float
    interpolation: str
    input_size: int
    preprocessing: str
    mean_share: float = 0.0
    centre_weight: float = 0.0
    objects: int = 1
    choice: RuleChoice | None = None

    def __post_init__(self) -> None:
        """Make the shares floats, so that 0 and 0.0 have one text, and check them."""
        for name in ("threshold", "mass", "mean_share", "centre_weight", "margin", "min_size"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else float(value))
        if (self.threshold is None) == (self.mass is None):
            raise ValueError(
                f"threshold is {self.threshold} and mass {self.mass}; give exactly one of them."
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must be in [0, 1].")
        if self.mass is not None and not 0 < self.mass <= 1:
            raise ValueError(f"mass is {self.mass}; it must be in (0, 1].")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin is {self.margin}; it must be 0 or more.")
        for name in ("min_size", "centre_weight"):
            _expect_share(name, getattr(self, name))
        if not 0 <= self.mean_share <= 2 or (self.mean_share and self.threshold is None):
            raise ValueError(
                f"mean_share is {self.mean_share}; it must be in [0, 2], beside a threshold."
            )
        if self.objects < 1:
            raise ValueError(f"objects is {self.objects}; it must be 1 or more.")
        if self.component not in COMPONENTS:
            raise ValueError(f"component is {self.component!r}; it must be one of {COMPONENTS}.")
        self._check_choice()

    def _check_choice(self) -> None:
        if self.choice is None:
            return
        tried = self.choice.threshold
        if self.threshold is None or (tried and self.threshold not in tried):
            raise ValueError(f"threshold is {self.threshold}; it must be one that `choice` tried.")


@dataclass(frozen=True)
class SourceInfo:
    """Which images the boxes belong to.

    Attributes:
        kind: Form of the source, such as `tar`.
        fingerprint: Names the data and no path: a copy on another disk is the same source.
    """

    kind: str
    fingerprint: str


@dataclass(frozen=True)
class Provenance:
    """What made the boxes. Box sets with equal fingerprints have equal boxes.

    Attributes:
        encoder: The encoder; None for boxes that no model made.
        localizer: Its localizer; None exactly where `encoder` is None.
        source: The images.
        rule: How boxes that no model made came about, such as `centre`.
        libraries: Versions of the libraries at work; recorded, not part of the fingerprint.
        text: All but the libraries as JSON. Read from a box set it is the text that is stored
            there, with whatever fields a later version or another program has added.

    Raises:
        ValueError: If encoder and localizer are not given together, or neither they nor a rule.
    """

    encoder: EncoderInfo | None
    localizer: LocalizerInfo | None
    source: SourceInfo
    rule: str | None = None
    libraries: Mapping[str, str] = field(default_factory=dict, hash=False)
    text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a provenance that leaves open where the boxes come from, and write its text."""
        if (self.encoder is None) != (self.localizer is None):
            raise ValueError("encoder and localizer must be given together or not at all.")
        if self.encoder is None and not self.rule:
            raise ValueError("boxes without an encoder need a rule that says how they came about.")
        names = ("encoder", "localizer", "source", "rule")
        content: dict[str, Any] = _FIXED | {name: to_plain(getattr(self, name)) for name in names}
        if content["localizer"]:
            content["localizer"] = {
                name: value
                for name, value in content["localizer"].items()
                if name not in _ABSENT or value != _ABSENT[name]
            }
        object.__setattr__(self, "text", json.dumps(content, separators=(",", ":")))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the text in UTF-8, lower-case hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def differences(self, other: "Provenance") -> list[str]:
        """Name what of the fingerprint is different, one line each: `name: this -> other`."""
        if self.text == other.text:
            return []
        found = differences(_shown(self.text), _shown(other.text))
        return found or ["the same values in another text, as of another program"]

    def entries(self) -> Entries:
        """Return the texts that a shard carries, by name."""
        return {TEXT: self.text, LIBRARIES: json.dumps(dict(sorted(self.libraries.items())))}

    def to_json(self) -> dict[str, Any]:
        """Return everything as one JSON object, for people and other files."""
        content: dict[str, Any] = json.loads(self.text)
        return content | {"libraries": dict(self.libraries), "fingerprint": self.fingerprint}


def _shown(text: str) -> dict[str, Any]:
    """Return the text as an object, with all that a rule was chosen on as one value."""
    content: dict[str, Any] = json.loads(text)
    localizer = content.get("localizer")
    if isinstance(localizer, dict) and localizer.get("choice"):
        figures = json.dumps(localizer["choice"]).encode()
        localizer["choice"] = f"set itself ({hashlib.sha256(figures).hexdigest()[:8]})"
    return content


def library_versions(*names: str) -> dict[str, str]:
    """Return the versions of this package and of others, by name, of those that are installed."""
    found = {}
    for name in ("ccrop-pipeline", *names):
        with suppress(PackageNotFoundError):  # a source tree runs as well
            found[name] = version(name)
    return found


def is_known_version(data: Any, where: str, problems: list[Problem]) -> bool:
    """Tell whether a JSON value is of this format and version; rule B002."""
    found = {name: data.get(name) for name in FORMAT} if isinstance(data, dict) else {}
    # Not by value alone: to Python, true and 1.0 equal 1.
    if found == FORMAT and type(found["version"]) is int:
        return True
    message = (
        f"format and version are {[*found.values()]}; this ccrop reads ccrop-boxes 1; "
        "a newer ccrop may read it"
    )
    problems.append(Problem("B002", where, message))
    return False


def provenance_from_text(
    text: str, libraries: Any, where: str, problems: list[Problem]
) -> Provenance | None:
    """Read the text back, adding to `problems` what breaks rules B002 and B003.

    Returns:
        The provenance, or None where the text cannot be understood.
    """
    try:
        data = parse_json(text)
        if not is_known_version(data, where, problems):
            return None
        for name, value in _FIXED.items():
            if data.get(name) != value:
                raise ValueError(f"{name} is {data.get(name)!r}; it must be {value!r}.")
        values = data | {"libraries": libraries}
        if isinstance(localizer := values.get("localizer"), dict):
            values["localizer"] = _ABSENT | localizer
        provenance = from_plain(Provenance, values, complete=True, ignore_unknown=True)
    except ValueError as error:
        problems.append(Problem("B003", where, f"provenance: {error}"))
        return None
    object.__setattr__(provenance, "text", text)
    return provenance
