import math

import pytest
import torch
import torch.nn.functional as F

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.methods import METHODS, MethodSettings, build_method
from ccrop_pipeline.methods.mocov2 import Queue


def method(name, **settings):
    torch.manual_seed(0)
    return build_method(MethodSettings(name, **{"queue_size": 12, **settings}), "small")


def views(seed=1, count=5):
    return torch.randn(2, count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def plain_nt_xent(first, second, temperature):
    """Equation 1 of SimCLR, image by image."""
    both = [v / v.norm() for v in torch.cat([first, second])]
    n, total = len(first), 0.0
    for i, anchor in enumerate(both):
        scores = {
            j: math.exp((anchor @ both[j]).item() / temperature) for j in range(2 * n) if j != i
        }
        total -= math.log(scores[(i + n) % (2 * n)] / sum(scores.values()))
    return total / (2 * n)


def plain_info_nce(queries, keys, negatives, temperature):
    """Equation 1 of MoCo, query by query."""
    total = 0.0
    for query, key in zip(F.normalize(queries), F.normalize(keys), strict=True):
        positive = math.exp((query @ key).item() / temperature)
        others = sum(math.exp((query @ negative).item() / temperature) for negative in negatives)
        total -= math.log(positive / (positive + others))
    return total / len(queries)


def test_simclr_loss_is_nt_xent_of_its_projections():
    simclr, batch = method("simclr", temperature=0.3), views()
    projections = simclr.projector(simclr.backbone(batch.flatten(0, 1))).detach()
    expected = plain_nt_xent(projections[:5], projections[5:], 0.3)
    assert simclr.loss(batch).item() == pytest.approx(expected, rel=1e-5)


def test_moco_loss_is_info_nce_against_the_queue_before_the_step():
    moco, batch = method("mocov2", temperature=0.3), views()
    queue = moco.criterion.memory_bank
    negatives = queue.keys.clone()
    queries = moco.projector(moco.backbone(batch[0]))
    keys = moco.momentum_projector(moco.momentum_backbone(batch[1]))
    expected = plain_info_nce(queries, keys, negatives, 0.3)
    assert moco.loss(batch).item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(queue.keys[:5], F.normalize(keys))
    assert torch.equal(queue.keys[5:], negatives[5:])


def test_queue_is_first_in_first_out_round_its_end():
    queue = Queue(5, 1)
    held = queue.keys.flatten().tolist()
    for start in (10.0, 20.0, 30.0):
        keys = torch.tensor([[start], [start + 1], [start + 2]])
        _, negatives = queue(keys, update=True)
        assert sorted(negatives.flatten().tolist()) == sorted(held)
        held = [*held[3:], *keys.flatten().tolist()]
    assert sorted(queue.keys.flatten().tolist()) == sorted(held) == [21, 22, 30, 31, 32]


def test_queue_smaller_than_a_batch_keeps_its_newest_keys():
    queue = Queue(2, 1)
    queue(torch.arange(5.0).view(5, 1), update=True)
    assert sorted(queue.keys.flatten().tolist()) == [3, 4]


def test_queue_is_saved():
    moco = method("mocov2")
    moco.loss(views())
    other = build_method(MethodSettings("mocov2", queue_size=12), "small")
    other.load_state_dict(moco.state_dict())
    assert torch.equal(other.criterion.memory_bank.keys, moco.criterion.memory_bank.keys)
    assert other.criterion.memory_bank.oldest == 5


def test_momentum_encoder_starts_equal_gets_no_gradient_and_follows():
    moco = method("mocov2", encoder_momentum=0.9)
    online, momentum = moco.backbone.state_dict(), moco.momentum_backbone.state_dict()
    assert all(torch.equal(online[name], momentum[name]) for name in online)
    moco.loss(views()).backward()
    assert all(weight.grad is None for weight in moco.momentum_backbone.parameters())
    assert all(weight.grad is None for weight in moco.momentum_projector.parameters())
    weight, follower = next(moco.backbone.parameters()), next(moco.momentum_backbone.parameters())
    assert weight.grad is not None
    before = follower.detach().clone()
    with torch.no_grad():
        weight += 1
    moco.before_step()
    torch.testing.assert_close(follower.detach(), before * 0.9 + weight.detach() * 0.1)


@pytest.mark.parametrize("name", METHODS)
def test_a_few_steps_lower_the_loss(name):
    model = method(name, encoder_momentum=0.5, queue_size=8)
    optimizer = torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=0.05)
    losses = []
    for _ in range(8):
        model.before_step()
        loss = model.loss(views(count=8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # From the step on that finds the queue full of real keys instead of random ones.
    assert losses[-1] < losses[1]


@pytest.mark.parametrize("name", METHODS)
def test_the_criterion_stays_in_float32_under_autocast(name):
    model = method(name)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.loss(views()).dtype == torch.float32


def test_unknown_methods_and_bad_settings_are_refused():
    with pytest.raises(CcropError, match="mocov2, simclr"):
        build_method(MethodSettings("moco5"), "small")
    for bad in ({"temperature": 0.0}, {"encoder_momentum": 1.0}, {"queue_size": 0}):
        with pytest.raises(CcropError, match=next(iter(bad))):
            MethodSettings(**bad)
