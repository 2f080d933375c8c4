import os
import signal
from pathlib import Path

import pytest
import torch

from ccrop_pipeline.base import Observer
from ccrop_pipeline.base.lock import only_writer
from ccrop_pipeline.boxset import BoxSet, validate
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Sample, Scenes, open_source, pack
from ccrop_pipeline.localize import Localizer
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Inputs, Machine, Run, Trainer, load_checkpoint
from ccrop_pipeline.training.processes import Processes
from tests.training.several import run, start

COMMON = [
    "backbone=small",
    "image_size=32",
    "eval_size=0",
    "precision=fp32",
    "batch_size=16",
    "accumulate=1",
    "optimizer.lr=0.05",
    "optimizer.lr_warmup_epochs=0",
    "probe.every=0",
    "probe.k=20",
    "seed=3",
]
METHODS = {
    "simclr": ["method.temperature=0.2"],
    "mocov2": ["method.queue_size=40", "method.encoder_momentum=0.9", "method.bn_groups=2"],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tars"
    pack(Scenes(18, size=32), folder, max_images=5)
    return open_source(folder)


def trained(source, folder, method, settings, observer=None):
    torch.set_num_threads(1)
    recipe = load_recipe(method, [*COMMON, *METHODS[method], *settings])
    trainer = Trainer(Inputs(source), folder, recipe, Machine(), observer or Observer())
    trainer.train()


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in Run(folder).metrics()]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("precision", "within", "rate", "batch"),
    # Rounding errors of float32 grow from step to step, the faster the higher the rate and the
    # smaller the batch; what is computed is the same, as float64 shows. Losses are written down
    # in float32 in any case.
    [("fp64", 2e-7, 0.05, 16), ("fp32", 1e-5, 0.0003, 64)],
)
def test_two_processes_and_one_give_the_same_losses_for_twenty_steps(
    tmp_path, method, precision, within, rate, batch
):
    pack(Scenes(batch + 2, size=32), tmp_path / "data")
    source = open_source(tmp_path / "data")  # an epoch is one step
    settings = [
        "epochs=20",
        "boxes.kind=none",
        f"precision={precision}",
        f"optimizer.lr={rate}",
        f"batch_size={batch}",
    ]
    trained(source, tmp_path / "one", method, settings)
    assert run(2, trained, source, tmp_path / "two", method, settings) == [0, 0]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 20
    assert two == pytest.approx(one, rel=within)
    assert len({round(loss, 4) for loss in one}) == 20  # it did learn
    ranks, of_two = (
        [record["rankme"] for record in Run(tmp_path / name).metrics()] for name in ("one", "two")
    )
    assert of_two == pytest.approx(ranks, abs=0.02)


REFRESHED = ["epochs=4", "boxes.refresh_at=[0.5]"]


class KillAll(Observer):
    """Kills its process at an epoch; the others wait for it until they are killed, too."""

    def __init__(self, epoch):
        self.epoch = epoch

    def epoch_done(self, record):
        if record["epoch"] == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def state_of(folder):
    checkpoint = load_checkpoint(folder)
    boxes = BoxSet.open(folder / "boxes/epoch-0002").manifest
    return checkpoint.epoch, checkpoint.method, checkpoint.optimizer["state"], boxes


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_killed_run_of_two_processes_resumes_exactly(source, tmp_path, epoch):
    assert run(2, trained, source, tmp_path / "whole", "mocov2", REFRESHED) == [0, 0]
    first, second = start(2, trained, source, tmp_path / "run", "mocov2", REFRESHED, KillAll(epoch))
    first.join(120)
    assert first.exitcode == -signal.SIGKILL
    second.kill()
    second.join(20)
    assert len(losses(tmp_path / "run")) == epoch
    assert run(2, trained, source, tmp_path / "run", "mocov2", REFRESHED) == [0, 0]
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    whole, again = state_of(tmp_path / "whole"), state_of(tmp_path / "run")
    assert whole[0] == again[0] == 4
    assert all(torch.equal(whole[1][name], again[1][name]) for name in whole[1])
    momenta = [[slot["momentum_buffer"] for slot in part[2].values()] for part in (whole, again)]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))
    assert whole[3] == again[3]


@pytest.mark.slow
def test_boxes_of_several_processes_are_those_of_the_checkpoint(source, tmp_path):
    assert run(3, trained, source, tmp_path / "run", "simclr", REFRESHED) == [0, 0, 0]
    made = tmp_path / "run/boxes/epoch-0002"
    assert validate(made) == []
    encoder = load_checkpoint(tmp_path / "run/checkpoints/epoch-0002.pt").encoder()
    again = compute_boxes(source, Localizer(encoder), tmp_path / "boxes")
    assert again.manifest == BoxSet.open(made).manifest


def test_an_error_of_the_first_process_ends_all(source, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    assert run(2, trained, source, tmp_path, "simclr", REFRESHED, timeout=60) == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_processes_that_nobody_has_started_together_do_not_train(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CcropError, match="LOCAL_WORLD_SIZE is not set"):
        Processes(torch.device("cpu"), "fp32")


class WarningsTo(Observer):
    def __init__(self, file):
        self.file = file

    def warning(self, note):
        with self.file.open("a") as file:
            file.write(note + "\n")


@pytest.mark.slow
def test_images_that_no_process_can_decode_are_named_once_by_the_first(tmp_path):
    samples = list(Scenes(16, size=32).read("train-000000"))
    for row in (3, 7, 12):
        samples[row] = Sample(samples[row].key, b"no image", 0)
    pack(samples, tmp_path / "tars")
    source, folder = open_source(tmp_path / "tars"), tmp_path / "run"
    settings = ["epochs=2", "boxes.kind=none", "probe.k=5"]
    heard = WarningsTo(tmp_path / "warnings")
    assert run(2, trained, source, folder, "simclr", settings, heard) == [0, 0]
    (warning,) = heard.file.read_text().splitlines()
    assert warning.startswith("3 images cannot be decoded")
    assert all(f"{samples[row].key} (" in warning for row in (3, 7, 12))
    assert [record["unreadable"] for record in Run(folder).metrics()] == [3, 3]


@pytest.mark.slow
def test_the_processes_of_a_run_share_one_lock(source, tmp_path):
    with only_writer(tmp_path / "run"):
        codes = run(2, trained, source, tmp_path / "run", "simclr", ["epochs=1"])
    assert 0 not in codes
    assert not list((tmp_path / "run").iterdir())
