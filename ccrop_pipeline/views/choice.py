"""Which of an image's boxes its views are cut from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccrop_pipeline.boxset import BoxFinder, Choices, MissingBoxes
from ccrop_pipeline.crops import CHOICE, uniforms


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """The boxes of n images, one or several each.

    Attributes:
        boxes: float32 (n, 4); the union where an image has several.
        choices: The boxes of each image to draw from; None where each has one.
    """

    boxes: np.ndarray
    choices: Choices | None = None

    @classmethod
    def find(cls, folder: str | Path, keys: list[str], missing: MissingBoxes) -> "ImageBoxes":
        """Looks up the boxes of keys in a box set.

        Raises:
            CcropError: The box set cannot be read, or lacks images and that is an error.
        """
        finder = BoxFinder(folder, missing)
        return cls(finder.find(keys), finder.choices(keys))

    def of_epoch(self, seed: int, epoch: int, hashes: np.ndarray) -> np.ndarray:
        """One box of each image for all its views in an epoch; equally likely.

        Args:
            seed: Seed of the run; a draw depends on (seed, epoch, key) and nothing else.
            epoch: Epoch that the views are drawn for.
            hashes: Hashes of the keys, uint64 (n,).

        Returns:
            float32 (n, 4).
        """
        if self.choices is None:
            return self.boxes
        return self.choices.pick(uniforms(seed, epoch, hashes, 0, CHOICE, 1)[:, 0])
