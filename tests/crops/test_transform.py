import inspect
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from ccrop_pipeline.crops import (
    UNIFORMS_PER_WINDOW,
    ContrastiveCrop,
    CropParams,
    as_bounding_box,
    attach_box,
    sample_windows,
)
from ccrop_pipeline.errors import CcropError

WIDTH, HEIGHT = 120, 90
BOX = (0.2, 0.3, 0.6, 0.9)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator())


def box() -> tv_tensors.BoundingBoxes:
    return as_bounding_box(BOX, WIDTH, HEIGHT)


def expected_window(seed: int, params: CropParams) -> list[int]:
    torch.manual_seed(seed)
    u = torch.rand(1, UNIFORMS_PER_WINDOW, dtype=torch.float64).numpy()
    return sample_windows(np.array([BOX]), np.array([[WIDTH, HEIGHT]]), u, params)[0].tolist()


@pytest.mark.parametrize("rule", ["official", "paper", "overlap"])
def test_every_kind_of_image_gets_the_same_window(pixels, rule):
    crop = ContrastiveCrop(32, rule=rule)
    kinds = (F.to_pil_image(pixels), pixels, pixels.float() / 255, tv_tensors.Image(pixels))
    for seed in range(20):
        window = expected_window(seed, CropParams(rule))
        for image in kinds:
            torch.manual_seed(seed)
            view, _ = crop(image, box())
            expected = F.resized_crop(image, *window, [32, 32], antialias=True)
            assert type(view) is type(expected)
            np.testing.assert_array_equal(np.asarray(view), np.asarray(expected))


def test_all_arguments_are_passed_on(pixels):
    crop = ContrastiveCrop(
        (20, 40), (0.1, 0.3), (0.9, 1.1), InterpolationMode.BICUBIC, False,
        alpha=0.3, rule="overlap", min_overlap=0.8,
    )  # fmt: skip
    window = expected_window(3, CropParams("overlap", 0.3, (0.1, 0.3), (0.9, 1.1), 0.8))
    torch.manual_seed(3)
    view, _ = crop(pixels, box())
    expected = F.resized_crop(pixels, *window, [20, 40], InterpolationMode.BICUBIC, antialias=False)
    assert view.shape == (3, 20, 40)
    assert torch.equal(view, expected)


def test_the_box_follows_the_pixels():
    # The box is the white rectangle; enlarging keeps its edges within a pixel of the box's.
    image = torch.zeros(1, HEIGHT, WIDTH)
    image[:, 27:81, 24:72] = 1
    crop = ContrastiveCrop((4 * HEIGHT, 4 * WIDTH), interpolation=InterpolationMode.NEAREST)
    partly_outside = 0
    for seed in range(50):
        torch.manual_seed(seed)
        view, out = crop(image, box())
        assert out.canvas_size == (4 * HEIGHT, 4 * WIDTH)
        rows, columns = view[0].amax(dim=1).nonzero(), view[0].amax(dim=0).nonzero()
        seen = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).flatten()
        assert (out[0] - seen).abs().max() <= 1
        partly_outside += bool((out[0][:2] == 0).any())
    assert partly_outside > 5


@pytest.mark.parametrize("fmt", ["XYXY", "XYWH", "CXCYWH"])
def test_any_format_of_the_box(pixels, fmt):
    given = F.convert_bounding_box_format(box(), new_format=tv_tensors.BoundingBoxFormat[fmt])
    crop = ContrastiveCrop(32)
    torch.manual_seed(5)
    view, out = crop(pixels, given)
    torch.manual_seed(5)
    expected, expected_out = crop(pixels, box())
    assert torch.equal(view, expected)
    assert out.format.name == fmt
    torch.testing.assert_close(
        F.convert_bounding_box_format(out, new_format=tv_tensors.BoundingBoxFormat.XYXY),
        expected_out,
    )


def test_any_structure_of_the_sample(pixels):
    crop = ContrastiveCrop(32)
    torch.manual_seed(1)
    expected, _ = crop(pixels, box())
    label = torch.tensor(7)
    sample = {"image": tv_tensors.Image(pixels), "target": {"box": box(), "label": label}, "k": "a"}
    torch.manual_seed(1)
    out = crop(sample)
    assert torch.equal(out["image"], expected)
    assert out["target"]["label"] is label
    assert out["k"] == "a"
    torch.manual_seed(1)
    batch = crop((torch.stack([pixels, pixels]), box(), 7))
    assert torch.equal(batch[0], torch.stack([expected, expected]))
    assert batch[2] == 7
    torch.manual_seed(1)
    mask, image = tv_tensors.Mask(pixels[0]), F.to_pil_image(pixels)
    assert crop([image, mask, box()])[1].shape == (32, 32)


def test_in_a_pipeline_of_v2_transforms(pixels):
    chain = v2.Compose([v2.RandomHorizontalFlip(1.0), ContrastiveCrop(32), v2.Grayscale(3)])
    view, out = chain(tv_tensors.Image(pixels), box())
    assert view.shape == (3, 32, 32)
    assert out.canvas_size == (32, 32)


def test_pickled_it_crops_the_same(pixels):
    crop = ContrastiveCrop(32, (0.1, 0.5), alpha=0.2)
    again = pickle.loads(pickle.dumps(crop))
    torch.manual_seed(2)
    expected, _ = crop(pixels, box())
    torch.manual_seed(2)
    assert torch.equal(again(pixels, box())[0], expected)
    assert repr(again) == (
        "ContrastiveCrop(size=[32, 32], scale=(0.1, 0.5), ratio=(0.75, 1.3333333333333333), "
        "interpolation=InterpolationMode.BILINEAR, antialias=True, alpha=0.2, rule=paper, "
        "min_overlap=0.5)"
    )


def test_it_takes_what_random_resized_crop_takes():
    ours, theirs = (
        inspect.signature(crop).parameters for crop in (ContrastiveCrop, v2.RandomResizedCrop)
    )
    first = list(ours.values())[: len(theirs)]
    assert [parameter.name for parameter in first] == list(theirs)
    for parameter in first:
        assert parameter.kind == theirs[parameter.name].kind
        default = (0.2, 1.0) if parameter.name == "scale" else theirs[parameter.name].default
        # An interpolation is a member of an enum in older releases and its value in newer ones.
        assert getattr(parameter.default, "value", parameter.default) == getattr(
            default, "value", default
        )
    added = list(ours.values())[len(theirs) :]
    assert {parameter.kind for parameter in added} == {inspect.Parameter.KEYWORD_ONLY}
    defaults = {parameter.name: parameter.default for parameter in added}
    assert defaults == {name: getattr(CropParams(), name) for name in defaults}
    assert [*defaults] == ["alpha", "rule", "min_overlap"]


@pytest.mark.parametrize("arguments", [(32,), ([32],), ((32, 40),), (32, [0.1, 0.4], [1, 2])])
def test_it_takes_arguments_in_the_same_form(arguments, pixels):
    view = v2.RandomResizedCrop(*arguments)(pixels)
    assert ContrastiveCrop(*arguments)(pixels, box())[0].shape == view.shape


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0}, {"rule": "central"}, {"min_overlap": 2}, {"scale": (0, 1)}]
)
def test_arguments_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ContrastiveCrop(32, **wrong)


def test_a_normalised_box_survives_the_way_through_pixels():
    rng = np.random.default_rng(0)
    for _ in range(200):
        edges = np.sort(rng.random((2, 2)).astype(np.float32), axis=0).reshape(4)
        width, height = rng.integers(1, 6000, 2).tolist()
        back = as_bounding_box(edges, width, height)[0] / torch.tensor([width, height] * 2)
        assert back.to(torch.float32).tolist() == edges.tolist()


def test_whole_pixel_boxes_are_taken(pixels):
    given = tv_tensors.BoundingBoxes([[24, 27, 72, 81]], format="XYXY", canvas_size=(HEIGHT, WIDTH))
    torch.manual_seed(1)
    view, _ = ContrastiveCrop(32)(pixels, given)
    torch.manual_seed(1)
    assert torch.equal(view, ContrastiveCrop(32)(pixels, box())[0])


def boxes_of(rows: list[list[float]], canvas: tuple[int, int] = (HEIGHT, WIDTH)):
    return tv_tensors.BoundingBoxes(
        torch.tensor(rows).reshape(-1, 4), format="XYXY", canvas_size=canvas
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "found 0 in 0"),
        ((boxes_of([]),), "found 0 in 1"),
        ((boxes_of([[0, 0, 9, 9], [1, 1, 5, 5]]),), "found 2 in 1"),
        ((boxes_of([[0, 0, 9, 9]]), boxes_of([[1, 1, 5, 5]])), "found 2 in 2"),
        ((boxes_of([]), boxes_of([[0, 0, 9, 9]])), "found 1 in 2"),
        ((boxes_of([[0, 0, 9, 9]], (WIDTH, HEIGHT)),), "canvas_size"),
        ((boxes_of([[5, 5, 5, 9]]),), "no area"),
        ((boxes_of([[500, 0, 600, 9]]),), "no area"),
        ((boxes_of([[0, 0, float("nan"), 9]]),), "no area"),
    ],
)
def test_samples_that_are_refused(pixels, given, message):
    for image in (pixels, F.to_pil_image(pixels)):
        with pytest.raises(CcropError, match=message):
            ContrastiveCrop(32)((image, *given))


@pytest.mark.skipif(
    not hasattr(tv_tensors.BoundingBoxFormat, "XYWHR"), reason="torchvision has no rotated boxes"
)
def test_rotated_boxes_are_refused(pixels):
    given = tv_tensors.BoundingBoxes(
        [[9.0, 9.0, 5.0, 5.0, 30.0]], format="XYWHR", canvas_size=(HEIGHT, WIDTH)
    )
    with pytest.raises(CcropError, match="rotated"):
        ContrastiveCrop(32)(pixels, given)


@pytest.mark.parametrize("size", [0, (), (32, 0), (1, 2, 3)])
def test_wrong_sizes(size):
    with pytest.raises(ValueError, match="size"):
        ContrastiveCrop(size)


def test_the_image_is_not_changed(pixels):
    image, before = Image.fromarray(pixels.permute(1, 2, 0).numpy()), pixels.clone()
    ContrastiveCrop(32)(image, box())
    ContrastiveCrop(32)(pixels, box())
    assert torch.equal(F.pil_to_tensor(image), before)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("rule", ["official", "paper", "overlap"])
def test_a_box_attached_to_the_image_counts_as_one_beside_it(pixels, rule):
    crop = ContrastiveCrop(32, rule=rule)
    image = F.to_pil_image(pixels)
    for seed in range(20):
        torch.manual_seed(seed)
        expected, _ = crop(image, box())
        marked = attach_box(F.to_pil_image(pixels), BOX)
        chain = v1.Compose([crop, v1.RandomHorizontalFlip(0.0)])
        for call in (
            crop,
            chain,
            lambda image: crop((image, 7))[0],
            lambda image: crop(image, 7)[0],
        ):
            torch.manual_seed(seed)
            np.testing.assert_array_equal(call(marked), expected)


def test_attaching_marks_the_image_itself_and_the_last_box_counts(pixels):
    image = F.to_pil_image(pixels)
    assert attach_box(image, (0, 0, 1, 1)) is image
    assert attach_box(image, np.array(BOX, np.float32)) is image
    torch.manual_seed(0)
    view = ContrastiveCrop(32)(image)
    torch.manual_seed(0)
    float32_box = as_bounding_box(np.array(BOX, np.float32), WIDTH, HEIGHT)
    expected, _ = ContrastiveCrop(32)(F.to_pil_image(pixels), float32_box)
    np.testing.assert_array_equal(view, expected)


@pytest.mark.parametrize("size", [32, (HEIGHT, WIDTH)])
def test_a_crop_carries_no_box(pixels, size):
    # Even where the crop is the whole image in its own size.
    whole = ContrastiveCrop(size, (1, 1), (WIDTH / HEIGHT, WIDTH / HEIGHT))
    view = whole(attach_box(F.to_pil_image(pixels), BOX))
    assert view.size == ((32, 32) if size == 32 else (WIDTH, HEIGHT))
    with pytest.raises(CcropError, match="found 0 in 0 places"):
        ContrastiveCrop(32)(view)


NEW_IMAGES = {
    "copy": lambda image: image.copy(),
    "convert to its own mode": lambda image: image.convert("RGB"),
    "convert": lambda image: image.convert("L"),
    "mirror": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turn": lambda image: image.rotate(180),
    "crop to the whole": lambda image: image.crop((0, 0, WIDTH, HEIGHT)),
    "crop": lambda image: image.crop((10, 10, 60, 60)),
    "resize to the same": lambda image: image.resize(image.size),
    "resize": lambda image: image.resize((60, 45)),
    "transform": lambda image: image.transform(
        image.size, Image.Transform.AFFINE, (1, 0, 9, 0, 1, 0)
    ),
    "orientation": ImageOps.exif_transpose,
    "torchvision's flip": v2.RandomHorizontalFlip(1.0),
    "torchvision's flip, v1": v1.RandomVerticalFlip(1.0),
    "torchvision's jitter": v2.ColorJitter(0.4),
    "torchvision's grey": v2.Grayscale(3),
    "torchvision's resize": v2.Resize(45),
    "torchvision's tensor": v2.ToImage(),
    "pickling": lambda image: pickle.loads(pickle.dumps(image)),
}


@pytest.mark.parametrize("change", NEW_IMAGES.values(), ids=NEW_IMAGES)
def test_whatever_makes_a_new_image_leaves_the_box_behind(pixels, change):
    image = attach_box(F.to_pil_image(pixels), BOX)
    with pytest.raises(CcropError, match=r"found 0 in 0 places.*attach_box"):
        ContrastiveCrop(32)(change(image))


def test_an_image_that_was_resized_in_place_is_refused(pixels):
    image = attach_box(F.to_pil_image(pixels), BOX)
    image.thumbnail((60, 60))
    with pytest.raises(CcropError, match=r"was \(120, 90\) .* is \(60, 45\) now"):
        ContrastiveCrop(32)(image)


def test_a_box_attached_and_one_beside_it_are_two(pixels):
    with pytest.raises(CcropError, match="found 2 in 2"):
        ContrastiveCrop(32)(attach_box(F.to_pil_image(pixels), BOX), box())


@pytest.mark.parametrize(
    "wrong", [(0, 0, 60, 40), (0.5, 0, 0.5, 1), (0, 1, 1, 0), (-0.1, 0, 1, 1), (0, 0, np.nan, 1)]
)
def test_boxes_that_cannot_be_attached(pixels, wrong):
    with pytest.raises(CcropError, match="shares of the image's size and not in pixels"):
        attach_box(F.to_pil_image(pixels), wrong)
