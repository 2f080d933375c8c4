"""How good an encoder is: kNN and a logistic regression on its features of whole images."""

import os
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccrop_pipeline.images import Source, true_boxes
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.probes import (
    Features,
    KnnSettings,
    SoftmaxRegression,
    embed,
    fit_softmax,
    knn_accuracy,
    labelled,
)

# Fixed beforehand, the same for every arm: a penalty chosen for each would add its own noise.
LINEAR_PENALTY = 1e-3


def decoders(device: torch.device) -> int:
    """Images decoded at a time: few, since several runs share the cores."""
    return min(4, os.cpu_count() or 1) if device.type == "cuda" else 1


def features(source: Source, encoder: Encoder, count: int | None = None) -> Features:
    """Return the features of unit length of all images of a source, or of the first ones."""
    images = labelled(source.index(), source.location)
    threads = decoders(torch.device(encoder.device))
    found = embed(replace(images, rows=images.rows[:count]), encoder, threads=threads)
    return replace(found, values=F.normalize(found.values, dim=1))


def some(features: Features, rows: Tensor | slice) -> Features:
    """Return the features of some rows."""
    return Features(features.values[rows], features.labels[rows])


def knn(train: Features, test: Features, settings: KnnSettings) -> float:
    """Share of test images that their neighbours among the training images name rightly."""
    return round(knn_accuracy(train, test, settings), 5)


def linear(train: Features, *tests: Features, device: torch.device) -> list[float]:
    """Share of each set of test images that a softmax regression on the others names rightly.

    Features are standardised with the mean and the deviation of the training images.
    """
    mean, deviation = train.values.mean(0), train.values.std(0).clamp(min=1e-6)
    known, *asked = (((part.values - mean) / deviation).to(device) for part in (train, *tests))
    wanted, *labels = (part.labels.to(device) for part in (train, *tests))
    start = SoftmaxRegression.zero(int(wanted.max()) + 1, known.shape[1], device)
    classifier = fit_softmax(known, wanted, LINEAR_PENALTY, start)
    return [round(classifier.accuracy(*each), 5) for each in zip(asked, labels, strict=True)]


def size_quarters(source: Source) -> list[tuple[float, Tensor]]:
    """Divide the images of a source into quarters by the area of their true box.

    Args:
        source: Images with true boxes; of several in an image the first counts.

    Returns:
        The largest area in a quarter, as a share of the image, and the rows of its images, from
        the smallest boxes to the largest; none where images come without true boxes.
    """
    annotations = {
        sample.key: sample.annotation for shard in source.shards for sample in source.read(shard)
    }
    if not all(annotations.values()):
        return []
    truth = np.array([true_boxes(annotations[key])[0] for key in source.index().keys])
    areas = (truth[:, 2:] - truth[:, :2]).prod(1)
    quarters = np.array_split(areas.argsort(kind="stable"), 4)
    return [(round(float(areas[rows].max()), 4), torch.from_numpy(rows)) for rows in quarters]
