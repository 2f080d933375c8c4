"""Each loss against its paper's equation, written as plain loops over numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from made_methods import made, made_views
from scipy.integrate import quad

from ccrop_pipeline.localize import build_backbone
from ccrop_pipeline.methods import METHODS


def loss_of(model, views):
    torch.manual_seed(5)
    return model(views).loss.item()


def cosine(a, b):
    return (a @ b).item() / (a.norm() * b.norm()).item()


def both(model, views, momentum=False):
    """Embeddings of the two global views, each passed by itself."""
    backbone = model.momentum_backbone if momentum else model.backbone
    projector = model.momentum_projector if momentum else model.projector
    with torch.no_grad():
        return [projector(backbone(view)) for view in views[:2]]


def test_simclr_is_nt_xent():
    """Equation 1, averaged over all 2N images."""
    simclr, views = made("simclr", temperature=0.3), made_views("simclr", 5)
    with torch.no_grad():
        z = simclr.projector(simclr.backbone(torch.cat(views)))
    total = 0.0
    for i in range(10):
        scores = [math.exp(cosine(z[i], z[j]) / 0.3) if j != i else 0.0 for j in range(10)]
        total -= math.log(scores[(i + 5) % 10] / sum(scores))
    assert loss_of(simclr, views) == pytest.approx(total / 10, rel=1e-5)


@pytest.mark.parametrize("name", ["mocov1", "mocov2"])
def test_moco_is_info_nce_against_the_queue_as_it_was(name):
    """Equation 1; with one group, the key encoder's batch norm is plain."""
    moco, views = made(name, bn_groups=1, temperature=0.3), made_views(name, 5)
    negatives = moco.criterion.memory_bank.keys.clone()
    plain = build_backbone("small")
    plain.load_state_dict(moco.momentum_backbone.state_dict())
    with torch.no_grad():
        keys = moco.momentum_projector(plain(views[1]))
    queries = both(moco, views)[0]
    total = 0.0
    for query, key in zip(queries, keys, strict=True):
        scores = [math.exp(cosine(query, k) / 0.3) for k in [key, *negatives]]
        total -= math.log(scores[0] / sum(scores))
    assert loss_of(moco, views) == pytest.approx(total / 5, rel=1e-5)
    torch.testing.assert_close(moco.criterion.memory_bank.keys[:5], F.normalize(keys))
    assert torch.equal(moco.criterion.memory_bank.keys[5:], negatives[5:])


def test_mocov3_finds_keys_in_the_batch_in_both_directions():
    """Algorithm 1: 2 tau times cross entropy, ctr(q1, k2) + ctr(q2, k1)."""
    moco, views = made("mocov3", temperature=0.3), made_views("mocov3", 5)
    with torch.no_grad():
        queries = [moco.predictor(z) for z in both(moco, views)]
    keys = both(moco, views, momentum=True)
    total = 0.0
    for q, k in ((queries[0], keys[1]), (queries[1], keys[0])):
        for i in range(5):
            scores = [math.exp(cosine(q[i], k[j]) / 0.3) for j in range(5)]
            total -= math.log(scores[i] / sum(scores)) / 5
    assert loss_of(moco, views) == pytest.approx(2 * 0.3 * total, rel=1e-5)


def test_byol_is_the_squared_distance_of_directions():
    """Equation 2, both ways."""
    byol, views = made("byol"), made_views("byol", 5)
    with torch.no_grad():
        q1, q2 = (byol.predictor(z) for z in both(byol, views))
    z1, z2 = both(byol, views, momentum=True)
    total = 0.0
    for a, b in [*zip(q1, z2, strict=True), *zip(q2, z1, strict=True)]:
        total += ((a / a.norm() - b / b.norm()) ** 2).sum().item() / 5
    assert loss_of(byol, views) == pytest.approx(total, rel=1e-5)


def test_simsiam_is_the_negative_cosine_of_both_directions():
    """Equations 1 and 4."""
    simsiam, views = made("simsiam"), made_views("simsiam", 5)
    z1, z2 = both(simsiam, views)
    with torch.no_grad():
        p1, p2 = simsiam.predictor(z1), simsiam.predictor(z2)
    total = sum(-cosine(p1[i], z2[i]) / 2 - cosine(p2[i], z1[i]) / 2 for i in range(5)) / 5
    assert loss_of(simsiam, views) == pytest.approx(total, rel=1e-5)


def test_simsiam_stops_the_gradient_on_the_side_that_is_not_predicted():
    simsiam, views = made("simsiam"), made_views("simsiam", 5)
    simsiam(views).loss.backward()
    got = [weight.grad.clone() for weight in simsiam.projector.parameters()]
    simsiam.zero_grad()
    z1, z2 = (simsiam.projector(simsiam.backbone(view)) for view in views)
    fixed1, fixed2 = F.normalize(z1.detach()), F.normalize(z2.detach())
    p1, p2 = F.normalize(simsiam.predictor(z1)), F.normalize(simsiam.predictor(z2))
    (-((p1 * fixed2).sum() + (p2 * fixed1).sum()) / 10).backward()
    for a, weight in zip(got, simsiam.projector.parameters(), strict=True):
        torch.testing.assert_close(a, weight.grad, rtol=1e-4, atol=1e-6)


def test_dino_is_the_cross_entropy_of_all_pairs_of_unlike_views_and_moves_its_centre():
    """Equations 3 and 4: two teacher views, four student views, none with itself."""
    dino, views = made("dino"), made_views("dino", 3)
    dino.criterion.center.copy_(torch.linspace(-0.2, 0.2, 24))
    dino.before_step(epoch=29, progress=0.0)
    centre = dino.criterion.center.flatten().tolist()
    with torch.no_grad():
        teacher = dino.momentum_projector(dino.momentum_backbone(torch.cat(views[:2])))
        student = dino.projector(dino.backbone(torch.cat(views[:2])))
        local = dino.projector(dino.backbone(torch.cat(views[2:])))
    teacher, student = teacher.view(2, 3, 24), torch.cat([student, local]).view(4, 3, 24)
    total, pairs = 0.0, 0
    for t in range(2):
        for s in range(4):
            if s == t:
                continue
            for image in range(3):
                p = softmax(
                    [(x - c) / 0.07 for x, c in zip(teacher[t, image], centre, strict=True)]
                )
                q = softmax([x / 0.1 for x in student[s, image]])
                total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True))
                pairs += 1
    found = dino(views)
    assert found.loss.item() == pytest.approx(total / pairs, rel=1e-4)
    expected = 0.9 * torch.tensor(centre) + 0.1 * teacher.mean((0, 1))
    torch.testing.assert_close(dino.criterion.center.flatten(), expected)
    torch.testing.assert_close(found.embeddings, student[0] - expected)


def softmax(values):
    exponents = [math.exp(value) for value in values]
    return [value / sum(exponents) for value in exponents]


def test_barlow_twins_is_the_distance_of_the_cross_correlation_from_the_identity():
    """Equations 1 and 2, columns centred over the batch."""
    twins, views = made("barlowtwins", off_diagonal_weight=0.1), made_views("barlowtwins", 6)
    a, b = ((z - z.mean(0)).double() for z in both(twins, views))
    total = 0.0
    for i in range(16):
        for j in range(16):
            c = cosine(a[:, i], b[:, j])
            total += (1 - c) ** 2 if i == j else 0.1 * c**2
    # lightly's normalisation adds 1e-5 to each variance.
    assert loss_of(twins, views) == pytest.approx(total, rel=2e-3)


def test_vicreg_is_its_three_terms():
    """Equations 1 to 6, with means over dimensions and views where the authors' code has them."""
    vicreg = made("vicreg", invariance_weight=3.0, variance_weight=5.0, covariance_weight=7.0)
    views = made_views("vicreg", 6)
    z = [one.double() for one in both(vicreg, views)]
    n, d = z[0].shape
    invariance = ((z[0] - z[1]) ** 2).sum().item() / (n * d)
    variance = covariance = 0.0
    for one in z:
        columns = [one[:, j] - one[:, j].mean() for j in range(d)]
        cov = [[(x @ y).item() / (n - 1) for y in columns] for x in columns]
        variance += sum(max(0.0, 1 - math.sqrt(cov[j][j] + 1e-4)) for j in range(d)) / d / 2
        covariance += sum(cov[i][j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    expected = 3 * invariance + 5 * variance + 7 * covariance
    assert loss_of(vicreg, views) == pytest.approx(expected, rel=1e-5)


def test_lejepa_is_the_distance_from_the_mean_view_and_that_of_slices_from_a_normal():
    """The Epps-Pulley statistic, n times the weighted squared distance of characteristic functions.

    Between -3 and 3, by a quadrature of its own that is far finer than the 17 knots of the method.
    """
    lejepa = made("lejepa", gaussian_weight=0.3, slices=3, projection_dim=2, knots=400)
    views = made_views("lejepa", 6)
    with torch.no_grad():
        parts = [torch.cat(views[:2]), torch.cat(views[2:])]
        z = torch.cat([lejepa.projector(lejepa.backbone(part)) for part in parts]).view(4, 6, 2)
    torch.manual_seed(5)
    directions = torch.randn(2, 3)
    z, total = z.double(), 0.0
    for slice_ in range(3):
        u = directions[:, slice_].double() / directions[:, slice_].norm()
        for view in range(4):
            values = (z[view] @ u).tolist()

            def integrand(t, values=values):
                real = sum(math.cos(t * x) for x in values) / 6 - math.exp(-t * t / 2)
                imaginary = sum(math.sin(t * x) for x in values) / 6
                return 6 * (real**2 + imaginary**2) * math.exp(-t * t / 2)

            total += quad(integrand, -3, 3)[0] / (3 * 4)
    centre = (z[0] + z[1]) / 2
    invariance = sum(((one - centre) ** 2).sum().item() for one in z) / z.numel()
    expected = 0.3 * total + 0.7 * invariance
    assert loss_of(lejepa, views) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_computed_in_float32_under_autocast(name):
    model, seen = made(name), []

    def look(_, inputs):
        tensors = [t for each in inputs for t in (each if isinstance(each, list) else [each])]
        seen.append((torch.is_autocast_enabled("cpu"), {tensor.dtype for tensor in tensors}))

    model.criterion.register_forward_pre_hook(look)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(made_views(name))
    assert seen
    assert all(each == (False, {torch.float32}) for each in seen)
    assert output.loss.dtype == torch.float32
    assert math.isfinite(output.loss.item())


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("dino", "lejepa")])
def test_local_views_are_passed_over(name):
    views = made_views(name)
    assert loss_of(made(name), [*views, views[0][:, :, ::2, ::2]]) == loss_of(made(name), views)
