"""The lines of docs/frameworks.md, run as they stand."""

import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
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


def test_torchvision(run, place, monkeypatch):
    write_cifar(place / "data/cifar10/cifar-10-batches-py")
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    known = run("torchvision")
    assert known["dataset"][3][0].shape == (3, 224, 224)
    assert known["dataset"].dataset is known["cifar"]


def write_cifar(folder):
    """CIFAR-10 as it is published, but for fewer images."""
    folder.mkdir(parents=True)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"]}))
    for number, count in enumerate((4, 3, 3, 3, 3), start=1):
        content = {"data": np.zeros((count, 3072), np.uint8), "labels": [0] * count}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(content))


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
    module = run("Lightning")["BoxedViews"]
    ModelCheckpoint = lightning.pytorch.callbacks.ModelCheckpoint  # noqa: N806
    whole = fit(tmp_path / "whole", -1)
    assert [(epoch, shape) for epoch, shape, _ in whole] == [
        (epoch, (2, 8, 3, 224, 224)) for epoch in (0, 0, 1, 1)
    ]
    assert whole[0][2] != whole[2][2]  # another order in the next epoch
    # Resumed in the middle of the first epoch: the same batches follow.
    (stopped,) = (tmp_path / "whole").glob("*step=1.ckpt")
    assert fit(tmp_path / "rest", -1, stopped) == whole[1:]


def test_every_program_is_named_on_the_page():
    programs = {path.name for path in (Path(__file__).parents[2] / "examples").glob("*.py")}
    named = set(re.findall(r"\(\.\./examples/(\w+\.py)\)", PAGE))
    assert named == programs - {"read_boxes_with_pyarrow.py"}
