import dataclasses

import pytest
import torch
from made_methods import SMALL, WITH_MOMENTUM, made, made_views, train

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.methods import METHODS, build_method, embedding_std
from ccrop_pipeline.methods.shared import Queue, cosine_momentum
from ccrop_pipeline.recipes import METHOD_SETTINGS, settings_type

# Written down once from five steps of SGD (`train`); a change of any is a change of results.
GOLDEN = {
    "simclr": [3.5964596, 2.9151472, 2.4701161, 2.2065746, 2.0353265],
    "mocov1": [0.008435215, 2.7641275, 3.2433572, 3.1423997, 3.1308599],
    "mocov2": [0.34263267, 2.825527, 3.2135512, 3.2065449, 3.209364],
    "mocov3": [11.085181, 10.475023, 10.160273, 9.9242405, 9.7880603],
    "byol": [3.650358, 3.2880687, 3.1019348, 3.0018642, 2.8878864],
    "simsiam": [-0.030061082, -0.058089126, -0.076912217, -0.093617451, -0.10656338],
    "dino": [3.5592877, 0.67953516, 0.73498921, 0.77368396, 0.85299219],
    "barlowtwins": [15.195712, 8.0186164, 1.020122, 0.27378327, 0.25039342],
    "lejepa": [0.36273052, 0.35667137, 0.34485222, 0.34949871, 0.35061824],
    "vicreg": [21.656656, 18.403495, 17.083629, 14.893119, 13.760471],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_golden_losses_of_five_steps(name):
    # In float64, where processors and numbers of threads make no difference that is seen here.
    assert train(made(name).double(), name) == pytest.approx(GOLDEN[name], rel=1e-6)


@pytest.mark.parametrize(
    ("heads", "depth", "predictor_bn"), [("resnet", 2, False), ("vit", 3, True)]
)
def test_mocov3_has_the_heads_of_its_authors(heads, depth, predictor_bn):
    """`_build_mlp(num_layers, input_dim, ..., last_bn)` of facebookresearch/moco-v3."""

    def layers(head):
        return [
            (type(layer).__name__, *(tuple(weight.shape) for weight in layer.parameters()))
            for layer in head.layers
        ]

    def theirs(depth, width, *, last_bn=True):
        found = []
        for _ in range(depth - 1):
            found += [("Linear", (32, width)), ("BatchNorm1d", (32,), (32,)), ("ReLU",)]
            width = 32
        return [*found, ("Linear", (16, width)), *([("BatchNorm1d",)] if last_bn else [])]

    model = made("mocov3", heads=heads)
    expected = theirs(depth, model.backbone.feature_dim)
    assert layers(model.projector) == layers(model.momentum_projector) == expected
    assert layers(model.predictor) == theirs(2, 16, last_bn=predictor_bn)
    assert torch.isfinite(model(made_views("mocov3")).loss)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_state_dict_holds_all_that_the_next_steps_depend_on(name):
    model, other = made(name), made(name, seed=1)
    train(model, name, steps=3)
    other.load_state_dict(model.state_dict())
    assert train(other, name, steps=3) == train(model, name, steps=3)


@pytest.mark.parametrize("name", METHODS)
def test_every_trainable_parameter_gets_a_gradient_and_embeddings_have_none(name):
    model = made(name)
    output = model(made_views(name))
    output.loss.backward()
    for key, weight in model.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, key
    assert not output.embeddings.requires_grad
    assert output.embeddings.shape == (16, SMALL[name]["projection_dim"])


@pytest.mark.parametrize("name", WITH_MOMENTUM)
def test_targets_start_equal_get_no_gradient_and_follow(name):
    model = made(name, encoder_momentum=0.9)
    parts = [
        (model.backbone, model.momentum_backbone),
        (model.projector, model.momentum_projector),
    ]
    for online, target in parts:
        mine, its = online.state_dict(), target.state_dict()
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[key], its[key]) for key in mine)
        assert not any(weight.requires_grad for weight in target.parameters())
    model(made_views(name)).loss.backward()
    online, target = (next(part.parameters()) for part in parts[0])
    assert online is not target
    assert target.grad is None
    before = target.detach().clone()
    with torch.no_grad():
        online += 1
    model.before_step(epoch=0, progress=0.5)
    momentum = 0.9 if name in ("mocov1", "mocov2") else 0.95  # half-way by cosine
    torch.testing.assert_close(target, before * momentum + online.detach() * (1 - momentum))


@pytest.mark.parametrize("name", sorted({*METHODS} - {*WITH_MOMENTUM}))
def test_methods_without_a_momentum_encoder_say_so(name):
    model = made(name)
    assert model.momentum_backbone is None
    assert not any("momentum" in key for key in model.state_dict())


def test_momentum_grows_to_one_by_half_a_cosine():
    assert cosine_momentum(0.996, 0.0) == pytest.approx(0.996, abs=1e-12)
    assert cosine_momentum(0.996, 0.5) == pytest.approx(0.998, abs=1e-12)
    assert cosine_momentum(0.99, 1 / 3) == pytest.approx(1 - 0.01 * 0.75, abs=1e-12)
    assert cosine_momentum(0.996, 1.0) == 1


def test_only_simsiams_predictor_keeps_its_rate():
    for name in METHODS:
        model = made(name)
        expected = list(model.predictor.parameters()) if name == "simsiam" else []
        assert [id(w) for w in model.fixed_rate_parameters()] == [id(w) for w in expected]
    assert made("simsiam", fixed_predictor_rate=False).fixed_rate_parameters() == []


def test_dinos_teacher_warms_up_and_its_last_layer_waits():
    settings = settings_type("dino")()
    rates = [settings.teacher_temperature_in(epoch) for epoch in (0, 1, 29, 30, 99)]
    assert rates == pytest.approx([0.04, 0.04 + 0.03 / 29, 0.07, 0.07, 0.07])
    for none in (0, 1):
        assert (
            settings_type("dino")(temperature_warmup_epochs=none).teacher_temperature_in(1) == 0.07
        )
    dino = made("dino", frozen_last_layer_epochs=2)
    for epoch, frozen in ((0, True), (1, True), (2, False)):
        dino(made_views("dino")).loss.backward()
        dino.after_backward(epoch)
        assert (dino.projector.last_layer.weight_v.grad is None) == frozen


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


def test_embeddings_spread_evenly_have_std_one_and_collapsed_ones_zero():
    generator = torch.Generator().manual_seed(0)
    for dim in (16, 256):
        even = torch.randn(4096, dim, generator=generator)
        assert embedding_std(7 * even).item() == pytest.approx(1, abs=0.02)
    point = torch.randn(1, 64, generator=generator)
    assert embedding_std(point * torch.rand(100, 1, generator=generator)).item() < 1e-6
    # On a line, half on each side: one dimension of 64 has all of the spread.
    line = torch.zeros(10, 64)
    line[::2, 3], line[1::2, 3] = 2.0, -5.0
    assert embedding_std(line).item() == pytest.approx(1 / 8)
    assert embedding_std(torch.zeros(4, 8)).item() == 0


def test_defaults_are_the_papers():
    papers = {
        "simclr": {"temperature": 0.1, "projection_dim": 128},
        "mocov1": {"temperature": 0.07, "queue_size": 65536, "encoder_momentum": 0.999},
        "mocov2": {"temperature": 0.2, "queue_size": 65536, "encoder_momentum": 0.999},
        "mocov3": {"temperature": 1.0, "hidden_dim": 4096, "encoder_momentum": 0.99},
        "byol": {"hidden_dim": 4096, "projection_dim": 256, "encoder_momentum": 0.996},
        "simsiam": {"projection_dim": 2048, "prediction_hidden_dim": 512},
        "dino": {"projection_dim": 65536, "student_temperature": 0.1, "center_momentum": 0.9},
        "barlowtwins": {"off_diagonal_weight": 0.005, "projection_dim": 8192},
        "vicreg": {"invariance_weight": 25, "variance_weight": 25, "covariance_weight": 1},
        "lejepa": {"gaussian_weight": 0.05, "slices": 1024, "knots": 17},
    }
    for name, numbers in papers.items():
        settings = settings_type(name)()
        assert settings.name == name
        assert {key: getattr(settings, key) for key in numbers} == numbers


def test_every_method_has_settings_of_its_own():
    assert {name: method.settings_class for name, method in METHODS.items()} == METHOD_SETTINGS


@pytest.mark.parametrize("name", METHODS)
def test_every_number_has_a_range(name):
    kind = settings_type(name)
    for field in dataclasses.fields(kind):
        if field.type in ("int", int, "float", float):
            with pytest.raises(CcropError, match=rf"{field.name} is -1"):
                kind(**{field.name: type(field.default)(-1)})


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("simclr", {"temperature": 0.0}),
        ("simclr", {"temperature": float("nan")}),
        ("mocov2", {"encoder_momentum": 1.0}),
        ("mocov1", {"queue_size": 0}),
        ("vicreg", {"variance_weight": float("inf")}),
    ],
)
def test_numbers_out_of_range_are_refused(name, bad):
    with pytest.raises(CcropError, match=rf"{next(iter(bad))} is "):
        settings_type(name)(**bad)


def test_unknown_methods_and_settings_of_others_are_refused():
    with pytest.raises(CcropError, match=r"'mocov4' \(did you mean mocov\d\?\).*simclr, mocov1"):
        settings_type("mocov4")
    with pytest.raises(TypeError, match="queue_size"):
        settings_type("byol")(queue_size=3)
    with pytest.raises(CcropError, match="BYOL takes no SimCLRSettings"):
        build_method(settings_type("simclr")(name="byol"), "small")
