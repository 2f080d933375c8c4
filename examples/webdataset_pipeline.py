"""Boxes in a webdataset pipeline: python webdataset_pipeline.py 'SHARDS' BOXES.

SHARDS is a pattern such as 'data/photos/data-{000000..000009}.tar'.
"""

import sys

import torch
import webdataset as wds
from torch import nn
from torchvision.models import resnet18
from torchvision.transforms import v2

from ccrop_pipeline import ContrastiveCrop, add_boxes

SIDE, BATCH, STEPS = 32, 32, 20

augment = v2.Compose([
    ContrastiveCrop(SIDE), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
])  # fmt: skip

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    shards, boxes = sys.argv[1:]
    pipeline = (
        wds.WebDataset(shards, shardshuffle=100)
        .shuffle(1000)
        .decode("pil")
        .compose(add_boxes(boxes))  # after decoding, before anything that changes images
        .to_tuple("jpg;jpeg;png;webp", "cls")
        .map_tuple(augment)
        .batched(BATCH)
    )
    workers = min(2, len(wds.shardlists.expand_urls(shards)))  # each needs a shard
    loader = wds.WebLoader(pipeline, batch_size=None, num_workers=workers)

    model = resnet18(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step, (views, labels) in zip(range(1, STEPS + 1), loader, strict=False):
        loss = nn.functional.cross_entropy(model(views), torch.as_tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}  views {tuple(views.shape)}  loss {loss.item():.3f}")
