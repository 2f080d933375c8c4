"""The recipe: everything that changes the result of a run, and nothing else.

What differs from machine to machine (device, loader processes) is no part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ccrop_pipeline.base.values import check_ranges, did_you_mean, from_plain, ranged, to_plain
from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import SettingError, shown
from ccrop_pipeline.recipes.method_settings import (
    METHOD_SETTINGS,
    MethodSettings,
    MoCoV2Settings,
    settings_type,
)
from ccrop_pipeline.recipes.settings import BoxSettings, KnnSettings, OptimizerSettings
from ccrop_pipeline.recipes.view_settings import AugmentSettings, LocalViews, ViewGroup

_RESNETS = (
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "resnext50_32x4d",
    "wide_resnet101_2",
    "wide_resnet50_2",
)
# Those of `localize.backbone_names`, which a test compares: it takes seconds to import.
BACKBONES = ("small", *_RESNETS, *(f"{resnet}-cifar" for resnet in _RESNETS))
LIBRARIES = ("timm:", "torchvision:")


def is_backbone(name: str) -> bool:
    """Tell whether a recipe may name this as its backbone; a library has the last word on its."""
    return name in BACKBONES or name.startswith(LIBRARIES)


def no_stochastic_depth(backbone: str, rate: float) -> SettingError:
    """Return the error about a backbone that `drop_path_rate` has no effect on."""
    return SettingError(
        f"drop_path_rate is {rate}, and {backbone} has no stochastic depth. Set it to 0, or take a "
        "network that has: most of timm (ViT, ConvNeXt, Swin, ResNet), and ConvNeXt, Swin, "
        "EfficientNet and MaxViT of torchvision."
    )


@dataclass(frozen=True)
class Recipe:
    """All settings of a run.

    Attributes:
        backbone: A name that `build_backbone` knows, `timm:NAME` or `torchvision:NAME`.
        freeze: First blocks of the backbone that do not learn, the stem counted as the first. For
            runs that begin with weights from elsewhere; ViTs with random ones train more steadily
            with 1, the patch projection alone (section 4.2 of MoCo v3, arXiv:2104.02057).
        drop_path_rate: Stochastic depth ("drop path") of the backbone while it trains: share of
            images for which the last block adds nothing; fewer in those before, as its library
            has it. 0: none. Momentum encoders have none.
        image_size: Side of a view in pixels.
        eval_size: Side in pixels of the whole images that boxes are computed on and that the
            probe sees; 0 for `image_size`. Twice the size gives heatmaps of twice the cells.
        epochs: Epochs of training, warm-up included.
        batch_size: Images a step, over all processes.
        accumulate: Parts that a step is computed in, one after the other, to save memory. A
            contrastive loss then compares the images of a part only.
        seed: Seed of weights, order, crops and colours; of 32 bits.
        precision: "fp32", "bf16" for autocast in training steps, or "fp64": slow, for comparing
            machines, since the rounding of float32 grows to 1e-3 of the loss in some twenty steps.
        method: Method and its own settings.
        crop: How windows are drawn.
        boxes: Where boxes come from, and when they are computed.
        augment: Colours and flips.
        augment_second: Those of the second view, where they differ (BYOL, MoCo v3, DINO).
        augment_local: Those of the small views, where they differ from those of the first (DINO).
        local_views: Small views beside the two large ones (DINO).
        optimizer: Optimizer and learning-rate schedule.
        probe: The kNN probe.

    Raises:
        SettingError: If a setting is unknown, out of its range or not finite, or two contradict
            each other.
    """

    backbone: str = "resnet50"
    freeze: int = ranged(0, "[0, 1000]")
    drop_path_rate: float = ranged(0.0, "[0, 1)")
    image_size: int = ranged(224, "[8, 4096]")
    eval_size: int = ranged(0, "[0, 4096]")
    epochs: int = ranged(200, "[1, 100000]")
    batch_size: int = ranged(256, "[2, 1048576]")
    accumulate: int = ranged(1, "[1, 1048576]")
    seed: int = ranged(0, "[0, 4294967295]")
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    method: MethodSettings = field(default_factory=MoCoV2Settings)
    crop: CropParams = field(default_factory=CropParams)
    boxes: BoxSettings = field(default_factory=BoxSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    augment_second: AugmentSettings | None = None
    augment_local: AugmentSettings | None = None
    local_views: LocalViews = field(default_factory=LocalViews)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    probe: KnnSettings = field(default_factory=KnnSettings)

    def __post_init__(self) -> None:
        """Check the backbone, the ranges, and what several settings must agree on."""
        check_ranges(self)
        if not is_backbone(self.backbone):
            close = did_you_mean(self.backbone, BACKBONES, most=3)
            raise SettingError(
                f"backbone is {shown(self.backbone)}{close}. Known are: {', '.join(BACKBONES)}; "
                "and timm:NAME and torchvision:NAME."
            )
        if self.drop_path_rate and self.backbone in BACKBONES:
            raise no_stochastic_depth(self.backbone, self.drop_path_rate)
        if 0 < self.eval_size < 8:
            raise SettingError(f"eval_size is {self.eval_size}; it must be 0, or 8 or more.")
        if self.batch_size % self.accumulate or self.batch_size // self.accumulate < 2:
            raise SettingError(
                f"batch_size is {self.batch_size} and accumulate {self.accumulate}; a batch must "
                "have that many equal parts of 2 images or more."
            )
        if self.boxes.refresh_from == "momentum" and not hasattr(self.method, "encoder_momentum"):
            raise SettingError(
                f"boxes.refresh_from is 'momentum', but {self.method.name} has no momentum "
                "encoder. Set it to 'online'."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Make a recipe of nested plain values, as TOML has them, or JSON with null.

        Settings that are left out have their defaults; `method` has those of the method that its
        `name` says.

        Raises:
            SettingError: If a setting is unknown, of a wrong kind or out of its range.
        """
        method = values.get("method")
        if isinstance(method, Mapping):
            values = {**values, "method": _method(method)}
        return from_plain(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values, as JSON has them."""
        values: dict[str, Any] = to_plain(self)
        return values

    def sizes(self) -> tuple[int, ...]:
        """Return the sides of all images that the backbone sees, that of the large views first."""
        local = (self.local_views.size,) if self.local_views.count else ()
        return self.image_size, self.eval_size or self.image_size, *local

    def view_groups(self) -> tuple[ViewGroup, ...]:
        """Return the views that the method trains on: two large ones, then the small ones."""
        size, crop, local = self.image_size, vars(self.crop), self.local_views
        groups = [ViewGroup(2, size, **crop, augment=self.augment)]
        if self.augment_second:
            both = (self.augment, self.augment_second)
            groups = [ViewGroup(1, size, **crop, augment=augment) for augment in both]
        if local.count:
            crop, colours = crop | {"scale": local.scale}, self.augment_local or self.augment
            groups.append(ViewGroup(local.count, local.size, **crop, augment=colours))
        return tuple(groups)


def _method(values: Mapping[str, Any]) -> MethodSettings:
    name = values.get("name")
    if not isinstance(name, str):
        raise SettingError(f"method.name is {shown(name)}; it must be the name of a method.")
    kind = settings_type(name)
    own = {each.name for each in fields(kind)}
    others = {each.name for other in METHOD_SETTINGS.values() for each in fields(other)} - own
    try:
        return from_plain(kind, values, path="method.")
    except SettingError as error:
        if not others & values.keys():
            raise
        raise SettingError(
            f"{error} What a recipe sets for its method stays when another name is set on top: "
            f"take a recipe of {name}, or extend this one in a file, where another method.name "
            "starts from that method's defaults."
        ) from error
