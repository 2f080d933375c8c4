import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from ccrop_pipeline.crops import PHOTOMETRIC, uniforms
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD
from ccrop_pipeline.views import Augment, AugmentSettings
from ccrop_pipeline.views import augment as module
from ccrop_pipeline.views.batch import hash_keys, make_batch

CPU = torch.device("cpu")


def images(count: int, seed: int = 0, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def batch(keys: list[str], size: int = 8, views: int = 2):
    random = np.random.default_rng(0)
    pool = {key: random.integers(0, 256, (views, size, size, 3), np.uint8) for key in sorted(keys)}
    crops = np.stack([pool[key] for key in keys], axis=1)
    return make_batch(crops, hash_keys(keys), np.zeros(len(keys), np.int64))


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (module.adjust_brightness, F.adjust_brightness, 0.0, 2.0),
        (module.adjust_contrast, F.adjust_contrast, 0.0, 2.0),
        (module.adjust_saturation, F.adjust_saturation, 0.0, 2.0),
        (module.adjust_hue, F.adjust_hue, -0.5, 0.5),
    ],
)
def test_each_step_is_torchvisions_image_by_image(ours, theirs, low, high):
    pictures = images(64)
    pictures[0] = 0.5  # grey: no hue
    pictures[1] = 0.0
    pictures[2, 1:] = 0.0  # pure red
    factors = torch.linspace(low, high, 64)
    ours_all = ours(pictures.clone(), factors.view(-1, 1, 1, 1))
    for picture, factor, result in zip(pictures, factors.tolist(), ours_all, strict=True):
        torch.testing.assert_close(result, theirs(picture, factor), atol=2e-6, rtol=1e-5)


def test_grayscale_is_torchvisions():
    torch.testing.assert_close(module.grayscale(images(8)), F.rgb_to_grayscale(images(8)))


def test_whole_chain_is_torchvisions_steps_in_the_order_drawn():
    keys = [f"image-{i}" for i in range(40)]
    settings = AugmentSettings(hue=0.3, grayscale_p=0.4)
    made = batch(keys)
    views = Augment(settings, seed=3, device=CPU)(made, epoch=5)
    steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for view in range(2):
        randoms = uniforms(3, 5, hash_keys(keys), view, PHOTOMETRIC, 8)
        for row in range(len(keys)):
            picture = made.views[view, row].float() / 255
            jitter, order, *drawn, grey, flip = randoms[row]
            if jitter < 0.8:
                factors = [0.6 + 0.8 * u for u in drawn[:3]] + [-0.3 + 0.6 * drawn[3]]
                for step in module._ORDERS[int(order * 24)]:
                    picture = steps[step](picture, float(np.float32(factors[step])))
            if grey < 0.4:
                picture = F.rgb_to_grayscale(picture, num_output_channels=3)
            if flip < 0.5:
                picture = picture.flip(-1)
            expected = F.normalize(picture, IMAGENET_MEAN, IMAGENET_STD)
            torch.testing.assert_close(views[view, row], expected, atol=2e-5, rtol=1e-4)


def test_a_view_depends_on_its_key_and_not_on_its_batch():
    augment = Augment(AugmentSettings(), seed=0, device=CPU)
    together = augment(batch(["a", "b", "c", "d"]), epoch=1)
    alone = augment(batch(["d", "a", "b", "c"]), epoch=1)
    assert torch.equal(together[:, 0], alone[:, 1])
    assert not torch.equal(together, augment(batch(["a", "b", "c", "d"]), epoch=2))


def test_shares_of_flipped_grey_and_untouched_views_are_those_asked_for():
    keys = [str(i) for i in range(4000)]
    ramp = np.tile(np.arange(4, dtype=np.uint8)[None, None, None, :, None] * 40, (1, 4000, 4, 1, 3))
    ramp[..., 1] += 50
    made = make_batch(ramp, hash_keys(keys), np.zeros(4000, np.int64))
    settings = AugmentSettings(jitter_p=0.0, grayscale_p=0.3, flip_p=0.25)
    views = Augment(settings, 0, CPU)(made, 0)[0]
    mean, std = (torch.tensor(channels).view(3, 1, 1) for channels in (IMAGENET_MEAN, IMAGENET_STD))
    views = views * std + mean
    grey = (views[:, 0] - views[:, 1]).abs().amax((1, 2)) < 1e-4
    flipped = views[:, 0, 0, 0] > views[:, 0, 0, 3]
    # Five standard deviations of a share of 4000 draws.
    assert grey.float().mean().item() == pytest.approx(0.3, abs=0.037)
    assert flipped.float().mean().item() == pytest.approx(0.25, abs=0.035)


@pytest.mark.parametrize("setting", [{"hue": 0.6}, {"flip_p": 1.1}, {"brightness": -0.1}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(CcropError, match=next(iter(setting))):
        AugmentSettings(**setting)
