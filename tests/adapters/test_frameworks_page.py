"""The lines of docs/frameworks.md, run as they stand."""

import re
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_boxed import COUNT, box_set, encoded, image_folder, picture

from ccrop_pipeline.views import Batch

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
    monkeypatch.chdir(place)

    def run(section, **known):
        _, found, text = PAGE.partition(f"\n## {section}\n")
        assert found
        blocks = re.findall(r"```python\n(.*?)```", text.partition("\n## ")[0], re.S)
        assert blocks
        for block in blocks:
            exec(block, known)
        return known

    return run


def test_torchvision(run):
    cifar = [(picture(i), i) for i in range(COUNT)]
    known = run("torchvision", cifar=cifar)
    assert known["dataset"][3][0].shape == (3, 224, 224)
    assert known["dataset"].dataset is cifar


def test_timm(run):
    pytest.importorskip("timm")
    loader = run("timm")["loader"]
    assert "ContrastiveCrop" in repr(loader.dataset.transform)
    assert "RandomResizedCrop" not in repr(loader.dataset.transform)
    assert loader.dataset[0][0].shape == (3, 224, 224)


def test_lightly(run):
    views, label = run("lightly")["dataset"][COUNT - 1]
    assert [view.shape[-1] for view in views] == [224] * 2 + [96] * 6
    assert label == 1


def test_webdataset(run):
    samples = list(run("webdataset")["pipeline"])
    assert sorted(label for _, label in samples) == list(range(COUNT))
    assert samples[0][0].shape == (3, 224, 224)


def test_hugging_face_data_sets(run, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    dataset = run("Hugging Face datasets")["dataset"]
    assert len(dataset) == COUNT
    assert dataset[2]["image"].shape == (3, 224, 224)


@pytest.mark.slow
def test_lightning(run):
    lightning = pytest.importorskip("lightning")

    class Model(lightning.LightningModule):
        def training_step(self, batch: Batch):
            seen.append((self.current_epoch, batch.views[0].shape))
            return self.weight.sum()

        def configure_optimizers(self):
            self.weight = torch.nn.Parameter(torch.zeros(1))
            return torch.optim.SGD([self.weight], 1.0)

    seen = []
    module = run("Lightning")["BoxedViews"]()
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=2, reload_dataloaders_every_n_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Model(), datamodule=module)
    assert [(epoch, tuple(shape)) for epoch, shape in seen] == [
        (epoch, (2, 8, 3, 224, 224)) for epoch in (0, 0, 1, 1)
    ]


def test_every_program_is_named_on_the_page():
    programs = {path.name for path in (Path(__file__).parents[2] / "examples").glob("*.py")}
    named = set(re.findall(r"\(\.\./examples/(\w+\.py)\)", PAGE))
    assert named == programs - {"read_boxes_with_pyarrow.py"}
