"""`BoxedViews`: the crops of `ViewLoader`, image by image."""

import io
import pickle

import numpy as np
import pytest
import torch
from made_boxed import COUNT, HEIGHT, WIDTH, box_set, encoded, picture
from PIL import Image
from torchvision.transforms.v2 import functional as F

import ccrop_pipeline as ccrop
from ccrop_pipeline.boxset import Choices
from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.images import UnreadableImage
from ccrop_pipeline.views.batch import hash_keys
from tests.given_rows import box_set_of, rows_of

KEYS = [f"{i:03d}.png" for i in range(COUNT)]
IMAGES = [encoded(picture(i)) for i in range(COUNT)]
GROUPS = (ccrop.ViewGroup(2, 32), ccrop.ViewGroup(3, 16, scale=(0.05, 0.2)))


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return box_set(tmp_path_factory.mktemp("boxes") / "boxes", KEYS)


def turned_boxes(folder, orientation):
    return box_set(folder / "boxes", KEYS[:2], orientation)


def assert_as_the_loader(folder, keys, images, boxes, **settings):
    (folder / "photos").mkdir()
    for key, image in zip(keys, images, strict=True):
        (folder / "photos" / key).write_bytes(image)
    cut = pickle.loads(pickle.dumps(ccrop.BoxedViews(boxes, GROUPS, **settings)))
    loader = ccrop.ViewLoader(
        folder / "photos", GROUPS, boxes=boxes, batch_size=len(keys), resident_gb=0, **settings
    )
    own = hash_keys(keys).view(np.int64).tolist()
    for epoch in (0, 7):
        (batch,) = loader.crops(epoch)
        rows = [batch.key_hashes.tolist().index(number) for number in own]
        for key, image, row in zip(keys, images, rows, strict=True):
            views = [view for group in batch.views for view in group[:, row]]
            made = cut(image, key, epoch=epoch)
            assert [view.shape for view in made] == [(3, 32, 32)] * 2 + [(3, 16, 16)] * 3
            assert all(torch.equal(*pair) for pair in zip(made, views, strict=True))


def test_views_are_those_of_the_loader(boxes, tmp_path):
    assert_as_the_loader(tmp_path, KEYS, IMAGES, boxes, seed=5)


def test_photographs_are_reduced_as_the_loader_reduces_them(tmp_path):
    photos = []
    for i in range(4):
        photo = io.BytesIO()
        picture(i).resize((20 * WIDTH, 20 * HEIGHT)).save(photo, "JPEG")
        photos.append(photo.getvalue())
    keys = [f"{i}.jpg" for i in range(4)]
    assert_as_the_loader(tmp_path, keys, photos, box_set(tmp_path / "boxes", keys))


def test_of_several_boxes_it_draws_the_one_that_the_loader_draws(tmp_path):
    n, corners = 4, np.array([[0, 0, 0.2, 0.2], [0.8, 0.8, 1, 1]], np.float32)
    rows = rows_of(KEYS[:n], Choices.of([corners] * n), sizes=(WIDTH, HEIGHT))
    boxes = box_set_of(tmp_path / "boxes", rows)
    assert_as_the_loader(tmp_path, KEYS[:n], IMAGES[:n], boxes)


def test_seed_epoch_and_key_each_change_the_views(boxes):
    def views(seed=0, image=1, key=1, epoch=0):
        cut = ccrop.BoxedViews(boxes, ccrop.ViewGroup(2, 32), seed=seed)
        return torch.stack(cut(IMAGES[image], KEYS[key], epoch=epoch))

    assert torch.equal(views(), views())
    assert not torch.equal(*views())
    for other in (views(seed=1), views(epoch=1), views(key=5)):  # of the same box
        assert not torch.equal(views(), other)


def test_decoded_images_are_cut_as_encoded_ones(boxes):
    encoded_views = ccrop.BoxedViews(boxes, GROUPS)(memoryview(IMAGES[3]), KEYS[3], epoch=2)
    cut = ccrop.BoxedViews(boxes, GROUPS, turned=False)
    for image in (picture(3), F.pil_to_tensor(picture(3)), F.to_image(picture(3))):
        views = cut(image, KEYS[3], epoch=2)
        assert all(torch.equal(*pair) for pair in zip(views, encoded_views, strict=True))


def test_windows_are_those_of_the_views(boxes):
    cut = ccrop.BoxedViews(boxes, GROUPS, seed=1)
    pixels = F.pil_to_tensor(picture(3))
    views = cut(IMAGES[3], KEYS[3], epoch=4)
    windows = cut.windows(IMAGES[3], KEYS[3], epoch=4).tolist()
    for (top, left, height, width), view in zip(windows, views, strict=True):
        crop = F.resized_crop(pixels, top, left, height, width, view.shape[1:], antialias=True)
        assert (crop.short() - view.short()).abs().max() <= 1


def test_an_image_that_is_not_turned_as_told_is_refused(tmp_path):
    boxes = turned_boxes(tmp_path, 6)
    upright = picture(1).transpose(Image.Transpose.ROTATE_270)
    for turned, image in ((True, picture(1)), (False, upright)):
        cut = ccrop.BoxedViews(boxes, GROUPS, turned=turned)
        with pytest.raises(CcropError, match=r"'001.png' is .* Set `turned` to what its library"):
            cut(image, KEYS[1], epoch=0)
        right = ccrop.BoxedViews(boxes, GROUPS, turned=not turned)
        assert len(right(image, KEYS[1], epoch=0)) == 5


@pytest.mark.parametrize(
    ("turned", "image", "message"),
    [
        (None, picture(0), "is a Image and not its encoded bytes. Give the bytes, or say"),
        (True, IMAGES[0], "is bytes. With `turned` it must be a PIL image or a tensor"),
        (False, torch.zeros(30, 40, 3, dtype=torch.uint8), r"is torch.uint8 \(30, 40, 3\)."),
        (False, torch.zeros(3, 30, 40), "is torch.float32"),
    ],
)
def test_what_is_no_image_of_the_kind_is_refused(boxes, turned, image, message):
    cut = ccrop.BoxedViews(boxes, GROUPS, turned=turned)
    with pytest.raises(CcropError, match=f"the image '000.png' {message}"):
        cut(image, KEYS[0], epoch=0)


def test_an_image_without_a_box_is_named_or_has_the_full_box(boxes):
    with pytest.raises(CcropError, match=r"such as 'none\.png'"):
        ccrop.BoxedViews(boxes, GROUPS)(IMAGES[0], "none.png", epoch=0)
    cut = ccrop.BoxedViews(boxes, GROUPS, missing="full")
    assert len(cut(IMAGES[0], "none.png", epoch=0)) == 5


def test_a_damaged_image_is_named(boxes):
    with pytest.raises(UnreadableImage, match=r"the image '000.png': cannot decode 20 bytes"):
        ccrop.BoxedViews(boxes, GROUPS)(IMAGES[0][:20], KEYS[0], epoch=0)


def test_numbers_out_of_range_are_refused(boxes):
    with pytest.raises(SettingError, match=r"`seed` is -1; it must be from 0 to 18,446,"):
        ccrop.BoxedViews(boxes, GROUPS, seed=-1)
    with pytest.raises(SettingError, match=r"`epoch` is -1; it must be from 0 to 4,294,967,295\."):
        ccrop.BoxedViews(boxes, GROUPS)(IMAGES[0], KEYS[0], epoch=-1)


def test_no_box_set_is_said_at_once(tmp_path):
    with pytest.raises(CcropError, match="there is no folder"):
        ccrop.BoxedViews(tmp_path / "nothing", GROUPS)
