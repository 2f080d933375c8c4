"""How well the features of a frozen encoder tell labelled classes apart.

    train, test = labelled(...), labelled(...)
    knn_accuracy(embed(train, encoder), embed(test, encoder), KnnSettings())

Three probes: the vote of nearest neighbours, a linear classifier on features of whole images, and
a linear classifier trained on augmented images as in the papers. The linear ones choose their
settings on a part of the training images and look at the test images once, at the end.
"""

from ccrop_pipeline.probes.augmented import AugmentedSettings, augmented_probe
from ccrop_pipeline.probes.features import (
    Features,
    LabelledImages,
    at_most,
    bank_and_queries,
    embed,
    expect_same_classes,
    held_out,
    labelled,
    several_classes,
    validation_split,
)
from ccrop_pipeline.probes.knn import all_vote, chance_accuracy, knn_accuracy
from ccrop_pipeline.probes.linear import LinearResult, SoftmaxRegression, fit_softmax, linear_probe
from ccrop_pipeline.recipes import KnnSettings

__all__ = [
    "AugmentedSettings",
    "Features",
    "KnnSettings",
    "LabelledImages",
    "LinearResult",
    "SoftmaxRegression",
    "all_vote",
    "at_most",
    "augmented_probe",
    "bank_and_queries",
    "chance_accuracy",
    "embed",
    "expect_same_classes",
    "fit_softmax",
    "held_out",
    "knn_accuracy",
    "labelled",
    "linear_probe",
    "several_classes",
    "validation_split",
]
