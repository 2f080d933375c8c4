"""The lines of docs/frameworks.md, run as they stand."""

import io
import pickle
import random
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_boxed import COUNT, box_of, box_set, encoded, image_folder, picture
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

import ccrop_pipeline as ccrop
from ccrop_pipeline.crops import crop_and_resize
from ccrop_pipeline.views import Batch, ViewCutter
from ccrop_pipeline.views.batch import hash_keys

PAGE = (Path(__file__).parents[2] / "docs/frameworks.md").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which the page's paths are right."""
    place = tmp_path_factory.mktemp("place")
    photos, cells = image_folder(place / "photos"), []
    keys = [key.removesuffix(".png") for key in photos]
    (place / "shards").mkdir()
    for half in range(2):
        with tarfile.open(place / f"shards/data-{half:06d}.tar", "w") as tar:
            for i in range(half * COUNT // 2, (half + 1) * COUNT // 2):
                (place / "jpg").write_bytes(encoded(picture(i)))
                (place / "cls").write_text(str(i))
                tar.add(place / "jpg", f"{keys[i]}.jpg")
                tar.add(place / "cls", f"{keys[i]}.cls")
                cells.append({"bytes": encoded(picture(i)), "path": photos[i]})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), place / "photos.parquet")
    box_set(place / "boxes/first", photos)
    box_set(place / "boxes/table", photos)
    box_set(place / "boxes/shards", keys)
    box_set(place / "boxes/cifar", [f"train-{i:06d}" for i in range(COUNT)])
    return place


@pytest.fixture
def run(place, monkeypatch):
    """Run the blocks of one section of the page; return the names they define."""

    def run(section, at=place):
        monkeypatch.chdir(at)
        known = {}
        for block in blocks_of(section):
            exec(block, known)
        return known

    return run


def text_of(section):
    _, found, text = PAGE.partition(f"\n## {section}\n")
    assert found
    return text.partition("\n## ")[0]


def blocks_of(section):
    blocks = re.findall(r"```python\n(.*?)```", text_of(section), re.S)
    assert blocks
    return blocks


def seeded(make):
    """Call with the generators that transforms draw from at their beginning."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return make()


def alone(transform, i, image=None):
    """Return what a transform makes of a picture that is given its own box by hand."""
    image = ccrop.attach_box(image or picture(i), np.float32(box_of(i)))
    return seeded(lambda: transform(image))


def test_torchvision(run, place, monkeypatch):
    write_cifar(place / "data/cifar10/cifar-10-batches-py")
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    known = run("torchvision")
    assert known["dataset"].dataset is known["cifar"]
    image, _ = seeded(lambda: known["dataset"][3])
    assert image.shape == (3, 224, 224)
    assert torch.equal(image, alone(known["augment"], 3, known["cifar"][3][0]))


def write_cifar(folder):
    """CIFAR-10 as it is published, but for fewer images."""
    folder.mkdir(parents=True)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"]}))
    for number, count in enumerate((4, 3, 3, 3, 3), start=1):
        pixels = np.random.default_rng(number).integers(0, 256, (count, 3072), np.uint8)
        content = {"data": pixels, "labels": [0] * count}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(content))


def test_timm(run):
    pytest.importorskip("timm")
    loader = run("timm")["loader"]
    assert "ContrastiveCrop" in repr(loader.dataset.transform)
    assert "RandomResizedCrop" not in repr(loader.dataset.transform)
    image, _ = seeded(lambda: loader.dataset[0])
    assert torch.equal(image, alone(loader.dataset.transform, 0))


def test_lightly(run):
    known = run("lightly")
    views, label = seeded(lambda: known["dataset"][COUNT - 1])
    assert [view.shape[-1] for view in views] == [224] * 2 + [96] * 6
    assert label == 1
    assert all(map(torch.equal, views, alone(known["transform"], COUNT - 1)))


def test_webdataset(run):
    known = run("webdataset")
    samples = seeded(lambda: list(known["pipeline"]))
    assert sorted(label for _, label in samples) == list(range(COUNT))
    image, i = samples[0]
    assert image.shape == (3, 224, 224)
    assert torch.equal(image, alone(known["augment"], i))


def test_hugging_face_data_sets(run, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    known = run("Hugging Face datasets")
    assert len(known["dataset"]) == COUNT
    image = seeded(lambda: known["dataset"][2]["image"])
    assert image.shape == (3, 224, 224)
    assert torch.equal(image, alone(known["augment"], 2))


@pytest.mark.slow
def test_lightning(run, tmp_path):
    lightning = pytest.importorskip("lightning")

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch: Batch):
            seen.append((self.current_epoch, tuple(batch.views[0].shape), batch.hashes.tolist()))
            return self.weight.sum()

        def configure_optimizers(self):
            return torch.optim.SGD([self.weight], 1.0)

    def fit(folder, steps, resumed=None):
        seen.clear()
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=2, max_steps=steps, logger=False,
            callbacks=[ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)],
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Model(), datamodule=module(), ckpt_path=resumed)
        return seen.copy()

    seen = []
    module = run("Lightning")["BoxedPhotos"]
    ModelCheckpoint = lightning.pytorch.callbacks.ModelCheckpoint  # noqa: N806
    whole = fit(tmp_path / "whole", -1)
    assert [(epoch, shape) for epoch, shape, _ in whole] == [
        (epoch, (2, 8, 3, 224, 224)) for epoch in (0, 0, 1, 1)
    ]
    assert whole[0][2] != whole[2][2]  # another order in the next epoch
    # Resumed in the middle of the first epoch: the same batches follow.
    (stopped,) = (tmp_path / "whole").glob("*step=1.ckpt")
    assert fit(tmp_path / "rest", -1, stopped) == whole[1:]


# Section, and the distribution whose version it names.
READERS = {
    "LitData": "LitData",
    "Energon": "megatron-energon",
    "Lance": "pylance",
    "SPDL": "spdl-core",
    "torchcodec": "torchcodec",
    "DALI": "nvidia-dali-cuda130",
}


@pytest.mark.parametrize(("section", "distribution"), READERS.items())
def test_an_adapter_takes_ten_lines_and_names_its_version(section, distribution):
    lines = blocks_of(section)[0].splitlines()
    assert len([line for line in lines if line.strip()]) <= 10
    assert re.search(rf"\b{distribution} \d+\.\d+\.\d+", text_of(section))


def ours(place, boxes, epoch, photos="photos"):
    """Return the crops that our own loader makes in an epoch, uint8 (2, 3, S, S) by key."""
    index = ccrop.open_source(place / photos).index()
    loader = ccrop.ViewLoader(
        index, ccrop.ViewGroup(2, 224), boxes=place / boxes, batch_size=COUNT, resident_gb=0
    )
    (batch,) = loader.crops(epoch)
    rows = {own: row for row, own in enumerate(batch.key_hashes.tolist())}
    own = hash_keys(index.keys).view(np.int64).tolist()
    return {key: batch.views[0][:, rows[o]] for key, o in zip(index.keys, own, strict=True)}


def pixels_of(images):
    return sorted(image.numpy().tobytes() for image in images)


def test_any_pipeline(run, place):
    known = run("Any pipeline that knows its keys")
    views = torch.stack([known["first"], known["second"]])
    assert torch.equal(views, ours(place, "boxes/first", 0)["a/002.png"])


def test_litdata(run, place):
    pytest.importorskip("litdata")
    from litdata.streaming import Cache

    cache = Cache(str(place / "chunks"), chunk_size=COUNT // 2)
    for i, path in enumerate(sorted((place / "photos").rglob("*.png"))):
        key = path.relative_to(place / "photos").as_posix()
        cache[i] = {"key": key, "image": path.read_bytes()}
    cache.done()
    cache.merge()
    loader = run("LitData")["loader"]
    for epoch in (1, 2):
        views = torch.cat([torch.stack(batch, 1) for batch in loader])
        assert pixels_of(views) == pixels_of(ours(place, "boxes/first", epoch).values())


def test_energon(run, place):
    energon = pytest.importorskip("megatron.energon")
    energon.BaseWebdatasetFactory.prepare_dataset(
        place / "shards",
        ["data-000000.tar", "data-000001.tar"],
        split_parts_ratio=[("train", 1)],
        workers=1,
    )
    (place / "shards/.nv-meta/dataset.yaml").write_text(
        "sample_type:\n  __module__: megatron.energon\n  __class__: ImageSample\n"
        "field_map:\n  image: jpg\n"
    )
    batch = next(iter(run("Energon")["loader"]))["views"]
    assert batch.shape == (8, 2, 3, 224, 224)
    # Two workers take turns in numbering samples.
    for index, views in zip(range(0, 16, 2), batch, strict=True):
        made = ours(place, "boxes/shards", index, "shards").values()
        assert any(torch.equal(views, own) for own in made)


def test_spdl(run, place):
    pytest.importorskip("spdl.pipeline")
    pipeline = run("SPDL")["pipeline"](3)
    with pipeline.auto_stop():
        views = torch.cat([torch.stack(batch, 1) for batch in pipeline])
    assert pixels_of(views) == pixels_of(ours(place, "boxes/first", 3).values())


def test_torchcodec(run, place):
    pytest.importorskip("torchcodec.decoders")
    (batch,) = run("torchcodec")["loader"]
    made = ours(place, "boxes/first", 0)
    views = [made["a/002.png"], made["b/009.png"]]
    assert torch.equal(torch.stack(batch, 1), torch.stack(views))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_torchcodec_of_a_turned_image(run, tmp_path, orientation):
    pytest.importorskip("torchcodec.decoders")
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(picture(1), exif=exif)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.png").write_bytes(stored)
    box_set(tmp_path / "boxes/first", ["0.png", "1.png"], orientation)
    with Image.open(io.BytesIO(stored)) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image))
    # Where the white box is now, and what our own cutter makes of it.
    rows, columns = np.nonzero((pixels == 255).all(2))
    sides = np.tile(pixels.shape[1::-1], 2)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]) / sides
    cutter = ViewCutter((ccrop.ViewGroup(2, 224),), seed=0)
    windows = cutter.windows(hash_keys(["1.png"]), sides[None, :2], box.astype(np.float32), 0)
    made = [crop_and_resize(pixels, 1, window, 224) for window in windows[:, 0]]
    views = run("torchcodec", tmp_path)["dataset"]["1.png"]
    assert np.array_equal(torch.stack(views).permute(0, 2, 3, 1), np.stack(made))


def test_lance(run, place):
    lance = pytest.importorskip("lance")
    photos = sorted((place / "photos").rglob("*.png"))
    keys = [path.relative_to(place / "photos").as_posix() for path in photos]
    images = [path.read_bytes() for path in photos]
    lance.write_dataset(pa.table({"key": keys, "image": images}), place / "photos.lance")
    dataset = run("Lance")["dataset"]
    for dataset.epoch in (0, 3):
        (batch,) = DataLoader(dataset, COUNT)
        made = ours(place, "boxes/first", dataset.epoch)
        assert torch.equal(torch.stack(batch, 1), torch.stack([made[key] for key in keys]))


def test_dali(run, place):
    pytest.importorskip("nvidia.dali")
    known = run("DALI")
    known["pipeline"].build()
    groups = known["pipeline"].run()
    made = ours(place, "boxes/first", 0)
    for i, key in enumerate(known["keys"][:8]):
        for views, own in zip(groups, made[key], strict=True):
            pixels = torch.from_numpy(np.asarray(views[i])).permute(2, 0, 1)
            assert (pixels.short() - own.short()).abs().max() <= 1


def test_every_program_is_named_on_the_page():
    programs = {path.name for path in (Path(__file__).parents[2] / "examples").glob("*.py")}
    named = set(re.findall(r"\(\.\./examples/(\w+\.py)\)", PAGE))
    assert named == programs - {"read_boxes_with_pyarrow.py"}


def test_every_program_of_the_page_is_run_here():
    sections = re.findall(r"^## (.+)$", PAGE, re.M)
    with_program = {name for name in sections if "```python" in text_of(name)}
    assert set(re.findall(r'run\("([^"]+)"', Path(__file__).read_text())) == with_program
