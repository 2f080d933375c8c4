"""Boxes in a Lightning DataModule: python lightning_datamodule.py SOURCE BOXES.

Our own loader cuts and augments the views, whatever the source; the model and the training are
Lightning's.
"""

import sys

import lightning
import torch
from lightly.loss import NTXentLoss
from torchvision.models import resnet18

import ccrop_pipeline as ccrop
from ccrop_pipeline.views import Batch


class BoxedViews(lightning.LightningDataModule):
    """Two views of each image, cut from boxes."""

    def __init__(self, source: str, boxes: str, workers: int = 2) -> None:
        super().__init__()
        self.source, self.boxes, self.workers = ccrop.open_source(source), boxes, workers

    def train_dataloader(self) -> ccrop.ViewLoader:
        """Load views; Lightning asks once, and an epoch follows the other by itself."""
        return ccrop.ViewLoader(
            self.source,
            ccrop.ViewGroup(2, 32),
            boxes=self.boxes,
            batch_size=64,
            workers=self.workers,
            device=self.trainer.strategy.root_device,
        )


class SimCLR(lightning.LightningModule):
    """SimCLR (Chen et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.criterion = resnet18(num_classes=128), NTXentLoss()

    def training_step(self, batch: Batch) -> torch.Tensor:
        """Compare the views."""
        (views,) = batch.views
        loss = self.criterion(*self.model(views.flatten(0, 1)).chunk(2))
        print(f"epoch {self.current_epoch}  loss {loss.item():.3f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give Lightning the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    trainer = lightning.Trainer(max_epochs=2, logger=False, enable_checkpointing=False)
    trainer.fit(SimCLR(), datamodule=BoxedViews(*sys.argv[1:]))
