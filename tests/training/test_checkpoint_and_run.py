import errno
import json
import os
import pickle

import pytest
import torch

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.methods import build_method
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Checkpoint, Metrics, Run, load_checkpoint
from ccrop_pipeline.training.checkpoint import save_checkpoint

RECIPE = load_recipe("demo", ["image_size=24", "eval_size=48"])


def checkpoint(seed=0):
    torch.manual_seed(seed)
    method = build_method(RECIPE.method, RECIPE.backbone)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    return method, Checkpoint(4, RECIPE, method.state_dict(), optimizer.state_dict())


def test_a_checkpoint_comes_back_from_its_file_or_its_run(tmp_path):
    method, saved = checkpoint()
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", saved)
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoint.pt"):
        loaded = load_checkpoint(path)
        assert (loaded.epoch, loaded.recipe) == (4, RECIPE)
        assert all(torch.equal(loaded.method[name], saved.method[name]) for name in saved.method)
    images = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(loaded.backbone().eval()(images), method.backbone.eval()(images))
    encoder = loaded.encoder()
    assert (encoder.layer, encoder.input_size) == ("layer4", 48)
    assert (encoder.info.name, encoder.info.epoch) == ("small", 4)


def test_a_checkpoint_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    for seed in range(2):
        method, saved = checkpoint(seed)
        save_checkpoint(tmp_path / "checkpoint.pt", saved)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    loaded = load_checkpoint(tmp_path)
    name = next(iter(method.state_dict()))
    assert torch.equal(loaded.method[name], method.state_dict()[name])


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one_and_nothing_beside_it(
    tmp_path, monkeypatch
):
    saved = checkpoint()[1]
    save_checkpoint(tmp_path / "checkpoint.pt", saved)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"checkpoint\.pt cannot be written: no space left"):
        save_checkpoint(tmp_path / "checkpoint.pt", checkpoint(1)[1])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    loaded = load_checkpoint(tmp_path)
    assert all(torch.equal(loaded.method[name], saved.method[name]) for name in saved.method)


class Danger:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a checkpoint ran')",))


def test_what_is_no_checkpoint_of_ours_is_refused(tmp_path):
    with pytest.raises(CcropError, match="no checkpoint"):
        load_checkpoint(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    (tmp_path / "danger.pt").write_bytes(pickle.dumps(Danger()))
    for name, message in [
        ("text.pt", "cannot be read as a checkpoint"),
        ("other.pt", "no checkpoint of"),
        ("danger.pt", "cannot be read as a checkpoint"),
    ]:
        with pytest.raises(CcropError, match=message):
            load_checkpoint(tmp_path / name)


def test_a_run_is_taken_up_only_by_what_started_it(tmp_path):
    run = Run(tmp_path / "run")
    run.start({"recipe": {"epochs": 5, "crop": {"alpha": 0.6}}})
    run.start({"recipe": {"epochs": 5, "crop": {"alpha": 0.6}}})
    with pytest.raises(CcropError, match=r"recipe\.crop\.alpha: 0\.6 -> 0\.1"):
        run.start({"recipe": {"epochs": 5, "crop": {"alpha": 0.1}}})
    Metrics(run.folder).add({"stage": "train", "epoch": 1})
    run.start({"recipe": {"epochs": 6}}, overwrite=True)
    assert run.metrics() == []


def test_what_opens_the_images_is_kept_and_is_no_part_of_the_identity(tmp_path):
    run = Run(tmp_path / "run")
    run.start({"recipe": {"epochs": 5}}, source="/here")
    run.start({"recipe": {"epochs": 5}}, source="/there")
    assert run.source() == "/here"


def test_a_folder_that_is_no_run_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(CcropError, match="not empty"):
            Run(tmp_path).start({}, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_metrics_survive_a_torn_last_line_and_forget_later_epochs(tmp_path):
    metrics = Metrics(tmp_path)
    for epoch in range(1, 5):
        metrics.add({"stage": "train", "epoch": epoch})
    metrics.add({"stage": "refresh", "epoch": 4})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 5, "lo')
    assert [record["epoch"] for record in metrics.records("train")] == [1, 2, 3, 4]
    assert [record["epoch"] for record in metrics.records("refresh")] == [4]
    metrics.truncate_after(2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
