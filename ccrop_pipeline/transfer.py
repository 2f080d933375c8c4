"""From the host to a device, without waiting for what that device still computes."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """Copies a tensor to a device; on a GPU in the order of its work.

    A copy to a GPU is asynchronous from pinned memory only: from any other, the host first waits
    until all that was asked of the GPU before, such as the last training step, is done.

    Args:
        values: Any tensor; what is pinned or on the device already is not copied again.
        device: Where it is to go.
    """
    if torch.device(device).type != "cuda":
        return values.to(device)
    if values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
