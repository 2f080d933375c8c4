"""What a newcomer gets wrong, one by one, and what each is told."""

from pathlib import Path

import numpy as np
import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.images import open_source

NETWORK = """
from torch import nn
from ccrop_pipeline.localize import Encoder

def make():
    return Encoder(nn.Sequential(nn.AvgPool2d(8), nn.ReLU()), "1", 32, name="mean")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photographs, box sets, and what looks like runs with and without boxes.

    The folders of photographs are of one class, without any, and divided into splits.
    """
    folder = tmp_path_factory.mktemp("newcomer")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    (folder / "photos/cats").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(pixels).save(folder / f"photos/cats/{number}.png")
    source = open_source(folder / "photos")
    for name in ("boxes", "run/boxes/epoch-0002", "run/boxes/epoch-0004"):
        fixed_boxes(source, folder / name, "full")
    for name in ("flat", "train", "val"):
        (folder / f"splits/{name}").mkdir(parents=True)
        Image.fromarray(pixels).save(folder / f"splits/{name}/0.png")
    (folder / "splits/flat").rename(folder / "flat")
    fixed_boxes(open_source(folder / "flat"), folder / "others", "full")
    for name in ("run", "young"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "run.json").write_text("{}")
    (folder / "net.py").write_text(NETWORK)
    (folder / "young/checkpoint.pt").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("train photos new --epochs 5", 2, "It is a setting of the recipe: --set epochs=5"),
        ("train photos new --lr=.1", 2, "It is a setting of the recipe: --set optimizer.lr=.1"),
        ("train photos new --batch-size", 2, "recipe: --set batch_size=VALUE"),
        (
            "train photos new --recipes simclr",
            2,
            "No such option '--recipes'. Did you mean '--recipe'",
        ),
        ("train photos new --recipe simclr --set epochs 5", 2, "are one word: --set epochs=5"),
        ("train photos new", 2, "`ccrop quickstart SOURCE` names one for these images"),
        (
            "boxes compute photos new --model resnet18",
            1,
            "mean torchvision:resnet18 or timm:resnet18?",
        ),
        ("boxes compute photos new --model ResNet-18", 1, "Did you mean torchvision:resnet18 or"),
        ("boxes compute photos new --model resnet77", 1, "docs/models.md lists what"),
        ("boxes full boxes new", 1, "boxes is a box set, not images"),
        ("boxes full run new", 1, "run is a run, not images"),
        ("boxes info run", 1, "those in it: run/boxes/epoch-0002, run/boxes/epoch-0004."),
        ("boxes info run/boxes", 1, "in it: run/boxes/epoch-0002, run/boxes/epoch-0004."),
        (
            "train photos new --recipe simclr --boxes young",
            1,
            "young is a run, and not a box set: it has no manifest.json. Compute boxes from it: "
            "`ccrop boxes compute SOURCE OUT --model young`.",
        ),
        ("report boxes", 1, "It is a box set: `ccrop boxes report` shows it."),
        ("boxes full splits new", 1, "Open one of them, such as splits/train, or"),
        ("boxes full photos others", 1, "(other images, or changed ones)"),
        ("boxes show others photos", 1, "of which others has a box. Give the source that these"),
        ("probe net.py:make flat --device cpu", 1, "no image of flat has a label"),
        ("probe net.py:make photos --device cpu", 1, "all labelled images of photos are of one"),
        (
            "boxes info photos",
            1,
            "photos is not a box set: it has no manifest.json. Check the path.",
        ),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(
    place: Path, monkeypatch: pytest.MonkeyPatch, command: str, status: int, told: str
) -> None:
    monkeypatch.chdir(place)
    done = CliRunner().invoke(cli, command.split(), terminal_width=200)
    assert done.exit_code == status
    assert told in " ".join(done.stderr.split())
    assert not (place / "new").exists()


def test_home_is_meant_by_a_tilde(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands one that is quoted, or that stands behind a `=`."""
    monkeypatch.setenv("HOME", str(place))
    done = CliRunner().invoke(cli, ["boxes", "full", "~/photos", "~/full"])
    assert done.exit_code == 0, done.output
    assert (place / "full/manifest.json").is_file()
    done = CliRunner().invoke(cli, ["boxes", "info", "--unreadable=~/list.txt", "~/full"])
    assert done.exit_code == 0, done.output
    assert (place / "list.txt").is_file()


def test_a_run_is_extended_by_its_weights(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    settings = "backbone=small batch_size=2 image_size=32 boxes.kind=none"
    recipe = [word for setting in settings.split() for word in ("--set", setting)]
    command = ["train", "photos", "first", "--recipe", "demo", "--device", "cpu", *recipe]
    done = CliRunner().invoke(cli, [*command, "--set", "epochs=1"])
    assert done.exit_code == 0, done.output
    assert "kNN" not in done.output  # of one class it would say 100 %
    done = CliRunner().invoke(cli, [*command, "--set", "epochs=2"])
    assert done.exit_code == 1
    assert "recipe.epochs: 1 -> 2" in done.stderr
    assert "choose another folder and set --load to first" in " ".join(done.stderr.split())
    command[2] = "second"
    done = CliRunner().invoke(cli, [*command, "--set", "epochs=1", "--load", "first"])
    assert done.exit_code == 0, done.output
    assert "begins with" in done.stderr
