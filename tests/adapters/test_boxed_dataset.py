import io

import pytest
import torch
from made_boxed import (
    COUNT,
    SMALL,
    box_set,
    encoded,
    error_of,
    image_folder,
    picture,
    share_of_white,
)
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ccrop_pipeline.adapters import BoxedDataset, BoxedRows, add_boxes, folder_keys
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.crops import ContrastiveCrop
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import open_source

KEYS = [f"train-{i:06d}" for i in range(COUNT)]
V2 = v2.Compose([ContrastiveCrop(16, SMALL), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
V1 = v1.Compose([ContrastiveCrop(16, SMALL), v1.RandomHorizontalFlip(), v1.ToTensor()])


class InMemory(Dataset):
    """Pictures made on demand, like CIFAR-10's, in samples of any form."""

    def __init__(self, sample=lambda i: (picture(i), i)):
        self.sample = sample

    def __len__(self):
        return COUNT

    def __getitem__(self, i):
        return self.sample(i)


@pytest.fixture
def boxes(tmp_path):
    return box_set(tmp_path / "boxes", KEYS)


@pytest.fixture
def folder(tmp_path):
    keys = image_folder(tmp_path / "images")
    box_set(tmp_path / "boxes", keys)
    return tmp_path / "images"


@pytest.mark.slow
@pytest.mark.parametrize("transform", [V1, V2])
def test_boxes_reach_the_crops_of_an_image_folder_in_workers(folder, transform):
    images = ImageFolder(folder)
    dataset = BoxedDataset(
        images, folder_keys(images), folder.parent / "boxes", transform=transform
    )
    torch.manual_seed(0)
    loader = DataLoader(dataset, COUNT // 2, shuffle=True, num_workers=2)
    for _ in range(5):
        labels = []
        for views, batch_labels in loader:
            assert views.shape == (COUNT // 2, 3, 16, 16)
            assert share_of_white(views).min() > 0.1
            labels += batch_labels.tolist()
        assert sorted(labels) == [0] * (COUNT // 2) + [1] * (COUNT // 2)


def test_the_box_of_another_image_would_be_seen(boxes):
    # What the tests of this folder rest on: windows drawn from another box show no white.
    moved = BoxedDataset(InMemory(), KEYS[1:] + KEYS[:1], boxes, transform=V2)
    assert share_of_white(torch.stack([moved[i][0] for i in range(COUNT)])).max() == 0
    full = BoxedDataset(InMemory(), ["?"] * COUNT, boxes, transform=V2, missing="full")
    torch.manual_seed(0)
    white = share_of_white(torch.stack([full[i][0] for i in range(COUNT)] * 4))
    assert (white == 0).float().mean() > 0.5


def test_keys_of_a_folder_are_those_of_its_source(folder):
    keys = folder_keys(ImageFolder(folder))
    assert keys == list(open_source(str(folder)).index().keys)
    assert folder_keys(ImageFolder(f"{folder}/")) == keys


def test_keys_of_an_in_memory_set_are_given(boxes):
    dataset = BoxedDataset(InMemory(), KEYS, boxes, transform=V2)
    assert len(dataset) == COUNT
    views, labels = next(iter(DataLoader(Subset(dataset, [5, 6, 11]), 3)))
    assert share_of_white(views).min() > 0.1
    assert labels.tolist() == [5, 6, 11]


def test_several_views_of_one_image(boxes):
    views, label = BoxedDataset(
        InMemory(), KEYS, boxes, transform=lambda image: [V2(image), V1(image)]
    )[3]
    assert share_of_white(torch.stack(views)).min() > 0.1
    assert label == 3


def test_samples_that_are_dicts(boxes):
    samples = InMemory(lambda i: {"label": i, "picture": picture(i)})
    sample = BoxedDataset(samples, KEYS, boxes, transform=V2, image="picture")[6]
    assert share_of_white(sample["picture"][None]) > 0.1
    assert list(sample) == ["label", "picture"]
    assert sample["label"] == 6


def test_without_a_transform_the_image_carries_its_box(boxes):
    image, _ = BoxedDataset(InMemory(), KEYS, boxes)[2]
    assert share_of_white(V2(image)[None]) > 0.1


def test_a_transform_set_later_is_used(boxes):
    # As timm's create_loader sets it.
    dataset = BoxedDataset(InMemory(), KEYS, boxes)
    dataset.transform = V2
    assert share_of_white(dataset[1][0][None]) > 0.1


def test_keys_without_a_box_are_named_before_training_starts(boxes):
    wrong = [*KEYS[:3], "test-000003", *KEYS[4:15], "test-000015"]
    with pytest.raises(CcropError, match=r"2 of 16 .*'test-000003', 'test-000015'") as error:
        BoxedDataset(InMemory(), wrong, boxes)
    assert "its keys look like 'train-0000" in str(error.value)
    full = BoxedDataset(InMemory(), wrong, boxes, transform=V2, missing="full")
    # The others keep their own boxes.
    assert share_of_white(torch.stack([full[i][0] for i in (0, 1, 2, 4, 14)])).min() > 0.1


def test_a_misspelt_choice_for_missing_boxes_is_refused(boxes):
    with pytest.raises(ValueError, match="'ful'"):
        BoxedDataset(InMemory(), KEYS, boxes, missing="ful")


def test_keys_of_another_number_are_refused(boxes):
    with pytest.raises(CcropError, match="15 keys for 16 images"):
        BoxedDataset(InMemory(), KEYS[1:], boxes)


def test_no_box_set_is_said_at_once(tmp_path):
    with pytest.raises(CcropError, match="there is no folder"):
        BoxedDataset(InMemory(), KEYS, tmp_path / "nothing")


def test_a_transform_within_is_refused(folder):
    images = ImageFolder(folder, transform=v2.RandomHorizontalFlip())
    with pytest.raises(CcropError, match="ImageFolder has a transform of its own"):
        BoxedDataset(images, folder_keys(images), folder.parent / "boxes", transform=V2)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (lambda i: picture(i), "sample 4 is a Image and no tuple"),
        (lambda i: (torch.zeros(3, 8, 8), i), "sample 4 is a Tensor and no PIL image"),
    ],
)
def test_samples_without_a_pil_image_are_refused(boxes, sample, message):
    with pytest.raises(CcropError, match=message):
        BoxedDataset(InMemory(sample), KEYS, boxes, transform=V2)[4]


def flip_first(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def test_what_changes_the_image_before_the_crop_is_an_error_from_a_worker(boxes):
    dataset = BoxedDataset(InMemory(), KEYS, boxes, transform=v1.Compose([flip_first, V1]))
    message = error_of(DataLoader(dataset, 4, num_workers=1))
    assert message.startswith("CcropError: Caught CcropError in DataLoader worker process 0")
    assert "attach_box" in message


def test_timms_own_data_set_must_not_replace_images(folder, monkeypatch):
    data = pytest.importorskip("timm.data")
    images = data.ImageDataset(str(folder))
    keys = folder_keys(ImageFolder(folder))
    with pytest.raises(CcropError, match="TIMM_DATASET_MAX_RETRIES=1"):
        BoxedDataset(images, keys, folder.parent / "boxes", transform=V2)
    images._max_retries = 1
    dataset = BoxedDataset(images, images.filenames(), folder.parent / "boxes", transform=V2)
    assert share_of_white(torch.stack([dataset[i][0] for i in range(COUNT)])).min() > 0.1


def test_boxes_may_be_a_path_an_address_or_a_box_set(boxes):
    expected = BoxedDataset(InMemory(), KEYS, boxes, transform=V2)
    samples = [{"__key__": key, "png": picture(i)} for i, key in enumerate(KEYS)]
    cells = [{"bytes": encoded(picture(i)), "path": key} for i, key in enumerate(KEYS)]
    for given in (str(boxes), f"file://{boxes}", BoxSet.open(boxes)):
        for own in (
            [view for view, _ in BoxedDataset(InMemory(), KEYS, given, transform=V2)],
            BoxedRows(given, V2)({"image": cells})["image"],
            [V2(sample["png"]) for sample in add_boxes(given)(samples)],
        ):
            assert len(own) == len(expected)
            assert share_of_white(torch.stack(own)).min() > 0.1


def with_exif(i, orientation, size=None):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = picture(i) if size is None else picture(i).resize(size)
    return Image.open(io.BytesIO(encoded(image, exif=exif)))


def upright_picture(i, orientation, size=None):
    return ImageOps.exif_transpose(with_exif(i, orientation, size)).convert("RGB")


def stage(boxes, make):
    """The images of `make`, with boxes by the stage of pipelines."""
    samples = ({"__key__": key, "png": make(i)} for i, key in enumerate(KEYS))
    return [sample["png"] for sample in add_boxes(boxes)(samples)]


def wrapped(boxes, make):
    dataset = BoxedDataset(InMemory(lambda i: (make(i), i)), KEYS, boxes)
    return [dataset[i][0] for i in range(COUNT)]


@pytest.mark.parametrize("adapter", [wrapped, stage])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_box_covers_the_same_pixels_whether_or_not_an_image_was_turned(
    tmp_path, adapter, orientation
):
    boxes = box_set(tmp_path / "boxes", KEYS, orientation)
    makers = [
        lambda i: with_exif(i, orientation),
        lambda i: with_exif(i, orientation).convert("RGB"),  # as ImageFolder gives it
    ]
    if orientation == 1 or orientation > 4:
        # As Hugging Face datasets give it; also when resized.
        makers.append(lambda i: upright_picture(i, orientation))
        makers.append(lambda i: upright_picture(i, orientation, (80, 60)))
    if orientation > 4:
        makers.append(picture)  # decoded as stored, by a library that drops EXIF
    for make in makers:
        views = torch.stack([V2(image) for image in adapter(boxes, make)])
        assert share_of_white(views).min() > 0.1


@pytest.mark.parametrize("adapter", [wrapped, stage])
@pytest.mark.parametrize(("orientation", "size"), [(2, None), (3, None), (4, None), (6, (30, 30))])
def test_an_image_that_may_have_been_turned_is_refused(tmp_path, adapter, orientation, size):
    boxes = box_set(tmp_path / "boxes", KEYS, orientation)
    with pytest.raises(CcropError, match=rf"'train-000000' .* orientation {orientation} and comes"):
        adapter(boxes, lambda i: upright_picture(i, orientation, size))
