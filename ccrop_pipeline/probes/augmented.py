"""The linear probe as in the papers: a classifier trained on augmented images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccrop_pipeline.base import SILENT, Observer
from ccrop_pipeline.base.values import check_ranges, ranged
from ccrop_pipeline.crops import PHOTOMETRIC, uniforms
from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.probes.features import Features, LabelledImages, embed, numbered
from ccrop_pipeline.probes.linear import LinearResult, expect_several_classes
from ccrop_pipeline.views import Batch, ViewGroup, ViewLoader
from ccrop_pipeline.views.batch import unreadable_note

_STEPS = (0.6, 0.8)  # where the rate falls to a tenth: epochs 60 and 80 of 100
_MOMENTUM = 0.9
_SCALE = (0.08, 1.0)  # areas of the crops, as of torchvision's RandomResizedCrop
_SEED = 0  # of crops, flips, order and first weights


@dataclass(frozen=True)
class AugmentedSettings:
    """The linear probe on augmented images.

    Defaults follow the authors' program (xyupeng/ContrastiveCrop, configs/linear): 100 epochs, a
    tenth of the rate from epochs 60 and 80 on, batches of 512, no weight decay, rate 10 for small
    images; MoCo (arXiv:1911.05722, section 4.1) has rate 30 with batches of 256.

    Args:
        rates: Learning rates to choose from, each above 0; each trains a classifier of its own.
        epochs: Passes over the training images.
        batch_size: Images a step.

    Raises:
        SettingError: If a number is out of its range.
    """

    rates: tuple[float, ...] = ranged((0.1, 0.3, 1.0, 3.0, 10.0, 30.0), "(0, inf)")
    epochs: int = ranged(100, "[1, inf)")
    batch_size: int = ranged(512, "[1, inf)")

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.rates:
            raise SettingError("rates is empty; it must have one or more.")


def augmented_probe(
    fitted: LabelledImages,
    validation: LabelledImages,
    test: LabelledImages,
    encoder: Encoder,
    *,
    settings: AugmentedSettings | None = None,
    threads: int = 2,
    workers: int = 0,
    observer: Observer = SILENT,
) -> LinearResult:
    """Return the accuracy of linear classifiers trained on random crops and flips.

    One pass of the frozen encoder serves the classifiers of all rates. The one that is best on
    whole images of `validation` after the last epoch takes the test, once. It is not trained
    again with the validation images, so that it sees a tenth less than in the papers.

    Args:
        fitted: Training images that classifiers are trained on.
        validation: Training images that the rate is chosen on.
        test: Images of the test.
        encoder: Frozen, in evaluation mode throughout.
        settings: How to train.
        threads: Decoding threads for whole images.
        workers: Loader processes for crops.
        observer: Hears how it goes.

    Raises:
        CcropError: If no image can be read, or training images are all of one class.
    """
    settings = settings or AugmentedSettings()
    held, asked = (
        embed(part, encoder, threads=threads, observer=observer) for part in (validation, test)
    )
    if problems := held.problems + asked.problems:
        observer.warning(unreadable_note(problems))
    labels = torch.from_numpy(fitted.labels)
    trained = Features(torch.empty(0), labels)
    expect_several_classes(trained)
    (_, held, asked), names = numbered(trained, held, asked)
    heads = _trained(
        fitted,
        encoder,
        settings=settings,
        channels=held.values.shape[1],
        names=names,
        workers=workers,
        observer=observer,
    )
    tried = {rate: _accuracy(head, held) for rate, head in zip(settings.rates, heads, strict=True)}
    rate = max(tried, key=tried.__getitem__)
    accuracy = _accuracy(heads[settings.rates.index(rate)], asked)
    return LinearResult(accuracy, tried[rate], "rate", rate, tried)


def _trained(
    images: LabelledImages,
    encoder: Encoder,
    *,
    settings: AugmentedSettings,
    channels: int,
    names: Tensor,
    workers: int,
    observer: Observer,
) -> list[nn.Linear]:
    """Return one classifier for each rate, on the CPU."""
    device = torch.device(encoder.device)
    heads = [_head(channels, len(names)).to(device) for _ in settings.rates]
    groups = [
        {"params": list(head.parameters()), "lr": rate}
        for head, rate in zip(heads, settings.rates, strict=True)
    ]
    optimizer = torch.optim.SGD(groups, lr=settings.rates[0], momentum=_MOMENTUM)
    falls = [round(share * settings.epochs) for share in _STEPS]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, falls, gamma=0.1)
    loader = _loader(images, encoder, settings, workers)
    problems: dict[int, str] = {}
    for epoch in range(settings.epochs):
        for values, named in _epoch(loader, epoch, encoder, problems):
            labels = torch.searchsorted(names, named).to(values.device)
            optimizer.zero_grad()
            # The sum: each classifier gets the gradient of its own loss and of no other.
            sum(F.cross_entropy(head(values), labels) for head in heads).backward()  # type: ignore[union-attr]
            optimizer.step()
            observer.images_done(len(labels))
        schedule.step()
    if problems:
        observer.warning(unreadable_note([*problems.values()]))
    return [head.cpu() for head in heads]


def _head(channels: int, classes: int) -> nn.Linear:
    head = nn.Linear(channels, classes)
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        head.weight.normal_(0, 0.01, generator=generator)
        head.bias.zero_()
    return head


def _loader(
    images: LabelledImages, encoder: Encoder, settings: AugmentedSettings, workers: int
) -> ViewLoader:
    return ViewLoader(
        images,
        ViewGroup(1, encoder.input_size, scale=_SCALE),
        batch_size=min(settings.batch_size, len(images)),
        workers=workers,
        device=encoder.device,
        seed=_SEED,
        threads=max(workers, 1),
    )


def _epoch(
    loader: ViewLoader, epoch: int, encoder: Encoder, problems: dict[int, str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return features, on the encoder's device, and labels of the batches of an epoch.

    Images that cannot be decoded are left out, and added to `problems`.
    """
    for batch in loader.crops(epoch):
        problems |= batch.problems
        crops, readable = _flipped(batch, epoch), batch.readable
        if readable.any():
            rows = readable.nonzero()[:, 0].to(crops.device)
            values = encoder.pooled(crops[rows])
            yield values, batch.labels[readable]


def _flipped(batch: Batch, epoch: int) -> Tensor:
    """Return the crops uint8 (B, 3, S, S), each mirrored with probability 1/2."""
    crops = batch.views[0][0]
    mirrored = uniforms(_SEED, epoch, batch.hashes, 0, PHOTOMETRIC, 1)[:, 0] < 0.5
    rows = torch.from_numpy(np.flatnonzero(mirrored)).to(crops.device)
    return crops.index_copy(0, rows, crops[rows].flip(-1))


def _accuracy(head: nn.Linear, features: Features) -> float:
    with torch.no_grad():
        right = head(features.values).argmax(1) == features.labels
    return float(right.double().mean())
