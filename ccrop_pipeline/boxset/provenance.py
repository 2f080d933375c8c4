"""What made a box set: the one JSON that every shard and the manifest carry."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar, get_args, get_type_hints

from ccrop_pipeline.boxset.rules import Problem

VERSION = 1
COMPONENTS = ("all", "largest")
_FIXED = {
    "format": "ccrop-boxes",
    "version": VERSION,
    "frame": "stored pixels, EXIF orientation not applied, origin top left",
    "box": "x_min, y_min, x_max, y_max; normalised to the image frame; half-open",
}

Part = TypeVar("Part")


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
class LocalizerInfo:
    """How a feature map became a box.

    Attributes:
        map: What made one heatmap of the features, such as `sum`, the sum over channels.
        threshold: Cells strictly above it are content; k of the ContrastiveCrop paper (arXiv
            2202.03278); in [0, 1]. None where `mass` is given.
        mass: Share of the heat, in (0, 1], that the smallest box had to hold. None where
            `threshold` is given.
        component: `all` content, or its `largest` connected component alone.
        margin: Share of the box's own side that was added on each side; at least 0.
        min_size: Least side of a box as a share of the image's, in [0, 1].
        interpolation: From the native grid to the input size, such as `bilinear`.
        input_size: Side of the square that the encoder saw, in pixels.
        preprocessing: From the stored image to that square.

    Raises:
        ValueError: If a number leaves its range, or not exactly one of threshold and mass is
            given.
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

    def __post_init__(self) -> None:
        """Make the shares floats, so that 0 and 0.0 have one fingerprint, and check them."""
        for name in ("threshold", "mass", "margin", "min_size"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else float(value))
        if (self.threshold is None) == (self.mass is None):
            raise ValueError(
                f"exactly one of threshold {self.threshold} and mass {self.mass} is given"
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], not {self.threshold}")
        if self.mass is not None and not 0 < self.mass <= 1:
            raise ValueError(f"mass must be in (0, 1], not {self.mass}")
        if self.component not in COMPONENTS:
            raise ValueError(f"component must be one of {COMPONENTS}, not {self.component!r}")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin must be at least 0, not {self.margin}")
        if not 0 <= self.min_size <= 1:
            raise ValueError(f"min_size must be in [0, 1], not {self.min_size}")


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

    Raises:
        ValueError: If encoder and localizer are not given together, or neither they nor a rule.
    """

    encoder: EncoderInfo | None
    localizer: LocalizerInfo | None
    source: SourceInfo
    rule: str | None = None
    libraries: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse a provenance that leaves open where the boxes come from."""
        if (self.encoder is None) != (self.localizer is None):
            raise ValueError("encoder and localizer are given together or not at all")
        if self.encoder is None and not self.rule:
            raise ValueError("boxes without an encoder need a rule that says how they came about")

    @property
    def fingerprint(self) -> str:
        """Sha256, as hex, of the canonical JSON of everything but `libraries`."""
        content = {**_FIXED, **asdict(self)}
        del content["libraries"]
        text = json.dumps(
            content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: "Provenance") -> list[str]:
        """Name what of the fingerprint is different, one line each: `name: this -> other`."""
        mine, others = _flat(asdict(self)), _flat(asdict(other))
        return [
            f"{name}: {mine.get(name)} -> {others.get(name)}"
            for name in mine | others
            if not name.startswith("libraries") and mine.get(name) != others.get(name)
        ]

    def to_json(self) -> dict[str, Any]:
        """Give the JSON object of shards and manifest, fingerprint included."""
        content = asdict(self) | {"libraries": dict(sorted(self.libraries.items()))}
        return {**_FIXED, **content, "fingerprint": self.fingerprint}


def _flat(content: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{path}{name}.")
        else:
            flat[path + name] = value
    return flat


def provenance_from_json(data: Any, where: str, problems: list[Problem]) -> Provenance | None:
    """Read the JSON object back, adding to `problems` what breaks rules B002 to B004.

    Returns:
        The provenance, or None where the object cannot be understood.
    """
    found = (data.get("format"), data.get("version")) if isinstance(data, dict) else None
    if found != (_FIXED["format"], VERSION):
        message = (
            f"format and version are {found}; this ccrop reads {_FIXED['format']} {VERSION}; "
            "a newer ccrop may read it"
        )
        problems.append(Problem("B002", where, message))
        return None
    try:
        provenance = _parse(data)
    except ValueError as error:
        problems.append(Problem("B003", where, f"provenance: {error}"))
        return None
    if data["fingerprint"] != provenance.fingerprint:
        message = f"fingerprint {data['fingerprint']!r} should be {provenance.fingerprint!r}"
        problems.append(Problem("B004", where, message))
    return provenance


def _parse(data: dict[str, Any]) -> Provenance:
    expected = {*_FIXED, *(f.name for f in fields(Provenance)), "fingerprint"}
    if set(data) != expected:
        raise ValueError(f"fields missing or not known: {sorted(set(data) ^ expected)}")
    for name, value in _FIXED.items():
        if data[name] != value:
            raise ValueError(f"{name} is {data[name]!r}, not {value!r}")
    libraries, rule = data["libraries"], data["rule"]
    if not isinstance(libraries, dict) or not all(isinstance(v, str) for v in libraries.values()):
        raise ValueError(f"libraries is {libraries!r}, not an object of strings")
    if not isinstance(rule, str | None):
        raise ValueError(f"rule is {rule!r}, not a string or null")
    return Provenance(
        encoder=None if data["encoder"] is None else typed(EncoderInfo, data["encoder"]),
        localizer=None if data["localizer"] is None else typed(LocalizerInfo, data["localizer"]),
        source=typed(SourceInfo, data["source"]),
        rule=rule,
        libraries=libraries,
    )


def typed(kind: type[Part], data: Any) -> Part:
    """Make a dataclass of plain values from a JSON object with exactly its fields and types.

    Raises:
        ValueError: If a field is missing, not known or of another type.
    """
    hints = get_type_hints(kind)
    if not isinstance(data, dict) or set(data) != set(hints):
        raise ValueError(f"{data!r} does not have exactly the fields {list(hints)}")
    for name, hint in hints.items():
        value = data[name]
        # JSON has one kind of number, Python three: 1 is a float here and true is no integer.
        allowed = hint | int if float in (get_args(hint) or (hint,)) else hint
        finite = not isinstance(value, float) or math.isfinite(value)
        if isinstance(value, bool) or not isinstance(value, allowed) or not finite:
            raise ValueError(f"{name} is {value!r}, not {getattr(hint, '__name__', hint)}")
    return kind(**data)
