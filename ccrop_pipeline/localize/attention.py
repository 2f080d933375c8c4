"""Heatmaps from the queries and keys of one block of a vision transformer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccrop_pipeline.errors import ModelError

# What may be in a self-attention whose weights are softmax(scale * queries keys^T) and nothing
# else. A table of relative positions or a temperature, for instance, is more than that.
_PARTS = {"qkv", "q_proj", "k_proj", "v_proj", "q_norm", "k_norm"}
_AFTER = {"attn_drop", "norm", "gate", "proj", "proj_drop"}
_BIASES = {"q_bias", "k_bias", "v_bias"}


@dataclass
class Attention:
    """Queries and keys of self-attention; its weights are softmax(scale * queries keys^T).

    Attributes:
        queries: float32 `(B, heads, N, d)`, N tokens with the prefix first.
        keys: float32, of the same shape.
        prefix_tokens: Tokens before those of the patches: class, distillation, registers.
        grid: Rows and columns of the patches.
        scale: Factor of the logits.
    """

    queries: Tensor
    keys: Tensor
    prefix_tokens: int
    grid: tuple[int, int]
    scale: float


def attention_in(block: nn.Module) -> str | None:
    """Return the path of the one self-attention in a block whose queries and keys can be read.

    Args:
        block: A block, or the self-attention itself.

    Returns:
        Its path inside `block`, empty for the block itself; None if there is none, or several.
    """
    found = [name for name, part in block.named_modules() if _is_readable(part)]
    return found[0] if len(found) == 1 else None


def _is_readable(part: nn.Module) -> bool:
    if isinstance(part, nn.MultiheadAttention):
        return part.batch_first and part.in_proj_weight is not None and part.bias_k is None
    if not isinstance(getattr(part, "num_heads", None), int):
        return False
    children = {name for name, child in part.named_children() if child is not None}
    own = {name for name, _ in part.named_parameters(recurse=False)}
    own |= {name for name, _ in part.named_buffers(recurse=False)}
    fused = isinstance(getattr(part, "qkv", None), nn.Linear)
    apart = isinstance(getattr(part, "q_proj", None), nn.Linear) and isinstance(
        getattr(part, "k_proj", None), nn.Linear
    )
    return (fused or apart) and children <= _PARTS | _AFTER and own <= _BIASES


def queries_and_keys(
    attention: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Tensor, Tensor, float]:
    """Return queries and keys as a self-attention makes them from its arguments.

    Args:
        attention: `nn.MultiheadAttention` with equal query, key and value and the batch first,
            or one built like timm's `Attention`, `AttentionRope` and `EvaAttention`.
        args: Positional arguments of its call; the first are the tokens `(B, N, C)`.
        kwargs: Its keyword arguments; a rotary position embedding as `rope` is applied.

    Returns:
        Queries and keys, float32 `(B, heads, N, d)`, and the factor of the logits.
    """
    tokens = args[0] if args else kwargs["x"]
    queries, keys = (
        _from_multihead(attention, tokens)
        if isinstance(attention, nn.MultiheadAttention)
        else _from_projections(attention, tokens)
    )
    rope = kwargs.get("rope", args[1] if len(args) > 1 else None)
    if isinstance(rope, Tensor) and not isinstance(attention, nn.MultiheadAttention):
        queries, keys = (_rotated(attention, vectors, rope) for vectors in (queries, keys))
    scale = float(getattr(attention, "scale", queries.shape[-1] ** -0.5))
    return queries.float(), keys.float(), scale


def _from_multihead(attention: nn.MultiheadAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    width = 2 * attention.embed_dim
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[:width]
    projected = F.linear(tokens, attention.in_proj_weight[:width], bias)
    queries, keys = _heads(projected, 2 * attention.num_heads).chunk(2, dim=1)
    return queries, keys


def _from_projections(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    heads = attention.num_heads
    if isinstance(getattr(attention, "qkv", None), nn.Linear):
        biases = [getattr(attention, name, None) for name in ("q_bias", "k_bias", "v_bias")]
        bias = attention.qkv.bias
        if biases[0] is not None:  # EVA keeps them apart, and the keys may have a buffer of zeros
            apart = torch.cat([one for one in biases if one is not None])
            bias = apart if bias is None else bias + apart
        projected = F.linear(tokens, attention.qkv.weight, bias)
        queries, keys, _ = _heads(projected, 3 * heads).chunk(3, dim=1)
    else:
        queries = _heads(attention.q_proj(tokens), heads)
        keys = _heads(attention.k_proj(tokens), getattr(attention, "num_kv_heads", None) or heads)
        # Grouped queries: each head of keys serves several heads of queries in a row.
        keys = keys.repeat_interleave(heads // keys.shape[1], dim=1)
    norms = (getattr(attention, name, None) or nn.Identity() for name in ("q_norm", "k_norm"))
    q_norm, k_norm = norms
    return q_norm(queries), k_norm(keys)


def _heads(projected: Tensor, heads: int) -> Tensor:
    batch, tokens, _ = projected.shape
    return projected.reshape(batch, tokens, heads, -1).transpose(1, 2)


def _rotated(attention: Any, vectors: Tensor, rope: Tensor) -> Tensor:
    try:
        from timm.layers import apply_rot_embed_cat
    except ImportError:
        raise ModelError(
            "the rotary position embedding of this transformer is read with timm: "
            "pip install timm, or choose a map that needs no attention."
        ) from None
    prefix = attention.num_prefix_tokens
    half = getattr(attention, "rotate_half", False)
    turned = apply_rot_embed_cat(vectors[:, :, prefix:], rope, half=half)
    return torch.cat([vectors[:, :, :prefix], turned.to(vectors.dtype)], dim=2)


def class_attention(attention: Attention, heads: Literal["mean", "max"]) -> Tensor:
    """Return how much the class token attends to each patch.

    These are the maps of DINO (arXiv:2104.14294).

    The softmax goes over all tokens, as it does in the network. The prefix tokens (the class token
    itself and registers, arXiv:2309.16588) have no place on the grid and are dropped afterwards.

    Args:
        attention: Queries and keys; the class token is the first of the prefix tokens.
        heads: How the maps of the heads become one.

    Returns:
        float32 `(B, h, w)`, each value in [0, 1].

    Raises:
        ModelError: If the transformer has no class token.
    """
    if not attention.prefix_tokens:
        raise ModelError(
            "this transformer has no class token, so there is no attention to make a map "
            "from. Choose the map `keys` or `l2`."
        )
    scores = attention.queries[:, :, :1] @ attention.keys.transpose(2, 3) * attention.scale
    weights = scores.softmax(dim=3)[:, :, 0, attention.prefix_tokens :]
    reduced = weights.mean(dim=1) if heads == "mean" else weights.amax(dim=1)
    return reduced.reshape(-1, *attention.grid)


def key_similarity(attention: Attention) -> Tensor:
    """Return how similar the key of each patch is to that of the patch that the fewest resemble.

    The seed of LOST (arXiv:2109.14279, section 3): keys of all heads side by side, two patches
    being alike where the product of their keys is positive; objects cover less than background,
    so the patch with the fewest like it is taken to be on an object. Of several such patches the
    one with the least sum of positive products. The map is the product of every key with the
    seed's, negative ones set to 0, since LOST leaves such patches out.

    Args:
        attention: Keys; the queries are not used.

    Returns:
        float32 `(B, h, w)`, at least 0.
    """
    keys = attention.keys[:, :, attention.prefix_tokens :].transpose(1, 2).flatten(2)
    alike = (keys @ keys.transpose(1, 2)).clamp(min=0)
    count = (alike > 0).sum(dim=2)
    candidates = count == count.amin(dim=1, keepdim=True)
    seed = torch.where(candidates, alike.sum(dim=2), torch.inf).argmin(dim=1)
    similarity = alike[torch.arange(len(alike), device=alike.device), seed]
    return similarity.reshape(-1, *attention.grid)
