"""The kNN probe: how well an encoder's features tell the labelled classes apart."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccrop_pipeline.crops import key_hash
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.sources import ImageIndex
from ccrop_pipeline.train.recipe import ProbeSettings
from ccrop_pipeline.views.whole import whole_images

_HELD_OUT = 6  # one image in six asks, the others answer, when there is no test source


@dataclass(frozen=True)
class LabelledImages:
    """Some labelled rows of an index."""

    index: ImageIndex
    rows: np.ndarray


@dataclass(frozen=True)
class Features:
    """Features of labelled images.

    Attributes:
        values: Unit length, float32 (n, feature_dim).
        labels: int64 (n,).
    """

    values: Tensor
    labels: Tensor


def labelled(index: ImageIndex, location: str) -> LabelledImages:
    """All labelled images of an index.

    Raises:
        CcropError: When there is none.
    """
    rows = np.flatnonzero(index.labels >= 0)
    if not len(rows):
        raise CcropError(f"no image of {location} has a label, so there is nothing to probe with")
    return LabelledImages(index, rows)


def held_out(images: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """Splits images by key into a bank and about a sixth of them as queries."""
    asks = np.array([key_hash(images.index.keys[row]) % _HELD_OUT == 0 for row in images.rows])
    return (
        LabelledImages(images.index, images.rows[~asks]),
        LabelledImages(images.index, images.rows[asks]),
    )


def embed(
    images: LabelledImages, encoder: Encoder, threads: int = 2, batch_size: int = 256
) -> Features:
    """Spatial means of the encoder's feature maps over whole images; unreadable ones left out."""
    encoded: Iterable[bytes] = (images.index.read(row) for row in images.rows.tolist())
    values, readable = [], []
    for batch in whole_images(encoded, encoder.input_size, batch_size, threads):
        values.append(encoder.features(torch.from_numpy(batch.pixels)).mean((2, 3)).cpu())
        readable.append(batch.readable)
    kept = np.concatenate(readable)
    return Features(
        F.normalize(torch.cat(values)[torch.from_numpy(kept)], dim=1),
        torch.from_numpy(images.index.labels[images.rows[kept]]),
    )


def knn_accuracy(bank: Features, queries: Features, settings: ProbeSettings) -> float:
    """Share of queries whose class wins the weighted vote of their nearest neighbours.

    The k nearest by cosine similarity vote with weight exp(similarity / temperature), as in
    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    CVPR 2018, section 3.4. A k beyond the size of the bank takes all of it.
    """
    classes = int(max(bank.labels.max(), queries.labels.max())) + 1
    votes_of = F.one_hot(bank.labels, classes).float()
    k = min(settings.k, len(bank.labels))
    hits = 0
    for start in range(0, len(queries.labels), 1024):
        values, labels = (part[start : start + 1024] for part in (queries.values, queries.labels))
        similarity, nearest = (values @ bank.values.T).topk(k)
        weights = (similarity / settings.temperature).exp()
        votes = (votes_of[nearest] * weights.unsqueeze(-1)).sum(1)
        hits += int((votes.argmax(1) == labels).sum())
    return hits / len(queries.labels)
