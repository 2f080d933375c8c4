"""Features and images whose accuracy is known."""

import torch

from ccrop_pipeline.images import Sample, open_source, pack
from ccrop_pipeline.probes import Features, labelled


def gaussians(count, seed, classes=3, distance=4.0, channels=6):
    """Unit Gaussians around corners of a simplex, far from the origin and of uneven scale."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    values = torch.randn(count, channels, generator=generator)
    values[torch.arange(count), labels] += distance
    return Features(values * torch.logspace(-2, 2, channels) + 5, labels)


def packed(folder, images, labels):
    """Images of a source on disk, in tar shards; a label None is none."""
    samples = [
        Sample(f"{number:05}", image, label)
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    pack(samples, folder)
    return labelled(open_source(folder).index(), str(folder))
