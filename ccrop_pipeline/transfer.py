"""Copies to a device that nothing waits for."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """Copies a tensor of the main memory; on a GPU, without waiting for what it is doing.

    A copy from ordinary memory waits until the GPU has done all work before it, so that the next
    step could not be prepared meanwhile; one from pinned memory takes its place in the queue.
    """
    if torch.device(device).type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
