"""`ccrop quickstart`: what it sees, what it proposes, and how it runs that."""

import contextlib
import io
import json
import shlex
import signal
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from ccrop_cli.main import cli
from ccrop_cli.proposal import Choice, look_at, propose
from ccrop_cli.quickstart import _show
from ccrop_cli.train import train
from ccrop_cli.train_progress import TrainProgress
from ccrop_cli.trial import Trial
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.models.availability import Availability, availability
from ccrop_pipeline.models.trainable import open_backbone

# Something that takes no time: four by four cells of brightness.
NETWORK = """
from torch import nn
from ccrop_pipeline.localize import Encoder

def make():
    return Encoder(nn.Sequential(nn.AvgPool2d(8), nn.ReLU()), "1", 32, name="mean")
"""


def photos(folder: Path, names: list[str], size: tuple[int, int] = (48, 40)) -> Path:
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder to work in, with a model and with one for temporary files."""
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quickstart(*words: str):
    return CliRunner().invoke(cli, ["quickstart", *words, "--model", "net.py:make"])


def test_it_says_what_it_sees_and_what_each_command_would_take(place):
    photos(place / "photos", [f"{c}/{i}.png" for c in ("cats", "dogs") for i in range(35)])
    (place / "photos/cats/broken.jpg").write_bytes(b"\xff\xd8\xffno image")
    (place / "photos/cats/notes.txt").write_text("")
    done = quickstart("photos", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["images"] == 71
    assert told["record"]["classes"] == {"cats": 36, "dogs": 35}
    assert told["record"]["ignored"] == {".txt": 1}
    assert told["sizes"] == [[48, 40]] * 70
    assert len(told["unreadable"]) == 1
    assert "cats/broken.jpg" in told["unreadable"][0]
    compute, see, training = told["commands"]
    assert compute["words"][:3] == ["boxes", "compute", "photos"]
    assert see["words"][:2] == ["boxes", "report"]
    assert all(step["seconds"] > 0 for step in told["commands"])
    settings = train.make_context("train", training["words"][1:]).params
    assert settings["boxes"] == compute["words"][3]
    assert settings["overrides"] == ("batch_size=16", "image_size=32")
    assert not list((place / "temporary").glob("ccrop-quickstart-*"))
    assert sorted(path.name for path in place.iterdir()) == ["net.py", "photos", "temporary"]


def test_three_images_are_run_to_boxes_and_what_was_stopped_goes_on(place):
    photos(place / "some photos", [f"{i}.png" for i in range(3)])
    done = quickstart("some photos", "--run", "out")
    assert done.exit_code == 0, done.output
    assert "Too few to train on" in done.stdout
    assert BoxSet.open(place / "out/boxes").manifest.rows == 3
    page = (place / "out/boxes.html").read_bytes()
    (place / "out/boxes/manifest.json").unlink()
    again = quickstart("some photos", "--run", "out")
    assert again.exit_code == 0, again.output
    assert BoxSet.open(place / "out/boxes").manifest.rows == 3
    assert (place / "out/boxes.html").read_bytes() == page
    assert "trying each command" not in again.stderr
    lines = [line for line in again.stderr.splitlines() if line.startswith("runs:")]
    assert [shlex.split(line)[1:5] for line in lines] == [
        ["ccrop", "boxes", "compute", "some photos"]
    ]
    third = quickstart("some photos", "--run", "out")
    assert third.exit_code == 0, third.output
    assert third.output.splitlines() == [
        "1. the box of every image: done already (out/boxes, 3 images)",
        "2. a page to look at them: done already (out/boxes.html)",
    ]
    photos(place / "some photos", ["3.png"])
    more = quickstart("some photos", "--run", "out")
    assert more.exit_code == 1
    assert "source.fingerprint" in more.output


def test_training_that_was_stopped_is_told_from_that_which_is_done(place, monkeypatch):
    photos(place / "photos", [f"{i}.png" for i in range(8)])
    words = ["train", "photos", "out/run", "--recipe", "demo", "--set", "boxes.kind=none"]
    words += ["--set", "epochs=2", "--set", "batch_size=4", "--device", "cpu"]
    given = {"source": "photos", "model": "net.py:make", "weights": None}
    (place / "out").mkdir()
    steps = [{"what": "training", "words": words}]
    (place / "out/quickstart.json").write_text(json.dumps({"given": given, "commands": steps}))

    def stop(_progress, report):
        if report.epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainProgress, "step", stop)
        assert quickstart("photos", "--run", "out").exit_code == 130
    rest = quickstart("photos", "--run", "out")
    assert rest.exit_code == 0, rest.output
    assert "1. training: goes on after epoch 1 of 2\n" in rest.stderr
    done = quickstart("photos", "--run", "out")
    assert done.output == "1. training: done already (out/run, 2 epochs)\n"
    lines = (place / "out/run/metrics.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (lines[:-1], []):  # as where the power was cut
        (place / "out/run/metrics.jsonl").write_bytes(b"".join(kept))
        assert quickstart("photos", "--run", "out").output == done.output
        again = CliRunner().invoke(cli, words)
        assert (again.exit_code, again.stdout) == (0, "out/run: 2 epochs\n")
        assert "metrics.jsonl has no loss of the last epoch" in again.stderr


ENDING = """
import os, pathlib, signal, tempfile
from torch import nn
from ccrop_pipeline.localize import Encoder

class Killed(nn.Module):
    def forward(self, x):
        if list(pathlib.Path(tempfile.gettempdir()).glob("ccrop-quickstart-*/images")):
            try:
                os.kill(os.getpid(), signal.{name})
            finally:  # once more, as `timeout` does
                signal.{name} == signal.SIGINT or os.kill(os.getpid(), signal.{name})
        return x

def make():
    return Encoder(nn.Sequential(nn.AvgPool2d(8), Killed()), "1", 32, name="killed")
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_no_signal_leaves_temporary_files(place, monkeypatch, name, status):
    photos(place / "photos", [f"{i}.png" for i in range(3)])
    (place / "ending.py").write_text(ENDING.format(name=name))
    number, passed = getattr(signal, name), []
    before = {each: signal.getsignal(each) for each in (number, signal.SIGCHLD)}
    outer = signal.default_int_handler if name == "SIGINT" else lambda *_: passed.append(name)
    signal.signal(number, outer)
    try:
        ended = CliRunner().invoke(cli, ["quickstart", "photos", "--model", "ending.py:make"])
        assert signal.getsignal(number) is outer
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert (ended.exit_code, passed) == (status, [])
    assert "Stopped. Nothing was written.\n" in ended.stderr
    assert not list((place / "temporary").glob("ccrop-quickstart-*"))


GIVEN = {"source": "photos", "model": "net.py:make", "weights": None}
SHAPES = {
    "list": ([], "all is []; it must be a table"),
    "no given": ({"commands": []}, "given is missing"),
    "text": ({"given": "photos", "commands": []}, "given is 'photos'; it must be a table"),
    "number": ({"given": GIVEN | {"source": 5}, "commands": []}, "given.source is 5; it must be"),
    "words": (
        {"given": GIVEN, "commands": [{"what": "", "words": "train a b"}]},
        "it must be a li",
    ),
    "command": (
        {"given": GIVEN, "commands": [{"what": "", "words": ["data", "pack", "a", "b"]}]},
        "commands[0].words are ['data', 'pack', 'a', 'b']; they are no command of it",
    ),
}


@pytest.mark.parametrize(("content", "message"), SHAPES.values(), ids=SHAPES)
def test_a_record_of_another_shape_is_refused_in_plain_words(place, content, message):
    photos(place / "photos", ["0.png"])
    (place / "out").mkdir()
    (place / "out/quickstart.json").write_text(json.dumps(content))
    refused = quickstart("photos", "--run", "out")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: out/quickstart.json is no record of a quickstart (")
    assert message in refused.stderr


def test_no_folder_of_others_is_written_to(place):
    photos(place / "photos", ["0.png"])
    (place / "mine").mkdir()
    (place / "mine/notes.txt").write_text("")
    refused = quickstart("photos", "--run", "mine")
    assert refused.exit_code == 1
    assert "mine" in refused.stderr
    (place / "mine/notes.txt").unlink()
    given = {"source": "some photos", "model": "torchvision:resnet18", "weights": "random"}
    (place / "mine/quickstart.json").write_text(json.dumps({"given": given, "commands": []}))
    refused = quickstart("photos", "--run", "mine")
    assert refused.exit_code == 1
    told = refused.stderr
    assert "images: was some photos, now photos; model: was" in told
    assert "was torchvision:resnet18 with weights random, now net.py:make. Choose" in told
    assert (
        "ccrop quickstart 'some photos' --run mine --model torchvision:resnet18 --weights random\n"
    ) in told
    given |= {"source": "photos"}
    (place / "mine/quickstart.json").write_text(json.dumps({"given": given, "commands": []}))
    refused = CliRunner().invoke(cli, ["quickstart", "photos", "--run", "mine"])
    assert "images:" not in refused.stderr
    assert "with weights random, now chosen for you" in refused.stderr
    assert [path.name for path in (place / "mine").iterdir()] == ["quickstart.json"]


def test_training_is_left_out_with_boxes_that_carry_nothing(place):
    photos(place / "photos", [f"{i}.png" for i in range(8)])
    commands = [
        ["boxes", "compute", "photos", "out/boxes", "--model", "net.py:make", "--threshold", "0"],
        ["train", "photos", "out/run", "--recipe", "demo", "--boxes", "out/boxes"],
    ]
    (place / "out").mkdir()
    given = {"source": "photos", "model": "net.py:make", "weights": None}
    steps = [{"what": "", "words": words} for words in commands]
    (place / "out/quickstart.json").write_text(json.dumps({"given": given, "commands": steps}))
    done = quickstart("photos", "--run", "out")
    assert done.exit_code == 0, done.output
    assert "training with them is left out" in done.stderr
    assert "--recipe demo --set boxes.kind=none" in done.stderr
    assert not (place / "out/run").exists()


def test_nothing_is_left_by_who_stops_it(place, monkeypatch):
    def stop(_trial):
        assert list((place / "temporary").glob("ccrop-quickstart-*"))
        raise KeyboardInterrupt

    monkeypatch.setattr(Trial, "report", stop)
    photos(place / "photos", ["0.png", "1.png"])
    done = quickstart("photos")
    assert done.exit_code == 130
    assert "Stopped. Nothing was written.\n" in done.stderr
    assert not list((place / "temporary").glob("ccrop-quickstart-*"))


@pytest.mark.parametrize("names", [[], ["notes.txt"]])
def test_without_an_image_that_can_be_decoded_it_says_so(place, names):
    (place / "photos").mkdir()
    for name in names:
        (place / "photos" / name).write_text("")
    done = quickstart("photos")
    assert done.exit_code == 1
    assert "holds no images" in done.stderr
    (place / "photos/0.jpg").write_bytes(b"\xff\xd8\xff")
    done = quickstart("photos")
    assert done.exit_code == 1
    assert "none of 1 image" in done.stderr


def test_of_splits_the_one_to_train_on_is_taken(place):
    photos(
        place / "photos", [f"{s}/{c}/{i}.png" for s in ("train", "val") for c in "ab" for i in "01"]
    )
    look = look_at("photos")
    assert (look.source, look.test, look.images) == ("photos/train", "photos/val", 4)
    assert look.splits == {"train": "photos/train", "validation": "photos/val"}
    photos(place / "photos", ["val/c/0.png"])  # other classes have other labels
    look = look_at("photos")
    assert look.test is None
    assert look.no_test == (
        "photos/val is no --test: its classes (a, b, c) are not those of photos/train (a, b)."
    )
    photos(place / "photos", ["test/a/0.png", "test/b/0.png"])
    look = look_at("photos")
    assert (look.test, look.no_test) == ("photos/test", None)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["train/0.png", "val/0.png"], "the images of photos/train have no classes."),
        (["train/a/0.png", "val/0.png"], "it has no classes, unlike photos/train (a)."),
        (["train/a/0.png", "val/a/0.png"], "of one class (a), a probe tells nothing."),
    ],
)
def test_why_a_split_is_not_tested_on_is_said(place, names, why):
    look = look_at(str(photos(place / "photos", names)))
    assert look.test is None
    assert (look.no_test or "").replace(f"{place}/", "") == f"photos/val is no --test: {why}"


def test_few_images_of_one_class_are_not_sent_to_training_without_doubt(place):
    photos(place / "photos", [f"cats/{i}.png" for i in range(70)])
    look = look_at("photos")
    steps = propose(look, Choice("net.py:make"), Path("out"))
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        _show(look, [], steps, None)
    assert "70 images are few to train on" in output.getvalue()
    assert "All images are of one class" in output.getvalue()
    look.images, look.record = 500, look.record | {"classes": {"cats": 250, "dogs": 250}}
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        _show(look, [], steps, None)
    assert "are few to train on" not in output.getvalue()
    assert "one class" not in output.getvalue()


def test_many_images_are_trained_on_before_there_are_boxes(place, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    photos(place / "photos", ["a/0.png", "a/1.png"])
    look = look_at("photos")
    assert look.too_few
    look.images, look.test = 2500, "photos/test"
    assert not look.too_few
    training, compute, see = propose(look, None, Path("out"))
    assert training.line == (
        "ccrop train photos out/run --recipe photos-simclr-2core --set image_size=32 "
        "--test photos/test"
    )
    assert compute.line == "ccrop boxes compute photos out/boxes --model out/run"
    assert see.line == "ccrop boxes report out/boxes photos out/boxes.html"
    boxed = propose(look, Choice("net.py:make"), Path("out"))[-1]
    assert boxed.line == training.line.replace("--test", "--boxes out/boxes --test")


def test_weights_that_are_given_are_gone_on_from(place, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    look = look_at(str(photos(place / "photos", [f"{i}.png" for i in range(80)])))
    line = propose(look, Choice("timm:test_vit", "random"), Path("out"))[-1].line
    # 160 px in patches of 16, 128 of which are whole ones.
    assert "--set image_size=128 --init timm:test_vit --weights random --boxes out/boxes" in line
    line = propose(look, Choice("timm:test_resnet", "random"), Path("out"))[-1].line
    frozen = int(line.split("freeze=")[1].split()[0])  # batch norm: all but the last block
    assert max(open_backbone("timm:test_resnet", [128]).depths().values()) == frozen


def test_without_weights_it_says_what_is_missing_and_runs_nothing(place, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr("ccrop_cli.proposal.ENCODERS", ("timm:test_vit",))
    photos(place / "photos", ["0.png"])
    told = CliRunner().invoke(cli, ["quickstart", "photos"])
    assert told.exit_code == 0, told.output
    why, _, commands = told.stdout.partition("--weights FILE behind the name of the model):\n")
    assert "1 image is too few to learn boxes from random weights" in told.stdout
    assert "1. the box of every image:\n" in commands
    assert "ccrop boxes compute photos first/boxes --model timm:test_vit\n" in commands
    assert "The weights of timm:test_vit cannot be had: HF_HUB_OFFLINE is set" in why
    assert "https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors" in why
    assert "--model timm:test_vit --weights model.safetensors." in why
    assert "trying each command" not in told.stderr
    refused = CliRunner().invoke(cli, ["quickstart", "photos", "--run", "out"])
    assert refused.exit_code == 1
    assert "--model MODEL --weights FILE" in refused.stderr
    assert not (place / "out").exists()


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200 if "lite0" in self.path else 404)
        self.send_header("Content-Length", "18500000")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_weights_are_asked_for_where_their_library_has_them(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    template = f"{place}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "timm:tf_efficientnet_lite0"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    url = f"{place}/timm/tf_efficientnet_lite0.in1k/resolve/main/model.safetensors"
    assert availability([name]) == [Availability(name, url, megabytes=18.5)]
    assert "answers 404" in (availability(["timm:resnet10t"])[0].problem or "")
    server.shutdown()
    server.server_close()
    assert "127.0.0.1 cannot be reached" in (availability([name])[0].problem or "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in (availability([name])[0].problem or "")


class Dribble(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.flush_headers()
        while not self.server.tired.wait(0.05):  # no single wait is long
            self.wfile.write(b"X: Y\r\n")

    def log_message(self, *_):
        pass


def test_nobody_waits_for_hosts_that_are_slow(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dribble)
    server.tired = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    template = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("ccrop_pipeline.models.availability._PATIENCE", 0.4)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    threading.Timer(3, server.tired.set).start()
    both = availability(["timm:tf_efficientnet_lite0", "timm:test_vit"])
    assert not server.tired.is_set()
    server.tired.set()
    server.shutdown()
    server.server_close()
    assert [each.problem for each in both] == ["127.0.0.1 does not answer within 0.4 s"] * 2


def test_weights_in_the_cache_of_torchvision_need_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub/checkpoints/resnet50-11ad3fa6.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    name = "torchvision:resnet50"
    url = f"https://download.pytorch.org/models/{file.name}"
    assert availability([name]) == [Availability(name, url, cached=True)]
