"""A small SimCLR on boxes computed before: python torchvision_training_loop.py FOLDER BOXES."""

import sys

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from ccrop_pipeline import BoxedDataset, ContrastiveCrop
from ccrop_pipeline.adapters import folder_keys

SIDE, BATCH, STEPS, TEMPERATURE = 32, 64, 20, 0.5

augment = v2.Compose([
    ContrastiveCrop(SIDE), v2.RandomHorizontalFlip(), v2.RandomGrayscale(0.2),
    v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
])  # fmt: skip


def two_views(image: object) -> tuple[Tensor, Tensor]:
    """Cut two views of one image, each (3, SIDE, SIDE)."""
    return augment(image), augment(image)


def nt_xent(first: Tensor, second: Tensor) -> Tensor:
    """SimCLR's loss (Chen et al. 2020): every view must find its partner among all others."""
    z = nn.functional.normalize(torch.cat([first, second]))
    similarity = (z @ z.T / TEMPERATURE).fill_diagonal_(float("-inf"))
    return nn.functional.cross_entropy(similarity, torch.arange(len(z)).roll(len(first)))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, boxes = sys.argv[1:]
    images = ImageFolder(folder)
    dataset = BoxedDataset(images, folder_keys(images), boxes, transform=two_views)
    model = resnet18(num_classes=128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(dataset, BATCH, shuffle=True)
    for step, ((first, second), _) in zip(range(1, STEPS + 1), loader, strict=False):
        loss = nt_xent(*model(torch.cat([first, second])).chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}  loss {loss.item():.3f}")
