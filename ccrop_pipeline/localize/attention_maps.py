"""Heatmaps from the queries and keys of a transformer's attention, before stretching."""

from typing import Literal

import torch
from torch import Tensor

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize.attention import Attention


def class_attention(attention: Attention, heads: Literal["mean", "max"]) -> Tensor:
    """How much the class token attends to each patch, as the maps of DINO (arXiv:2104.14294).

    The softmax goes over all tokens, as it does in the network; the prefix tokens (the class
    token itself and registers, which stand for no place, arXiv:2309.16588) are dropped afterwards.

    Args:
        attention: Queries and keys; the class token is the first of the prefix tokens.
        heads: How the maps of the heads become one.

    Returns:
        float32 ``(B, h, w)``, each value in [0, 1].

    Raises:
        CcropError: The transformer has no class token.
    """
    if not attention.prefix_tokens:
        raise CcropError(
            "This transformer has no class token, so there is no attention of it to make a map "
            "of. Choose the map `keys` or `l2`."
        )
    scores = attention.queries[:, :, :1] @ attention.keys.transpose(2, 3) * attention.scale
    weights = scores.softmax(dim=3)[:, :, 0, attention.prefix_tokens :]
    reduced = weights.mean(dim=1) if heads == "mean" else weights.amax(dim=1)
    return reduced.reshape(-1, *attention.grid)


def key_similarity(attention: Attention) -> Tensor:
    """How similar the key of each patch is to that of the patch that fewest patches resemble.

    The seed of LOST (arXiv:2109.14279, section 3): keys of all heads side by side, two patches
    being alike where the product of their keys is positive; objects cover less than background,
    so the patch with the fewest like it is taken to lie on an object. Of several such patches the
    one with the least sum of positive products. The map is the product of every key with the
    seed's, negative ones set to 0, since LOST leaves such patches out.

    Args:
        attention: Keys; the queries are not used.

    Returns:
        float32 ``(B, h, w)``, at least 0.
    """
    keys = attention.keys[:, :, attention.prefix_tokens :].transpose(1, 2).flatten(2)
    alike = (keys @ keys.transpose(1, 2)).clamp(min=0)
    count = (alike > 0).sum(dim=2)
    candidates = count == count.amin(dim=1, keepdim=True)
    seed = torch.where(candidates, alike.sum(dim=2), torch.inf).argmin(dim=1)
    similarity = alike[torch.arange(len(alike), device=alike.device), seed]
    return similarity.reshape(-1, *attention.grid)
