import errno
import hashlib
import io
import json
import os
import pickle
import re
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from ccrop_pipeline.errors import CcropError, ModelError
from ccrop_pipeline.methods import build_method
from ccrop_pipeline.models import open_encoder
from ccrop_pipeline.models.own_checkpoints import OWN_KIND
from ccrop_pipeline.models.sealed_files import seal
from ccrop_pipeline.models.weight_files import save_sealed
from ccrop_pipeline.recipes import Recipe, load_recipe
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


def flipped(data, rng, bits=2):
    damaged = bytearray(data)
    for bit in rng.choice(len(data) * 8, bits, replace=False):
        damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.slow
def test_two_flipped_bits_are_noticed_wherever_they_are(tmp_path):
    file, rng = tmp_path / "checkpoint.pt", np.random.default_rng(0)
    save_checkpoint(file, checkpoint()[1])
    whole = file.read_bytes()
    ends = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(-90, 0)]
    for damaged in [*ends, *(flipped(whole, rng) for _ in range(60)), whole[:-1], whole + b"0"]:
        file.write_bytes(damaged)
        with pytest.raises(ModelError, match=re.escape(str(file))):
            load_checkpoint(file)
        with pytest.raises(ModelError, match=re.escape(str(file))):
            open_encoder(file)
    file.write_bytes(whole)
    assert load_checkpoint(file).epoch == 4


def test_a_damaged_checkpoint_is_refused_before_anything_is_unpickled(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "checkpoint.pt", checkpoint()[1])
    data = bytearray((tmp_path / "checkpoint.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "checkpoint.pt").write_bytes(data)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(ModelError, match="is damaged: its bytes are not those that its checksum"):
        load_checkpoint(tmp_path)


def test_the_checksum_is_that_of_all_bytes_before_it(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", checkpoint()[1])
    data = (tmp_path / "checkpoint.pt").read_bytes()
    comment = ZipFile(tmp_path / "checkpoint.pt").comment.decode()
    assert comment == "ccrop sha256 " + hashlib.sha256(data[:-64]).hexdigest()
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 4


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epoch", "4", "'epoch' is no int"),
        ("epoch", True, "'epoch' is no int"),
        ("recipe", {"epochs": -1}, "in its recipe, "),
        ("recipe", [], "'recipe' is no dict"),
        ("method", {"backbone.x": 3}, "'method' is no state dict"),
        ("optimizer", None, "'optimizer' is no dict"),
    ],
)
def test_a_checkpoint_with_absurd_content_is_one_message(tmp_path, name, value, message):
    content = {"kind": OWN_KIND, **vars(checkpoint()[1]), "recipe": RECIPE.to_dict(), name: value}
    with (tmp_path / "checkpoint.pt").open("w+b") as file:
        torch.save(content, file)
        seal(file)
    for read in (load_checkpoint, open_encoder):
        with pytest.raises(ModelError, match=message):
            read(tmp_path)


def test_a_checkpoint_without_a_checksum_is_refused(tmp_path):
    content = {"kind": OWN_KIND, **vars(checkpoint()[1]), "recipe": RECIPE.to_dict()}
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match=r"checkpoint\.pt carries no checksum"):
        load_checkpoint(tmp_path)


def test_of_a_damaged_run_the_checkpoint_before_is_named(tmp_path):
    for name in ("checkpoint.pt", "checkpoints/epoch-0003.pt", "checkpoints/epoch-0002.pt"):
        save_checkpoint(tmp_path / name, checkpoint()[1])
    for name in ("checkpoint.pt", "checkpoints/epoch-0003.pt"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    for read in (load_checkpoint, open_encoder):
        with pytest.raises(ModelError, match=r"The one before is \S+/checkpoints/epoch-0002\.pt\."):
            read(tmp_path)


def test_of_a_run_without_its_newest_checkpoint_the_one_before_is_named(tmp_path):
    for name in ("checkpoints/epoch-0003.pt", "checkpoints/epoch-0010.pt"):
        save_checkpoint(tmp_path / name, checkpoint()[1])
    said = rf"{tmp_path}/checkpoint\.pt is missing\. The one before is \S+/epoch-0010\.pt\."
    for read in (load_checkpoint, open_encoder):
        with pytest.raises(ModelError, match=said):
            read(tmp_path)


class Full(io.BytesIO):
    """A disk that is full from a write on."""

    def __init__(self, writes):
        super().__init__()
        self.left = writes

    def write(self, data):
        if not self.left:
            raise OSError(errno.ENOSPC, "full")
        self.left -= 1
        return super().write(data)


def test_wherever_a_disk_is_full_the_error_says_so():
    """torch, closing the file, complains of a wrong position in it."""
    content = {"weights": torch.zeros(100), "more": torch.ones(3)}
    whole = Full(10**6)
    save_sealed(content, whole)
    writes = 10**6 - whole.left
    assert writes > 20
    for n in range(writes):
        with pytest.raises(OSError, match="full"):
            save_sealed(content, Full(n))


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
    save_checkpoint(run.folder / "checkpoint.pt", checkpoint()[1])
    with pytest.raises(CcropError, match=r"recipe\.crop\.alpha: 0\.6 -> 0\.1"):
        run.start({"recipe": {"epochs": 5, "crop": {"alpha": 0.1}}})
    Metrics(run.folder).add({"stage": "train", "epoch": 1})
    run.start({"recipe": {"epochs": 6}}, overwrite=True)
    assert run.metrics() == []


def test_what_opens_the_images_is_kept_and_is_no_part_of_the_identity(tmp_path):
    run = Run(tmp_path / "run")
    for place in ("/here", "/there"):
        run.start({"recipe": Recipe(epochs=5).to_dict()}, source=place)
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


DAMAGED = {
    "empty": b"",
    "cut": b'{"recipe": {"epochs": 5}, "places": {"sou',
    "not UTF-8": b'{"places": {"source": "\xff"}}',
    "nested": b"[" * 100_000,
    "digits": b'{"id": ' + b"9" * 5000 + b"}",
    "list": b"[1, 2]",
    "null": b"null",
    "surrogate": b'{"places": {"source": "\\ud800"}, "id": "a"}',
    "other program": b'{"name": "experiment 7", "id": 3}',
    "places": b'{"places": 3, "id": "a"}',
    "id": b'{"places": {"source": "x"}, "id": [1]}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_run_json_is_one_message_and_stays(tmp_path, content):
    run = Run(tmp_path)
    (tmp_path / "run.json").write_bytes(content)
    for attempt in (
        run.source,
        run.recipe,
        lambda: run.id,
        lambda: run.start({}),
        lambda: run.start({}, overwrite=True),
    ):
        with pytest.raises(CcropError, match=r"run\.json does not say what a run was started with"):
            attempt()
    assert (tmp_path / "run.json").read_bytes() == content


def test_a_run_goes_on_when_a_setting_has_been_added_since(tmp_path):
    now = Recipe().to_dict()
    run = Run(tmp_path)
    run.start({"recipe": {name: now[name] for name in now if name != "drop_path_rate"}})
    first = run.id
    run.start({"recipe": now})
    assert run.id == first
    run.start({"recipe": {**now, "drop_path_rate": 0.5}})
    assert run.id != first


def test_a_recipe_of_a_run_that_makes_no_sense_is_one_message(tmp_path):
    run = Run(tmp_path)
    for recipe in ({"epochs": -1}, {"boxes": 3}, None, []):
        run.start({"recipe": recipe})
        with pytest.raises(CcropError, match=r"run\.json has no recipe that can be read \("):
            run.recipe()
        with pytest.raises(CcropError, match=r"run\.json tells no fingerprint of its images"):
            run.source_fingerprint()


LINES = {
    "text": b"hello",
    "not UTF-8": b'{"stage": "\xff", "epoch": 2}',
    "nested": b"[" * 100_000,
    "digits": b'{"stage": "train", "epoch": ' + b"9" * 5000 + b"}",
    "list": b"[]",
    "null": b"null",
    "zeros": bytes(100),
    "epoch": b'{"stage": "train", "epoch": "2"}',
    "stage": b'{"stage": null, "epoch": 2}',
    "boxes": b'{"stage": "train", "epoch": 2, "boxes": 3}',
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_damaged_line_of_metrics_is_one_message_that_names_it(tmp_path, line):
    good = b'{"stage": "train", "epoch": 1}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + line + b"\n" + good)
    metrics = Metrics(tmp_path)
    for attempt in (metrics.records, lambda: metrics.truncate_after(1)):
        with pytest.raises(CcropError, match=r"metrics\.jsonl, line 2, is no record of a run \("):
            attempt()
    assert (tmp_path / "metrics.jsonl").read_bytes() == good + line + b"\n" + good


def test_the_last_record_is_whole_or_one_message(tmp_path):
    run, metrics = Run(tmp_path), Metrics(tmp_path)
    with pytest.raises(CcropError, match=r"metrics\.jsonl has no record of the last epoch"):
        run.last_record()
    metrics.add({"stage": "train", "epoch": 1, "knn": None})
    with pytest.raises(CcropError, match=r"metrics\.jsonl has no loss of the last epoch"):
        run.last_record("loss")
    metrics.add({"stage": "train", "epoch": 2, "loss": 0.5, "knn": 1})
    metrics.add({"stage": "refresh", "epoch": 2})
    assert run.last_record("loss", "knn")["epoch"] == 2
