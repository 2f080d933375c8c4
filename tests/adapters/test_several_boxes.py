"""Images with several boxes in other people's loops: one is drawn for each reading of an image."""

from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from made_boxed import HEIGHT, SMALL, WIDTH, box_of, encoded, picture, share_of_white
from torchvision.transforms.v2 import functional as F

from ccrop_pipeline.adapters import BoxedDataset, BoxedRows, add_boxes
from ccrop_pipeline.boxset import Choices
from ccrop_pipeline.crops import ContrastiveCrop
from tests.given_rows import box_set_of, rows_of

READINGS = 64
CROP = ContrastiveCrop(16, SMALL)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Path:
    """Picture 0 under the key `k`: its white corner or the opposite, black one."""
    folder = tmp_path_factory.mktemp("boxes")
    choices = Choices.of([np.array([box_of(0), box_of(3)], np.float32)])
    box_set_of(folder, rows_of(["k"], choices, sizes=(WIDTH, HEIGHT)))
    return folder


def two_views(image) -> torch.Tensor:
    return torch.stack([F.to_dtype(F.to_image(CROP(image)), scale=True) for _ in range(2)])


def from_dataset(boxes: Path) -> list[torch.Tensor]:
    class Pictures:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int):
            return picture(0), 0

    dataset = BoxedDataset(Pictures(), ["k"], boxes, transform=two_views)
    return [dataset[0][0] for _ in range(READINGS)]


def from_rows(boxes: Path) -> list[torch.Tensor]:
    cell = {"bytes": encoded(picture(0)), "path": "k"}
    rows = BoxedRows(boxes, two_views)
    return rows({"image": [cell] * READINGS})["image"]


def from_stage(boxes: Path) -> list[torch.Tensor]:
    samples = ({"__key__": "k", "png": picture(0)} for _ in range(READINGS))
    return [two_views(sample["png"]) for sample in add_boxes(boxes)(samples)]


@pytest.mark.parametrize("read", [from_dataset, from_rows, from_stage])
def test_both_views_show_the_same_box_and_readings_draw_anew(read, boxes):
    torch.manual_seed(0)
    white = torch.stack([share_of_white(views) >= 0.1 for views in read(boxes)])
    assert (white[:, 0] == white[:, 1]).all()
    # Binomial with 64 halves: outside of 18 to 46 less than once in a thousand.
    assert 18 <= white[:, 0].sum() <= 46
    torch.manual_seed(0)
    again = torch.stack([share_of_white(views) >= 0.1 for views in read(boxes)])
    assert torch.equal(white, again)


def test_a_webdataset_pipeline_draws_too(boxes, tmp_path):
    with wds.TarWriter(str(tmp_path / "a.tar")) as tar:
        tar.write({"__key__": "k", "png": encoded(picture(0))})
    pipeline = wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode("pil")
    torch.manual_seed(1)
    found = {
        bool(share_of_white(two_views(sample["png"]))[0] >= 0.1)
        for _ in range(20)
        for sample in pipeline.compose(add_boxes(boxes))
    }
    assert found == {True, False}
