import random
from collections import Counter

import numpy as np
import pytest
import torch
from made_boxed import COUNT, HEIGHT, SMALL, WIDTH, box_of, picture, share_of_white
from PIL import Image
from scipy.stats import chi2_contingency
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2

from ccrop_pipeline.adapters import replace_crop
from ccrop_pipeline.crops import ContrastiveCrop, attach_box
from ccrop_pipeline.errors import CcropError

SIDE = 4
DRAWS = 1000
FULL = (0, 0, 1, 1)
RANDOM = {"rule": "overlap", "alpha": 1.0}


def torchvision_v1():
    return v1.Compose([v1.RandomResizedCrop(12, (0.2, 1)), v1.ToTensor()])


def torchvision_v2():
    return v2.Compose(
        [
            v2.RandomResizedCrop(12, (0.2, 1), interpolation=InterpolationMode.NEAREST),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def timm_train():
    data = pytest.importorskip("timm.data")
    return data.create_transform(
        12, is_training=True, scale=(0.2, 1.0), hflip=0, color_jitter=None, mean=(0,) * 3,
        std=(1,) * 3, interpolation="bilinear",
    )  # fmt: skip


def lightly_view():
    transforms = pytest.importorskip("lightly.transforms")
    simclr = transforms.SimCLRTransform(
        12, cj_prob=0, random_gray_scale=0, gaussian_blur=0, hf_prob=0, min_scale=0.2,
        normalize=None,
    )  # fmt: skip
    return simclr.transforms[0]


def windows(transform):
    """Count windows: each pixel of the image names its column in red and its row in green."""
    grid = np.stack([*np.meshgrid(range(SIDE), range(SIDE)), np.zeros((SIDE, SIDE))], axis=-1)
    image = attach_box(Image.fromarray((grid * 20).astype(np.uint8)), FULL)
    views = torch.stack([transform(image) for _ in range(DRAWS)])
    # Enlarging three times leaves the outermost pixels of the window as they were.
    edges = [views[:, :2].amin(dim=(2, 3)), views[:, :2].amax(dim=(2, 3))]
    corners = (torch.cat(edges, dim=1) * 255 / 20).round().int()
    return Counter(map(tuple, corners.tolist()))


def p_value(first, second):
    """Chi-square test that two samples have one distribution; rare windows count as one."""
    rare = [w for w in first | second if first[w] + second[w] < 20]
    rows = [[n[w] for w in (first | second) if w not in rare] for n in (first, second)]
    for row, counts in zip(rows, (first, second), strict=True):
        row.append(sum(counts[w] for w in rare) + 1)
    return chi2_contingency(rows).pvalue


@pytest.mark.slow
@pytest.mark.parametrize("make", [torchvision_v1, torchvision_v2, timm_train, lightly_view])
def test_full_box_and_alpha_one_give_the_windows_of_the_crop_replaced(make):
    transform = make()
    torch.manual_seed(0)
    random.seed(0)
    before = windows(transform)
    assert len(before) >= 25
    assert p_value(before, windows(replace_crop(transform, **RANDOM))) > 0.001
    other = replace_crop(transform, rule="overlap", alpha=0.1)
    assert p_value(before, windows(other)) < 1e-9


@pytest.mark.parametrize("package", [v1, v2])
def test_size_scale_ratio_interpolation_and_antialias_are_taken_over(package):
    crop = package.RandomResizedCrop(
        (20, 30), (0.3, 0.9), (0.5, 1.5), InterpolationMode.BICUBIC, antialias=False
    )
    new = replace_crop(crop, alpha=0.2, rule="official", min_overlap=0.7)
    expected = ContrastiveCrop(
        (20, 30), (0.3, 0.9), (0.5, 1.5), InterpolationMode.BICUBIC, False,
        alpha=0.2, rule="official", min_overlap=0.7,
    )  # fmt: skip
    assert type(new) is ContrastiveCrop
    assert repr(new) == repr(expected)


def test_interpolation_by_name():
    crop = replace_crop(v2.RandomResizedCrop(16, interpolation="bicubic"))
    image = attach_box(picture(0), FULL)
    torch.manual_seed(0)
    view = crop(image)
    torch.manual_seed(0)
    expected = ContrastiveCrop(16, crop.scale, interpolation=InterpolationMode.BICUBIC)(image)
    assert np.array_equal(view, expected)
    assert "interpolation=bicubic" in repr(crop)


def test_random_interpolation_of_timm():
    data = pytest.importorskip("timm.data")
    crop = replace_crop(data.RandomResizedCropAndInterpolation(16, (1, 1), (1, 1), "random"))
    image = attach_box(picture(0).crop((0, 0, 30, 30)), FULL)
    torch.manual_seed(0)
    seen = {crop(image).tobytes() for _ in range(30)}
    whole = [image.resize((16, 16), mode) for mode in (Image.BILINEAR, Image.BICUBIC)]
    assert seen == {view.tobytes() for view in whole}


def test_crops_within_crops_are_found_wherever_they_are():
    own = type("Own", (), {})()
    own.pipeline = {"train": v1.RandomApply([v2.RandomResizedCrop(8)], p=1.0)}
    chain = nn.Sequential(v2.Compose([nn.Identity(), v1.RandomResizedCrop(9)]))
    first, second, third = replace_crop([own, chain, v2.RandomResizedCrop(7)])
    image = attach_box(picture(0), FULL)
    assert first.pipeline["train"](image).size == (8, 8)
    assert second(image).size == (9, 9)
    assert third(image).size == (7, 7)
    found = (first.pipeline["train"].transforms[0], second[0].transforms[1], third)
    assert {type(crop) for crop in found} == {ContrastiveCrop}


def test_the_transform_given_is_not_changed():
    transform = v2.Compose([v2.RandomResizedCrop(8), v2.RandomHorizontalFlip(0.25)])
    copy = replace_crop(transform)
    assert type(transform.transforms[0]) is v2.RandomResizedCrop
    assert copy.transforms[1].p == 0.25
    assert copy.transforms[1] is not transform.transforms[1]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("SimCLRTransform", {(224, 2)}),
        ("MoCoV2Transform", {(224, 2)}),
        ("BYOLTransform", {(224, 2)}),
        ("DINOTransform", {(224, 2), (96, 6)}),
        ("SwaVTransform", {(224, 2), (96, 6)}),
        ("MSNTransform", {(224, 2), (96, 10)}),
        ("MAETransform", {(224, 1)}),
    ],
)
def test_every_view_of_lightlys_transforms_is_cut_from_the_box(name, sizes):
    transforms = pytest.importorskip("lightly.transforms")
    # All of the box is in a window that is larger, and nothing else in one that is smaller.
    transform = replace_crop(getattr(transforms, name)(), rule="overlap", min_overlap=1.0)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[24:, :8] = np.random.default_rng(0).integers(0, 256, (6, 8, 3))
    image = attach_box(Image.fromarray(pixels), box_of(2))
    torch.manual_seed(0)
    views = transform(image)
    assert set(Counter(view.shape[-1] for view in views).items()) == sizes
    # Whatever happens to colours, black alone would stay of one colour.
    assert min(view.std(dim=(1, 2)).max() for view in views) > 0.01


def test_a_multi_crop_keeps_the_scale_of_each_of_its_views():
    transforms = pytest.importorskip("lightly.transforms")
    dino = replace_crop(transforms.DINOTransform())
    crops = [view.transform.transforms[0] for view in dino.transforms]
    assert [crop.scale for crop in crops] == [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 6
    assert {crop.interpolation for crop in crops} == {InterpolationMode.BICUBIC}


def test_views_are_cut_from_the_box_where_the_crop_replaced_would_miss_it():
    transform = v1.Compose([v1.RandomResizedCrop(16, SMALL), v1.ToTensor()])
    torch.manual_seed(0)
    images = [attach_box(picture(i), box_of(i)) for i in range(COUNT)] * 4
    replaced = replace_crop(transform)
    missed = share_of_white(torch.stack([transform(image) for image in images])) == 0
    assert missed.float().mean() > 0.5
    assert share_of_white(torch.stack([replaced(image) for image in images])).min() > 0.1


@pytest.mark.parametrize("image", [picture(0), torch.zeros(3, 30, 40)])
def test_an_image_without_a_box_is_refused(image):
    for transform in (torchvision_v1(), torchvision_v2()):
        with pytest.raises(CcropError, match="attach_box"):
            replace_crop(transform)(image)


def test_nothing_to_replace():
    with pytest.raises(CcropError, match="no RandomResizedCrop in Compose"):
        replace_crop(v2.Compose([v2.RandomCrop(8), v2.ToImage()]))


class Located(v2.RandomResizedCrop):
    """Gives more than a crop."""


def test_crops_that_do_more_are_refused():
    with pytest.raises(CcropError, match="Located"):
        replace_crop([v2.RandomResizedCrop(8), Located(8)])
    transforms = pytest.importorskip("lightly.transforms")
    with pytest.raises(CcropError, match="RandomResizedCropAndFlip"):
        replace_crop(transforms.VICRegLTransform())
