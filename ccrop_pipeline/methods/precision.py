"""Where half precision would not do."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Values of lower precision as float32; others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
