import numpy as np
import pytest
import torch
from made_probes import packed

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Scenes, open_source
from ccrop_pipeline.images.squares import resized_images
from ccrop_pipeline.localize import Encoder, build_backbone
from ccrop_pipeline.probes import (
    LabelledImages,
    at_most,
    embed,
    expect_same_classes,
    held_out,
    labelled,
    validation_split,
)
from tests.counted import Counted


def scene_images(count):
    return [sample.image for sample in Scenes(count, size=32).read("train-000000")]


def test_features_are_the_backbones_own_for_the_right_rows(tmp_path):
    first, second, third = scene_images(3)
    images = packed(tmp_path / "tars", [first, second, b"broken", third], [3, None, 1, 2])
    torch.manual_seed(0)
    backbone = build_backbone("small").eval()
    counted = Counted()
    found = embed(images, Encoder(backbone, backbone.layer, 32), observer=counted)
    assert found.labels.tolist() == [3, 2]
    assert sum(counted.done) == 3
    (batch,) = resized_images([first, third], 32, batch_size=2, threads=1)
    pixels = torch.from_numpy(batch.pixels) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = backbone((pixels - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)


def test_features_of_many_images_are_those_of_each():
    images = labelled(Scenes(270, size=16).index(), "scenes")
    encoder, counted = Encoder(build_backbone("small"), "layer4", 16), Counted()
    found = embed(images, encoder, observer=counted)
    assert len(counted.done) > 1
    assert sum(counted.done) == 270
    assert found.labels.tolist() == [i % 10 for i in range(270)]
    last = embed(LabelledImages(images.whole, images.rows[-20:]), encoder)
    torch.testing.assert_close(found.values[-20:], last.values, rtol=1e-4, atol=1e-5)


def test_images_none_of_which_can_be_read_are_an_error(tmp_path):
    images = packed(tmp_path / "tars", [b"broken", b"as well"], [0, 1])
    backbone = build_backbone("small")
    with pytest.raises(CcropError, match="none of 2 labelled images can be read"):
        embed(images, Encoder(backbone, backbone.layer, 32))


@pytest.mark.parametrize(
    ("split", "least", "most"), [(held_out, 140, 260), (validation_split, 80, 160)]
)
def test_a_split_leaves_every_image_in_one_part(split, least, most):
    images = labelled(Scenes(1200, size=16).index(), "scenes")
    large, small = split(images)
    assert sorted(np.concatenate([large.rows, small.rows])) == list(range(1200))
    assert least < len(small.rows) < most
    assert np.array_equal(split(images)[1].rows, small.rows)


def test_the_bank_of_one_split_can_be_split_again():
    bank, _ = held_out(labelled(Scenes(6000, size=16).index(), "scenes"))
    fitted, validation = validation_split(bank)
    assert len(fitted.rows) + len(validation.rows) == len(bank.rows)
    # A tenth, to three standard deviations: the first split says nothing about the second.
    expected = len(bank.rows) / 10
    assert len(validation.rows) == pytest.approx(expected, abs=3 * (0.9 * expected) ** 0.5)


@pytest.mark.parametrize("split", [held_out, validation_split])
def test_too_few_images_cannot_be_split(split):
    with pytest.raises(CcropError, match="too few images are labelled \\(1\\)"):
        split(labelled(Scenes(1, size=16).index(), "scenes"))


def test_a_choice_of_some_images_does_not_depend_on_their_order():
    images = labelled(Scenes(60, size=16).index(), "scenes")
    turned = LabelledImages(images.whole, images.rows[::-1])
    chosen = at_most(images, 20)
    assert len(chosen.rows) == 20
    assert (np.diff(chosen.rows) > 0).all()
    assert np.array_equal(chosen.rows, at_most(turned, 20).rows)
    assert set(at_most(images, 10).rows) < set(chosen.rows)
    assert at_most(images, 60) is images


def test_no_label_is_an_error(tmp_path):
    with pytest.raises(CcropError, match="has a label"):
        packed(tmp_path / "tars", scene_images(1), [None])


def test_labels_must_mean_the_same_class_in_both_sources(tmp_path):
    image = scene_images(1)[0]
    for folder, names in {"a": "cat dog eel", "b": "cat eel", "c": "cat dog"}.items():
        for name in names.split():
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / "x.jpg").write_bytes(image)
    a, b, c = (open_source(str(tmp_path / name)) for name in "abc")
    with pytest.raises(CcropError, match=r"label 1 is 'dog' in .*a and 'eel' in .*b"):
        expect_same_classes(a, b)
    expect_same_classes(a, c)  # the same numbers, as far as they go
    expect_same_classes(c, a)
