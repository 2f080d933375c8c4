"""Queries and keys of one block of a vision transformer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccrop_pipeline.errors import CcropError

# What may be in a self-attention whose weights are softmax(scale * queries keys^T) and nothing
# else. A table of relative positions or a temperature, for instance, is more than that.
_PARTS = {"qkv", "q_proj", "k_proj", "v_proj", "q_norm", "k_norm"}
_AFTER = {"attn_drop", "norm", "gate", "proj", "proj_drop"}
_BIASES = {"q_bias", "k_bias", "v_bias"}


@dataclass
class Attention:
    """Queries and keys of self-attention; its weights are softmax(scale * queries keys^T).

    Attributes:
        queries: float32 ``(B, heads, N, d)``, N tokens with the prefix first.
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
    """Path of the one self-attention in a transformer block whose queries and keys can be read.

    Args:
        block: A block, or the self-attention itself.

    Returns:
        Its path inside `block`, empty for the block itself; None if there is none, or several.
    """
    found = [name for name, part in block.named_modules() if _is_readable(part)]
    return found[0] if len(found) == 1 else None


def queries_and_keys(
    attention: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Tensor, Tensor, float]:
    """Queries and keys as a self-attention makes them of its arguments.

    Args:
        attention: ``nn.MultiheadAttention`` with equal query, key and value and the batch first,
            or one built like timm's ``Attention``, ``AttentionRope`` and ``EvaAttention``.
        args: Positional arguments of its call; the first are the tokens ``(B, N, C)``.
        kwargs: Its keyword arguments; a rotary position embedding as `rope` is applied.

    Returns:
        Queries and keys, float32 ``(B, heads, N, d)``, and the factor of the logits.
    """
    tokens = args[0] if args else kwargs["x"]
    queries, keys = (
        _of_multihead(attention, tokens)
        if isinstance(attention, nn.MultiheadAttention)
        else _of_projections(attention, tokens)
    )
    rope = kwargs.get("rope", args[1] if len(args) > 1 else None)
    if isinstance(rope, Tensor) and not isinstance(attention, nn.MultiheadAttention):
        queries, keys = (_rotated(attention, vectors, rope) for vectors in (queries, keys))
    scale = float(getattr(attention, "scale", queries.shape[-1] ** -0.5))
    return queries.float(), keys.float(), scale


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


def _of_multihead(attention: nn.MultiheadAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    width = 2 * attention.embed_dim
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[:width]
    projected = F.linear(tokens, attention.in_proj_weight[:width], bias)
    queries, keys = _heads(projected, 2 * attention.num_heads).chunk(2, dim=1)
    return queries, keys


def _of_projections(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
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
        raise CcropError(
            "The rotary position embedding of this transformer is read with timm: "
            "pip install timm, or choose a map that needs no attention."
        ) from None
    prefix = attention.num_prefix_tokens
    half = getattr(attention, "rotate_half", False)
    turned = apply_rot_embed_cat(vectors[:, :, prefix:], rope, half=half)
    return torch.cat([vectors[:, :, :prefix], turned.to(vectors.dtype)], dim=2)
