"""Boxes in Hugging Face data sets: python huggingface_datasets.py PARQUET BOXES.

The boxes are those of `ccrop boxes compute PARQUET BOXES`, keyed as the table's rows are.
"""

import sys

import torch
from datasets import Image, load_dataset
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models import resnet18
from torchvision.transforms import v2

from ccrop_pipeline import ContrastiveCrop
from ccrop_pipeline.adapters import BoxedRows

SIDE, BATCH, STEPS = 32, 64, 20

augment = v2.Compose([
    ContrastiveCrop(SIDE), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
])  # fmt: skip

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    table, boxes = sys.argv[1:]
    dataset = load_dataset("parquet", data_files=table, split="train")
    dataset = dataset.cast_column("image", Image(decode=False))
    dataset.set_transform(BoxedRows(boxes, augment))

    model = resnet18(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=2)
    for step, batch in zip(range(1, STEPS + 1), loader, strict=False):
        loss = nn.functional.cross_entropy(model(batch["image"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}  views {tuple(batch['image'].shape)}  loss {loss.item():.3f}")
