import re

import pytest
from ccrop_cli.demo import DemoSize, run_demo
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline.base.files import hidden_name
from ccrop_pipeline.boxset import validate
from ccrop_pipeline.images import open_source

SMALL = DemoSize(
    train=80,
    test=40,
    overrides=(
        "epochs=4",
        "batch_size=16",
        "boxes.refresh_at=[0.5]",
        "optimizer.lr_warmup_epochs=0",
    ),
)


@pytest.mark.slow
def test_the_demo_leaves_what_it_promises_and_takes_itself_up(tmp_path):
    first = run_demo(tmp_path / "demo", SMALL)
    assert len(open_source(tmp_path / "demo/data/train").index()) == 80
    assert validate(first.boxes) == []
    assert first.quality.images == 80
    assert set(first.knn) == {"boxes", "random crops"}
    assert {"make images", "run: compute boxes", "run-random: train with random crops"} <= set(
        first.seconds
    )
    with Image.open(tmp_path / "demo/contact_sheet.png") as sheet:
        assert sheet.width > 1000
    for name in ("boxes", "run"):
        page = (tmp_path / f"demo/{name}.html").read_text("utf-8")
        assert '"true":' in page
        assert "boxes/epoch-" in page
    left = tmp_path / "demo" / hidden_name("demo.json")
    left.touch()
    again = run_demo(tmp_path / "demo", SMALL)
    assert not left.exists()
    assert (again.knn, again.quality) == (first.knn, first.quality)
    assert "run-random: train with random crops" not in again.seconds


@pytest.mark.parametrize("name", ["contact_sheet.png", "data/train/mine.jpg", "run/run.json"])
def test_the_demo_leaves_a_folder_of_others_alone(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("precious")
    result = CliRunner().invoke(cli, ["demo", str(tmp_path)])
    assert result.exit_code == 1
    message = f"{tmp_path} is not empty and holds no demo; choose another folder."
    assert message in re.sub(r"\s+", " ", result.output)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "precious"
