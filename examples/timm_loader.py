"""Boxes in timm's `create_loader`: python timm_loader.py FOLDER BOXES."""

import sys

import timm
import torch
from timm.data import create_loader
from torch import nn
from torchvision.datasets import ImageFolder

from ccrop_pipeline import BoxedDataset
from ccrop_pipeline.adapters import folder_keys, replace_crop

SIDE, BATCH, STEPS = 64, 64, 20

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, boxes = sys.argv[1:]
    images = ImageFolder(folder)  # in timm: create_dataset("torch/folder", folder, split="train")
    dataset = BoxedDataset(images, folder_keys(images), boxes)
    loader = create_loader(
        dataset, SIDE, BATCH, is_training=True, num_workers=2, device=torch.device("cpu")
    )
    # create_loader has set the transform: timm's own augmentations keep all but the crop.
    dataset.transform = replace_crop(dataset.transform)

    model = timm.create_model("resnet10t", num_classes=len(images.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step, (views, labels) in zip(range(1, STEPS + 1), loader, strict=False):
        loss = nn.functional.cross_entropy(model(views), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}  views {tuple(views.shape)}  loss {loss.item():.3f}")
