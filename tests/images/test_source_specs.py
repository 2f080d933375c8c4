"""What names a source opens it: in Python, on the command line, and from any folder."""

from pathlib import Path

import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Scenes, absolute_spec, open_source, pack

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
    source, lasting = open_source(spec), absolute_spec(spec)
    known = source.kind, source.fingerprint()
    monkeypatch.chdir(workplace / "elsewhere")
    again = open_source(lasting)
    assert (again.kind, again.fingerprint()) == known


def test_a_folder_goes_before_a_data_set_of_its_name(workplace):
    assert open_source("eurosat").kind == "torchvision"
    assert open_source("EuroSAT", root=workplace / ".cache/ccrop").kind == "torchvision"
    pack(Scenes(4, size=32), Path("eurosat"))
    assert open_source("eurosat").kind == "tar"


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("eurosta", {}, r"^there is no file or folder 'eurosta', and as a name: .*mean eurosat\?"),
        ("eurosat", {"split": "test"}, "no test split"),
        ("eurosat", {"root": "elsewhere", "download": False}, "cannot be opened in elsewhere"),
        (Path("eurosat"), {}, "^there is no file eurosat"),
    ],
)
def test_names_that_open_nothing(workplace, spec, options, message):
    with pytest.raises(CcropError, match=message):
        open_source(spec, **options)


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
    assert absolute_spec(spec) == spec


@pytest.mark.slow
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
