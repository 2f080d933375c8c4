"""What becomes of an image for which several boxes are known."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FORMS = re.compile(r"union|largest|keep:([1-9]\d*)")


@dataclass(frozen=True)
class Several:
    """The rule for images with several boxes.

    Attributes:
        text: `union` takes the box around all, `largest` the one of the largest area, and
            `keep:K` keeps the K largest for a sampler to draw from.

    Raises:
        ValueError: If the text is another.
    """

    text: str = "union"

    def __post_init__(self) -> None:
        """Refuse what is no rule."""
        if not _FORMS.fullmatch(self.text):
            raise ValueError(f"{self.text!r} is not union, largest or keep:K with K at least 1")

    @property
    def keeps_choices(self) -> bool:
        """Whether images keep several boxes."""
        return self.text.startswith("keep")

    def apply(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Choose or join boxes.

        Args:
            boxes: float32 (k, 4), k at least 1.

        Returns:
            float32 (j, 4): for `union` and `largest` one box, for `keep:K` at most K, the largest
            first. Of equally large ones those go first that came first.
        """
        if self.text == "union":
            return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])[None]
        widths, heights = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).T
        order = np.argsort(-widths * heights, kind="stable")
        return boxes[order[: int(self.text[5:]) if self.keeps_choices else 1]]
