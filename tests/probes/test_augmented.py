import io

import numpy as np
import pytest
import torch
from made_probes import packed
from PIL import Image
from torch import nn

from ccrop_pipeline.base import SILENT
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.probes import (
    AugmentedSettings,
    LabelledImages,
    augmented_probe,
    validation_split,
)
from ccrop_pipeline.probes.augmented import _epoch, _head, _loader, _trained
from tests.counted import Counted

# The broken image is named in a warning, as in training.

QUICK = AugmentedSettings(rates=(1e-9, 1.0), epochs=12, batch_size=32)


def png(red, green, blue, seed):
    noise = np.random.default_rng(seed).integers(-20, 20, (12, 12, 3))
    pixels = np.clip(noise + np.array([red, green, blue]), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


COLOURS = [(200, 60, 60), (60, 200, 60), (60, 60, 200)]


def drawn(folder, count, seed, shift=0, broken=()):
    """Classes that differ by colour, which the encoder below, the pixels themselves, shows."""
    labels = [number % 3 for number in range(count)]
    images = [png(*COLOURS[label], seed + number) for number, label in enumerate(labels)]
    for number in broken:
        images[number] = b"broken"
    return packed(folder, images, [(label + shift) % 3 for label in labels])


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coloured")
    return drawn(folder / "train", 150, seed=0, broken=[10]), drawn(folder / "test", 30, seed=1000)


def pixels_themselves():
    return Encoder(nn.Sequential(nn.Identity()), "0", 8)


def test_colours_are_learnt_by_the_rate_that_can_learn_and_it_is_chosen(coloured):
    train, test = coloured
    counted = Counted()
    result = augmented_probe(
        *validation_split(train), test, pixels_themselves(), settings=QUICK, observer=counted
    )
    assert (result.setting, result.chosen, result.accuracy, result.validation) == (
        "rate",
        1.0,
        1,
        1,
    )
    assert result.tried[1e-9] < 0.8  # as good as not trained
    again = augmented_probe(*validation_split(train), test, pixels_themselves(), settings=QUICK)
    assert again == result


def test_labels_are_names_of_any_size(coloured):
    train, test = coloured
    expected = augmented_probe(*validation_split(train), test, pixels_themselves(), settings=QUICK)
    for part in (train, test):
        part.whole.labels[:] = np.array([0, 300_000_000, 10**18])[part.whole.labels]
    try:
        found = augmented_probe(*validation_split(train), test, pixels_themselves(), settings=QUICK)
    finally:
        for part in (train, test):
            part.whole.labels[:] = np.searchsorted([0, 300_000_000, 10**18], part.whole.labels)
    assert found == expected


def test_the_rate_is_chosen_on_the_validation_images_alone(coloured, tmp_path):
    """Their labels are wrong: what learns nothing is best on them, worst on all the others."""
    train, test = coloured
    wrong = drawn(tmp_path / "wrong", 30, seed=2000, shift=1)
    result = augmented_probe(train, wrong, test, pixels_themselves(), settings=QUICK)
    assert result.tried[1.0] == 0
    assert (result.chosen, result.validation) == (1e-9, result.tried[1e-9])
    assert result.validation > 0
    assert result.accuracy < 0.8


def test_a_rate_gives_the_same_alone_and_among_others(coloured):
    """A rate that blows up does not reach the classifiers of the others."""
    train, test = coloured
    parts = validation_split(train)
    few = AugmentedSettings(rates=(0.003,), epochs=1, batch_size=32)
    several = AugmentedSettings(rates=(1e38, 0.003), epochs=1, batch_size=32)
    alone = augmented_probe(*parts, test, pixels_themselves(), settings=few)
    among = augmented_probe(*parts, test, pixels_themselves(), settings=several)
    assert among.tried[0.003] == alone.tried[0.003]


def test_batches_are_crops_of_the_right_images_without_unreadable_ones(coloured):
    some = LabelledImages(coloured[0].whole, np.delete(coloured[0].rows, [3, 4, 50]))
    assert list(some.keys) == [some.whole.keys[row] for row in some.rows]
    encoder = pixels_themselves()
    loader = _loader(some, encoder, AugmentedSettings(batch_size=49), 0)
    means = torch.tensor(COLOURS) / 255
    seen = 0
    for values, labels in _epoch(loader, 0, encoder, {}):
        seen += len(labels)
        colours = values * torch.tensor(encoder.std) + torch.tensor(encoder.mean)
        torch.testing.assert_close(colours, means[labels], rtol=0, atol=0.06)
    assert seen == 146  # three batches of 49, less the broken one


def test_a_grey_image_is_as_readable_as_any_other(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (128, 128, 128)).save(file, "PNG")
    images = packed(tmp_path / "t", [file.getvalue()] * 3 + [b"no image"], [0, 1, 0, 1])
    encoder = pixels_themselves()
    loader, problems = _loader(images, encoder, AugmentedSettings(batch_size=4), 0), {}
    ((values, labels),) = _epoch(loader, 0, encoder, problems)
    assert "cannot decode 8 bytes as an image" in next(iter(problems.values()))
    assert sorted(labels.tolist()) == [0, 0, 1]
    colours = values * torch.tensor(encoder.std) + torch.tensor(encoder.mean)
    torch.testing.assert_close(colours, torch.full((3, 3), 128 / 255))


def darker_to_the_right():
    pixels = np.tile(np.arange(248, 0, -8, np.uint8)[None, :, None], (31, 1, 3))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_half_of_the_crops_are_mirrored_anew_in_each_epoch(tmp_path):
    images = packed(tmp_path / "t", [darker_to_the_right()] * 400, [n % 2 for n in range(400)])
    # Whatever the crop: what is brighter on the right was mirrored.
    encoder = Encoder(nn.Sequential(nn.AvgPool2d((8, 4)), RightOverLeft()), "1", 8)
    loader = _loader(images, encoder, AugmentedSettings(batch_size=400), 0)
    mirrored = []
    for epoch in range(2):
        ((values, _),) = _epoch(loader, epoch, encoder, {})
        mirrored.append(values[:, 0] > 0)
        assert 160 < int(mirrored[-1].sum()) < 240
    assert not torch.equal(*mirrored)


def plain_sgd(values, labels, rate, epochs, weight):
    """Full-batch SGD with momentum 0.9, a tenth of the rate after 60 % and 80 % of the epochs."""
    bias, speed = torch.zeros(3, dtype=torch.double), 0
    ones = torch.ones(len(values), 1)
    inputs = torch.cat([values, ones], 1).double()
    theta = torch.cat([weight.double(), bias[:, None]], 1)
    for epoch in range(epochs):
        error = (inputs @ theta.T).softmax(1) - torch.eye(3).double()[labels]
        speed = 0.9 * speed + error.T @ inputs / len(values)
        theta = theta - rate * 0.1 ** ((epoch >= 0.6 * epochs) + (epoch >= 0.8 * epochs)) * speed
    return theta


def test_training_is_sgd_with_the_steps_of_the_papers(tmp_path):
    """Plain colours, all in one batch: neither crops nor flips nor order change anything."""
    colours = [(10 * n, 250 - 7 * n, (37 * n) % 256) for n in range(24)]
    labels = [n % 3 for n in range(24)]
    files = []
    for colour in colours:
        files.append(io.BytesIO())
        Image.new("RGB", (12, 12), colour).save(files[-1], "PNG")
    images = packed(tmp_path / "t", [file.getvalue() for file in files], labels)
    encoder = pixels_themselves()
    settings = AugmentedSettings(rates=(0.5, 0.02), epochs=10, batch_size=24)
    heads = _trained(
        images,
        encoder,
        settings=settings,
        channels=3,
        names=torch.arange(3),
        workers=0,
        observer=SILENT,
    )
    pixels = torch.tensor(colours) / 255
    values = (pixels - torch.tensor(encoder.mean)) / torch.tensor(encoder.std)
    start = _head(3, 3).weight.detach()
    for head, rate in zip(heads, settings.rates, strict=True):
        theta = plain_sgd(values, torch.tensor(labels), rate, 10, start)
        found = torch.cat([head.weight, head.bias[:, None]], 1).detach().double()
        torch.testing.assert_close(found, theta, rtol=1e-3, atol=1e-4)


class RightOverLeft(nn.Module):
    def forward(self, maps):
        return maps[..., 1:] - maps[..., :1]


def test_settings_out_of_range_are_refused():
    for wrong in ({"rates": ()}, {"rates": (0.0,)}, {"epochs": 0}, {"batch_size": 0}):
        with pytest.raises(CcropError, match=f"{next(iter(wrong))} is "):
            AugmentedSettings(**wrong)
