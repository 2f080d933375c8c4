"""What a layer gives, put on its grid: feature maps, the same with channels last, tokens."""

from math import isqrt
from typing import Literal

from torch import Tensor

from ccrop_pipeline.errors import CcropError

Layout = Literal["bchw", "bhwc", "tokens"]


def as_feature_map(output: object, layout: Layout, prefix_tokens: int, batch: int) -> Tensor | None:
    """Turns the output of a layer into feature maps.

    Args:
        output: What the layer gave.
        layout: ``bchw`` (B, C, h, w), ``bhwc`` (B, h, w, C) or ``tokens`` (B, prefix + h * w, C),
            the patches in rows from the top left.
        prefix_tokens: Tokens before those of the patches; they are dropped.
        batch: B.

    Returns:
        A view ``(B, C, h, w)``; None if the output has not the shape that `layout` says.

    Raises:
        CcropError: The tokens of the patches fill no square.
    """
    axes = 3 if layout == "tokens" else 4
    if not isinstance(output, Tensor) or output.ndim != axes or len(output) != batch:
        return None
    if layout == "bchw":
        return output
    if layout == "bhwc":
        return output.permute(0, 3, 1, 2)
    rows, columns = token_grid(output.shape[1], prefix_tokens)
    patches = output[:, prefix_tokens:].transpose(1, 2)
    return patches.reshape(batch, -1, rows, columns)


def token_grid(tokens: int, prefix_tokens: int) -> tuple[int, int]:
    """The square of `tokens` tokens without their prefix, as (rows, columns).

    Raises:
        CcropError: They fill no square.
    """
    patches = tokens - prefix_tokens
    side = isqrt(max(patches, 0))
    if side < 1 or side * side != patches:
        likely = tokens - isqrt(tokens) ** 2
        raise CcropError(
            f"{tokens} tokens without {prefix_tokens} before the patches fill no square. "
            f"Give the encoder the number of its class, distillation and register tokens as "
            f"prefix_tokens (perhaps {likely}), or name a layer that keeps all patches."
        )
    return side, side
