"""A linear layer that tells cells of objects from the rest: applied as a map, and fitted.

The map of FOUND (arXiv:2212.07834, section 3.3): a 1x1 convolution on the keys of the last block
of a transformer, its sigmoid above 0.5 on objects. It can as well be on the features of any layer.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ccrop_pipeline.errors import CcropError, ModelError
from ccrop_pipeline.localize.discovery import CellSource
from ccrop_pipeline.localize.weights import state_sha256

_JUST_ABOVE = 0.5 + 2**-11  # the least float16 number above 0.5
_CHUNK = 1 << 14  # cells at a time in float64
_STEPS = 50  # Newton's at most; the problems here need about ten
_PRECISE = 1e-9  # greatest change of a standardised weight by the last step


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A 1x1 convolution to one channel.

    Attributes:
        weight: float32 `(C,)`.
        bias: What is added.
        on: What it takes: `keys` of a transformer, those of all heads side by side, or the
            features of the `layer`.
    """

    weight: Tensor
    bias: float
    on: CellSource

    @property
    def state(self) -> dict[str, Tensor]:
        """The state dict of a 1x1 convolution, under the name of what it takes."""
        weight, bias = self.weight.reshape(1, -1, 1, 1), torch.tensor([self.bias])
        return {f"{self.on}.weight": weight, f"{self.on}.bias": bias}

    @cached_property
    def sha256(self) -> str:
        """Hash of the numbers and of what they are for, lower-case hex."""
        return state_sha256(self.state)

    def heatmaps(self, cells: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the sigmoid of the convolution.

        Args:
            cells: Keys or features `(B, N, C)`, any floating dtype.
            grid: Rows and columns of the cells.

        Returns:
            Heatmaps, float16 `(B, *grid)` in [0, 1], above 0.5 exactly where the convolution is
            above 0; zeros where it is not finite anywhere in an image.

        Raises:
            ModelError: If the cells have another number of channels.
        """
        channels = len(self.weight)
        if cells.shape[2] != channels:
            raise ModelError(
                f"the linear head takes {channels} channels, and the {self.on} of this encoder "
                f"{'have' if self.on == 'keys' else 'has'} {cells.shape[2]}. Choose the encoder "
                "and the layer that it was trained on."
            )
        weight = self.weight.to(cells.device, torch.float64)
        # One image at a time: the order of summation must not depend on the batch.
        scores = torch.stack([one.to(torch.float64) @ weight for one in cells]) + self.bias
        finite = scores.isfinite().all(dim=1)
        heat = scores.sigmoid().to(torch.float16)
        heat = torch.where(scores > 0, heat.clamp(min=_JUST_ABOVE), heat.clamp(max=0.5))
        return torch.where(finite[:, None], heat, 0.0).reshape(-1, *grid)


def fit_head(
    cells: Tensor, targets: Tensor, on: CellSource, *, penalty: float = 1e-3
) -> LinearHead:
    """Fit a head by logistic regression: the one minimum, found by Newton's method in float64.

    What is minimised is the mean cross entropy over the cells plus `penalty` / 2 times the
    squared norm of the weights of standardised channels; the bias is free.

    Args:
        cells: float32 `(n, C)`, on the CPU.
        targets: float32 `(n,)`: the share of each cell that belongs to objects, in [0, 1].
        on: What the cells are of.
        penalty: Above 0.

    Raises:
        CcropError: If a cell is not finite, or all targets are alike.
    """
    if not len(cells) or targets.min() == targets.max():
        raise CcropError(
            "a linear head cannot be fitted: no cell differs from the others in whether it belongs "
            "to an object. Give boxes that are not the whole image."
        )
    if not cells.isfinite().all():
        raise CcropError("a linear head cannot be fitted: some features are not finite.")
    deviation, mean = torch.std_mean(cells.to(torch.float64), dim=0, correction=0)
    scale = torch.where(deviation > 0, 1 / deviation, 0.0)
    ridge = torch.full((len(mean) + 1,), penalty, dtype=torch.float64)
    ridge[-1] = 0
    weights = torch.zeros_like(ridge)
    share = targets.to(torch.float64).mean()
    weights[-1] = (share / (1 - share)).log()
    for _ in range(_STEPS):
        gradient, curvature = ridge * weights, torch.diag(ridge)
        for part, target in zip(
            torch.split(cells, _CHUNK), torch.split(targets, _CHUNK), strict=True
        ):
            values = torch.cat([(part - mean) * scale, torch.ones(len(part), 1)], dim=1)
            expected = (values @ weights).sigmoid()
            gradient = gradient + values.T @ (expected - target) / len(cells)
            spread = (expected * (1 - expected))[:, None]
            curvature = curvature + values.T @ (values * spread) / len(cells)
        step = torch.linalg.solve(curvature, gradient)
        # A step of more than one deviation may leap beyond where the curvature holds.
        weights = weights - step / max(1.0, float(step.abs().max()))
        if step.abs().max() < _PRECISE:
            break
    weight = weights[:-1] * scale
    return LinearHead(weight.to(torch.float32), float(weights[-1] - weight @ mean), on)
