"""What a run is made from, and the machine it runs on."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ccrop_pipeline.boxset import MissingBoxes
from ccrop_pipeline.images import Source
from ccrop_pipeline.training.checkpoint import StartingWeights


@dataclass(frozen=True)
class Inputs:
    """What a run is made from.

    Attributes:
        source: Images to train on.
        boxes: A box set to use from the first epoch on, without warm-up.
        missing_boxes: What to do with an image that has no box.
        test_source: Labelled images that the probe asks about; None: about a sixth of `source`.
        weights: What the weights start from; None: fresh random ones.
        spec: What opens the source again, from any folder; None: its location.
    """

    source: Source
    boxes: Path | None = None
    missing_boxes: MissingBoxes = "error"
    test_source: Source | None = None
    weights: StartingWeights | None = None
    spec: str | None = None


@dataclass(frozen=True)
class Machine:
    """What differs from machine to machine and is no setting of the recipe.

    Attributes:
        device: Where the method trains; of several GPUs each process takes its own.
        workers: Loader processes; 0 loads in the training process.
        threads: Decoding threads of refreshes and probes.
        resident_gb: Images are kept decoded on the device when they need no more than this
            many gigabytes (1e9 bytes); 0: never.
        compile: Whether encoders are compiled with `torch.compile`.
        tensorboard: Whether metrics are also written for TensorBoard.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = 0
    threads: int = 2
    resident_gb: float = 4.0
    compile: bool = False
    tensorboard: bool = False
