"""Boxes in lightly's transforms: python lightly_transform.py FOLDER BOXES."""

import sys

import torch
from lightly.loss import NTXentLoss
from lightly.transforms import SimCLRTransform
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18

from ccrop_pipeline import BoxedDataset
from ccrop_pipeline.adapters import folder_keys, replace_crop

SIDE, BATCH, STEPS = 32, 64, 20

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, boxes = sys.argv[1:]
    # Any of lightly's transforms that crop by RandomResizedCrop, multi-crop as well.
    transform = replace_crop(SimCLRTransform(SIDE, cj_strength=0.5, gaussian_blur=0.0))
    images = ImageFolder(folder)
    dataset = BoxedDataset(images, folder_keys(images), boxes, transform=transform)
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=2)

    model = resnet18(num_classes=128)
    criterion = NTXentLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step, (views, _) in zip(range(1, STEPS + 1), loader, strict=False):
        loss = criterion(*model(torch.cat(views)).chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}  views {len(views)}  loss {loss.item():.3f}")
