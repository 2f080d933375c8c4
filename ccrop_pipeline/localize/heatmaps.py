"""Heatmaps: feature maps reduced over their channels and stretched to [0, 1].

The channel sum and the stretching are those of section 3 of ContrastiveCrop (arXiv:2202.03278),
whose features are never negative. Features that can be negative cancel in a sum, so here are
reductions that do not: absolute sum, L2 norm, first principal component; `attention` has those of
transformers. The stretching happens on the grid of the features, before any upsampling.
`as_feature_map` is what comes first: from the output of a layer to feature maps.
"""

from math import isqrt
from typing import Literal

import torch
from torch import Tensor

from ccrop_pipeline.errors import ModelError

Layout = Literal["bchw", "bhwc", "tokens"]


def as_feature_map(output: object, layout: Layout, prefix_tokens: int, batch: int) -> Tensor | None:
    """Turn the output of a layer into feature maps.

    Args:
        output: What the layer gave.
        layout: `bchw` (B, C, h, w), `bhwc` (B, h, w, C) or `tokens` (B, prefix + h * w, C),
            the patches in rows from the top left.
        prefix_tokens: Tokens before those of the patches; they are dropped.
        batch: B.

    Returns:
        A view `(B, C, h, w)`; None if the output has not the shape that `layout` says.

    Raises:
        ModelError: If the tokens of the patches fill no square.
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
    """Return the square of `tokens` tokens without their prefix, as (rows, columns).

    Raises:
        ModelError: If they fill no square.
    """
    patches = tokens - prefix_tokens
    side = isqrt(max(patches, 0))
    if side < 1 or side * side != patches:
        likely = tokens - isqrt(tokens) ** 2
        raise ModelError(
            f"{tokens} tokens without {prefix_tokens} before the patches fill no square. "
            f"Give the encoder the number of its class, distillation and register tokens as "
            f"prefix_tokens (perhaps {likely}), or name a layer that keeps all patches."
        )
    return side, side


def channel_sum(features: Tensor) -> Tensor:
    """Sum feature maps over their channels.

    Args:
        features: `(B, C, h, w)`, any floating dtype.

    Returns:
        float32 `(B, h, w)`, accumulated in float32.

    Raises:
        ValueError: If `features` has not four dimensions.
    """
    _check(features)
    return features.sum(dim=1, dtype=torch.float32)


def absolute_sum(features: Tensor) -> Tensor:
    """Sum the absolute values over the channels; arguments and result as in `channel_sum`."""
    _check(features)
    return features.abs().sum(dim=1, dtype=torch.float32)


def l2_norm(features: Tensor) -> Tensor:
    """Take the Euclidean norm over the channels, the patch norm of a transformer's tokens.

    Arguments and result as in `channel_sum`.
    """
    _check(features)
    norm: Tensor = torch.linalg.vector_norm(features, dim=1, dtype=torch.float32)
    return norm


def first_component(features: Tensor) -> Tensor:
    """Project the cells of each image on the direction in which they differ most.

    Principal component analysis of the cells of one image over its channels: the projections of
    the centred cells on the first component. Its sign, which the analysis leaves open, is set so
    that the cells of the outermost ring are cold in the mean; on a grid that is all ring, so that
    the projection of greatest magnitude is positive.

    Args:
        features: `(B, C, h, w)`, any floating dtype.

    Returns:
        float32 `(B, h, w)`; NaN throughout where an image's features are not finite.

    Raises:
        ValueError: If `features` has not four dimensions.
    """
    _check(features)
    _, _, height, width = features.shape
    finite = features.isfinite().flatten(1).all(dim=1)
    cells = torch.where(finite[:, None, None], features.to(torch.float32).flatten(2), 0.0)
    cells = cells - cells[:, :, :1]  # cells that are all alike become exactly 0
    extent = cells.abs().amax(dim=(1, 2), keepdim=True)
    cells = cells / torch.where(extent > 0, extent, 1.0)  # so that no square is lost or infinite
    cells = cells - cells.mean(dim=2, keepdim=True)
    # The first eigenvector of the products of cells is the projections, up to a factor.
    projections = torch.linalg.eigh(cells.transpose(1, 2) @ cells).eigenvectors[:, :, -1]
    projections = torch.where(extent[:, :, 0] > 0, projections, 0.0)
    projections = projections * _sign(projections, height, width)
    projections = torch.where(finite[:, None], projections, torch.nan)
    return projections.reshape(-1, height, width)


def _sign(projections: Tensor, height: int, width: int) -> Tensor:
    """Return 1 or -1 for each image, (B, 1): what makes the outermost ring cold."""
    ring = torch.ones(height, width, dtype=torch.bool, device=projections.device)
    ring[1:-1, 1:-1] = False
    if ring.all():
        extreme = projections.abs().argmax(dim=1, keepdim=True)
        return torch.where(projections.gather(1, extreme) < 0, -1.0, 1.0)
    outside = projections[:, ring.flatten()].mean(dim=1, keepdim=True)
    return torch.where(outside > 0, -1.0, 1.0)


def _check(features: Tensor) -> None:
    if features.ndim != 4:
        raise ValueError(f"features must be (B, C, h, w), not {tuple(features.shape)}")


def min_max(maps: Tensor) -> Tensor:
    """Stretch every map linearly so that its least value is 0 and its greatest is 1.

    A map that is constant, or holds NaN or infinity, has no such form: its heatmap is all zero.
    float64 inside, so that neither the greatest nor the smallest range that float32 can hold
    overflows or vanishes.

    Args:
        maps: `(B, h, w)`, float32 or narrower; of any sign and magnitude.

    Returns:
        Heatmaps, float16 `(B, h, w)` in [0, 1], never NaN.

    Raises:
        ValueError: If `maps` has not three dimensions, or has no cells.
    """
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise ValueError(f"maps must be (B, h, w) with cells, not {tuple(maps.shape)}")
    cells = maps.to(torch.float64)
    low = cells.amin(dim=(1, 2), keepdim=True)
    span = cells.amax(dim=(1, 2), keepdim=True) - low
    # NaN and infinity reach the span through both extremes.
    stretched = torch.where(span.isfinite() & (span > 0), (cells - low) / span, 0.0)
    return stretched.to(torch.float16)
