import pytest
import torch
import torch.nn.functional as F
from made_probes import gaussians

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.probes import (
    Features,
    SoftmaxRegression,
    fit_softmax,
    linear_probe,
)


def test_separable_classes_are_told_apart_without_a_mistake():
    fitted, validation, test = (
        gaussians(n, s, distance=12) for n, s in [(300, 0), (60, 1), (90, 2)]
    )
    result = linear_probe(fitted, validation, test)
    assert (result.accuracy, result.validation) == (1, 1)
    assert (result.setting, result.chosen) == ("penalty", 1)  # the first of equally good ones


def test_labels_are_names_of_any_size():
    parts = [gaussians(n, s, distance=3) for n, s in [(300, 0), (60, 1), (90, 2)]]
    names = torch.tensor([7, 300_000_000, 10**18])
    named = [Features(part.values, names[part.labels]) for part in parts]
    assert linear_probe(*named) == linear_probe(*parts)


def test_unequal_gaussians_reach_the_accuracy_of_their_true_border():
    """Two unit Gaussians, distance d apart: no classifier beats Phi(d / 2) = 0.8413 for d = 2."""
    parts = []
    for count, seed in [(3000, 0), (1000, 1), (20000, 2)]:
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(count, 5, generator=generator)
        labels = torch.arange(count) % 2
        values[:, 3] += 2 * labels
        parts.append(Features(values, labels))
    assert linear_probe(*parts).accuracy == pytest.approx(0.8413, abs=0.008)


def test_permuted_labels_give_chance():
    parts = [gaussians(n, s) for n, s in [(2000, 0), (400, 1), (3000, 2)]]
    assert linear_probe(*parts).accuracy > 0.95
    generator = torch.Generator().manual_seed(0)
    permuted = [
        Features(part.values, part.labels[torch.randperm(len(part.labels), generator=generator)])
        for part in parts
    ]
    result = linear_probe(*permuted)
    # Four standard deviations of a share of 3000.
    assert result.accuracy == pytest.approx(1 / 3, abs=4 * (2 / 9 / 3000) ** 0.5)


def newton(values, labels, classes, penalty):
    """The optimum by Newton's method on all parameters at once, in double precision."""
    x = torch.cat([values.double(), torch.ones(len(values), 1).double()], 1)
    n, channels = x.shape
    target = F.one_hot(labels, classes).double()
    weigh = torch.ones(classes, channels).double()
    weigh[:, -1] = 0
    ridge = torch.diag(penalty * weigh.flatten())
    w = torch.zeros(classes, channels).double()
    for _ in range(50):
        p = (x @ w.T).softmax(1)
        gradient = ((p - target).T @ x / n + penalty * weigh * w).flatten()
        curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        hessian = torch.einsum("nab,ni,nj->aibj", curvature, x, x).reshape(2 * (w.numel(),)) / n
        w = w - (torch.linalg.pinv(hessian + ridge) @ gradient).view_as(w)
    loss = F.cross_entropy(x @ w.T, labels) + penalty / 2 * (weigh * w * w).sum()
    return w, float(loss)


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_the_solver_reaches_the_convex_optimum(penalty):
    features = gaussians(200, 3, distance=1.5)
    values = (features.values - features.values.mean(0)) / features.values.std(0)
    exact, loss = newton(values, features.labels, 3, penalty)
    start = SoftmaxRegression.zero(3, 6, torch.device("cpu"))
    found = fit_softmax(values, features.labels, penalty, start)
    assert float(found.objective(values, features.labels, penalty)) == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(found.weight.double(), exact[:, :-1], rtol=0.02, atol=0.01)
    assert not start.weight.any()


def test_a_weak_penalty_is_fitted_too_from_the_solution_before():
    """Separable classes: weights grow without end as the penalty falls, if they are let."""
    features = gaussians(300, 5, distance=6)
    values = (features.values - features.values.mean(0)) / features.values.std(0)
    found = SoftmaxRegression.zero(3, 6, torch.device("cpu"))
    norms = []
    for penalty in (1e-4, 1e-5, 1e-6):
        found = fit_softmax(values, features.labels, penalty, found)
        exact, loss = newton(values, features.labels, 3, penalty)
        reached = float(found.objective(values, features.labels, penalty))
        assert reached == pytest.approx(loss, rel=0.01)
        norms.append(float(found.weight.norm()))
        assert norms[-1] == pytest.approx(float(exact[:, :-1].norm()), rel=0.03)
    assert norms[0] < 0.9 * norms[1] < 0.81 * norms[2]


def test_scale_and_shift_of_a_channel_do_not_matter_and_a_constant_one_is_harmless():
    parts = [gaussians(n, s, distance=2) for n, s in [(300, 0), (100, 1), (300, 2)]]
    plain = linear_probe(*parts)
    changed = [
        Features(
            torch.cat([part.values * 3 - 7, torch.full((len(part.labels), 1), 9.1)], 1), part.labels
        )
        for part in parts
    ]
    other = linear_probe(*changed)
    assert other.accuracy == pytest.approx(plain.accuracy, abs=0.004)
    assert 0.5 < plain.accuracy < 0.99


def test_a_channel_that_is_constant_but_for_rounding_counts_for_nothing():
    """Its last bit is the label in training, and another one in the test."""
    parts = [gaussians(n, s, distance=2) for n, s in [(300, 0), (100, 1), (300, 2)]]
    plain = linear_probe(*parts)
    with_channel = []
    for part, shift in zip(parts, (0, 0, 1), strict=True):
        bits = (part.labels + shift) % 3 == 0
        channel = torch.where(bits, 9.1, torch.nextafter(torch.tensor(9.1), torch.tensor(10.0)))
        values = torch.cat([part.values, channel[:, None]], 1)
        with_channel.append(Features(values, part.labels))
    assert with_channel[0].values[:, -1].std() > 0
    other = linear_probe(*with_channel)
    assert other.accuracy == pytest.approx(plain.accuracy, abs=0.004)
    assert other.tried == pytest.approx(plain.tried, abs=0.011)


def test_the_test_images_choose_nothing():
    fitted, validation, test = (
        gaussians(n, s, distance=1) for n, s in [(60, 0), (60, 1), (500, 2)]
    )
    right = linear_probe(fitted, validation, test)
    wrong = linear_probe(fitted, validation, Features(test.values, (test.labels + 1) % 3))
    assert (wrong.chosen, wrong.validation, wrong.tried) == (
        right.chosen,
        right.validation,
        right.tried,
    )
    assert wrong.accuracy != right.accuracy
    assert right.validation == right.tried[right.chosen] == max(right.tried.values())
    assert linear_probe(fitted, validation, test) == right


def test_the_final_classifier_is_fitted_on_the_validation_images_too():
    """Class 2 is seen in the validation images alone."""
    parts = [gaussians(n, s, distance=12) for n, s in [(90, 0), (90, 1), (90, 2)]]
    fitted = Features(parts[0].values[parts[0].labels < 2], parts[0].labels[parts[0].labels < 2])
    result = linear_probe(fitted, *parts[1:])
    assert result.validation == pytest.approx(2 / 3)
    assert result.accuracy == 1


def test_what_cannot_be_probed_is_said():
    good = gaussians(30, 0)
    alone = Features(good.values, torch.zeros(30, dtype=torch.int64))
    with pytest.raises(CcropError, match="one class"):
        linear_probe(alone, good, good)
