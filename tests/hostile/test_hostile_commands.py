"""Commands on damaged runs end as without damage, or in one message that names it."""

import os
import shutil

import pytest
import torch
from hostile_commands import COMMANDS, TRAIN, ccrop, content, inputs, state, verdicts
from hostile_weights import sealed


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_few_of_each_command_are_taken_or_refused(kind):
    assert set(verdicts(kind, range(8))) <= {"taken", "refused"}


@pytest.fixture
def run(tmp_path):
    """A run that has its last epoch to go."""
    return shutil.copytree(inputs() / "run", tmp_path / "run")


def trained(run):
    return ccrop(("train", str(inputs() / "tars"), str(run), *TRAIN))


def message(done):
    assert done.exit_code == 1, done.output
    assert done.output.count("Error: ") == 1
    return " ".join(done.output[done.output.index("Error: ") :].split())


def other_momentum(odd):
    optimizer = content()["optimizer"]
    return {**optimizer, "state": {**optimizer["state"], 0: {"momentum_buffer": odd}}}


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("optimizer", other_momentum(torch.zeros(3)), "its momentum_buffer has the shape (3,)"),
        ("optimizer", other_momentum([]), "has no attribute 'shape'"),
        ("optimizer", {**content()["optimizer"], "state": {10**6: {}}}, "not kept what sgd keeps"),
        ("optimizer", {}, "the checkpoint does not fit this recipe"),
        ("epoch", -1, "its epoch is -1, of 3"),
        ("epoch", 4, "its epoch is 4, of 3"),
        ("method", {"a": torch.zeros(1)}, "the checkpoint does not fit this recipe"),
    ],
    ids=range(7),
)
def test_a_checkpoint_that_does_not_fit_is_one_message_and_stays(part, value, said, run):
    damaged = sealed({**content(), part: value})
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoint.pt").write_bytes(damaged)
    told = message(trained(run))
    assert said in told
    assert str(run) in told
    assert (run / "checkpoint.pt").read_bytes() == damaged


def test_settings_of_the_optimizer_are_those_of_the_recipe(run):
    groups = [
        {**group, "momentum": 0.0, "nesterov": True, "lr": 1e9, "maximize": True}
        for group in content()["optimizer"]["param_groups"]
    ]
    optimizer = {**content()["optimizer"], "param_groups": groups}
    (run / "checkpoint.pt").write_bytes(sealed({**content(), "optimizer": optimizer}))
    assert trained(run).exit_code == 0
    found, expected = (state(place / "checkpoint.pt") for place in (run, inputs() / "whole"))
    for name, weight in expected["method"].items():
        assert torch.equal(found["method"][name], weight)
    assert found["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]


def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(run):
    (run / "checkpoint.pt").unlink()
    os.mkfifo(run / "checkpoint.pt")
    for arguments in (
        ("probe", str(run), str(inputs() / "tars")),
        ("export", str(run), str(run.parent / "a.safetensors")),
        ("boxes", "layers", str(run / "checkpoint.pt")),
    ):
        assert "there is no file of weights at" in message(ccrop(arguments))


def test_an_export_of_weights_that_do_not_fit_names_the_run(run):
    method = {k: v for k, v in content()["method"].items() if "layer1" not in k}
    (run / "checkpoint.pt").write_bytes(sealed({**content(), "method": method}))
    done = ccrop(("export", str(run), str(run.parent / "a.safetensors")))
    assert f"in {run}: the weights of this checkpoint" in message(done)
