"""`train`, the function that a person calls, does what the command and its driver do."""

import pytest
import torch
from ccrop_cli.main import cli
from click.testing import CliRunner

import ccrop_pipeline as ccrop
from ccrop_pipeline.base import Observer
from ccrop_pipeline.images import Scenes
from ccrop_pipeline.training import Inputs, Machine, Trainer, load_checkpoint

SETTINGS = [
    "image_size=32", "eval_size=0", "boxes.refresh_at=[0.5]", "epochs=2", "batch_size=8",
    "probe.every=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tars"
    ccrop.pack(Scenes(20, size=32), folder, max_images=7)
    return folder


@pytest.fixture(scope="module")
def recipe():
    return ccrop.load_recipe("demo", SETTINGS)


@pytest.fixture(scope="module")
def run(tars, recipe, tmp_path_factory):
    return ccrop.train(
        str(tars), str(tmp_path_factory.mktemp("runs") / "run"), recipe=recipe, device="cpu"
    )


def weights(run):
    return torch.cat([w.flatten().float() for w in load_checkpoint(run.folder).method.values()])


def test_it_trains_as_the_driver(run, tars, recipe, tmp_path):
    source = ccrop.open_source(tars)
    trainer = Trainer(Inputs(source), tmp_path / "run", recipe, Machine(), Observer())
    trainer.train()
    assert torch.equal(weights(run), weights(trainer.run))
    assert [record["epoch"] for record in run.metrics()] == [1, 2]
    assert run.source() == str(tars)  # absolute: opens from anywhere


def test_it_resumes_and_tells_its_observer(run, tars, recipe):
    class Watch(Observer):
        heard = ()

        def loading(self, images, note):
            self.heard = (*self.heard, images)

        def epoch_done(self, record):
            self.heard = (*self.heard, record["epoch"])

    watch, before = Watch(), weights(run)
    again = ccrop.train(tars, run.folder, recipe=recipe, device="cpu", observer=watch)
    assert watch.heard == (20,)  # nothing was left to do
    assert torch.equal(weights(again), before)
    other = ccrop.load_recipe("demo", [*SETTINGS, "seed=1"])
    with pytest.raises(ccrop.CcropError, match="started differently"):
        ccrop.train(tars, run.folder, recipe=other, device="cpu")


def test_boxes_weights_and_missing_images_are_handed_on(run, tars, recipe, tmp_path):
    boxes = run.folder / "boxes/epoch-0001"
    plain = ccrop.load_recipe("demo", [*SETTINGS, "boxes.refresh_at=[]"])
    second = ccrop.train(
        ccrop.open_source(tars), tmp_path / "a", recipe=plain, boxes=str(boxes),
        load=str(run.folder), missing="full", device=torch.device("cpu"), resident_gb=0,
    )  # fmt: skip
    assert {record["boxes"] for record in second.metrics()} == {str(boxes.resolve())}
    started = second.started()
    assert started["missing_boxes"] == "full"
    assert started["weights"] is not None
    with pytest.raises(ccrop.CcropError, match="device 'cuda:99' cannot be used here"):
        ccrop.train(tars, tmp_path / "b", recipe="demo", device="cuda:99")


def test_the_command_names_the_flag_of_what_is_missing(run, tmp_path):
    ccrop.pack(Scenes(30, size=32), tmp_path / "more")
    line = ["train", str(tmp_path / "more"), str(tmp_path / "run"), "--recipe", "demo"]
    line += [f"--set={setting}" for setting in [*SETTINGS, "boxes.refresh_at=[]"]]
    result = CliRunner().invoke(cli, [*line, "--boxes", str(run.folder / "boxes/epoch-0001")])
    assert result.exit_code == 1
    assert "10 of 30 images have no box" in result.stderr
    assert "(--missing-boxes full)" in result.stderr
