"""The kNN probe that a run takes of its own encoder."""

from dataclasses import dataclass
from typing import Any

from ccrop_pipeline.images import ImageIndex
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.probes import (
    LabelledImages,
    at_most,
    bank_and_queries,
    embed,
    knn_accuracy,
)
from ccrop_pipeline.recipes import KnnSettings
from ccrop_pipeline.training.inputs import Inputs


@dataclass(frozen=True)
class Probe:
    """What a run is probed on.

    Attributes:
        bank: Images that answer.
        queries: Images that ask.
        settings: Of the recipe.
    """

    bank: LabelledImages
    queries: LabelledImages
    settings: KnnSettings

    def due(self, epoch: int, epochs: int) -> bool:
        """Tell whether a run of so many epochs is probed after this one, the first being 1."""
        return epoch == epochs or epoch % self.settings.every == 0

    def record(self, encoder: Encoder, threads: int) -> dict[str, Any]:
        """Return the accuracy, and what it depends on.

        Args:
            encoder: What is probed; similarities are computed on its device.
            threads: Decoding threads.

        Raises:
            CcropError: If no image can be read.
        """
        bank, queries = (embed(part, encoder, threads) for part in (self.bank, self.queries))
        return {
            "knn": round(knn_accuracy(bank, queries, self.settings, encoder.device), 5),
            "knn_k": self.settings.k,
            "knn_temperature": self.settings.temperature,
            "knn_bank": len(bank.labels),
        }


def open_probe(inputs: Inputs, index: ImageIndex | None, settings: KnnSettings) -> Probe | None:
    """Find what a run can be probed on.

    Args:
        inputs: Images of the run, and those of the test if there are any.
        index: Images of the run by position; None where they can only be read in order.
        settings: Of the recipe.

    Returns:
        The probe; None where the recipe wants none or the images of the run have no labels.

    Raises:
        CcropError: If the images of the test have no labels or other classes, or too few images
            have labels for a sixth of them to be held out.
    """
    if not settings.every or index is None:
        return None
    if inputs.test_source is None and not (index.labels >= 0).any():
        return None
    parts = bank_and_queries(inputs.source, index, inputs.test_source)
    bank, queries = (at_most(part, settings.max_images) for part in parts)
    return Probe(bank, queries, settings)
