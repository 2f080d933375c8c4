import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import ColorJitter
from torchvision.transforms.v2 import functional as F

from ccrop_pipeline.crops import PHOTOMETRIC, uniforms
from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD
from ccrop_pipeline.views import AugmentSettings, Batch, ViewGroup
from ccrop_pipeline.views import augment as module
from ccrop_pipeline.views.augment import Augment
from ccrop_pipeline.views.batch import hash_keys

CPU = torch.device("cpu")


@pytest.fixture(params=["torch", "Numba"], autouse=True)
def way(request, monkeypatch):
    if request.param == "Numba":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(module, "_fused", lambda: None)


STEPS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
ALL_STEPS = AugmentSettings(hue=0.3, grayscale_p=0.4, blur_p=0.5, solarize_p=0.3)


def batch(keys: list[str], groups: list[ViewGroup], layout: str = "channels last") -> Batch:
    """Noise that depends on the key, whatever the other keys are."""
    views = []
    for group in groups:
        shape = (group.count, group.size, group.size, 3)
        noise = [np.random.default_rng(list(key.encode())).integers(0, 256, shape) for key in keys]
        crops = torch.from_numpy(np.stack(noise, axis=1).astype(np.uint8)).permute(0, 1, 4, 2, 3)
        views.append(crops.contiguous() if layout == "planar" else crops)
    hashes = torch.from_numpy(hash_keys(keys).view(np.int64))
    return Batch(
        tuple(views),
        hashes,
        torch.zeros(len(keys), dtype=torch.int64),
        torch.ones(len(keys), dtype=torch.bool),
    )


def torchvisions_chain(pixels: torch.Tensor, u: np.ndarray, s: AugmentSettings) -> torch.Tensor:
    """The chain of one uint8 image (3, S, S), from its eleven uniform numbers."""
    picture = F.to_dtype(pixels, torch.float32, scale=True)
    if u[0] < s.jitter_p:
        jitter = ColorJitter(s.brightness, s.contrast, s.saturation, s.hue)
        # None where there is no strength.
        ranges = [jitter.brightness or (1, 1), jitter.contrast or (1, 1)]
        ranges += [jitter.saturation or (1, 1), jitter.hue or (0, 0)]
        factors = [low + (high - low) * x for (low, high), x in zip(ranges, u[2:6], strict=True)]
        for step in list(itertools.permutations(range(4)))[int(u[1] * 24)]:
            picture = STEPS[step](picture, float(np.float32(factors[step])))
    if u[6] < s.grayscale_p:
        picture = F.rgb_to_grayscale(picture, num_output_channels=3)
    if u[8] < s.blur_p:
        sigma = s.blur_sigma[0] + (s.blur_sigma[1] - s.blur_sigma[0]) * u[9]
        kernel = min(range(3, 41, 2), key=lambda size: abs(size - picture.shape[-1] / 10))
        picture = F.gaussian_blur(picture, [kernel, kernel], [sigma, sigma])
    if u[10] < s.solarize_p:
        picture = F.solarize(picture, s.solarize_threshold)
    if u[7] < s.flip_p:
        picture = F.horizontal_flip(picture)
    return F.normalize(picture, IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("layout", ["channels last", "planar"])
def test_whole_chain_is_torchvisions_steps_in_the_order_drawn_for_every_group(layout):
    keys = [f"image-{i}" for i in range(60)]
    solarizing = AugmentSettings(contrast=0.8, solarize_p=0.5, solarize_threshold=0.3, flip_p=0.9)
    groups = [ViewGroup(2, 50, augment=ALL_STEPS), ViewGroup(1, 9, augment=solarizing)]
    made = batch(keys, groups, layout)
    results = Augment(groups, seed=3, device=CPU)(made, epoch=5)
    assert [result.shape for result in results] == [(2, 60, 3, 50, 50), (1, 60, 3, 9, 9)]
    for group, view, number in [(0, 0, 0), (0, 1, 1), (1, 0, 2)]:
        randoms = uniforms(3, 5, hash_keys(keys), number, PHOTOMETRIC, 11)
        for row, u in enumerate(randoms):
            expected = torchvisions_chain(made.views[group][view, row], u, groups[group].augment)
            torch.testing.assert_close(results[group][view, row], expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [9, 40])
def test_a_view_is_the_same_bit_for_bit_in_every_batch_and_layout(size):
    """At 40 px the largest batch is worked on in several parts, the others in one."""
    keys = [str(i) for i in range(150)]
    groups = [ViewGroup(2, size, augment=ALL_STEPS)]
    augment = Augment(groups, seed=0, device=CPU)
    (all_views,) = augment(batch(keys, groups), epoch=1)
    random = np.random.default_rng(0)
    for count in (1, 1, 2, 3, 10, 70):
        chosen = random.permutation(150)[:count]
        for layout in ("channels last", "planar"):
            (views,) = augment(batch([keys[i] for i in chosen], groups, layout), epoch=1)
            assert torch.equal(views, all_views[:, chosen])


def test_views_depend_on_seed_epoch_and_number_of_the_view():
    groups = [ViewGroup(2, 8, augment=ALL_STEPS)]
    made = batch(["a", "b", "c"], groups)
    made.views[0][1] = made.views[0][0]
    (views,) = Augment(groups, 0, CPU)(made, epoch=1)
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views, Augment(groups, 0, CPU)(made, epoch=2)[0])
    assert not torch.equal(views, Augment(groups, 1, CPU)(made, epoch=1)[0])


def test_crops_are_left_as_they_were():
    groups = [ViewGroup(2, 8, augment=ALL_STEPS)]
    made = batch(["a", "b", "c"], groups)
    before = made.views[0].clone()
    Augment(groups, 0, CPU)(made, 0)
    assert torch.equal(made.views[0], before)


@pytest.mark.parametrize(
    ("name", "strength"),
    [
        *itertools.product(["brightness", "contrast", "saturation", "hue"], [0.5]),
        *itertools.product(["brightness", "contrast", "saturation"], [1.0, 1.8]),
    ],
)
def test_a_jitter_of_one_strength_takes_that_step_alone(name, strength):
    """Above 1, factors begin at 0: what was drawn below it would make negatives."""
    strengths = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    settings = AugmentSettings(**(strengths | {name: strength}), grayscale_p=0.0)
    groups = [ViewGroup(1, 8, augment=settings)]
    keys = [str(i) for i in range(40)]
    made = batch(keys, groups)
    (views,) = Augment(groups, 0, CPU)(made, 0)
    randoms = uniforms(0, 0, hash_keys(keys), 0, PHOTOMETRIC, 11)
    for row, u in enumerate(randoms):
        expected = torchvisions_chain(made.views[0][0, row], u, settings)
        torch.testing.assert_close(views[0, row], expected, atol=2e-5, rtol=1e-4)


def test_a_jitter_without_strength_changes_nothing():
    none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    still, never = (
        [ViewGroup(1, 8, augment=AugmentSettings(**none, jitter_p=p))] for p in (1.0, 0.0)
    )
    made = batch([str(i) for i in range(20)], still)
    assert torch.equal(Augment(still, 0, CPU)(made, 0)[0], Augment(never, 0, CPU)(made, 0)[0])


def test_shares_of_flipped_grey_blurred_and_solarized_views_are_those_asked_for():
    """Each image is a ramp from left to right, other in green, with one brighter row."""
    count = 4000
    pixels = np.tile(np.arange(8, dtype=np.uint8)[:, None] * 10, (1, count, 8, 1, 3))
    pixels[..., 1] += 30
    pixels[:, :, 4] += 5
    keys = hash_keys([str(i) for i in range(count)])
    crops = torch.from_numpy(pixels).permute(0, 1, 4, 2, 3)
    made = Batch(
        (crops,),
        torch.from_numpy(keys.view(np.int64)),
        torch.zeros(count),
        torch.ones(count, dtype=torch.bool),
    )
    settings = AugmentSettings(
        jitter_p=0.0,
        grayscale_p=0.3,
        blur_p=0.6,
        blur_sigma=(0.8, 1.0),
        solarize_p=0.15,
        solarize_threshold=0.0,
        flip_p=0.25,
    )
    (views,) = Augment([ViewGroup(1, 8, augment=settings)], 0, CPU)(made, 0)
    mean, std = (torch.tensor(channels).view(3, 1, 1) for channels in (IMAGENET_MEAN, IMAGENET_STD))
    views = views[0] * std + mean
    solarized = views.mean((1, 2, 3)) > 0.5
    views[solarized] = 1 - views[solarized]
    shares = {
        "grey": (views[:, 0] - views[:, 1]).abs().amax((1, 2)) < 1e-4,
        "flipped": views[:, 0, 0, 0] > views[:, 0, 0, 7],
        "blurred": views[:, 0, 3, 3] > views[:, 0, 0, 3] + 1e-4,
        "solarized": solarized,
    }
    asked = {"grey": 0.3, "flipped": 0.25, "blurred": 0.6, "solarized": 0.15}
    for name, share in asked.items():
        # Five standard deviations of a share of 4000 draws.
        margin = 5 * (share * (1 - share) / count) ** 0.5
        assert shares[name].float().mean().item() == pytest.approx(share, abs=margin), name


def test_a_device_is_never_asked_for_values():
    """Tensors of the meta device have none: whatever would wait for a GPU fails on them."""
    groups = [ViewGroup(2, 40, augment=ALL_STEPS), ViewGroup(2, 24)]
    made = batch([str(i) for i in range(50)], groups)
    results = Augment(groups, 0, torch.device("meta"))(made, 0)
    assert [result.shape for result in results] == [crops.shape for crops in made.views]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_views_without_waiting_for_the_host():
    keys = [str(i) for i in range(50)]
    groups = [ViewGroup(2, 40, augment=ALL_STEPS), ViewGroup(2, 24)]
    made = batch(keys, groups)
    expected = Augment(groups, 0, CPU)(made, 0)
    augment = Augment(groups, 0, torch.device("cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = augment(made, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for result, there in zip(results, expected, strict=True):
        torch.testing.assert_close(result.cpu(), there, atol=1e-4, rtol=1e-3)
