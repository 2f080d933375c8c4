"""The linear probe on features of whole images."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ccrop_pipeline.errors import SourceError
from ccrop_pipeline.probes.features import Features, numbered

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
        """Return the classifier of no knowledge: where the solver starts."""
        return cls(
            torch.zeros(classes, channels, device=device), torch.zeros(classes, device=device)
        )

    def logits(self, values: Tensor) -> Tensor:
        """Return scores (n, classes) of features (n, channels)."""
        return F.linear(values, self.weight, self.bias)

    def objective(self, values: Tensor, labels: Tensor, penalty: float) -> Tensor:
        """Return the mean cross entropy plus penalty / 2 times the squared norm of the weights.

        The bias is free. Strictly convex in the weights for a penalty above 0.
        """
        loss = F.cross_entropy(self.logits(values), labels)
        return loss + penalty / 2 * self.weight.square().sum()

    def accuracy(self, values: Tensor, labels: Tensor) -> float:
        """Return the share of rows whose largest score is that of their label."""
        return float((self.logits(values).argmax(1) == labels).double().mean())


def fit_softmax(
    values: Tensor, labels: Tensor, penalty: float, start: SoftmaxRegression
) -> SoftmaxRegression:
    """Find the minimum of `SoftmaxRegression.objective`.

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


# Weights of the squared norm, in half decades. Features are standardised, so that one grid suits
# every encoder. Of equally good ones the first is taken, the strongest.
_PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(0, -13, -1))


@dataclass(frozen=True)
class LinearResult:
    """What a linear probe found.

    Attributes:
        accuracy: Share of test images classified right; measured once, with what was chosen.
        validation: The same of the validation images, by which was chosen.
        setting: What was chosen: `penalty` or `rate`.
        chosen: Its value.
        tried: Validation accuracy for each value tried.
    """

    accuracy: float
    validation: float
    setting: str
    chosen: float
    tried: Mapping[float, float]

    @property
    def at_the_end(self) -> bool:
        """Whether a value beyond those tried may be better."""
        ends = {min(self.tried), max(self.tried)}
        return len(self.tried) > 1 and self.chosen in ends


def linear_probe(
    fitted: Features,
    validation: Features,
    test: Features,
    *,
    device: torch.device | str = "cpu",
) -> LinearResult:
    """Return the accuracy of softmax regression on frozen features.

    The penalty on the weights is the one whose classifier, fitted on `fitted`, is best on
    `validation`; with it a classifier is fitted on both and takes the test once. There is no epoch
    to choose: each fit is the optimum of a convex problem, found by L-BFGS. The protocol of
    Kornblith, Shlens and Le (arXiv:1805.08974), which SimCLR (arXiv:2002.05709,
    appendix B.8) takes over for its linear evaluation on other data sets.

    Args:
        fitted: Training images that classifiers are fitted on.
        validation: Training images that the penalty is chosen on.
        test: Images of the test.
        device: Where the regression runs.

    Raises:
        SourceError: If the training images are all of one class.
    """
    expect_several_classes(fitted)
    (fitted, validation, test), names = numbered(fitted, validation, test)
    classes, device = len(names), torch.device(device)
    tried = _on_validation(fitted, validation, classes, device)
    penalty = max(tried, key=tried.__getitem__)
    everything = Features(
        torch.cat([fitted.values, validation.values]), torch.cat([fitted.labels, validation.labels])
    )
    train, asked = _standardised(everything, test, device)
    start = SoftmaxRegression.zero(classes, train.shape[1], device)
    final = fit_softmax(train, everything.labels.to(device), penalty, start)
    accuracy = final.accuracy(asked, test.labels.to(device))
    return LinearResult(accuracy, tried[penalty], "penalty", penalty, tried)


def expect_several_classes(fitted: Features) -> None:
    """Check that there is something to learn.

    Raises:
        SourceError: If all of `fitted` are of one class.
    """
    if bool((fitted.labels == fitted.labels[0]).all()):
        raise SourceError(
            "all training images are of one class, which leaves a linear probe nothing to learn."
        )


def _on_validation(
    fitted: Features,
    validation: Features,
    classes: int,
    device: torch.device,
) -> dict[float, float]:
    train, held = _standardised(fitted, validation, device)
    labels, held_labels = fitted.labels.to(device), validation.labels.to(device)
    tried = {}
    found = SoftmaxRegression.zero(classes, train.shape[1], device)
    for penalty in _PENALTIES:  # each starts at the solution before, which lies near
        found = fit_softmax(train, labels, penalty, found)
        tried[penalty] = found.accuracy(held, held_labels)
    return tried


def _standardised(train: Features, other: Features, device: torch.device) -> tuple[Tensor, Tensor]:
    """Standardise both by the mean and deviation of the first; constant channels become 0."""
    mean, std = train.values.mean(0), train.values.std(0)
    scale = torch.where(std > 1e-6 * std.max(), 1 / std, torch.zeros_like(std))
    ours, theirs = ((part.values - mean).mul_(scale) for part in (train, other))
    return ours.to(device), theirs.to(device)
