"""The kNN probe: the class that the nearest training images vote for."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccrop_pipeline.errors import counted
from ccrop_pipeline.probes.features import Features, numbered
from ccrop_pipeline.recipes import KnnSettings

# 0.3 GB of similarities, whatever the size of the bank.
_QUERIES_AT_ONCE, _BANK_AT_ONCE = 1024, 65536


def knn_accuracy(
    bank: Features,
    queries: Features,
    settings: KnnSettings,
    device: torch.device | str = "cpu",
) -> float:
    """Return the share of queries whose class wins the weighted vote of their nearest neighbours.

    The k nearest by cosine similarity vote with weight exp(similarity / temperature), as in
    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    CVPR 2018, section 3.4. How many vote of so large a bank: `KnnSettings.neighbours`.

    Args:
        bank: Images that answer.
        queries: Images that ask.
        settings: k and temperature.
        device: Where similarities are computed; features go there block by block.
    """
    (bank, queries), names = numbered(bank, queries)
    hits, k = 0, settings.neighbours(len(bank.labels))
    for start in range(0, len(queries.labels), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        near = _nearest(bank, queries.values[part].to(device), k)
        # Relative to the nearest, since exp(1 / temperature) may be more than a float holds.
        weights = ((near.similarity - near.similarity[:, :1]) / settings.temperature).exp()
        votes = weights.new_zeros(len(weights), len(names)).scatter_add_(1, near.labels, weights)
        hits += int((votes.argmax(1) == queries.labels[part].to(device)).sum())
    return hits / len(queries.labels)


def chance_accuracy(queries: Features) -> float:
    """Return the accuracy of one answer for all queries, the class most frequent among them."""
    counts = np.unique(queries.labels.cpu().numpy(), return_counts=True)[1]
    return float(counts.max() / counts.sum())


def all_vote(name: str, k: int | None, images: int) -> str | None:
    """Return what to tell a person of whose neighbours there are not so many; None: nothing.

    Args:
        name: What the person calls k.
        k: Neighbours that were asked for; None: none were.
        images: Images that answer.
    """
    if k is None or k <= images:
        return None
    return (
        f"{name} is {k}, but only {counted(images, 'image')} can answer, so that all of them vote. "
        "Set no more than a class has images."
    )


class _Neighbours(NamedTuple):
    """The nearest images of a bank, nearest first: float32 and int64, both (queries, k)."""

    similarity: Tensor
    labels: Tensor


def _nearest(bank: Features, queries: Tensor, k: int) -> _Neighbours:
    asked = F.normalize(queries, dim=1)
    found = _Neighbours(
        asked.new_empty(len(asked), 0), bank.labels.new_empty((len(asked), 0), device=asked.device)
    )
    for start in range(0, len(bank.labels), _BANK_AT_ONCE):
        part = slice(start, start + _BANK_AT_ONCE)
        known = F.normalize(bank.values[part].to(asked.device), dim=1)
        labels = bank.labels[part].to(asked.device)
        near = (asked @ known.T).topk(min(k, len(labels)))
        similarity = torch.cat([found.similarity, near.values], 1)
        top = similarity.topk(min(k, similarity.shape[1]))
        both = torch.cat([found.labels, labels[near.indices]], 1)
        found = _Neighbours(top.values, both.gather(1, top.indices))
    return found
