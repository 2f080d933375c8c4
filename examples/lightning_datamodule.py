"""Boxes in a Lightning DataModule: python lightning_datamodule.py SOURCE BOXES.

Our own loader cuts the views, whatever the source; the model and the training are Lightning's.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import lightning
import torch
from lightly.loss import NTXentLoss
from torchvision.models import resnet18

from ccrop_pipeline.images import open_source
from ccrop_pipeline.views import Augment, Batch, MapLoader, MapViews, ViewCutter, ViewGroup

SEED, BATCH, GROUPS = 0, 64, (ViewGroup(count=2, size=32),)


class BoxedViews(lightning.LightningDataModule):
    """Two views of each image, cut from boxes."""

    def __init__(self, source: str, boxes: str, workers: int = 2) -> None:
        super().__init__()
        views = MapViews(open_source(source).index(), ViewCutter(GROUPS, SEED))
        self.loader = MapLoader(views, BATCH, workers)
        self.loader.use_boxes(Path(boxes))

    def train_dataloader(self) -> Iterator[Batch]:
        """Cut the views of one epoch; see `reload_dataloaders_every_n_epochs` below."""
        return self.loader.epoch(self.trainer.current_epoch)


class SimCLR(lightning.LightningModule):
    """SimCLR (Chen et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.criterion = resnet18(num_classes=128), NTXentLoss()

    def training_step(self, batch: Batch) -> torch.Tensor:
        """Change colours and flip on the device that trains, and compare the views."""
        (views,) = Augment(GROUPS, SEED, self.device)(batch, self.current_epoch)
        loss = self.criterion(*self.model(views.flatten(0, 1)).chunk(2))
        print(f"epoch {self.current_epoch}  loss {loss.item():.3f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give Lightning the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


if __name__ == "__main__":
    trainer = lightning.Trainer(
        max_epochs=2, reload_dataloaders_every_n_epochs=1, logger=False, enable_checkpointing=False
    )
    trainer.fit(SimCLR(), datamodule=BoxedViews(*sys.argv[1:]))
