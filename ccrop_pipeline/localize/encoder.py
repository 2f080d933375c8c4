"""Encoders: what turns images into the feature maps that heatmaps are made of."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

import torch
from torch import Tensor, nn

from ccrop_pipeline.boxset import EncoderInfo
from ccrop_pipeline.errors import CcropError

# Mean and standard deviation of ImageNet's training images, as torchvision's weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Encoder:
    """Any module that maps images, with the name of the layer whose output is the feature map.

    The module is used as it is, not copied: an encoder around a network in training always
    speaks for the weights of the moment. Training mode and weights are left as they were found.

    Args:
        module: Takes normalised images ``(B, 3, input_size, input_size)``; moved to ``device``.
        layer: Dotted path of the layer inside ``module``, as in ``named_modules()``; empty for
            the module's own output.
        input_size: Side of the square images, in pixels.
        mean: Mean of each colour channel, for pixels in [0, 1]. ImageNet's unless given.
        std: Standard deviation of each colour channel, likewise.
        name: What to call the network in a box set.
        epoch: Epochs the network was trained for, if known.
        device: Where the module runs.
        channels_last: Whether images are laid out with the channels innermost, mostly faster.
        precision: ``bf16`` runs the module under autocast; features come out in float32 anyway.

    Raises:
        CcropError: ``module`` has no such layer.
        ValueError: ``input_size``, ``mean``, ``std`` or ``precision`` make no sense.
    """

    module: nn.Module = field(repr=False)
    layer: str
    input_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    name: str = ""
    epoch: int | None = None
    device: torch.device | str = "cpu"
    channels_last: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        """Check the fields and move the module."""
        if self.input_size < 1:
            raise ValueError(f"input_size must be at least 1, not {self.input_size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"mean and std must have 3 numbers, std above 0, not {self.mean}, {self.std}"
            )
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be 'fp32' or 'bf16', not {self.precision!r}")
        self._hooked()
        self.module.to(self.device)

    @property
    def info(self) -> EncoderInfo:
        """What a box set records of this encoder; hashes the present weights on every access."""
        return EncoderInfo(self.name, self.layer, weights_sha256(self.module), self.epoch)

    def features(self, images: Tensor) -> Tensor:
        """Feature maps of a batch, with the module in evaluation mode and without gradients.

        Args:
            images: uint8 ``(B, 3, input_size, input_size)`` RGB, on any device.

        Returns:
            float32 ``(B, C, h, w)`` on the encoder's device.

        Raises:
            CcropError: The layer took no part in the module's forward pass, or its output is not
                a batch of feature maps.
            ValueError: ``images`` has another shape or dtype.
        """
        size = (3, self.input_size, self.input_size)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != size:
            raise ValueError(
                f"images must be uint8 (B, 3, {self.input_size}, {self.input_size}), "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        outputs: list[object] = []

        def keep(_module: nn.Module, _args: object, output: object) -> None:
            # Copied, since the next layer may work in place (ReLUs and residual sums often do).
            if isinstance(output, Tensor):
                output = output.to(torch.float32, copy=True)
            outputs.append(output)

        handle = self._hooked().register_forward_hook(keep)
        try:
            # Without the cache: older releases of torch would keep the weights cast here, in
            # inference mode, for an autocast region around this call, and it lost its gradients.
            with (
                _evaluation(self.module),
                torch.inference_mode(),
                torch.autocast(
                    torch.device(self.device).type,
                    dtype=torch.bfloat16,
                    enabled=self.precision == "bf16",
                    cache_enabled=False,
                ),
            ):
                self.module(self._normalised(images))
        finally:
            handle.remove()
        return self._feature_map(outputs, batch=len(images))

    def _hooked(self) -> nn.Module:
        try:
            return self.module.get_submodule(self.layer)
        except AttributeError:
            names = [name for name, _ in self.module.named_modules() if name]
            near = get_close_matches(self.layer, names, n=5) or names[:5]
            raise CcropError(
                f"The encoder {self.name or type(self.module).__name__} has no layer "
                f"{self.layer!r}. Name one of its layers, such as {', '.join(near)}."
            ) from None

    def _normalised(self, images: Tensor) -> Tensor:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        pixels = images.to(self.device, non_blocking=True).to(torch.float32, memory_format=layout)
        mean, std = (
            torch.tensor(channels, device=self.device).view(3, 1, 1) * 255
            for channels in (self.mean, self.std)
        )
        return pixels.sub_(mean).div_(std)

    def _feature_map(self, outputs: list[object], batch: int) -> Tensor:
        if not outputs:
            raise CcropError(
                f"The layer {self.layer!r} took no part in the forward pass of the encoder. "
                "Name a layer that does."
            )
        output = outputs[-1]
        if isinstance(output, Tensor) and output.ndim == 4 and len(output) == batch:
            return output
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise CcropError(
            f"The layer {self.layer!r} gives {found}, which is not a batch of feature maps "
            f"({batch}, channels, height, width). Name a convolutional layer before the pooling; "
            "a transformer's tokens have to be put back on their grid first."
        )


def weights_sha256(module: nn.Module) -> str:
    """Hexadecimal SHA-256 of a module's state dict, the same on every device and memory layout.

    Taken over the tensors in the order of their names: name, dtype, shape, then the bytes of the
    elements in row-major order. Buffers count, for they change the features too.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode throughout; afterwards every submodule is back in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
