"""Any torch data set of PIL images, with boxes: for torchvision, timm, lightly and plain loops."""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import PIL.Image
from torch.utils.data import Dataset

from ccrop_pipeline.adapters.choice import chosen
from ccrop_pipeline.boxset import BoxFinder, MissingBoxes
from ccrop_pipeline.crops.transform import attach_box
from ccrop_pipeline.errors import CcropError


class BoxedDataset(Dataset[Any]):
    """A data set whose PIL images carry their boxes into the transform.

    Args:
        dataset: Samples by position, each a tuple or a dict with a PIL image in it.
        keys: The key of each sample, in the data set's order; `folder_keys` has an ImageFolder's.
        boxes: Folder of a box set. Where an image has several boxes, one is drawn each time the
            sample is read, from torch's global generator.
        transform: Applied to each image once it has its box; also an attribute, which frameworks
            may set.
        image: Position or name of the image in a sample.
        missing: What to do with an image that has no box: fail, or take the full box.

    Raises:
        CcropError: If keys and data set differ in length, images have no box, or the data set
            changes images by a transform of its own or replaces those it cannot read.
    """

    def __init__(
        self,
        dataset: Any,
        keys: Sequence[str],
        boxes: str | Path,
        transform: Callable[[Any], Any] | None = None,
        image: int | str = 0,
        missing: MissingBoxes = "error",
    ) -> None:
        if len(keys) != len(dataset):
            raise CcropError(
                f"there are {len(keys)} keys for {len(dataset)} images. Give each image its key, "
                "in the data set's order."
            )
        _refuse_what_would_not_fit(dataset)
        self.dataset = dataset
        self.transform = transform
        finder = BoxFinder(boxes, missing)
        self._boxes, self._choices = finder.find(keys), finder.choices(keys)
        self._image = image

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, i: int) -> Any:
        """Return a sample, its image transformed.

        Raises:
            CcropError: If the sample is no tuple or dict, or its image no PIL image.
        """
        sample = self.dataset[i]
        if not isinstance(sample, tuple | list | dict):
            raise CcropError(
                f"sample {i} is a {type(sample).__name__} and no tuple or dict with an image in "
                "it. Let the data set give (image, label)."
            )
        parts: Any = dict(sample) if isinstance(sample, dict) else list(sample)
        image = parts[self._image]
        if not isinstance(image, PIL.Image.Image):
            raise CcropError(
                f"the image of sample {i} is a {type(image).__name__} and no PIL image. Let the "
                "data set give PIL images, and turn them into tensors in BoxedDataset's transform."
            )
        attach_box(image, self._box(i))
        parts[self._image] = image if self.transform is None else self.transform(image)
        return parts if isinstance(parts, dict) else tuple(parts)

    def _box(self, i: int) -> Any:
        row = np.array([i])
        choices = None if self._choices is None else self._choices.take(row)
        return chosen(self._boxes[row], choices)[0]


def folder_keys(dataset: Any) -> list[str]:
    """Return the keys of torchvision's ImageFolder: paths below its root, as `FolderSource` has."""
    return [PurePath(path).relative_to(dataset.root).as_posix() for path, _ in dataset.samples]


def _refuse_what_would_not_fit(dataset: Any) -> None:
    if getattr(dataset, "transform", None) is not None:
        raise CcropError(
            f"{type(dataset).__name__} has a transform of its own, after which a box need not fit "
            "its image. Give the transform to BoxedDataset instead."
        )
    # timm's ImageDataset, which logs a warning and goes on with the next image and this box.
    if getattr(dataset, "_max_retries", 1) > 1:
        raise CcropError(
            f"{type(dataset).__name__} puts the next image in the place of one that it cannot "
            "read, and that has another box. Use torchvision's ImageFolder, which timm calls "
            "torch/folder, or set TIMM_DATASET_MAX_RETRIES=1."
        )
