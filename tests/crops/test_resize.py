import io
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as F

from ccrop_pipeline.crops import (
    UNIFORMS_PER_WINDOW,
    CropParams,
    crop_and_resize,
    reduction_for,
    sample_windows,
)
from ccrop_pipeline.crops import resize as module
from ccrop_pipeline.images import decode, decode_reduced


@pytest.fixture(params=["fast_image_resize", "Pillow"])
def resizer(request, monkeypatch):
    if request.param == "Pillow":
        monkeypatch.setattr(module, "fast", None)
    else:
        pytest.importorskip("cykooz_resizer")
    return request.param


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    return noise(8, 6).resize((width, height), Image.Resampling.BICUBIC)


def decibels(squared_error: float) -> float:
    return float("inf") if squared_error == 0 else 10 * np.log10(255**2 / squared_error)


@pytest.mark.parametrize("size", [24, 224])
@pytest.mark.parametrize("window", [(0, 0, 90, 120), (10, 37, 61, 50), (89, 119, 1, 1)])
def test_a_view_is_torchvisions_resized_crop(resizer, window, size):
    for image in (noise(120, 90), smooth(120, 90)):
        view = crop_and_resize(np.asarray(image), 1, np.array(window), size)
        assert view.dtype == np.uint8
        assert view.shape == (size, size, 3)
        pil = F.resized_crop(image, *window, [size, size], antialias=True)
        tensor = F.resized_crop(F.pil_to_tensor(image), *window, [size, size], antialias=True)
        for expected in (np.asarray(pil), tensor.permute(1, 2, 0).numpy()):
            assert np.abs(view.astype(int) - expected).max() <= 1


def test_nothing_outside_of_the_window_is_seen(resizer):
    image = Image.new("RGB", (100, 100), "white")
    image.paste((0, 0, 0), (20, 30, 60, 70))
    assert crop_and_resize(np.asarray(image), 1, (30, 20, 40, 40), 64).max() == 0


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([1, 2, 4]), st.integers(1, 40))
def test_any_window_of_a_reduced_image_gives_a_view(data, reduction, size):
    width, height = (data.draw(st.integers(1, 90)) for _ in range(2))
    left = data.draw(st.integers(0, width - 1))
    top = data.draw(st.integers(0, height - 1))
    window = (
        top,
        left,
        data.draw(st.integers(1, height - top)),
        data.draw(st.integers(1, width - left)),
    )
    pixels = np.full((-(-height // reduction), -(-width // reduction), 3), 77, np.uint8)
    assert (crop_and_resize(pixels, reduction, window, size) == 77).all()


def edge_position(view: np.ndarray) -> float:
    """Column, in pixels of the view, at which dark turns into light: a step is integrated."""
    profile = view[..., 0].astype(float).mean(0)
    return len(profile) * (1 - (profile.mean() - profile[0]) / (profile[-1] - profile[0]))


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_an_edge_stays_where_it_is(resizer, reduction):
    size, height, width = 32, 500, 640
    # Grey, so that the edge is not blurred by chroma; where it lies on no border of a block.
    for edge in (317, 322, 323):
        step = np.where(np.arange(width) < edge, 40, 210).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(np.tile(step, (height, 1))).convert("RGB").save(
            buffer, "JPEG", quality=100, subsampling=0
        )
        pixels, made = decode_reduced(buffer.getvalue(), reduction)
        assert made == reduction
        for left, across in ((101, 331), (102, 401), (103, 397), (200, 256)):
            view = crop_and_resize(pixels, made, (3, left, 401, across), size)
            expected = (edge - left) * size / across
            assert edge_position(view) == pytest.approx(expected, abs=0.06)
            turned = crop_and_resize(pixels.transpose(1, 0, 2), made, (left, 3, across, 401), size)
            assert edge_position(turned.transpose(1, 0, 2)) == pytest.approx(expected, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("data_set", ["objects-webdataset", "clothing-webdataset"])
def test_views_of_photographs_are_those_of_exact_decoding(resizer, real_data, data_set):
    random = np.random.default_rng(0)
    with tarfile.open(sorted((real_data / data_set).glob("*.tar"))[0]) as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")][:40]
        photographs = [tar.extractfile(name).read() for name in names]
    errors = {1: [], 2: [], 4: []}
    for photograph in photographs:
        exact = decode(photograph)
        for size in (32, 64, 96, 128):
            windows = sample_windows(
                np.array([[0.0, 0, 1, 1]]),
                np.array([exact.size]),
                random.random((1, UNIFORMS_PER_WINDOW)),
                CropParams(),
            )
            pixels, made = decode_reduced(photograph, int(reduction_for(windows[None], [size])[0]))
            expected = F.resized_crop(exact, *windows[0].tolist(), [size, size], antialias=True)
            view = crop_and_resize(pixels, made, windows[0], size)
            errors[made].append(((view.astype(float) - np.asarray(expected)) ** 2).mean())
    assert min(len(found) for found in errors.values()) > 10
    assert decibels(max(errors[1])) >= 50
    for reduction in (2, 4):
        assert decibels(np.mean(errors[reduction])) >= 42
        assert np.mean([decibels(error) >= 40 for error in errors[reduction]]) >= 0.9


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 4))
def test_an_image_is_reduced_as_far_as_no_view_is_enlarged(data, views, images):
    sides = [data.draw(st.integers(1, 50)) for _ in range(views)]
    windows = np.array(
        [
            [[0, 0, *(data.draw(st.integers(1, 220)) for _ in range(2))] for _ in range(images)]
            for _ in range(views)
        ]
    )
    reductions = reduction_for(windows, sides)
    for image, reduction in enumerate(reductions):
        allowed = [
            r
            for r in (1, 2, 4)
            if r == 1
            or all(min(windows[v, image, 2:]) >= 1.25 * r * side for v, side in enumerate(sides))
        ]
        assert reduction == max(allowed)
