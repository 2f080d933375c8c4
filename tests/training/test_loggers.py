"""Loggers, offline: what each of them reads back is what metrics.jsonl has."""

import json
import sqlite3
from contextlib import contextmanager

import pytest

from ccrop_pipeline.base import Observer
from ccrop_pipeline.errors import SettingError
from ccrop_pipeline.training import Run, loggers
from ccrop_pipeline.training.loggers import Loggers, how_to_open

SETTINGS = {"epochs": 3, "method": {"name": "simclr", "temperature": 0.2}}
# Epoch 3 is trained twice, since its checkpoint was not written before the run was stopped.
FIRST = [{"stage": "train", "epoch": n, "loss": n / 4, "boxes": None} for n in (1, 2, 3)]
AGAIN = [{"stage": "train", "epoch": 3, "loss": 5.0, "boxes": "boxes/x", "verdict": "learning"}]


class Told(Observer):
    def __init__(self):
        self.notes = []

    def warning(self, note):
        self.notes.append(note)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "first")
    run.start({"recipe": {}})
    return run


def log(name, run):
    """A run that is stopped, and its resumption."""
    told = Told()
    for records, epoch, error in ((FIRST, 0, KeyboardInterrupt()), (AGAIN, 2, None)):
        there = Loggers([name, name], told)
        there.open(run, SETTINGS, epoch)
        for record in records:
            there.add(record)
        there.close(error)
    assert told.notes == []


def test_tensorboard_has_the_numbers_of_the_lines_and_forgets_later_epochs(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log("tensorboard", run)
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    read = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert read == [(1, 0.25), (2, 0.5), (3, 5.0)]


def test_where_the_numbers_are_is_said(run, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_DIR", "TRACKIO_SPACE_ID", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    assert how_to_open("tensorboard", run) == f"tensorboard --logdir {run.folder}/tensorboard"
    assert how_to_open("wandb", run) == "https://wandb.ai, project ccrop"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert how_to_open("wandb", run) == f"wandb sync wandb/offline-run-*-{run.id}"
    assert how_to_open("trackio", run) == "trackio show --project ccrop"


@pytest.mark.slow
def test_mlflow_goes_on_in_one_run(run, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (run.folder.parent / "mlruns").as_uri())
    log("mlflow", run)
    place = (run.folder.parent / "mlruns").as_uri()
    assert how_to_open("mlflow", run) == f"mlflow ui --backend-store-uri {place}"
    client = tracking.MlflowClient()
    (own,) = client.search_runs([client.get_experiment_by_name("ccrop").experiment_id])
    assert own.info.run_name == "first"
    assert own.info.status == "FINISHED"
    assert own.data.params["method.temperature"] == "0.2"
    history = client.get_metric_history(own.info.run_id, "train/loss")
    assert {metric.step: metric.value for metric in history} == {1: 0.25, 2: 0.5, 3: 5.0}


@pytest.mark.slow
def test_trackio_goes_on_in_one_run(run, monkeypatch):
    trackio = pytest.importorskip("trackio", reason="trackio is not installed")
    store = run.folder.parent / "trackio"
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", store)
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", store)
    log("trackio", run)
    with pytest.raises(RuntimeError, match=r"Call trackio.init"):  # nothing is left for the exit
        trackio.finish()
    with sqlite3.connect(store / "ccrop.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
        (config,) = database.execute("SELECT config FROM configs").fetchone()
    assert {name for name, _, _ in rows} == {f"first-{run.id}"}
    assert {step: json.loads(metrics) for _, step, metrics in rows} == {
        1: {"train/loss": 0.25}, 2: {"train/loss": 0.5}, 3: {"train/loss": 5.0}
    }  # fmt: skip
    assert json.loads(config)["method"] == SETTINGS["method"]


@pytest.mark.slow
def test_wandb_writes_under_one_id_offline(run, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log("wandb", run)
    wandb.teardown()  # its own process has written all
    first, again = sorted(run.folder.parent.glob(f"wandb/offline-run-*-{run.id}/run-*.wandb"))
    assert [entries(first), entries(again)] == [
        [{"epoch": each["epoch"], "train/loss": each["loss"]} for each in part]
        for part in (FIRST, AGAIN)
    ]


def entries(file):
    """The history of a run in wandb's own form, a LevelDB log of less than a block."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, found = file.read_bytes(), 7, []
    while place < len(content):
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        record = Record.FromString(content[place + 7 : place + 7 + length])
        place += 7 + length
        items = [(".".join(i.nested_key) or i.key, i.value_json) for i in record.history.item]
        if items:
            found.append({name: json.loads(v) for name, v in items if not name.startswith("_")})
    return found


@pytest.mark.parametrize("when", ["open", "write", "close"])
def test_one_that_fails_is_left_out_with_one_warning(run, monkeypatch, when):
    written = {"bad": [], "good": []}

    def opener(name, fails):
        @contextmanager
        def opened(run, settings, epoch):
            if fails == "open":
                raise ConnectionError("no route to host")

            def write(epoch, numbers):
                if fails == "write":
                    raise ConnectionError("no route to host")
                written[name].append(epoch)

            yield write
            if fails == "close":
                raise ConnectionError("no route to host")

        return "json", opened

    monkeypatch.setattr(
        loggers, "LOGGERS", {"bad": opener("bad", when), "good": opener("good", "")}
    )
    told = Told()
    there = Loggers(["bad", "good"], told)
    there.open(run, SETTINGS, 0)
    for record in FIRST:
        there.add(record)
    there.close(None)
    assert told.notes == ["bad is left out from now on, training goes on: no route to host"]
    assert written == {"bad": [1, 2, 3] if when == "close" else [], "good": [1, 2, 3]}


def test_a_logger_that_nobody_knows_is_refused():
    with pytest.raises(SettingError, match="`log` is 'comet'; known are tensorboard, wandb"):
        Loggers(["comet"])
