"""The command line as its users meet it; each test runs the real command in-process."""

import json
import re
import shlex
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import click
import pytest
from ccrop_cli.boxes_compute import MAP_NAMES
from ccrop_cli.main import cli
from ccrop_cli.train_progress import TrainProgress
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline import __version__
from ccrop_pipeline.images import Scenes
from ccrop_pipeline.localize import MAPS

TOUR = (Path(__file__).parents[2] / "docs/tour.md").read_text()


def commands(group=cli, path=("ccrop",)):
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())
LEAVES = {path: c for path, c in COMMANDS.items() if not isinstance(c, click.Group)}


def example_of(command):
    """The line after "Example:" in the help of a command."""
    lines = [line.strip() for line in command.help.splitlines()]
    return lines[lines.index("Example:") + 1]


def ccrop(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder like a new user's: photographs in class folders."""
    folder = tmp_path_factory.mktemp("workplace")
    scenes = Scenes(160, size=48)
    for sample in scenes.read(scenes.shards[0]):
        path = folder / "photos" / scenes.classes[sample.label] / f"{sample.key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
    return folder


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_that_stands_in_the_tour(path):
    command = COMMANDS[path]
    example = example_of(command)
    # The example of a group is one of its commands.
    assert tuple(example.split())[: len(path)] == path
    assert f"{example}\n" in TOUR
    options = [option for option in command.params if not isinstance(option, click.Argument)]
    assert [option.name for option in options if not option.help] == []
    shown = CliRunner().invoke(cli, [*path[1:], "--help"])
    assert shown.exit_code == 0
    assert example in shown.output


def test_who_stops_a_command_learns_how_it_goes_on(tmp_path, monkeypatch):
    def stop(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    result = ccrop("boxes", "follow", tmp_path / "run", "--device", "cpu")
    assert result.exit_code == 130
    assert "Stopped. The same command goes on from there." in result.stderr


def test_who_stops_a_training_learns_what_is_kept(tmp_path, monkeypatch):
    for number in range(8):
        Image.new("RGB", (32, 32), (20 * number, 90, 50)).save(tmp_path / f"{number}.png")
    plain = ("boxes.kind=none", "epochs=2", "batch_size=8", "image_size=32", "eval_size=0")
    plain += ("optimizer.lr_warmup_epochs=0",)
    settings = [word for each in plain for word in ("--set", each)]
    command = [
        "train",
        tmp_path,
        tmp_path / "run",
        "--recipe",
        "demo",
        "--device",
        "cpu",
        *settings,
    ]
    stops = [0, 1]

    def step(self, report):
        if report.epoch in stops:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainProgress, "step", step)
    told = "No epoch was finished: the same command begins with the first one again."
    for kept in (told, "The same command, without --overwrite, goes on after epoch 1."):
        result = ccrop(*command)
        assert result.exit_code == 130
        assert result.stderr.endswith(f"\nStopped. {kept}\n")
        stops.pop(0)


def test_a_run_that_came_from_elsewhere_starts_no_command(tmp_path):
    """Its run.json says where the images are, which may be a command that writes a tar."""
    started = {
        "recipe": {"boxes": {"overlapped": True}, "epochs": 1},
        "source": {"fingerprint": ""},
        "places": {"source": f"pipe:touch {tmp_path / 'ran'}; cat a.tar"},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(started))
    result = ccrop("boxes", "follow", tmp_path / "run", "--device", "cpu")
    assert result.exit_code == 1
    assert not (tmp_path / "ran").exists()
    assert "which could be anything" in result.stderr
    assert "give it as --source" in result.stderr


def test_a_mistyped_folder_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = ccrop("train", "fotos", "runs/first", "--recipe", "demo")
    assert result.exit_code == 1
    assert "no file or folder 'fotos'" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_the_methods_of_the_command_are_those_of_the_package():
    from ccrop_cli.train import METHODS as OFFERED

    from ccrop_pipeline.methods import METHODS

    assert set(OFFERED) == set(METHODS)


def test_the_loggers_that_are_offered_are_those_of_the_library():
    from ccrop_cli.train import LOGGERS as OFFERED

    from ccrop_pipeline.training.loggers import LOGGERS

    assert tuple(LOGGERS) == OFFERED


def test_help_is_quick_to_load_and_prints_the_commands():
    result = ccrop("--help")
    assert result.exit_code == 0
    assert {"data", "train", "boxes", "probe", "demo"} <= set(
        re.findall(r"^  (\w+) ", result.output, re.M)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train"], 2, "Missing argument"),
        (["train", "photos", "run"], 2, "--recipe or --method"),
        (["train", "photos", "run", "--recipe", "dem"], 1, "did you mean demo"),
        (
            ["train", "photos", "run", "--recipe", "demo", "--set", "epoch=3"],
            1,
            "did you mean epochs",
        ),
        (["train", "nowhere/x", "run", "--recipe", "demo"], 1, "nowhere/x"),
        (
            ["train", "x", "run", "--recipe", "demo", "--set", "backbone=resnet19", "--dry-run"],
            1,
            "did you mean resnet18",
        ),
        (["train", "cifar11", "run", "--recipe", "demo"], 1, "cifar10"),
        (["train", "photos", "run", "--method", "mocov9"], 2, "mocov9"),
        (["train", "photos", "run", "--recipe", "demo", "--device", "gpu"], 2, "'gpu' is none"),
        (
            ["train", "photos", "photos", "--recipe", "demo", "--device", "cpu"],
            1,
            "choose another folder",
        ),
        (["boxes", "compute", "photos", "boxes/x", "--model", "photos"], 1, "no checkpoint"),
        (["boxes", "compute", "photos", "boxes/x"], 2, "--model"),
        (["boxes", "compute", "photos", "boxes/x", "--model", "x.pth"], 1, "no model x.pth"),
        (["boxes", "compute", "photos", "boxes/x", "--model", "x", "--map", "sun"], 2, "'sum'"),
        (
            ["boxes", "compute", "photos", "boxes/x", "--model", "torchvision:resnet19"],
            1,
            "did you mean resnet18",
        ),
        (
            ["boxes", "compute", "photos", "b", "--model", "x", "--mass", ".5", "--threshold", "0"],
            2,
            "not both",
        ),
        (["boxes", "compute", "photos", "b", "--model", "x", "--rank", "1"], 1, "--world-size"),
        (["boxes", "info", "photos"], 1, "not a box set"),
        (["boxes", "info", "nowhere"], 1, "nowhere"),
        (["probe", "photos", "photos", "photos"], 1, "no checkpoint"),
        (["data", "pack", "photos", "photos"], 1, "not empty"),
        (["data", "pack", "nowhere/x", "out"], 1, "nowhere/x"),
    ],
)
def test_mistakes_get_one_message_and_the_right_status(
    workplace, monkeypatch, arguments, status, message
):
    monkeypatch.chdir(workplace)
    before = sorted(path.name for path in workplace.iterdir())
    result = ccrop(*arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in workplace.iterdir()) == before


def test_the_maps_on_the_command_line_are_those_of_the_package():
    assert ("auto", *MAPS) == MAP_NAMES


@pytest.mark.slow
def test_portions_say_that_others_are_at_work_and_the_last_one_prints_the_result(
    workplace, monkeypatch
):
    monkeypatch.chdir(workplace)
    ccrop("data", "pack", "photos", "shared/data", "--max-images", "40")
    line = ["boxes", "compute", "shared/data", "shared/boxes", "--model", "torchvision:resnet18"]
    line += ["--weights", "random", "--input-size", "32", "--device", "cpu", "--world-size", "2"]
    first = ccrop(*line, "--rank", "0")
    assert (first.exit_code, first.stdout) == (0, "")
    assert "rank 0: this portion is done; others are still at work on shared/boxes" in first.stderr
    again = ccrop(*line, "--rank", "0", "--json")
    told = json.loads(again.stdout)
    assert told.pop("sources")[0]["images"] == 160
    assert told == {"folder": "shared/boxes", "complete": False}
    last = ccrop(*line, "--rank", "1", "--json")
    assert json.loads(last.stdout)["images"] == 160


def test_dry_run_prints_the_plan_and_writes_nothing(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    line = ["train", "photos", "dry", "--recipe", "demo", "--set", "epochs=20", "--dry-run"]
    result = ccrop(*line)
    assert result.stdout.splitlines()[:2] == [
        "1. train epoch 1: random crops",
        "2. refresh after epoch 1: compute boxes/epoch-0001",
    ]
    plan = json.loads(ccrop(*line, "--json").stdout)
    first = {"stage": "train", "first": 0, "stop": 1, "boxes": None, "newest": False}
    assert plan["plan"][0] == {**first, "text": "train epoch 1: random crops"}
    assert plan["recipe"]["epochs"] == 20
    assert not (workplace / "dry").exists()
    assert "160 images are too few to learn boxes from random weights" in result.stderr
    assert "Begin with an encoder that has seen more (--init)" in result.stderr
    Path("few").mkdir()
    with tarfile.open("few/a.tar", "w") as tar:
        for image in sorted(Path("photos").rglob("*.*"))[:3]:
            tar.add(image, image.name)
    assert "3 images are too few" in ccrop("train", "few", *line[2:]).stderr


def test_dry_run_refuses_images_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for split in ("train", "val"):
        Path("splits", split).mkdir(parents=True)
        Path("splits", split, "0.png").touch()
    for source, why in (
        ("empty", "holds no images"),
        ("nowhere", "nowhere"),
        ("splits", "splits/train"),
    ):
        refused = ccrop("train", source, "run", "--recipe", "demo", "--dry-run")
        assert refused.exit_code == 1
        assert why in refused.stderr
        assert not refused.stdout
    for elsewhere in ("CIFAR10", "https://h.invalid/{0..3}.tar", "pipe:cat 0.tar"):
        planned = ccrop("train", elsewhere, "run", "--recipe", "demo", "--dry-run")
        assert planned.exit_code == 0, planned.output
        assert planned.stdout.startswith("1. train epoch")


@pytest.mark.slow
def test_results_are_json_on_stdout_and_progress_goes_to_stderr(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    packed = ccrop("data", "pack", "photos", "json/data", "--json")
    told = json.loads(packed.stdout)
    assert told.pop("sources")[0]["images"] == 160
    assert told == {
        "out": "json/data",
        "shards": ["data-000000"],
        "images": 160,
    }
    quick = [
        "--recipe",
        "cifar10-simclr-2core",
        "--set",
        "epochs=2",
        "--set",
        "optimizer.lr_warmup_epochs=1",
        "--set",
        "boxes.refresh_at=[0.5]",
    ]
    trained = ccrop("train", "json/data", "json/run", *quick, "--json", "--device", "cpu")
    told = json.loads(trained.stdout)
    assert (told["epoch"], told["sources"][0]["images"]) == (2, 160)
    assert "epoch 2/2  loss" in trained.stderr
    assert re.search(
        r"kNN [\d.]+% of 26 images \(chance [\d.]+%, 32 px, k=13, temperature=0.1\)",
        trained.stderr,
    )
    computed = ccrop(
        "boxes",
        "compute",
        "json/data",
        "json/boxes",
        "--model",
        "json/run",
        "--json",
        "--device",
        "cpu",
    )
    assert json.loads(computed.stdout)["counts"]["ok"] == 160
    told = json.loads(computed.stdout)
    assert told.pop("sources")[0]["source"] == "json/data"
    assert told == json.loads(ccrop("boxes", "info", "json/boxes", "--json").stdout)
    probed = ccrop("probe", "json/run", "json/data", "--k", "1", "--json", "--device", "cpu")
    found = json.loads(probed.stdout)
    assert found["train"] + found["test"] == 160
    assert 0 <= found["knn"] <= 1
    assert f"{found['test']} of the 160 images" in probed.stderr


@pytest.mark.slow
def test_useless_boxes_are_called_so(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    line = ["train", "photos", "useless", "--recipe", "cifar10-simclr-2core", "--device", "cpu"]
    own = ("epochs=2", "optimizer.lr_warmup_epochs=1", "boxes.refresh_at=[0.5]")
    quick = [word for setting in (*own, "boxes.threshold=0.0") for word in ("--set", setting)]
    assert "boxes carry nothing" in ccrop(*line, *quick).stderr
    compute = ["boxes", "compute", "photos", "useless-boxes", "--model", "useless", "--threshold"]
    assert "boxes carry nothing" in ccrop(*compute, "0").stderr
    assert "boxes carry nothing" not in ccrop(*compute, "0.9", "--overwrite").stderr


@pytest.mark.slow
def test_validate_lists_every_problem_and_fails(workplace, monkeypatch, tmp_path):
    monkeypatch.chdir(workplace)
    if not Path("valid").exists():
        ccrop("data", "pack", "photos", "valid/data")
        ccrop(
            "train", "valid/data", "valid/run", "--recipe", "cifar10-simclr-2core",
            "--set", "epochs=1", "--set", "optimizer.lr_warmup_epochs=0",
            "--set", "boxes.kind=none", "--device", "cpu",
        )  # fmt: skip
        ccrop("boxes", "compute", "valid/data", "valid/boxes", "--model", "valid/run")
    good = ccrop("boxes", "validate", "valid/boxes", "valid/data")
    assert (good.exit_code, good.stdout) == (0, "valid/boxes: valid\n")
    shard = Path("valid/boxes/data/data-000000.parquet")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1000])
    bad = ccrop("boxes", "validate", "valid/boxes")
    shard.write_bytes(whole)
    assert bad.exit_code == 1
    assert re.search(r"^B\d{3}  data-000000\.parquet: ", bad.stdout, re.M)
    other = ccrop("boxes", "validate", "valid/boxes", min(Path("photos").iterdir()), "--json")
    assert other.exit_code == 1
    assert "valid/boxes has boxes of other images than those in photos" in other.stderr
    assert {"rule", "where", "message"} == set(json.loads(other.stdout)[0])


def test_a_reader_that_has_seen_enough_is_no_error():
    command = Path(sys.executable).with_name("ccrop")
    line = f"{shlex.quote(str(command))} recipes | head -n 1"
    result = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""


def test_the_installed_command_answers():
    command = Path(sys.executable).with_name("ccrop")
    result = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"ccrop, version {__version__}\n"
