"""From images to boxes: an encoder, a map and a rule together."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from ccrop_pipeline.base.ranks import own_gpu
from ccrop_pipeline.boxset import LocalizerInfo
from ccrop_pipeline.errors import ModelError, SettingError
from ccrop_pipeline.localize.attention import Attention, class_attention, key_similarity
from ccrop_pipeline.localize.box_rules import BoxRule, located
from ccrop_pipeline.localize.discovery import cells_of, compared_cells, lost, tokencut
from ccrop_pipeline.localize.encoder import Encoder, probe_images
from ccrop_pipeline.localize.heatmaps import (
    absolute_sum,
    channel_sum,
    first_component,
    l2_norm,
    min_max,
)
from ccrop_pipeline.localize.linear_head import LinearHead

_FROM_FEATURES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum": channel_sum,
    "abs": absolute_sum,
    "l2": l2_norm,
    "pca": first_component,
}
_FROM_ATTENTION: Mapping[str, Callable[[Attention], Tensor]] = {
    "attention": partial(class_attention, heads="mean"),
    "attention-max": partial(class_attention, heads="max"),
    "keys": key_similarity,
}
# From the keys of a transformer where they can be read, else from the features of the layer.
_MASKS: Mapping[str, Callable[[Tensor, tuple[int, int], int], Tensor]] = {
    "lost": lost,
    "tokencut": tokencut,
}
_LINEAR = "linear"
MASKS = frozenset(_MASKS)  # their heatmaps tell objects apart, as many as were asked for
MAPS = (*_FROM_FEATURES, *_FROM_ATTENTION, *_MASKS)  # all that need nothing but the encoder
# Maps whose heatmaps say by themselves what is content: the threshold that is part of them.
NATURAL_THRESHOLDS: Mapping[str, float] = dict.fromkeys((*_MASKS, _LINEAR), 0.5)


def choose_map(encoder: Encoder) -> str:
    """Return the map for an encoder of which nothing else is known.

    The paper's channel sum where no feature of the probe images is negative. Otherwise a sum
    cancels: the similarity of keys where there are any, else the L2 norm. lab/map-quality.md has
    the measurements behind this.

    Returns:
        One of `MAPS`; for the same encoder always the same.
    """
    if not _has_negative_features(encoder):
        return "sum"
    return "keys" if encoder.has_attention else "l2"


def _has_negative_features(encoder: Encoder) -> bool:
    """Tell whether the features of the probe images are negative anywhere, so that sums cancel."""
    return bool((encoder.features(probe_images(encoder.input_size)) < 0).any())


@dataclass(frozen=True)
class Localizer:
    """Finds the box of each image.

    Attributes:
        encoder: What looks at the images.
        map: One of `MAPS`: what makes one heatmap of features or attention; or `linear`.
        rule: What of a heatmap its box is drawn around. One that sets itself has the map's own
            threshold where it is in `NATURAL_THRESHOLDS`; else `compute_boxes` sets it.
        head: The layer whose output the map `linear` is; None for other maps.

    Raises:
        ModelError: If the map needs attention, and the encoder's layer has none that can be read.
        SettingError: If there is no such map, or `linear` and a head are not given together.
    """

    encoder: Encoder
    map: str = "sum"
    rule: BoxRule = field(default_factory=BoxRule)
    _: KW_ONLY
    head: LinearHead | None = None

    def __post_init__(self) -> None:
        """Refuse a map that cannot be made, before any image is read."""
        if self.map not in (*MAPS, _LINEAR):
            raise SettingError(f"map is {self.map!r}; it must be one of {', '.join(MAPS)}, linear.")
        if (self.map == _LINEAR) != (self.head is not None):
            raise SettingError("the map linear and its head must be given together.")
        if self.rule.sets_itself and self.map in NATURAL_THRESHOLDS:
            rule = replace(self.rule, threshold=NATURAL_THRESHOLDS[self.map])
            object.__setattr__(self, "rule", rule)
        if self.map not in _FROM_ATTENTION:
            return
        others = ", ".join(name for name in MAPS if name not in _FROM_ATTENTION)
        what = f"layer {self.encoder.layer!r} of {self.encoder.name or 'this encoder'}"
        if not self.encoder.has_attention:
            raise ModelError(
                f"the map {self.map!r} needs the attention of a transformer, and {what} has none "
                f"that can be read. Choose one of {others}, or name the last block of a "
                "transformer as the layer."
            )
        if self.map != "keys" and not self.encoder.has_class_token:
            raise ModelError(
                f"the map {self.map!r} is the attention of a class token, and {what} has none. "
                f"Choose one of {others} or keys."
            )

    @cached_property
    def warning(self) -> str | None:
        """What is wrong with this map for this encoder, for people; None if nothing is known."""
        if self.map != "sum" or not _has_negative_features(self.encoder):
            return None
        return (
            f"the features of {self.encoder.name or 'this encoder'} at layer "
            f"{self.encoder.layer!r} can be negative, and the map 'sum' lets them cancel: boxes "
            "often come out as the whole image, or beside the object. "
            f"`map` auto would choose {choose_map(self.encoder)!r}."
        )

    @property
    def info(self) -> LocalizerInfo:
        """What a box set records of this localizer, the encoder apart."""
        encoder = self.encoder
        return LocalizerInfo(
            map=self.map if self.head is None else f"{self.map} sha256 {self.head.sha256}",
            **asdict(self.rule),
            interpolation="bilinear",
            input_size=encoder.input_size,
            preprocessing=encoder.preprocessing,
        )

    def heatmaps(self, images: Tensor) -> Tensor:
        """Return the heatmaps of a batch.

        Args:
            images: uint8 `(B, 3, input_size, input_size)` RGB, on any device.

        Returns:
            On the encoder's device: float16 `(B, h, w)` in [0, 1] on the grid of the layer; zeros
            where the map is constant or not finite.
        """
        if self.map in _FROM_FEATURES:
            return min_max(_FROM_FEATURES[self.map](self.encoder.features(images)))
        if self.map in _MASKS:
            cells, grid = compared_cells(self.encoder, images)
            return _MASKS[self.map](cells, grid, self.rule.objects).to(self.encoder.device)
        if self.head is not None:
            return self.head.heatmaps(*cells_of(self.encoder, images, self.head.on))
        return min_max(_FROM_ATTENTION[self.map](self.encoder.attention(images)))

    def locate(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the boxes of a batch, from its heatmaps as they are returned, in float16.

        Args:
            images: As for `heatmaps`.

        Returns:
            On the encoder's device: the heatmaps; boxes, float32 `(B, 4)` of `x_min, y_min,
            x_max, y_max` in [0, 1]; `found`, bool `(B,)`: False, and the box the full one,
            where the map is constant or not finite, or the rule finds no content.
        """
        heatmaps = self.heatmaps(images)
        boxes, found = located(heatmaps, self.rule, self.encoder.input_size)
        return heatmaps, boxes, found


def rule_of(info: LocalizerInfo) -> BoxRule:
    """Return the rule that made the boxes of a box set."""
    return BoxRule(
        threshold=info.threshold,
        mass=info.mass,
        mean_share=info.mean_share,
        centre_weight=info.centre_weight,
        objects=info.objects,
        component="largest" if info.component == "largest" else "all",
        margin=info.margin,
        min_size=info.min_size,
    )


def open_device(name: str | torch.device) -> torch.device:
    """Return a torch device by name; "auto" is the GPU of this process where there is one.

    Raises:
        SettingError: If the device cannot be used here.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", own_gpu(torch.cuda.device_count()))
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(f"device {str(name)!r} cannot be used here: {reason}.") from error
    return device


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to a device; on a GPU in the order of its work.

    A copy to a GPU is asynchronous from pinned memory only: from any other, the host first waits
    until all that was asked of the GPU before, such as the last training step, is done.

    Args:
        values: Any tensor; what is pinned or on the device already is not copied again.
        device: Where it is to go.
    """
    if torch.device(device).type != "cuda":
        return values.to(device)
    if values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
