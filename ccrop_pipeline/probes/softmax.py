"""Softmax regression: a convex problem, solved by L-BFGS, so that nothing is left to chance."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_ITERATIONS = 500  # at most; the problems here mostly need less


@dataclass
class SoftmaxRegression:
    """A linear classifier of standardised features.

    Attributes:
        weight: float32 (classes, channels).
        bias: float32 (classes,).
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def zero(cls, classes: int, channels: int, device: torch.device) -> "SoftmaxRegression":
        """The classifier that knows nothing: where the solver starts."""
        return cls(
            torch.zeros(classes, channels, device=device), torch.zeros(classes, device=device)
        )

    def logits(self, values: Tensor) -> Tensor:
        """Scores (n, classes) of features (n, channels)."""
        return F.linear(values, self.weight, self.bias)

    def objective(self, values: Tensor, labels: Tensor, penalty: float) -> Tensor:
        """Mean cross entropy plus penalty / 2 times the squared norm of the weights.

        The bias is free. Strictly convex in the weights for a penalty above 0.
        """
        loss = F.cross_entropy(self.logits(values), labels)
        return loss + penalty / 2 * self.weight.square().sum()

    def accuracy(self, values: Tensor, labels: Tensor) -> float:
        """Share of rows whose largest score is that of their label."""
        return float((self.logits(values).argmax(1) == labels).double().mean())


def fit_softmax(
    values: Tensor, labels: Tensor, penalty: float, start: SoftmaxRegression
) -> SoftmaxRegression:
    """The minimum of `SoftmaxRegression.objective`.

    Args:
        values: float32 (n, channels), standardised.
        labels: int64 (n,), below the number of classes of `start`.
        penalty: Weight of the squared norm, above 0.
        start: Where to begin; it is not changed. The solution for another penalty saves steps.

    Returns:
        The classifier, without gradients.
    """
    found = SoftmaxRegression(
        start.weight.detach().clone().requires_grad_(), start.bias.detach().clone().requires_grad_()
    )
    solver = torch.optim.LBFGS(
        [found.weight, found.bias],
        max_iter=_ITERATIONS,
        # A weak penalty moves the objective by little more than these.
        tolerance_grad=1e-7,
        tolerance_change=1e-9,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = found.objective(values, labels, penalty)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        solver.step(closure)  # type: ignore[no-untyped-call]
    return SoftmaxRegression(found.weight.detach(), found.bias.detach())
