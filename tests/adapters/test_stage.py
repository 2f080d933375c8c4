import io
import tarfile

import pytest
import torch
import webdataset as wds
from made_boxed import COUNT, SMALL, box_set, encoded, error_of, picture, share_of_white
from torchvision.transforms import v2

from ccrop_pipeline.adapters import add_boxes
from ccrop_pipeline.crops import ContrastiveCrop
from ccrop_pipeline.errors import CcropError

KEYS = [f"some/{i:03d}" for i in range(COUNT)]
VIEW = v2.Compose([ContrastiveCrop(16, SMALL), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture
def shards(tmp_path):
    """Two tars of pictures 0 to 7 and 8 to 15."""
    for half in range(2):
        with tarfile.open(tmp_path / f"data-{half:06d}.tar", "w") as tar:
            for i in range(half * 8, half * 8 + 8):
                for name, data in (("png", encoded(picture(i))), ("cls", str(i).encode())):
                    info = tarfile.TarInfo(f"{KEYS[i]}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return f"{tmp_path}/data-{{000000..000001}}.tar"


def pipeline(shards, stage):
    data = wds.WebDataset(shards, shardshuffle=2, seed=0).shuffle(8).decode("pil")
    return data.compose(stage).to_tuple("png", "cls").map_tuple(VIEW).batched(4)


@pytest.mark.slow
def test_boxes_reach_the_crops_of_shuffled_shards_in_workers(shards, tmp_path):
    stage = add_boxes(box_set(tmp_path / "boxes", KEYS))
    loader = wds.WebLoader(pipeline(shards, stage), batch_size=None, num_workers=2)
    torch.manual_seed(0)
    for _ in range(3):
        seen = []
        for views, labels in loader:
            assert share_of_white(views).min() > 0.1
            seen += torch.as_tensor(labels).tolist()
        assert sorted(seen) == list(range(COUNT))


def test_a_key_without_a_box_is_named_from_a_worker(shards, tmp_path):
    boxes = box_set(tmp_path / "boxes", KEYS[:-1])
    loader = wds.WebLoader(pipeline(shards, add_boxes(boxes)), batch_size=None, num_workers=1)
    message = error_of(loader)
    assert message.startswith(
        "MissingBoxError: Caught MissingBoxError in DataLoader worker process 0"
    )
    assert "such as 'some/015'" in message
    full = pipeline(shards, add_boxes(boxes, missing="full"))
    assert sum(len(labels) for _, labels in full) == COUNT


def test_every_image_of_a_sample_gets_the_box(tmp_path):
    stage = add_boxes(box_set(tmp_path / "boxes", KEYS))
    sample = {"__key__": KEYS[1], "left.png": picture(1), "right.png": picture(1), "cls": 1}
    (boxed,) = stage([sample])
    views = torch.stack([VIEW(boxed["left.png"]), VIEW(boxed["right.png"])])
    assert share_of_white(views).min() > 0.1


@pytest.mark.parametrize("how", [None, "torchrgb"])
def test_images_that_are_not_pil_images_are_refused(shards, tmp_path, how):
    data = wds.WebDataset(shards, shardshuffle=False)
    data = data.decode(how) if how else data
    with pytest.raises(CcropError, match=r"'some/000' has no PIL image, only png, cls\. Put"):
        next(iter(data.compose(add_boxes(box_set(tmp_path / "boxes", KEYS)))))


def test_no_box_set_is_said_before_the_pipeline_starts(tmp_path):
    with pytest.raises(CcropError, match="there is no folder"):
        add_boxes(tmp_path / "nothing")
