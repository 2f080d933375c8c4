"""What a newcomer gets wrong, one by one, and what each is told."""

from pathlib import Path

import numpy as np
import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.images import open_source


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photographs, a box set, and what looks like a run with two box sets."""
    folder = tmp_path_factory.mktemp("newcomer")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    (folder / "photos/cats").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(pixels).save(folder / f"photos/cats/{number}.png")
    source = open_source(folder / "photos")
    for name in ("boxes", "run/boxes/epoch-0002", "run/boxes/epoch-0004"):
        fixed_boxes(source, folder / name, "full")
    (folder / "run/run.json").write_text("{}")
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
        (
            "boxes compute photos new --model resnet18",
            1,
            "mean torchvision:resnet18 or timm:resnet18?",
        ),
        ("boxes compute photos new --model resnet77", 1, "docs/models.md lists what"),
        ("boxes full boxes new", 1, "boxes is a box set, not images"),
        ("boxes full run new", 1, "run is a run, not images"),
        ("boxes info run", 1, "those in it: run/boxes/epoch-0002, run/boxes/epoch-0004."),
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
