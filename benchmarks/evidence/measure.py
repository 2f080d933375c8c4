"""How good an encoder is: kNN and a logistic regression on its features of whole images."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from ccrop_pipeline.images import Source
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


def features(source: Source, encoder: Encoder, count: int | None = None) -> Features:
    """Return the features of unit length of all images of a source, or of the first ones."""
    images = labelled(source.index(), source.location)
    found = embed(replace(images, rows=images.rows[:count]), encoder, threads=1)
    return replace(found, values=F.normalize(found.values, dim=1))


def some(features: Features, count: int) -> Features:
    """Return the first `count` features."""
    return Features(features.values[:count], features.labels[:count])


def knn(train: Features, test: Features, settings: KnnSettings) -> float:
    """Share of test images that their neighbours among the training images name rightly."""
    return round(knn_accuracy(train, test, settings), 5)


def linear(train: Features, test: Features) -> float:
    """Share of test images that a softmax regression on the training images names rightly.

    Features are standardised with the mean and the deviation of the training images.
    """
    mean, deviation = train.values.mean(0), train.values.std(0).clamp(min=1e-6)
    known, asked = ((part.values - mean) / deviation for part in (train, test))
    start = SoftmaxRegression.zero(int(train.labels.max()) + 1, known.shape[1], torch.device("cpu"))
    classifier = fit_softmax(known, train.labels, LINEAR_PENALTY, start)
    return round(classifier.accuracy(asked, test.labels), 5)
