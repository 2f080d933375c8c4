"""A small SimCLR on boxes computed before: python torchvision_training_loop.py IMAGES BOXES."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18
from torchvision.transforms import v2

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.crops import ContrastiveCrop, as_bounding_box, decode
from ccrop_pipeline.sources import open_source

SIDE, BATCH, STEPS, TEMPERATURE = 32, 64, 20, 0.5


class TwoViews(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each image that has a box."""

    def __init__(self, images: str, boxes: str) -> None:
        self.index = open_source(images).index()
        self.boxes, found = BoxSet.open(Path(boxes)).lookup().find(self.index.keys)
        self.rows = found.nonzero()[0].tolist()
        self.augment = v2.Compose([
            ContrastiveCrop(SIDE), v2.RandomHorizontalFlip(), v2.RandomGrayscale(0.2),
            v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
        ])  # fmt: skip

    def __len__(self) -> int:
        """Give the number of images."""
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """Cut two views of one image, each (3, SIDE, SIDE)."""
        image = decode(self.index.read(self.rows[i]))
        box = as_bounding_box(self.boxes[self.rows[i]], *image.size)
        return self.augment(image, box)[0], self.augment(image, box)[0]


def nt_xent(first: Tensor, second: Tensor) -> Tensor:
    """SimCLR's loss (Chen et al. 2020): every view must find its partner among all others."""
    z = nn.functional.normalize(torch.cat([first, second]))
    similarity = (z @ z.T / TEMPERATURE).fill_diagonal_(float("-inf"))
    return nn.functional.cross_entropy(similarity, torch.arange(len(z)).roll(len(first)))


if __name__ == "__main__":
    model = resnet18(num_classes=128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(TwoViews(*sys.argv[1:]), BATCH, shuffle=True)
    for step, (first, second) in zip(range(1, STEPS + 1), loader, strict=False):
        loss = nt_xent(*model(torch.cat([first, second])).chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}  loss {loss.item():.3f}")
