"""Collapse as a number."""

import math

import torch.nn.functional as F
from torch import Tensor


def embedding_std(embeddings: Tensor) -> Tensor:
    """How far embeddings spread over the sphere.

    The standard deviation of l2-normalised embeddings, averaged over dimensions, is about
    1 / sqrt(dim) when they spread evenly and 0 when they all agree (section 4.1 of SimSiam,
    arXiv:2011.10566). Here it is multiplied by sqrt(dim), so that methods can be compared.

    Args:
        embeddings: (B, dim), B of 2 or more.

    Returns:
        Scalar float32: about 1 when spread evenly, 0 when collapsed to a point.
    """
    directions = F.normalize(embeddings.detach().float(), dim=1)
    return directions.std(dim=0, correction=0).mean() * math.sqrt(embeddings.shape[1])
