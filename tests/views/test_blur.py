import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from ccrop_pipeline.views import photometric as module

SIGMAS = (0.1, 0.19, 0.2, 0.39, 0.4, 0.7, 1.0, 1.37, 2.0)


def images(count: int, size: int) -> torch.Tensor:
    """Black and white pixels: where an error of the kernel shows most."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(count, 3, size, size, generator=generator) < 0.5).float()


def torchvisions(pictures: torch.Tensor, sigmas: list[float]) -> torch.Tensor:
    kernel = [module.kernel_size(pictures.shape[-1])] * 2
    pairs = zip(pictures, sigmas, strict=True)
    return torch.stack([F.gaussian_blur(picture, kernel, [sigma] * 2) for picture, sigma in pairs])


@pytest.mark.parametrize("side", [8, 32, 43, 96, 224])
def test_kernel_is_the_odd_number_nearest_to_a_tenth_and_at_least_three(side):
    odd = np.arange(3, 41, 2)
    assert module.kernel_size(side) == odd[np.abs(odd - side / 10).argmin()]
    assert module.kernel_size(224) == 23


@pytest.mark.parametrize("side", [8, 45, 64, 224])  # 45: lines that are no whole number of tiles
@pytest.mark.parametrize("way", ["image by image", "batch"])
def test_blur_is_torchvisions(side, way):
    pictures = images(len(SIGMAS), side)
    expected = torchvisions(pictures, list(SIGMAS))
    if way == "batch":
        results = module.blur_batch(pictures, torch.tensor(SIGMAS))
    else:
        results = pictures
        for picture, sigma in zip(results, SIGMAS, strict=True):
            module.blur_image(picture, sigma)
    torch.testing.assert_close(results, expected, atol=1e-5, rtol=0)


def test_only_the_chosen_images_are_blurred_each_by_its_own_sigma():
    pictures = images(4, 64)
    expected = pictures.clone()
    expected[[3, 1]] = torchvisions(pictures[[3, 1]], [0.5, 1.5])
    module.blur(pictures, torch.tensor([3, 1]), torch.tensor([0.0, 1.5, 9.0, 0.5]))
    torch.testing.assert_close(pictures, expected, atol=1e-5, rtol=0)
