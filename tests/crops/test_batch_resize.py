import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as F

from ccrop_pipeline.crops import batch_resize as resample
from ccrop_pipeline.crops.batch_resize import crop_and_resize_batch


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (count, 9, 7, 3), np.uint8)
    large = [np.asarray(Image.fromarray(one).resize((width, height))) for one in small]
    return torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2).contiguous()


def windows_in(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    sides = np.stack([random.integers(1, n + 1, count) for n in (height, width)], 1)
    corners = np.stack(
        [random.integers(0, n - sides[:, i] + 1) for i, n in enumerate((height, width))], 1
    )
    return torch.from_numpy(np.concatenate([corners, sides], 1))


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(32, 32, 32), (32, 32, 24), (96, 96, 64), (50, 71, 224), (9, 8, 8)],
)
def test_every_view_is_pillows(height, width, size):
    images, windows = pictures(60, height, width), windows_in(60, height, width)
    windows[0] = torch.tensor([0, 0, height, width])
    views = crop_and_resize_batch(images, windows, size)
    assert views.dtype == torch.uint8
    assert views.is_contiguous()
    squared = []
    for image, window, view in zip(images, windows.tolist(), views, strict=True):
        pil = F.to_pil_image(image)
        expected = F.pil_to_tensor(F.resized_crop(pil, *window, [size, size], antialias=True))
        off = (view.int() - expected.int()).abs()
        assert off.max() <= 2
        squared.append((off.float() ** 2).mean().item())
    assert 10 * np.log10(255**2 / max(np.mean(squared), 1e-9)) >= 55


def test_batches_of_any_size_give_the_same_bits():
    images, windows = pictures(41, 40, 33), windows_in(41, 40, 33)
    together = crop_and_resize_batch(images, windows, 29)
    for step in (1, 3, 17):
        parts = [
            crop_and_resize_batch(images[i : i + step], windows[i : i + step], 29)
            for i in range(0, 41, step)
        ]
        assert torch.equal(torch.cat(parts), together)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.integers(1, 80), st.integers(1, 60), st.data())
def test_weights_are_whole_numbers_over_the_window_and_add_up(side, size, data):
    length = data.draw(st.integers(1, side))
    start = data.draw(st.integers(0, side - length))
    weights = resample._weights(torch.tensor([start]), torch.tensor([length]), size, side)[0]
    assert torch.equal(weights, weights.round())
    assert weights.min() >= 0
    assert (weights.sum(1) == 2048).all()
    outside = torch.ones(side, dtype=torch.bool)
    outside[start : start + length] = False
    assert (weights[:, outside] == 0).all()


def test_a_constant_image_stays_as_it_is_and_what_is_outside_is_not_seen():
    images = torch.full((3, 3, 64, 64), 255, dtype=torch.uint8)
    images[:, :, 10:40, 20:60] = 201
    window = torch.tensor([[10, 20, 30, 40]]).expand(3, 4)
    assert (crop_and_resize_batch(images, window, 48) == 201).all()
