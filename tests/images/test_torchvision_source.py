import io
import pickle
from inspect import signature

import numpy as np
import pytest
from made_sources import picture
from PIL import Image
from torchvision import datasets

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import open_torchvision, pack
from ccrop_pipeline.images.torchvision_data import DATASETS


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def eurosat(tmp_path):
    for i, name in enumerate(["Forest/a.jpg", "Forest/b.jpg", "River/c.jpg"]):
        write(tmp_path / "eurosat/2750" / name, picture(i, "JPEG"))
    return tmp_path


@pytest.fixture
def mnist(tmp_path):
    """The four raw files of MNIST in their idx format, seven and three images long."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("t10k", 3)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        size = np.array([count, 28, 28], ">i4").tobytes()
        raw = tmp_path / "MNIST/raw"
        write(raw / f"{split}-images-idx3-ubyte", b"\0\0\x08\x03" + size + pixels.tobytes())
        labels = bytes(i % 10 for i in range(count))
        write(raw / f"{split}-labels-idx1-ubyte", b"\0\0\x08\x01" + size[:4] + labels)
    return tmp_path


def check_index(source):
    samples = [sample for shard in source.shards for sample in source.read(shard)]
    for index in (source.index(), pickle.loads(pickle.dumps(source.index()))):
        assert list(index.keys) == [s.key for s in samples]
        assert index.labels.tolist() == [s.label for s in samples]
        assert [index.read(i) for i in range(len(index))] == [s.image for s in samples]
    return samples


def test_files_keep_their_bytes(eurosat):
    source = open_torchvision("EuroSat", eurosat, "train", download=False)
    assert check_index(source) == [
        ("train-000000", picture(0, "JPEG"), 0, None),
        ("train-000001", picture(1, "JPEG"), 0, None),
        ("train-000002", picture(2, "JPEG"), 1, None),
    ]
    assert source.classes == ("Forest", "River")
    assert source.kind == "torchvision"


def test_val_stands_in_for_test_and_first_names_for_classes(tmp_path):
    for i, folder in enumerate(["n01440764", "n02102040"]):
        write(tmp_path / f"imagenette2/val/{folder}/x.JPEG", picture(i, "JPEG"))
    source = open_torchvision("imagenette", tmp_path, "test", download=False)
    assert [s.image for s in check_index(source)] == [picture(i, "JPEG") for i in range(2)]
    assert source.classes == ("tench", "English springer")


@pytest.mark.parametrize(("split", "count"), [("train", 7), ("test", 3)])
def test_arrays_become_lossless_images(mnist, split, count):
    source = open_torchvision("mnist", mnist, split, download=False)
    theirs = datasets.MNIST(str(mnist), train=split == "train")
    samples = check_index(source)
    assert len(samples) == count
    for i, sample in enumerate(samples):
        image = Image.open(io.BytesIO(sample.image))
        assert (sample.key, sample.label) == (f"{split}-{i:06d}", theirs[i][1])
        assert image.format == "PNG"
        assert (np.asarray(image) == np.asarray(theirs[i][0])).all()


def test_a_data_set_packs(mnist, tmp_path):
    summary = pack(open_torchvision("mnist", mnist, "train", download=False), tmp_path / "out")
    assert summary.images == 7
    assert (tmp_path / "out/classes.txt").read_text().startswith("0 - zero\n")


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("cifar11", "train", r"no data set 'cifar11' \(did you mean cifar100?\?"),
        ("qqqq", "train", r"no data set 'qqqq'\. Known are: caltech101"),
        ("eurosat", "test", "EuroSAT has no test split"),
        ("stl10", "train", r"STL10 \(train\) cannot be opened in .*download"),
        ("usps", "train", r"USPS \(train\) cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_explained(tmp_path, name, split, message):
    with pytest.raises(CcropError, match=message):
        open_torchvision(name, tmp_path, split, download=False).index()


def test_missing_files_are_noticed_on_opening(tmp_path):
    with pytest.raises(CcropError, match="cannot be opened"):
        open_torchvision("cifar10", tmp_path, "train", download=False)


def test_fingerprints_tell_splits_apart(mnist):
    train, test = (open_torchvision("mnist", mnist, s, download=False) for s in ("train", "test"))
    assert train.fingerprint() != test.fingerprint()


@pytest.mark.parametrize("name", DATASETS)
def test_the_table_fits_the_installed_torchvision(name):
    parameters = signature(getattr(datasets, name).__init__).parameters
    for options in DATASETS[name].values():
        assert set(options) <= set(parameters)
    if DATASETS[name].keys() == {"train"}:
        assert not {"train", "split"} & set(parameters)
