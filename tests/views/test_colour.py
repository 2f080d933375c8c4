import itertools

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from ccrop_pipeline.views import photometric as colour


def images(count: int, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (colour.adjust_brightness, F.adjust_brightness, 0.0, 2.0),
        (colour.adjust_contrast, F.adjust_contrast, 0.0, 2.0),
        (colour.adjust_saturation, F.adjust_saturation, 0.0, 2.0),
        (colour.adjust_hue, F.adjust_hue, -0.5, 0.5),
    ],
)
def test_each_step_is_torchvisions_image_by_image(ours, theirs, low, high):
    pictures = images(64)
    pictures[0] = 0.5  # grey: no hue
    pictures[1] = 0.0
    pictures[2, 1:] = 0.0  # pure red
    factors = torch.linspace(low, high, 64)
    results = pictures.clone()
    ours(results, factors.view(-1, 1, 1, 1))
    for picture, factor, result in zip(pictures, factors.tolist(), results, strict=True):
        torch.testing.assert_close(result, theirs(picture, factor), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shift", [-0.5, -0.3, -1 / 6, 0.0, 0.1, 1 / 3, 0.5])
def test_hue_is_torchvisions_on_the_corners_and_edges_of_the_colour_cube(shift):
    """Two channels are equal, or one is 0 or 1: where the cases of the hue meet."""
    levels = (0.0, 1 / 255, 0.5, 254 / 255, 1.0)
    colours = torch.tensor(list(itertools.product(levels, repeat=3))).T.reshape(1, 3, 5, 25)
    turned = colours.clone()
    colour.adjust_hue(turned, torch.full((1, 1, 1, 1), shift))
    torch.testing.assert_close(turned, F.adjust_hue(colours, shift), atol=2e-6, rtol=0)


def test_grayscale_and_solarize_are_torchvisions():
    torch.testing.assert_close(colour.grayscale(images(8)), F.rgb_to_grayscale(images(8)))
    pictures = images(8)
    pictures[0] = 0.25  # at the threshold, which is inverted
    assert torch.equal(colour.solarize(pictures, 0.25), F.solarize(pictures, 0.25))


@pytest.mark.parametrize("size", [9, 32])
def test_an_image_is_changed_alike_alone_and_in_company(size):
    factors = torch.linspace(0.7, 1.3, 6).view(-1, 1, 1, 1)
    for step in (
        colour.adjust_brightness,
        colour.adjust_contrast,
        colour.adjust_saturation,
        lambda pictures, factor: colour.adjust_hue(pictures, factor - 1),
    ):
        together = images(6, size)
        alone = [picture.clone() for picture in together.split(1)]
        step(together, factors)
        for picture, factor in zip(alone, factors.split(1), strict=True):
            step(picture, factor)
        assert torch.equal(together, torch.cat(alone))
