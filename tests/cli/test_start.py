"""What a command says at once, and how it takes paths and pipes."""

import errno
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import fsspec
import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline import boxset, exchange, images
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.models import open_encoder
from ccrop_pipeline.models.sealed_files import expect_whole
from ccrop_pipeline.recipes import load_recipe

# Mistakes that can be told without torch, which takes seconds to import.
MISTAKES = """
train
train x y
train x https://h/y --recipe demo
train x y --recipe https://h/y
train x y --recipe demo --load https://h/y
train x y --method mocov9
train x y --recipe nowhere
train x y --recipe demo --set epoch=3
train x y --recipe demo --set epochs=2.5
train x y --recipe demo --set boxes.kind=none --boxes z
train x y --recipe demo --nope
train x y --recipe demo --load nowhere
train x y --recipe demo --load .
train x y --recipe demo
train . y --recipe demo --test x
train . y --recipe demo --boxes x
train . . --recipe demo
train . y --recipe demo --device gpu
train . y --recipe demo --workers 100000
train . y --recipe demo --resident-gb nan
train . y --recipe demo --set backbone=resnet19
train . y --recipe demo --set backbone=resnet19 --dry-run
boxes compute x y
boxes compute x y --model nowhere
boxes compute x y --model https://h/y.pth
boxes compute x y --model timm:resnet18 --weights https://h/y.pth
boxes compute x y --model timm:resnet18 --map linear:s3://h/y
boxes compute x y --model . --mass .5 --threshold .1
boxes compute x y --model . --engine ray --overwrite
boxes compute x y --model . --rank 1
boxes compute x y --model . --margin inf
boxes compute x y --model . --max-bad nan
boxes compute x y --model . --gpu-share nan
boxes compute x y --model . --input-size 4000000
boxes compute nowhere/ y --model .
boxes compute . y --model torchvision:resnet19
boxes compute . y --model tochvision:resnet18
boxes compute . y --model timm:vit_smol_patch16_224
boxes compute . y --model timm:resnet18 --weights nowhere.pth
boxes compute . y --model nowhere.py:make
boxes compute . y --model notes.txt --weights random
boxes compute . y --model timm:resnet18 --map linear:nowhere
boxes compute . y --model timm:resnet18 --engine ray --weights nowhere.pth
boxes fit-linear x y z --model nowhere
boxes fit-linear x y z --model torchvision:resnet19
boxes fit-linear x y z --model torchvision:resnet18
boxes fit-linear x y notes.txt --model torchvision:resnet18
boxes layers torchvision:resnet19-cifar
boxes layers timm:resnet18 --weights nowhere.pth
boxes compute x y --model .
boxes compute x y --model torchvision:resnet18 --device gpu
boxes compute x y --model torchvision:resnet18 --engine ray
boxes import x y
boxes import x y --csv . --yolo .
boxes import x y --several keep:0 --yolo .
boxes import . y --csv https://h/y
boxes import . y --coco . --images gs://h/y
boxes export . s3://h/y --form coco
boxes info . --unreadable s3://h/y
boxes import x y --yolo . --pixels
boxes export x y --form zip
boxes export x y --form parquet --overwrite
boxes export nowhere y --form coco
boxes rethreshold x y
boxes rethreshold x y --mass .5 --threshold .1
boxes rethreshold nowhere y --mass .5
boxes rethreshold nowhere y --mass nan
boxes rethreshold nowhere y --margin 1e300
boxes layers nowhere
boxes info nowhere
boxes audit nowhere
boxes diff nowhere nowhere
boxes full nowhere/ y
boxes show nowhere x
boxes show x y --pick moved
boxes show x y k --pick random
boxes show x y --count 0
boxes follow
boxes follow nowhere/run
boxes follow . --poll 1e300
boxes nope
data pack nowhere/ y
data pack nowhere y
data pack . https://h/y
probe nowhere x
probe . x
probe timm:resnet19 .
probe torchvision:resnet18 . --weights nowhere.pth
probe torchvision:resnet18 x
probe torchvision:resnet18 . x
probe . x --linear --augmented
probe . x --linear --k 3
probe . . --temperature nan
probe . . --k 1000000
recipes --resolved
recipes nowhere
export nowhere y
export . y
export . y --form zip
demo x y
boxes layers bad/empty.pth
boxes layers bad/cut.pt
boxes layers bad/cut.safetensors
boxes layers bad/pointer.pth
boxes layers bad/damaged.pt
boxes layers bad/run
boxes fit-linear bad/photos y --model bad/damaged.pt
boxes compute bad/photos y --model bad/damaged.pt
boxes compute bad/photos y --model bad/run
probe bad/damaged.pt bad/photos
export bad/run y.pth
export bad/damaged.pt y.pth
train bad/photos bad/run --recipe demo
train bad/photos bad/begun --recipe demo
train bad/photos y --recipe demo --load bad/damaged.pt
"""
RUN_ALL = """
import sys
sys.modules["torch"] = None  # importing it fails
from ccrop_cli.main import cli
from click.testing import CliRunner
for line in sys.stdin.read().splitlines():
    result = CliRunner().invoke(cli, line.split())
    told = isinstance(result.exception, SystemExit) and result.exit_code in (1, 2)
    if not told or "Error: " not in result.stderr or result.stdout:
        print(line, repr(result.exception), result.output)
"""


def make_damaged(folder):
    """Files of weights that are none, a run, and photographs for them."""
    folder.mkdir(exist_ok=True)
    (folder / "empty.pth").touch()
    (folder / "cut.pt").write_bytes(b"PK\3\4" + bytes(100))
    (folder / "cut.safetensors").write_bytes((200).to_bytes(8, "little") + b"{")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n"
    (folder / "pointer.pth").write_text(pointer)
    (folder / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "photos/a.jpg")
    (folder / "begun").mkdir()
    (folder / "begun/run.json").write_text("{")
    (folder / "run").mkdir()
    (folder / "run/run.json").write_text("{}")
    for name in ("damaged.pt", "run/checkpoint.pt"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("a/data.pkl", b"")
            archive.comment = b"ccrop sha256 " + b"0" * 64


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty.pth", "is empty or cut short"),
        ("cut.pt", "is empty or cut short"),
        ("cut.safetensors", "is empty or cut short"),
        ("pointer.pth", "it is a git-lfs pointer"),
        ("damaged.pt", "its bytes are not those that its checksum is of"),
        ("run", r"checkpoint\.pt is damaged: its bytes"),
        ("pipe.pt", "there is no file of weights at"),
        ("none", "there is no file of weights at"),
    ],
)
def test_what_is_no_whole_file_of_weights_is_refused_by_name(name, said, tmp_path):
    make_damaged(tmp_path)
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "none").mkdir()
    with pytest.raises(CcropError, match=said) as caught:
        expect_whole(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.slow
def test_mistakes_are_told_without_torch(tmp_path):
    (tmp_path / "notes.txt").touch()
    make_damaged(tmp_path / "bad")
    run = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=MISTAKES.strip(),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (run.stdout, run.stderr) == ("", "")


def ccrop(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with two photographs, boxes for them in several forms, and a recipe."""
    for name in ("a", "b"):
        path = tmp_path / "photos" / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 20)).save(path)
    (tmp_path / "boxes.csv").write_text("key,x_min,y_min,x_max,y_max\na.jpg,0,0,.5,.5\n")
    (tmp_path / "own.toml").write_text('extends = "demo"\nepochs = 20\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_every_path_of_the_library_may_begin_with_a_tilde(home):
    source = images.open_source("~/photos")
    assert list(source.index().keys) == ["a.jpg", "b.jpg"]
    images.pack(source, "~/packed")
    assert list(images.open_source("~/packed/*.tar").index().keys) == ["a", "b"]
    box_set, _ = exchange.import_boxes(source, exchange.read_csv("~/boxes.csv"), "~/imported")
    assert box_set.folder == home / "imported"
    exchange.export_boxes(boxset.BoxSet.open("~/imported"), "~/boxes.json", "coco")
    assert len(exchange.read_coco("~/boxes.json").names) == 2
    assert boxset.validate("~/imported") == []
    boxset.convert("~/imported", "~/converted", form="parquet")
    assert load_recipe("~/own.toml").epochs == 20
    for spec in ("~/none.pth", "~/none.py:make"):
        with pytest.raises(Exception, match=f"{home}/none"):
            open_encoder(spec)
    with pytest.raises(Exception, match=f"{home}/none"):
        open_encoder("torchvision:resnet18", weights="~/none")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("data pack ~/photos ~/packed", "packed"),
        ("boxes full ~/photos ~/full", "full/manifest.json"),
        ("boxes import ~/photos ~/imported --csv=~/boxes.csv", "imported/manifest.json"),
        ("train ~/photos ~/run --recipe=~/own.toml --dry-run", "own.toml"),
    ],
)
def test_every_path_of_a_command_may_begin_with_a_tilde(home, line, made):
    result = ccrop(*line.split())
    assert result.exit_code == 0, result.output
    assert (home / made).exists()
    assert list(Path().iterdir()) == []


def test_a_name_that_only_begins_with_a_tilde_is_a_name(home):
    Path("~nobody-of-this-name").mkdir()
    Image.new("RGB", (4, 4)).save("~nobody-of-this-name/c.jpg")
    source = images.open_source("~nobody-of-this-name/")
    assert list(source.index().keys) == ["c.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["head -c 1", "true"])
def test_a_reader_that_stops_early_is_met_in_silence(home, reader):
    ccrop("boxes", "full", "~/photos", "~/full")
    command = f"{shlex.quote(sys.executable)} -c 'from ccrop_cli.main import cli; cli()'"
    for arguments in ("boxes info ~/full", "boxes info ~/full --json", "recipes demo"):
        line = f"{command} {arguments} | {reader}"
        run = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
        assert run.stderr == ""


def test_names_of_exports_promise_what_is_in_them(home):
    source = images.open_source("~/photos")
    box_set = exchange.fixed_boxes(source, "~/full", "full")
    with pytest.raises(ValueError, match=r"boxes\.csv is to be coco.*\.json"):
        exchange.export_boxes(box_set, "~/new/boxes.csv", "coco")
    assert not (home / "new").exists()


@pytest.mark.parametrize(
    "line",
    [
        "boxes full ~/photos OUT",
        "boxes centre ~/photos OUT",
        "boxes import ~/photos OUT --csv=~/boxes.csv",
        "boxes export ~/full OUT --form webdataset",
        "boxes compute ~/photos OUT --model torchvision:resnet18 --weights random --device cpu",
        "data pack ~/photos OUT",
        "train ~/photos OUT --recipe demo",
        "demo OUT",
    ],
)
def test_nothing_is_begun_among_files_of_others(home, line):
    ccrop("boxes", "full", "~/photos", "~/full")
    for out, name in (("work", "thesis.tex"), ("table", "data/own.csv"), ("images", "data/a/b")):
        place = home / out
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text("mine")
        result = ccrop(*line.replace("OUT", str(place)).split())
        assert result.exit_code == 1
        assert f"{place} is not empty" in result.stderr
        assert [path for path in place.rglob("*") if path.is_file()] == [place / name]


def test_box_sets_are_begun_beside_what_is_hidden_and_resumed_beside_anything(home):
    place = home / "repository"
    (place / ".git").mkdir(parents=True)
    (place / "README.md").write_text("mine")
    (place / ".gitattributes").touch()
    assert ccrop("boxes", "full", "~/photos", place).exit_code == 0
    assert (place / "README.md").read_text() == "mine"
    (place / "manifest.json").unlink()
    (place / "notes.txt").write_text("mine")
    assert ccrop("boxes", "full", "~/photos", place).exit_code == 0
    assert (place / "notes.txt").read_text() == "mine"


def test_nothing_is_begun_among_objects_of_others(home):
    store = fsspec.filesystem("memory")
    store.pipe_file("/others/thesis.tex", b"mine")
    result = ccrop("boxes", "full", "~/photos", "memory://others")
    assert "memory://others is not empty and holds no box set: found 1 (thesis" in result.stderr
    assert ccrop("boxes", "full", "~/photos", "memory://others/boxes").exit_code == 0
    store.rm("/others", recursive=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere it limits nothing")
def test_too_little_memory_to_load_torch_is_one_message(tmp_path):
    code = (
        "import resource\nfrom ccrop_cli.main import cli\n"
        "resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n"
        "cli(['boxes', 'layers', 'torchvision:resnet18'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("Error: there is not enough memory. Free some or raise the limit")
    assert run.stderr.count("\n") <= 3


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EMFILE, "too many open files; raise their limit with `ulimit -n`."),
        (errno.ENOSPC, "no space left on device."),
    ],
)
def test_an_error_of_the_system_that_names_no_file_is_told_in_words(number, said):
    @click.group(cls=type(cli))
    def group():
        pass

    @group.command()
    def work():
        raise OSError(number, os.strerror(number))

    result = CliRunner().invoke(group, ["work"])
    assert (result.exit_code, result.stderr) == (1, f"Error: {said}\n")
