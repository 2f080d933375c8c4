"""What is written for a source on the command line opens it, from any folder."""

import pytest
from ccrop_cli.main import cli
from ccrop_cli.opening import from_anywhere, open_any
from click.testing import CliRunner

from ccrop_pipeline.images import Scenes, pack

OVERLAPPED = [
    "image_size=32",
    "eval_size=0",
    "batch_size=16",
    "probe.every=0",
    "epochs=2",
    "boxes.refresh_at=[]",
    "boxes.refresh_every=1",
    "boxes.overlapped=true",
]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working directory that looks like a pattern, with tars, images and EuroSAT; a home."""
    here = tmp_path / "images [1]"
    pack(Scenes(32, size=32), here / "data", max_images=20)
    scenes = Scenes(32, size=32)
    for root in (here / "photos", tmp_path / ".cache/ccrop/eurosat/2750"):
        for sample in scenes.read(scenes.shards[0]):
            path = root / scenes.classes[sample.label] / f"{sample.key}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.image)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(here)
    return tmp_path


@pytest.mark.parametrize(
    "spec",
    [
        "data",
        "photos",
        "./data",
        "../images [1]/data",
        "~/images [1]/data/",
        "data/data-000001.tar",
        "data/data-00000?.tar",
        "data/data-{000000..000001}.tar",
        "{data/data-000000,data/data-000001}.tar",
        "eurosat",
    ],
)
def test_what_a_source_was_opened_by_opens_it_from_elsewhere(workplace, monkeypatch, spec):
    source, lasting = open_any(spec), from_anywhere(spec)
    known = source.kind, source.fingerprint()
    monkeypatch.chdir(workplace / "elsewhere")
    again = open_any(lasting)
    assert (again.kind, again.fingerprint()) == known


@pytest.mark.parametrize(
    "spec",
    [
        "s3://bucket/train-{000..009}.tar",
        "pipe:curl -sf https://host/train-{00..09}.tar",
        "/data/train-*.tar",
        "{/data/a,/data/b}.tar",
        "cifar10",
    ],
)
def test_what_holds_everywhere_is_kept_as_it_is(spec):
    assert from_anywhere(spec) == spec


@pytest.mark.parametrize("spec", ["data", "data/*.tar", "eurosat"])
def test_a_run_is_followed_from_another_folder(workplace, monkeypatch, spec):
    settings = [f"--set={setting}" for setting in OVERLAPPED]
    line = ["train", spec, "run", "--recipe", "demo", "--device", "cpu", *settings]
    assert CliRunner().invoke(cli, line).exit_code == 0
    monkeypatch.chdir(workplace / "elsewhere")
    line = ["boxes", "follow", "../images [1]/run", "--device", "cpu", "--poll", "0.02"]
    result = CliRunner().invoke(cli, line)
    assert (result.exit_code, result.stdout) == (0, "../images [1]/run: 0 box sets completed\n")
    other = ["--source", str(workplace / "images [1]/photos")]
    assert "does not hold the images" in CliRunner().invoke(cli, [*line, *other]).output
