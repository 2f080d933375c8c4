"""Whether a run learns or collapses: the rank of the embeddings that its steps have made."""

from collections import deque
from typing import Final

import torch
from torch import Tensor

# The last rows of an epoch that the rank is of, and the most numbers of them: 64 MB in float32.
_ROWS, _NUMBERS = 2048, 2**24
_EPSILON: Final = 1e-7  # of the paper, for float32


def rankme(embeddings: Tensor) -> float:
    """Return the effective rank of embeddings: the exponential of the entropy of their spectrum.

    With p_k = s_k / sum(s) + epsilon of the singular values s, it is exp(-sum(p_k log p_k)), as in
    equation 1 of RankMe (Garrido et al., ICML 2023, arXiv:2210.02885), whose epsilon is 1e-7. It
    is 1 where all rows are multiples of one, and the length of a row where they fill all
    dimensions evenly.

    Args:
        embeddings: (N, dim), neither centred nor normalised.

    Returns:
        A number from 1 to min(N, dim); NaN where an embedding is not finite.
    """
    rows = embeddings.detach().double()
    gram = rows.T @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.T
    if not gram.isfinite().all():
        return float("nan")
    # Squares of the singular values, a thousand times quicker than a decomposition of the rows.
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    p = singular / singular.sum().clamp(min=torch.finfo(gram.dtype).tiny) + _EPSILON
    return float((-(p * p.log()).sum()).exp())


class NewestRows:
    """The last rows of embeddings, a few thousand at most, on their device.

    Args:
        share: Of all rows of a batch, those that are given here: 1 / processes.
    """

    def __init__(self, share: float = 1.0) -> None:
        self._share = share
        self._parts: deque[Tensor] = deque()

    def add(self, embeddings: Tensor) -> None:
        """Take in (B, dim) embeddings, and forget the oldest."""
        most = max(1, int(min(_ROWS, _NUMBERS // embeddings.shape[1]) * self._share))
        # A copy: what is given may be a part of something larger.
        self._parts.append(embeddings.detach()[:most].clone())
        while sum(map(len, self._parts)) > most:
            self._parts.popleft()

    def all(self) -> Tensor:
        """Return them, (N, dim)."""
        return torch.cat([*self._parts])
