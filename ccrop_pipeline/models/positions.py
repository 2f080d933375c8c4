"""Learnt positions of a vision transformer, for images of another size than in training."""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ccrop_pipeline.models.checkpoints import Checkpoint
from ccrop_pipeline.models.optional import import_timm

_TORCHVISION, _TIMM = "encoder.pos_embedding", "pos_embed"


def with_positions_for(module: nn.Module, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with its position embeddings resampled to the grid of a network.

    Args:
        module: The network, built for the size it is to see. Bicubic as in its own library.
        checkpoint: What the file holds.
    """
    own = module.state_dict()
    state = dict(checkpoint.state)
    for name, resampled in ((_TORCHVISION, _by_torchvision), (_TIMM, _by_timm)):
        for key, value in checkpoint.state.items():
            ends = key == name or key.endswith("." + name)
            if name in own and ends and value.shape != own[name].shape:
                state[key] = resampled(module, value)
    return replace(checkpoint, state=state)


def _by_torchvision(module: Any, positions: Tensor) -> Tensor:
    from torchvision.models.vision_transformer import interpolate_embeddings

    resampled = interpolate_embeddings(
        module.image_size, module.patch_size, {_TORCHVISION: positions}
    )[_TORCHVISION]
    assert isinstance(resampled, Tensor)
    return resampled


def _by_timm(module: Any, positions: Tensor) -> Tensor:
    import_timm()
    from timm.layers import resample_abs_pos_embed

    grid = module.patch_embed.grid_size
    prefix = module.pos_embed.shape[1] - grid[0] * grid[1]
    resampled = resample_abs_pos_embed(positions, list(grid), num_prefix_tokens=prefix)
    assert isinstance(resampled, Tensor)
    return resampled
