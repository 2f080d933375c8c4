"""Which layers of a network give feature maps, found by running it once."""

from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

from torch import Tensor, nn
from torch.jit import ScriptModule

from ccrop_pipeline.errors import CcropError, ModelError
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.localize.encoder import probe_images
from ccrop_pipeline.localize.heatmaps import Layout


@dataclass(frozen=True)
class LayerInfo:
    """A layer whose output is on a grid.

    Attributes:
        name: Its path, empty for the network's own output.
        channels: Number of channels.
        grid: Rows and columns at the input size of the encoder.
        layout: How the output is laid out.
        prefix_tokens: Tokens before those of the patches.
        signed: Whether some value is below 0 for two made images.
        is_default: Whether it is the layer that is taken if none is named.
    """

    name: str
    channels: int
    grid: tuple[int, int]
    layout: Layout
    prefix_tokens: int
    signed: bool
    is_default: bool = False


def layers_of(encoder: Encoder) -> list[LayerInfo]:
    """Return the layers of an encoder that can be chosen, in the order in which they run.

    Args:
        encoder: Any encoder; its own layer does not matter.

    Returns:
        Of layers that give the same tensor, the last to finish, which is the outermost. Layers
        deeper than the default one are left out, for there are hundreds of them.

    Raises:
        ModelError: If the network cannot take images of its input size.
    """
    seen = _watched(encoder)
    default = _default(seen)
    deepest = max(default.info.name.count(".") if default else 0, 1)
    last = {run.output: run for run in seen if not run.idle}
    if default:
        last[default.output] = default
    return [
        replace(run.info, is_default=run is default)
        for run in seen
        if last.get(run.output) is run and (run is default or _may_be_named(run, deepest))
    ]


def layer_named(encoder: Encoder, name: str) -> LayerInfo | None:
    """Return how the output of one layer is laid out on a grid; None if it does not."""
    return next((run.info for run in _watched(encoder) if run.info.name == name), None)


def expect_whole_images(encoder: Encoder) -> None:
    """Refuse an input size of which the grid of the layer leaves out a strip at right and bottom.

    Patches, pools and convolutions drop what fills no step of theirs: patches of 16 pixels cover
    224 of 239. The map would be drawn out over the whole image, and boxes come out too far to the
    right and bottom. Less than a 64th of the side is let pass, and what is left out on both sides
    alike.

    Raises:
        ModelError: If there is such a strip.
    """
    size, tolerance = encoder.input_size, encoder.input_size / 64
    shrinking, grid = _shrinking(encoder)
    # Cell i of the map is about the pixels around centre + i * step.
    side, step, centre = size, 1, 0.0
    while side != grid and side in shrinking:
        side, stride, offset = shrinking[side]
        step, centre = step * stride, centre + step * offset
    seen = step * side  # where others than these layers made it smaller, they are taken to pad
    left = max(0.0, centre - (step - 1) / 2)
    right = size - (centre + step * (side - 1) + (step + 1) / 2)
    # Where nothing is left out at the left, the map is drawn out; else it is about in the middle.
    uneven = right - left > tolerance if left else right >= tolerance
    if seen <= size - tolerance and uneven:
        # Without a margin at the left, steps fill the image at their multiples.
        other = "Leave it out" if left else f"Give {seen} or {size // step * step + step}"
        raise ModelError(
            f"`input_size` is {size}, of which the grid of {encoder.name or 'the network'} covers "
            f"{seen} pixels in steps of {step}: boxes would be displaced. {other}."
        )


def _shrinking(encoder: Encoder) -> tuple[dict[int, tuple[int, int, float]], int]:
    """Return what makes maps smaller, and the columns of the layer's.

    By the columns that go in: those that come out, the stride, and the place of the first output
    among the inputs (Dumoulin and Visin, arXiv:1603.07285).
    """
    found: dict[int, tuple[int, int, float]] = {}

    def watch(part: Any, args: tuple[Any, ...], output: Any) -> None:
        side, out = args[0].shape[-1], output.shape[-1]
        if side != out and not isinstance(part.padding, str):
            kernel, stride, padding, spread = (
                _last(getattr(part, name, 1))
                for name in ("kernel_size", "stride", "padding", "dilation")
            )
            found.setdefault(side, (out, stride, spread * (kernel - 1) / 2 - padding))

    kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    parts = [part for part in encoder.module.modules() if isinstance(part, kinds)]
    handles = [part.register_forward_hook(watch) for part in parts]
    try:
        features = replace(encoder, compile=False).features(probe_images(encoder.input_size)[:1])
    finally:
        for handle in handles:
            handle.remove()
    return found, features.shape[-1]


def _last(value: Any) -> int:
    return int(value[-1]) if isinstance(value, tuple | list) else int(value)


@dataclass(frozen=True)
class _Run:
    info: LayerInfo
    output: int  # equal for equal tensors
    pooled: bool
    block: bool
    idle: bool


def _may_be_named(run: _Run, deepest: int) -> bool:
    return not (run.idle or run.pooled) and run.info.name.count(".") <= deepest


def _default(seen: list[_Run]) -> _Run | None:
    """Return the last feature map before the pooling; for tokens, what the last block gives."""
    fit = [run for run in seen if not run.pooled and not run.idle]
    if not fit:
        return None
    if fit[-1].info.layout != "tokens":
        return fit[-1]
    tokens = [run for run in fit if run.info.layout == "tokens"]
    return ([run for run in tokens if run.block] or tokens)[-1]


def _watched(encoder: Encoder) -> list[_Run]:
    """Return every run of a module whose output is on a grid, in the order they finish."""
    names: dict[nn.Module, str] = {}
    for name, part in encoder.module.named_modules():
        if not isinstance(part, ScriptModule):  # takes no hooks
            names.setdefault(part, name)
    numbers: dict[int, tuple[int, Tensor]] = {}  # the tensors are kept, so that ids are unique
    pooled: set[int] = set()
    pools: list[str] = []
    runs: dict[str, _Run] = {}
    prefix = _prefix_tokens(encoder.module)
    last_is_channels = getattr(encoder.module, "output_fmt", "NCHW") == "NHWC"

    def watch(part: nn.Module, _args: object, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        number, _ = numbers.setdefault(id(output), (len(numbers), output))
        if "pool" in type(part).__name__.lower() and not names[part].endswith("features"):
            pooled.add(number)
            pools.append(names[part])
        info = _info(names[part], output, prefix, last_is_channels=last_is_channels)
        if info is None:
            return
        runs.pop(info.name, None)
        block = info.name[-1:].isdigit() and next(part.children(), None) is not None
        runs[info.name] = _Run(info, number, number in pooled, block, isinstance(part, nn.Identity))

    handles = [part.register_forward_hook(watch) for part in names]
    try:
        # Through the encoder, so that modes, precision and colours are those of real use.
        replace(encoder, layer="", compile=False).run(probe_images(encoder.input_size)[::4])
    except CcropError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{encoder.name or 'The network'} fails on images of {encoder.input_size} pixels: "
            f"{lines[0]} Give the size it was built for with `input_size`."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return _outside(pools, runs)


def _outside(pools: list[str], runs: dict[str, _Run]) -> list[_Run]:
    """Return the runs that are not inside of a pooling, such as one by attention, to no grid."""
    inside = tuple(f"{pool}." for pool in pools if pool and pool not in runs)
    return [run for name, run in runs.items() if not name.startswith(inside)]


def _info(
    name: str, output: Tensor, prefix: int | None, *, last_is_channels: bool
) -> LayerInfo | None:
    if len(output) != 2 or output.ndim not in (3, 4):
        return None
    layout: Layout = "bchw"
    prefix_tokens = 0
    if output.ndim == 3:
        layout = "tokens"
        tokens, channels = output.shape[1:]
        found = _square(tokens, prefix)
        if found is None:
            return None
        prefix_tokens, grid = found
    else:
        # Images are square, so that the two axes of the grid are equal.
        first, second, third = output.shape[1:]
        if first == second and (second != third or last_is_channels):
            layout, grid, channels = "bhwc", (first, second), third
        else:
            grid, channels = (second, third), first
    if min(grid) < 2:
        return None
    signed = bool((output < 0).any())
    return LayerInfo(name, channels, grid, layout, prefix_tokens, signed)


def _square(tokens: int, prefix: int | None) -> tuple[int, tuple[int, int]] | None:
    """Return the number of tokens before the patches, and the square of the patches."""
    likely = tokens - isqrt(tokens) ** 2
    # Some networks add their class token only after most blocks, so that there is none before.
    for count in [likely] if prefix is None else [prefix, 0]:
        side = isqrt(max(tokens - count, 0))
        if side**2 == tokens - count:
            return count, (side, side)
    return None


def _prefix_tokens(module: nn.Module) -> int | None:
    """Return the number of tokens before the patches; None where the network does not tell."""
    known = getattr(module, "num_prefix_tokens", None)  # timm
    if isinstance(known, int):
        return known
    return 1 if isinstance(getattr(module, "class_token", None), Tensor) else None  # torchvision
