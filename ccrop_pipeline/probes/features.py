"""One vector for each labelled image, from a frozen encoder."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.probes.images import LabelledImages
from ccrop_pipeline.views.whole import whole_images

_BATCH = 256  # images a forward pass


@dataclass(frozen=True)
class Features:
    """Features of labelled images.

    Attributes:
        values: float32 (n, channels), in main memory.
        labels: int64 (n,).
    """

    values: Tensor
    labels: Tensor


def embed(
    images: LabelledImages,
    encoder: Encoder,
    threads: int = 2,
    advance: Callable[[int], object] | None = None,
) -> Features:
    """Spatial means of the encoder's feature maps over whole images; unreadable ones left out.

    For a ResNet these are the features that its classifier would see; for a transformer, the mean
    of the patches' tokens.

    Args:
        images: What to read.
        encoder: Frozen; evaluation mode is its own business.
        threads: Decoding threads.
        advance: Called with the number of images of each batch that is done.

    Raises:
        CcropError: When none of the images can be read.
    """
    encoded: Iterable[bytes] = (images.index.read(row) for row in images.rows.tolist())
    values, readable = [], []
    for batch in whole_images(encoded, encoder.input_size, _BATCH, threads):
        values.append(encoder.features(torch.from_numpy(batch.pixels)).mean((2, 3)).cpu())
        readable.append(batch.readable)
        if advance is not None:
            advance(len(batch.readable))
    kept = np.concatenate([np.zeros(0, bool), *readable])
    if not kept.any():
        raise CcropError(f"none of {len(images.rows)} labelled images can be read")
    return Features(
        torch.cat(values)[torch.from_numpy(kept)],
        torch.from_numpy(images.index.labels[images.rows[kept]]),
    )
