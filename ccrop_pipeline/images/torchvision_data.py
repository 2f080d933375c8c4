"""Classification data sets that torchvision knows, as a source."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ccrop_pipeline.base.values import did_you_mean
from ccrop_pipeline.errors import SourceError
from ccrop_pipeline.images.keys import Keys, numbered_shards
from ccrop_pipeline.images.source import Sample, digest, known_label, part_of

Split = Literal["train", "test"]
_Splits = dict[str, dict[str, Any]]

_BY_FLAG: _Splits = {"train": {"train": True}, "test": {"train": False}}
_BY_NAME: _Splits = {"train": {"split": "train"}, "test": {"split": "test"}}
_WITH_VAL: _Splits = {"train": {"split": "train"}, "test": {"split": "val"}}
_WITH_TRAINVAL: _Splits = {"train": {"split": "trainval"}, "test": {"split": "test"}}
_WHOLE: _Splits = {"train": {}}

# How each class of torchvision.datasets names its two splits. A test holds this table
# against the signatures of the installed torchvision.
DATASETS: dict[str, _Splits] = {
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
    "CIFAR10": _BY_FLAG,
    "CIFAR100": _BY_FLAG,
    "Country211": _BY_NAME,
    "DTD": _BY_NAME,
    "EuroSAT": _WHOLE,
    "FashionMNIST": _BY_FLAG,
    "FER2013": _BY_NAME,
    "FGVCAircraft": _WITH_TRAINVAL,
    "Flowers102": _BY_NAME,
    "Food101": _BY_NAME,
    "GTSRB": _BY_NAME,
    "Imagenette": _WITH_VAL,
    "ImageNet": _WITH_VAL,
    "KMNIST": _BY_FLAG,
    "MNIST": _BY_FLAG,
    "OxfordIIITPet": _WITH_TRAINVAL,
    "PCAM": _BY_NAME,
    "RenderedSST2": _BY_NAME,
    "SEMEION": _WHOLE,
    "StanfordCars": _BY_NAME,
    "STL10": _BY_NAME,
    "SUN397": _WHOLE,
    "SVHN": _BY_NAME,
    "USPS": _BY_FLAG,
}


@dataclass(frozen=True)
class TorchvisionSource:
    """One split of a torchvision data set.

    Keys are `train-000042`: most of these sets are arrays in which an image has no other
    name, and their order is fixed by their publishers. Images that torchvision loads from
    files keep their bytes; the others are encoded as PNG, at every read, so pack them once.

    Attributes:
        name: Class in `torchvision.datasets`.
        root: Where torchvision keeps the files.
        split: `train` or `test`.
    """

    kind: ClassVar[str] = "torchvision"
    random_access: ClassVar[bool] = True
    name: str
    root: Path
    split: Split

    @property
    def location(self) -> str:
        """Name, split and folder."""
        return f"{self.name} {self.split} in {self.root}"

    @cached_property
    def dataset(self) -> Any:
        """The torchvision object, yielding file bytes where it can."""
        return _open_dataset(self.name, self.root, self.split, download=False)

    @cached_property
    def _rows(self) -> dict[str, range]:
        return numbered_shards(self.split, len(self.dataset))

    @cached_property
    def shards(self) -> tuple[str, ...]:
        """`train-000000` and so on."""
        return tuple(self._rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; the first where a class has several, as in ImageNet."""
        names = getattr(self.dataset, "classes", ())
        return tuple(name if isinstance(name, str) else name[0] for name in names)

    def read(self, shard: str) -> Iterator[Sample]:
        """Yield the samples of one shard in the data set's order."""
        for i in part_of(self._rows, shard):
            image, label = self.dataset[i]
            yield Sample(f"{self.split}-{i:06d}", _encoded(image), known_label(label))

    def fingerprint(self) -> str:
        """Return a digest of data set, split and number of images, not of contents."""
        return digest(self.kind, [(f"{self.name}/{self.split}", len(self.dataset))])

    def index(self) -> "TorchvisionIndex":
        """Return random access; labels are read without loading image files."""
        return TorchvisionIndex(self)

    def __getstate__(self) -> dict[str, object]:
        """Leave the data set behind; it is opened again on first use."""
        return {"name": self.name, "root": self.root, "split": self.split}


class TorchvisionIndex:
    """Random access to the images of a torchvision data set."""

    def __init__(self, source: TorchvisionSource) -> None:
        count = len(source.dataset)
        self.keys = Keys(f"{source.split}-{i:06d}" for i in range(count))
        self.labels = np.array(_labels(source.dataset), dtype=np.int64)
        self._source = source

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def read(self, i: int) -> bytes:
        """Return the encoded bytes of image `i`."""
        return _encoded(self._source.dataset[i][0])


def open_torchvision(
    name: str, root: str | Path, split: Split, *, download: bool = False
) -> TorchvisionSource:
    """Open a classification data set of torchvision.

    Args:
        name: Its class name in any case: `cifar10`, `STL10`, `eurosat` …
        root: Where torchvision keeps, or shall put, its files.
        split: `train` or `test`; where a set has no labelled test split, `test` is its
            `val`. Sets that come in one piece have `train` only.
        download: Let torchvision fetch what is missing.

    Raises:
        SourceError: If the name is unknown, the split does not exist, or files are missing.
    """
    by_name = {known.lower(): known for known in DATASETS}
    known = by_name.get(name.lower())
    if known is None:
        close = did_you_mean(name.lower(), by_name, cutoff=0.5)
        raise SourceError(f"there is no data set {name!r}{close}. Known are: {', '.join(by_name)}.")
    if split not in DATASETS[known]:
        raise SourceError(
            f"{known} has no {split} split: it comes in one piece, as train. Keep a part of it "
            "aside for tests."
        )
    root = Path(root)
    source = TorchvisionSource(known, root, split)
    # Opened now, not on first use, so that missing files are noticed here.
    vars(source)["dataset"] = _open_dataset(known, root, split, download=download)
    return source


def _open_dataset(name: str, root: Path, split: Split, *, download: bool) -> Any:
    # Loads torch: seconds.
    from torchvision import datasets

    dataset_class = getattr(datasets, name)
    options: dict[str, Any] = dict(DATASETS[name][split])
    if "download" in signature(dataset_class.__init__).parameters:
        options["download"] = download
    try:
        dataset = dataset_class(str(root), **options)
    except (RuntimeError, OSError, ImportError) as error:
        raise SourceError(
            f"{name} ({split}) cannot be opened in {root}: {error} Check the folder, or let "
            "torchvision download the data."
        ) from error
    if hasattr(dataset, "loader"):
        dataset.loader = _file_bytes
    return dataset


def _file_bytes(path: str | Path) -> bytes:
    return Path(path).read_bytes()


def _labels(dataset: Any) -> list[int]:
    by_file = hasattr(dataset, "loader")
    if by_file:
        dataset.loader = str
    labels = (known_label(dataset[i][1]) for i in range(len(dataset)))
    known = [-1 if label is None else label for label in labels]
    if by_file:
        dataset.loader = _file_bytes
    return known


def _encoded(image: Any) -> bytes:
    if isinstance(image, bytes):
        return image
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
