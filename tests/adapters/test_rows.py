import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xxhash
from made_boxed import COUNT, SMALL, box_of, box_set, encoded, error_of, picture, share_of_white
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from ccrop_pipeline.adapters import BoxedRows
from ccrop_pipeline.crops import ContrastiveCrop
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import UnreadableImage, open_source

NAMES = [f"{i:03d}.png" for i in range(COUNT)]
BYTES = [encoded(picture(i)) for i in range(COUNT)]
VIEW = v2.Compose([ContrastiveCrop(16, SMALL), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def table(path, names=NAMES, images=BYTES, **columns):
    cells = [{"bytes": data, "path": name} for name, data in zip(names, images, strict=True)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = pa.array(range(len(names)))
    pq.write_table(pa.table({"image": pa.array(cells, kind), "label": labels, **columns}), path)
    return path


def opened(path, tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    return data.cast_column("image", datasets.Image(decode=False))


TABLES = {
    "by path": {},
    "by hash": {"names": [None] * COUNT},
    "by key": {"key": pa.array([f"k{i}" for i in range(COUNT)])},
    "by __key__": {"__key__": pa.array([f"k{i}" for i in range(COUNT)])},
    "by key, where there is one": {"key": pa.array([None, *(f"k{i}" for i in range(1, COUNT))])},
}


@pytest.mark.parametrize("columns", TABLES.values(), ids=TABLES)
def test_boxes_reach_the_crops_by_the_keys_of_the_source(tmp_path, columns):
    path = table(tmp_path / "data.parquet", **columns)
    boxes = box_set(tmp_path / "boxes", list(open_source(str(path)).index().keys))
    data = opened(path, tmp_path)
    data.set_transform(BoxedRows(boxes, VIEW))
    torch.manual_seed(0)
    assert share_of_white(data[5]["image"][None]) > 0.1
    batch = data[2:9]
    assert share_of_white(torch.stack(batch["image"])).min() > 0.1
    assert batch["label"] == list(range(2, 9))


def test_in_workers_and_shuffled(tmp_path):
    data = opened(table(tmp_path / "data.parquet"), tmp_path).shuffle(seed=0)
    data = data.with_transform(BoxedRows(box_set(tmp_path / "boxes", NAMES), VIEW))
    seen = []
    for batch in DataLoader(data, 4, num_workers=2):
        assert share_of_white(batch["image"]).min() > 0.1
        seen += batch["label"].tolist()
    assert sorted(seen) == list(range(COUNT))


def test_in_a_stream(tmp_path):
    data = opened(table(tmp_path / "data.parquet"), tmp_path).to_iterable_dataset(num_shards=2)
    data = data.map(BoxedRows(box_set(tmp_path / "boxes", NAMES), VIEW), batched=True)
    views = [row["image"] for row in data]
    assert len(views) == COUNT
    assert share_of_white(torch.stack([torch.as_tensor(view) for view in views])).min() > 0.1


def test_a_row_without_a_box_is_named_from_a_worker(tmp_path):
    boxes = box_set(tmp_path / "boxes", NAMES[:-1])
    data = opened(table(tmp_path / "data.parquet"), tmp_path)
    data.set_transform(BoxedRows(boxes, VIEW))
    message = error_of(DataLoader(data, 4, num_workers=1))
    assert message.startswith(
        "MissingBoxError: Caught MissingBoxError in DataLoader worker process 0"
    )
    assert "such as '015.png'" in message
    data.set_transform(BoxedRows(boxes, VIEW, missing="full"))
    assert data[COUNT - 1]["image"].shape == (3, 16, 16)


def test_the_exif_orientation_is_left_alone(tmp_path):
    # Upside down for those that mind the tag; the box is where the stored pixels are.
    exif = Image.Exif()
    exif[0x0112] = 3
    images = [encoded(picture(i), exif=exif) for i in range(COUNT)]
    data = opened(table(tmp_path / "data.parquet", images=images), tmp_path)
    data.set_transform(BoxedRows(box_set(tmp_path / "boxes", NAMES), VIEW))
    assert share_of_white(torch.stack(data[:]["image"])).min() > 0.1


def test_decoded_images_are_refused(tmp_path):
    rows = BoxedRows(box_set(tmp_path / "boxes", NAMES), VIEW, image="picture")
    with pytest.raises(CcropError, match=r"decoded already(.|\n)*Image\(decode=False\)"):
        rows({"picture": [picture(0)], "key": NAMES[:1]})


def test_images_beside_the_table_are_read(tmp_path):
    (tmp_path / "0.png").write_bytes(BYTES[0])
    cell = {"bytes": None, "path": str(tmp_path / "0.png")}
    rows = BoxedRows(box_set(tmp_path / "boxes", NAMES), VIEW)
    (view,) = rows({"image": [cell], "key": NAMES[:1]})["image"]
    assert share_of_white(view[None]) > 0.1


def test_damaged_images_are_an_error(tmp_path):
    rows = BoxedRows(box_set(tmp_path / "boxes", NAMES), VIEW)
    with pytest.raises(UnreadableImage):
        rows({"image": [{"bytes": b"no image", "path": NAMES[0]}]})


def test_pickled_it_finds_the_same_boxes(tmp_path):
    keys = [xxhash.xxh3_64_hexdigest(data) for data in BYTES]
    rows = pickle.loads(pickle.dumps(BoxedRows(box_set(tmp_path / "boxes", keys), VIEW)))
    cells = [{"bytes": data, "path": None} for data in BYTES]
    assert share_of_white(torch.stack(rows({"image": cells})["image"])).min() > 0.1
    assert box_of(1) != box_of(2)
