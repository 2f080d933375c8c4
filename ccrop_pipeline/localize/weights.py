"""What the weights of a network say of themselves: their hash, and whether they are noise."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Where three of four tensors are below it, the weights are noise: networks with random weights
# have .98 at most there, trained ones 1.43 or more (lab/audits.md).
_LIMIT, _SHARE = 1.05, 0.75
_FEWEST_TENSORS, _FEWEST_NUMBERS, _LEAST_SIDE = 4, 1024, 8
_STEPS = 10  # of power iteration


def weights_sha256(module: nn.Module) -> str:
    """Return `state_sha256` of a module."""
    return state_sha256(module.state_dict())


def state_sha256(state: Mapping[str, Any]) -> str:
    """Return the hexadecimal SHA-256 of a state dict, whatever its device and memory layout.

    Taken over the tensors in the order of their names: name, dtype, shape, then the bytes of the
    elements in row-major order. Buffers count, for they change the features too.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def looks_untrained(module: nn.Module) -> bool:
    """Tell whether most weights of a network are independent of each other, as before training.

    The greatest singular value of an m x n matrix of independent entries with mean 0 and standard
    deviation s is close to s (√m + √n) (Yin, Bai and Krishnaiah, Probability Theory and Related
    Fields 78, 1988). What training adds stands out from that. Few steps may not show, and networks
    with fewer than four tensors of 1,024 numbers are not judged.
    """
    ratios = list(_beside_noise(module))
    return len(ratios) >= _FEWEST_TENSORS and float(np.quantile(ratios, _SHARE)) < _LIMIT


def _beside_noise(module: nn.Module) -> Iterator[float]:
    """Yield the greatest singular value of each weight tensor, over that of noise like it."""
    for weights in module.parameters():
        if weights.ndim < 2 or weights.numel() < _FEWEST_NUMBERS or not weights.is_floating_point():
            continue
        matrix = weights.detach().flatten(1).float()
        matrix = matrix - matrix.mean()
        spread = float(matrix.std())
        if min(matrix.shape) >= _LEAST_SIDE and spread:
            rows, columns = matrix.shape
            yield _greatest(matrix) / (spread * (math.sqrt(rows) + math.sqrt(columns)))


def _greatest(matrix: Tensor) -> float:
    """Return the greatest singular value, or a little less, by power iteration."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(matrix.shape[1], generator=generator).to(matrix.device)
    for _ in range(_STEPS):
        vector = matrix.T @ (matrix @ (vector / vector.norm()))
    return float((matrix @ (vector / vector.norm())).norm())
