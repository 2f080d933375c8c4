"""Two ways that people use without boxes, and the loader that all rivals share."""

import numpy as np
import torch
from lightly.transforms import MoCoV2Transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from benchmarks.views.authors import RATIO, SCALE, Authors, Box, open_pil
from benchmarks.views.data import ImageSet
from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD

BLUR_KERNEL = 13  # pixels; three times the largest sigma, 2, to either side


class TorchvisionV2:
    """One image to two views with torchvision's second transforms, on tensors throughout.

    Args:
        view_size: Side of a view in pixels.
        blur: Whether views are blurred half of the time.
        complete: Colours, flip and normalisation (float views), or crops alone (uint8).
    """

    def __init__(self, view_size: int, blur: bool, complete: bool) -> None:
        blurring = [v2.RandomApply([v2.GaussianBlur(BLUR_KERNEL, (0.1, 2.0))], p=0.5)]
        augmentation = [
            v2.RandomHorizontalFlip(p=0.5),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            *(blurring if blur else []),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ]
        crop = v2.RandomResizedCrop(view_size, scale=SCALE, ratio=RATIO, antialias=True)
        self.chain = v2.Compose([crop, *(augmentation if complete else [])])

    def __call__(self, image: bytes | np.ndarray, box: Box) -> list[Tensor]:  # noqa: ARG002
        """Return two views (3, S, S) of a JPEG or of its pixels; has no use for the box."""
        opened = _open_tensor(image)
        return [self.chain(opened) for _ in range(2)]


class Lightly:
    """One image to two views with lightly's transform for MoCo v2, on PIL images.

    Its defaults are the colours, scale and blur of the authors' settings. It is a `SimCLRTransform`
    with these strengths. For crops alone its first step is taken.

    Args:
        view_size: Side of a view in pixels.
        blur: Whether views are blurred half of the time.
        complete: Colours, flip and normalisation (float views), or crops alone (uint8).
    """

    def __init__(self, view_size: int, blur: bool, complete: bool) -> None:
        pair = MoCoV2Transform(input_size=view_size, gaussian_blur=0.5 if blur else 0.0)
        crop = pair.transforms[0].transform.transforms[0]
        only_crop = v2.Compose([crop, v2.PILToTensor()])
        self.views = pair.transforms if complete else [only_crop, only_crop]

    def __call__(self, image: bytes | np.ndarray, box: Box) -> list[Tensor]:  # noqa: ARG002
        """Return two views (3, S, S) of a JPEG or of its pixels; has no use for the box."""
        opened = open_pil(image)
        return [view(opened) for view in self.views]


RIVALS = {"authors": Authors, "torchvision v2": TorchvisionV2, "lightly": Lightly}


class Pairs(Dataset):
    """A data set that applies a rival's transform to one image after the other."""

    def __init__(self, images: ImageSet, transform: Authors | TorchvisionV2 | Lightly) -> None:
        self.images = images.pixels() if images.small else images.encoded
        self.boxes = torch.from_numpy(images.boxes[:, [1, 0, 3, 2]])
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> list[Tensor]:
        return self.transform(self.images[row], self.boxes[row].tolist())


def rival_loader(name: str, images: ImageSet, complete: bool, workers: int) -> DataLoader:
    """Return a loader whose batches are two tensors (B, 3, S, S); its workers stay alive."""
    transform = RIVALS[name](images.view_size, blur=not images.small, complete=complete)
    return DataLoader(
        Pairs(images, transform),
        batch_size=images.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def _open_tensor(image: bytes | np.ndarray) -> Tensor:
    if isinstance(image, np.ndarray):
        return torch.from_numpy(image).permute(2, 0, 1)
    return decode_jpeg(torch.frombuffer(bytearray(image), dtype=torch.uint8), ImageReadMode.RGB)
