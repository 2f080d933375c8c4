import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ccrop_pipeline.localize import Backbone
from ccrop_pipeline.methods import build_method
from ccrop_pipeline.recipes import load_recipe, settings_type
from ccrop_pipeline.recipes.settings import OptimizerSettings
from ccrop_pipeline.training.optimizers import (
    build_optimizer,
    clip_each,
    optimizer_note,
    set_rates,
)


def method(name="simsiam", **settings):
    torch.manual_seed(0)
    small = {"hidden_dim": 8, "projection_dim": 8, "prediction_hidden_dim": 4}
    return build_method(settings_type(name)(**(settings or small)), "small")


def one_weight(start, gradient, settings, grows=0):
    """The values of one parameter over three steps; its gradient grows by a share a step."""
    weight = nn.Parameter(torch.tensor([start]))
    stand_in = SimpleNamespace(
        fixed_rate_parameters=list, parameters=lambda: [weight], backbone=None
    )
    optimizer = build_optimizer(stand_in, settings)
    values = []
    for step in range(3):
        set_rates(optimizer, settings, step=step, steps=3, steps_per_epoch=1)
        weight.grad = torch.tensor([gradient]) * (1 + grows * step)
        optimizer.step()
        values.append(weight.detach().flatten().tolist())
    return values


def test_sgd_is_momentum_with_l2():
    settings = OptimizerSettings(lr=0.5, weight_decay=0.1, momentum=0.8, schedule="constant")
    value, buffer, expected = 2.0, 0.0, []
    for _ in range(3):
        buffer = 0.8 * buffer + 3.0 + 0.1 * value
        value -= 0.5 * buffer
        expected.append(value)
    got = one_weight([2.0], [3.0], settings)
    assert [v[0] for v in got] == pytest.approx(expected, rel=1e-6)


def test_lars_scales_each_layer_by_its_norms():
    """Equation 6 of You et al. (arXiv:1708.03888), trust coefficient 0.001."""
    settings = OptimizerSettings(
        name="lars", lr=0.5, weight_decay=0.1, momentum=0.8, schedule="constant"
    )
    value, buffer, expected = [3.0, 4.0], [0.0, 0.0], []
    for _ in range(3):
        norm = math.hypot(*value)
        trust = 0.001 * norm / (math.hypot(0.6, 0.8) + 0.1 * norm)
        for i, gradient in enumerate((0.6, -0.8)):
            buffer[i] = 0.8 * buffer[i] + trust * (gradient + 0.1 * value[i])
        value = [v - 0.5 * b for v, b in zip(value, buffer, strict=True)]
        expected.append(value)
    got = one_weight([3.0, 4.0], [0.6, -0.8], settings)
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=1e-6, atol=0)


def test_adamw_decays_apart_from_the_gradient():
    settings = OptimizerSettings(name="adamw", lr=0.01, weight_decay=0.1, schedule="constant")
    # With a constant gradient, both corrected moments are the gradient: a step is lr * sign.
    value, expected = 2.0, []
    for _ in range(3):
        value -= 0.01 * 0.1 * value + 0.01
        expected.append(value)
    got = one_weight([2.0], [3.0], settings)
    assert [v[0] for v in got] == pytest.approx(expected, rel=1e-6)


def test_the_first_moment_of_adamw_decays_by_momentum():
    """Algorithm 2 of Loshchilov and Hutter (arXiv:1711.05101), with a gradient that grows."""
    settings = OptimizerSettings(
        name="adamw", lr=0.01, weight_decay=0.1, momentum=0.6, schedule="constant"
    )
    value, first, second, expected = 2.0, 0.0, 0.0, []
    for step in (1, 2, 3):
        gradient = 3.0 * step
        first = 0.6 * first + 0.4 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        root = math.sqrt(second / (1 - 0.999**step))
        value -= 0.01 * (first / (1 - 0.6**step) / (root + 1e-8) + 0.1 * value)
        expected.append(value)
    got = one_weight([2.0], [3.0], settings, grows=1)
    assert [v[0] for v in got] == pytest.approx(expected, rel=1e-6)


def test_the_predictor_of_simsiam_keeps_the_peak():
    model, settings = method(), OptimizerSettings(lr=0.4, lr_warmup_epochs=1)
    optimizer = build_optimizer(model, settings)
    predictor = {id(weight) for weight in model.predictor.parameters()}
    for step in (0, 4, 10, 39):
        rate = set_rates(optimizer, settings, step=step, steps=40, steps_per_epoch=4)
        assert rate == settings.rate(step, 40, 4)
        for group in optimizer.param_groups:
            fixed = {id(weight) in predictor for weight in group["params"]}
            assert fixed == {group["fixed_rate"]}
            assert group["lr"] == (0.4 if group["fixed_rate"] else rate)
    assert rate < 0.01


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_norms_and_biases_can_be_spared_weight_decay(name):
    model = method()
    settings = OptimizerSettings(name, weight_decay=0.1, decay_norms_and_biases=False)
    optimizer = build_optimizer(model, settings)
    set_rates(optimizer, settings, step=0, steps=10, steps_per_epoch=1)
    norms = {
        id(w) for m in model.modules() if "BatchNorm" in type(m).__name__ for w in m.parameters()
    }
    biases = {id(w) for key, w in model.named_parameters() if key.endswith("bias")}
    for group in optimizer.param_groups:
        for weight in group["params"]:
            spared = id(weight) in norms | biases
            assert group["weight_decay"] == (0.0 if spared else 0.1)
    held = [id(w) for group in optimizer.param_groups for w in group["params"]]
    assert sorted(held) == sorted(id(w) for w in model.parameters())


def test_by_default_there_is_one_group_of_all_that_is_trained():
    model = method("mocov2", queue_size=4)
    (group,) = build_optimizer(model, OptimizerSettings()).param_groups
    online = [*model.backbone.parameters(), *model.projector.parameters()]
    assert [id(w) for w in group["params"]] == [id(w) for w in online]


def test_groups_come_back_from_a_checkpoint():
    settings = OptimizerSettings(decay_norms_and_biases=False)
    first, second = (build_optimizer(method(), settings) for _ in range(2))
    set_rates(first, settings, step=3, steps=10, steps_per_epoch=1)
    second.load_state_dict(first.state_dict())
    for a, b in zip(first.param_groups, second.param_groups, strict=True):
        assert {k: v for k, v in a.items() if k != "params"} == {
            k: v for k, v in b.items() if k != "params"
        }


def test_step_schedule_falls_at_milestones_after_the_same_warmup():
    settings = OptimizerSettings(
        lr=8.0, lr_warmup_epochs=1, schedule="step", milestones=(2, 4), factor=0.5
    )
    rates = [settings.rate(step, 50, 10) for step in range(50)]
    assert rates == pytest.approx(
        [0.8 * (i + 1) for i in range(10)] + [8] * 10 + [4] * 20 + [2] * 10
    )


def test_constant_schedule_stays_at_the_peak():
    settings = OptimizerSettings(lr=0.3, lr_warmup_epochs=1, schedule="constant")
    rates = [settings.rate(step, 20, 4) for step in range(20)]
    assert rates == pytest.approx([0.075, 0.15, 0.225, *[0.3] * 17])


def test_cosine_schedule_counts_warmup_in_epochs():
    settings = OptimizerSettings(lr=0.4, lr_warmup_epochs=2)
    rates = [settings.rate(step, 110, 5) for step in (0, 9, 10, 60)]
    assert rates == pytest.approx([0.04, 0.4, 0.4, 0.2])


def test_weight_decay_is_constant_or_goes_to_its_last_value():
    assert {OptimizerSettings(weight_decay=0.3).decay(s, 9) for s in range(9)} == {0.3}
    dino = OptimizerSettings("adamw", weight_decay=0.04, final_weight_decay=0.4)
    decays = [dino.decay(step, 90) for step in (0, 30, 45, 90)]
    assert decays == pytest.approx([0.04, 0.13, 0.22, 0.4])


def test_blocks_further_to_the_front_learn_more_slowly():
    model = method()
    settings = OptimizerSettings(lr=0.5, layer_decay=0.5, schedule="constant")
    optimizer = build_optimizer(model, settings)
    set_rates(optimizer, settings, step=0, steps=1, steps_per_epoch=1)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    # Eight convolutions of `small`, each a block with the batch norm behind it.
    names = dict(model.backbone.named_parameters())
    assert rates[id(names["layer4.4.weight"])] == rates[id(names["layer4.5.bias"])] == 0.5 / 2
    assert rates[id(names["layer4.1.weight"])] == 0.5 / 4
    assert rates[id(names["layer1.0.weight"])] == 0.5 / 2**8
    assert {rates[id(p)] for p in model.projector.parameters()} == {0.5}


def test_norms_and_biases_learn_at_their_own_rate():
    """0.0048 beside 0.2, as in section 2.2 of Barlow Twins (arXiv:2103.03230)."""
    model, settings = method(), load_recipe("barlowtwins").optimizer
    optimizer = build_optimizer(model, settings)
    set_rates(optimizer, settings, step=10, steps=100, steps_per_epoch=1)
    rates = {p.ndim > 1: set() for p in model.parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates[parameter.ndim > 1].add(group["lr"])
    assert [rates[True].pop(), rates[False].pop()] == pytest.approx([0.2, 0.0048])
    assert not any(rates.values())


@pytest.mark.parametrize(
    ("norm", "optimizer", "told"),
    [(nn.LayerNorm, "sgd", True), (nn.LayerNorm, "adamw", False), (nn.BatchNorm1d, "sgd", False)],
)
def test_a_network_with_layer_norm_is_told_of_adamw(norm, optimizer, told):
    backbone = Backbone("convnext", {"network": nn.Sequential(norm(3), nn.Linear(3, 3))}, 3, "")
    recipe = load_recipe("simclr", [f"optimizer.name={optimizer}", "batch_size=512"])
    note = optimizer_note(backbone, recipe) or ""
    assert ("optimizer.lr=0.0003" in note) == told


def test_each_gradient_is_clipped_by_itself():
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    weights[0].grad, weights[1].grad = torch.tensor([6.0, -8.0]), torch.tensor([0.3, 0.4])
    clip_each(weights, 5.0)
    assert weights[0].grad.tolist() == pytest.approx([3, -4])
    assert torch.equal(weights[1].grad, torch.tensor([0.3, 0.4]))
    assert load_recipe("dino-vit").optimizer.clip_each
