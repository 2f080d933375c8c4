"""Encoders: what turns images into the feature maps that heatmaps are made from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccrop_pipeline.base.values import did_you_mean
from ccrop_pipeline.boxset import EncoderInfo
from ccrop_pipeline.errors import ModelError, SettingError
from ccrop_pipeline.localize.attention import Attention, attention_in, queries_and_keys
from ccrop_pipeline.localize.heatmaps import Layout, as_feature_map, token_grid
from ccrop_pipeline.localize.weights import looks_untrained, weights_sha256

Precision = Literal["fp32", "bf16", "fp16"]

# Mean and standard deviation of ImageNet's training images, as torchvision's weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_PROBES = 8  # images that show what the layers of a network give


@dataclass(frozen=True, eq=False)
class Encoder:
    """Any module that maps images, with the name of the layer whose output is the feature map.

    The module is used as it is, not copied: an encoder around a network in training always has
    the weights of the moment. Training mode and weights are left as they were found.

    Args:
        module: Takes normalised images `(B, 3, input_size, input_size)`; moved to `device`.
        layer: Dotted path of the layer inside `module`, as in `named_modules()`; empty for
            the module's own output.
        input_size: Side of the square images, in pixels.
        mean: Mean of each colour channel, for pixels in [0, 1]. ImageNet's unless given.
        std: Standard deviation of each colour channel, likewise.
        name: What to call the network in a box set.
        epoch: Epochs the network was trained for, if known.
        device: Where the module runs.
        channels_last: Whether images are laid out with the channels innermost, mostly faster.
        precision: `bf16` and `fp16` (CUDA only) are autocast; features are float32 anyway.
        prefix_tokens: Tokens that a transformer has before those of the patches (class,
            distillation, registers). They have no place on the grid and are dropped.
        layout: What the layer gives: `bchw` maps, `bhwc` maps with the channels last, or
            `tokens` (B, prefix + h * w, C), whose patches fill a square row by row.
        compile: Whether `torch.compile` compiles the network, once for each encoder.
        judge_weights: Whether `info` looks if weights of an unknown epoch are noise: then it is 0.
        pools: Whether `pooled` is the network's own output, (B, C), and not the mean of the maps.

    Raises:
        ModelError: If `module` has no such layer, or the device no such precision.
        SettingError: If another field makes no sense.
    """

    module: nn.Module = field(repr=False)
    layer: str
    input_size: int
    _: KW_ONLY
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    name: str = ""
    epoch: int | None = None
    device: torch.device | str = "cpu"
    channels_last: bool = True
    precision: Precision = "fp32"
    prefix_tokens: int = 0
    layout: Layout = "bchw"
    compile: bool = False
    judge_weights: bool = False
    pools: bool = False

    def __post_init__(self) -> None:
        """Check the fields and move the module."""
        if self.input_size < 1:
            raise SettingError(f"input_size is {self.input_size}; it must be 1 or more.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise SettingError(
                f"mean and std must have 3 numbers, std above 0, not {self.mean}, {self.std}."
            )
        for name, kind in (("precision", Precision), ("layout", Layout)):
            if getattr(self, name) not in get_args(kind):
                allowed = ", ".join(map(repr, get_args(kind)))
                raise SettingError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {allowed}."
                )
        if self.prefix_tokens < 0:
            raise SettingError(f"prefix_tokens is {self.prefix_tokens}; it must be 0 or more.")
        if self.precision == "fp16" and torch.device(self.device).type != "cuda":
            raise SettingError(
                f"precision fp16 needs a CUDA device, and this is {self.device}. "
                "Use bf16 or fp32 here."
            )
        self._hooked()
        self.module.to(self.device)

    @property
    def info(self) -> EncoderInfo:
        """What a box set records of this encoder; reads the present weights on every access."""
        epoch = self.epoch
        if epoch is None and self.judge_weights and looks_untrained(self.module):
            epoch = 0
        return EncoderInfo(self.name, self.layer, weights_sha256(self.module), epoch)

    @property
    def preprocessing(self) -> str:
        """What becomes of an image before the network sees it, and in which precision it does."""
        return (
            "resized to a square, bilinear with antialiasing, from a half or a "
            "quarter of JPEGs where that is no smaller; "
            f"mean {list(self.mean)}, std {list(self.std)}; {self.precision}"
        )

    @property
    def has_attention(self) -> bool:
        """Whether `attention` can read the queries and keys of this layer."""
        return self.layout == "tokens" and attention_in(self._hooked()) is not None

    @property
    def has_class_token(self) -> bool:
        """Whether the first of the tokens before the patches is a class token.

        Networks that pool patches may have registers alone; timm's then have a `cls_token` of None.
        """
        return self.prefix_tokens > 0 and getattr(self.module, "cls_token", self) is not None

    def features(self, images: Tensor) -> Tensor:
        """Return feature maps of a batch, with the module in evaluation mode and without gradients.

        Args:
            images: uint8 `(B, 3, input_size, input_size)` RGB, on any device.

        Returns:
            float32 `(B, C, h, w)` on the encoder's device.

        Raises:
            ModelError: If the layer took no part in the forward pass, or gave no feature maps.
            ValueError: If `images` has another shape or dtype.
        """
        tap = self._tap
        handle = self._hooked().register_forward_hook(tap.keep)
        try:
            with self._inference():
                output = (self._compiled if self.compile else tap)(self._normalised(images))
        finally:
            handle.remove()
            tap.kept = {}
        return self._feature_map(output, batch=len(images))

    def pooled(self, images: Tensor) -> Tensor:
        """Return the spatial means of the feature maps of a batch, float32 `(B, C)`.

        For a ResNet these are the features that its classifier would see; for a transformer, the
        mean of the patches' tokens. An encoder that pools by itself gives its own output: what a
        network that was trained here was trained by.

        Args:
            images: As for `features`.
        """
        if not self.pools:
            return self.features(images).mean((2, 3))
        output = self.run(images)
        assert isinstance(output, Tensor)
        return output.float()

    def attention(self, images: Tensor) -> Attention:
        """Return queries and keys of the self-attention in the layer, for every head and token.

        Args:
            images: As for `features`.

        Raises:
            ModelError: If the layer is no block of a transformer with one self-attention that is
                understood, or its tokens fill no square.
            ValueError: If `images` has another shape or dtype.
        """
        block = self._hooked()
        inside = attention_in(block) if self.layout == "tokens" else None
        if inside is None:
            raise ModelError(
                f"the layer {self.layer!r} of {self.name or type(self.module).__name__} is not a "
                "block of a vision transformer whose attention can be read. Name such a block "
                "(`ccrop boxes layers` lists the layers), or choose a map that needs none."
            )
        found: list[tuple[Tensor, Tensor, float]] = []

        def keep(part: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            found.append(queries_and_keys(part, args, kwargs))

        attention = block.get_submodule(inside)
        handle = attention.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            self.run(images)
        finally:
            handle.remove()
        if not found:
            raise ModelError(self._no_part())
        queries, keys, scale = found[-1]
        grid = token_grid(queries.shape[2], self.prefix_tokens)
        return Attention(queries, keys, self.prefix_tokens, grid, scale)

    def run(self, images: Tensor) -> object:
        """Return what the module itself gives for a batch, in evaluation mode, without gradients.

        Args:
            images: As for `features`.
        """
        with self._inference():
            return self.module(self._normalised(images))

    @cached_property
    def _tap(self) -> "_Tap":
        return _Tap(self.module, self.layer)

    @cached_property
    def _compiled(self) -> Callable[[Tensor], object]:
        compiled: Callable[[Tensor], object] = torch.compile(self._tap)
        return compiled

    @cached_property
    def _scaling(self) -> Tensor:
        """Mean and standard deviation of pixels in [0, 255], (2, 3, 1, 1); on the device once."""
        return torch.tensor([self.mean, self.std], device=self.device).view(2, 3, 1, 1) * 255

    @contextmanager
    def _inference(self) -> Iterator[None]:
        # Without the cache: older releases of torch would keep the weights cast here, in
        # inference mode, for an autocast region around this call, and it lost its gradients.
        with (
            evaluation(self.module),
            torch.inference_mode(),
            torch.autocast(
                torch.device(self.device).type,
                dtype=torch.float16 if self.precision == "fp16" else torch.bfloat16,
                enabled=self.precision != "fp32",
                cache_enabled=False,
            ),
        ):
            yield

    def _hooked(self) -> nn.Module:
        try:
            return self.module.get_submodule(self.layer)
        except AttributeError:
            names = [name for name, _ in self.module.named_modules() if name]
            close = did_you_mean(self.layer, names, most=5)
            raise ModelError(
                f"the encoder {self.name or type(self.module).__name__} has no layer "
                f"{self.layer!r}{close}. Name one of its layers, such as {', '.join(names[:5])}."
            ) from None

    def _normalised(self, images: Tensor) -> Tensor:
        size = (3, self.input_size, self.input_size)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != size:
            raise SettingError(
                f"images must be uint8 (B, 3, {self.input_size}, {self.input_size}), "
                f"not {images.dtype} {tuple(images.shape)}."
            )
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        pixels = images.to(self.device, non_blocking=True).to(torch.float32, memory_format=layout)
        mean, std = self._scaling
        return pixels.sub_(mean).div_(std)

    def _feature_map(self, output: object, batch: int) -> Tensor:
        if output is None:
            raise ModelError(self._no_part())
        features = as_feature_map(output, self.layout, self.prefix_tokens, batch)
        if features is not None:
            return features.float()
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        expected = {
            "bchw": f"({batch}, channels, height, width)",
            "bhwc": f"({batch}, height, width, channels)",
            "tokens": f"({batch}, tokens, channels)",
        }[self.layout]
        advice = (
            'For the tokens of a transformer, set layout to "tokens".'
            if self.layout == "bchw" and isinstance(output, Tensor) and output.ndim == 3
            else "Name a layer before the pooling."
        )
        raise ModelError(
            f"the layer {self.layer!r} gives {found}, which is not a batch of feature maps "
            f"{expected}. {advice}"
        )

    def _no_part(self) -> str:
        return (
            f"the layer {self.layer!r} took no part in the forward pass of the encoder. "
            "Name a layer that does."
        )


class _Tap(nn.Module):
    """A network whose output is that of one of its layers.

    Both are one module, so that `torch.compile` sees the layer's output as the result and drops
    what comes after it.

    Args:
        module: The network.
        layer: Dotted path of the layer, empty for the module's own output.
    """

    def __init__(self, module: nn.Module, layer: str) -> None:
        super().__init__()
        self.module = module
        self.layer = layer
        self.kept: dict[str, object] = {}

    def forward(self, images: Tensor) -> object:
        """Return what the layer gave for `images`, tensors as copies; None if it took no part."""
        self.kept = {}
        self.module(images)
        # By name, which puts the name among the guards of compiled code: taps whose guards agree
        # may share it, and two layers of one network must not.
        return self.kept.get(self.layer)

    def keep(self, _module: nn.Module, _args: object, output: object) -> None:
        """Forward hook of the layer."""
        # Copied, since the next layer may work in place (ReLUs and residual sums often do).
        self.kept[self.layer] = output.clone() if isinstance(output, Tensor) else output


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode throughout; afterwards every submodule has its old mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def probe_images(size: int) -> Tensor:
    """Make images with structure at many scales, the same on every machine.

    Args:
        size: Side in pixels.

    Returns:
        uint8 `(8, 3, size, size)`: blocks of random colours, finer from image to image.
    """
    generator = torch.Generator().manual_seed(0)
    images = []
    for number in range(_PROBES):
        cells = min(2 ** (number + 1), size)
        colours = torch.randint(0, 256, (1, 3, cells, cells), generator=generator)
        images.append(F.interpolate(colours.to(torch.uint8), size=(size, size), mode="nearest"))
    return torch.cat(images)
