"""The kNN probe: the class that the nearest training images vote for."""

from dataclasses import dataclass

import torch.nn.functional as F

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.probes.features import Features

_QUERIES_AT_ONCE = 1024


@dataclass(frozen=True)
class KnnSettings:
    """The kNN probe, and how often a run takes it (Wu et al., CVPR 2018, arXiv:1805.01978).

    Args:
        every: Epochs between probes; the last epoch is always probed. 0: never.
        k: Neighbours that vote.
        temperature: Votes weigh exp(similarity / temperature).

    Raises:
        CcropError: When a number is out of its range.
    """

    every: int = 10
    k: int = 200
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.every < 0 or self.k < 1 or self.temperature <= 0:
            raise CcropError(
                f"probe.every = {self.every}, probe.k = {self.k}, probe.temperature = "
                f"{self.temperature}: they must be at least 0, at least 1 and above 0"
            )


def knn_accuracy(bank: Features, queries: Features, settings: KnnSettings) -> float:
    """Share of queries whose class wins the weighted vote of their nearest neighbours.

    The k nearest by cosine similarity vote with weight exp(similarity / temperature), as in
    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    CVPR 2018, section 3.4. A k beyond the size of the bank takes all of it.
    """
    classes = int(max(bank.labels.max(), queries.labels.max())) + 1
    votes_of = F.one_hot(bank.labels, classes).float()
    known = F.normalize(bank.values, dim=1).T
    k = min(settings.k, len(bank.labels))
    hits = 0
    for start in range(0, len(queries.labels), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        similarity, nearest = (F.normalize(queries.values[part], dim=1) @ known).topk(k)
        weights = (similarity / settings.temperature).exp()
        votes = (votes_of[nearest] * weights.unsqueeze(-1)).sum(1)
        hits += int((votes.argmax(1) == queries.labels[part]).sum())
    return hits / len(queries.labels)
