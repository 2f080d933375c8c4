"""Images that could not be decoded are named, ten of them and then all on demand."""

import json

import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.images import Scenes, open_source


def ccrop(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unreadable")
    scenes = Scenes(4, size=32)
    for number, sample in enumerate(scenes.read(scenes.shards[0])):
        (folder / f"good{number}.jpg").write_bytes(sample.image)
    for number in range(13):
        (folder / f"bad{number:02d}[red].jpg").write_bytes(b"no image")
    fixed_boxes(open_source(folder), folder / "boxes", "centre")
    return folder / "boxes"


BAD = [f"bad{number:02d}[red].jpg" for number in range(13)]


@pytest.mark.parametrize("command", ["info", "audit"])
def test_the_first_ten_are_named_and_the_others_counted(boxes, command):
    said = ccrop("boxes", command, boxes).stdout
    (line,) = (line for line in said.splitlines() if line.startswith("unreadable"))
    assert line == (
        f"unreadable  {', '.join(BAD[:10])} and 3 more: "
        f"`ccrop boxes info {boxes} --unreadable FILE` lists all"
    )
    found = json.loads(ccrop("boxes", command, boxes, "--json").stdout)
    assert found["unreadable_keys"] == BAD[:10]


def test_a_file_has_all_and_replaces_none(boxes, tmp_path):
    file = tmp_path / "bad.txt"
    result = ccrop("boxes", "info", boxes, "--unreadable", file, "--json")
    assert json.loads(result.stdout)["counts"]["unreadable"] == 13
    assert file.read_text().splitlines() == BAD
    file.write_text("mine")
    assert ccrop("boxes", "info", boxes, "--unreadable", file).exit_code == 1
    assert file.read_text() == "mine"


def test_commands_that_make_boxes_name_them(boxes, tmp_path):
    said = ccrop("boxes", "full", boxes.parent, tmp_path / "full").stdout
    assert f"unreadable  {BAD[0]}, {BAD[1]}" in said
    assert "and 3 more" in said


def test_more_than_max_bad_are_named_with_what_is_allowed_and_the_option(boxes, tmp_path):
    model = ["--model", "torchvision:resnet18-cifar", "--weights", "random", "--input-size", 32]
    some = ["--max-bad", 0.5, "--device", "cpu", "--threads", 1]
    result = ccrop("boxes", "compute", boxes.parent, tmp_path / "new", *model, *some)
    assert result.exit_code == 1
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    shard = f"'{boxes.parent.name}-000000'"
    assert error == (
        f"Error: 13 of the 17 images of the shard {shard} cannot be decoded, such as {BAD[0]!r}, "
        f"{BAD[1]!r}, {BAD[2]!r}; at most 8 may be. The shard was not written: mend the images, or "
        "raise --max-bad."
    )
    assert list((tmp_path / "new").rglob("*.parquet")) == []


def test_nothing_is_said_where_all_could_be_read(tmp_path):
    scenes = Scenes(2, size=32)
    for number, sample in enumerate(scenes.read(scenes.shards[0])):
        (tmp_path / f"good{number}.jpg").write_bytes(sample.image)
    fixed_boxes(open_source(tmp_path), tmp_path / "boxes", "centre")
    assert "\nunreadable" not in ccrop("boxes", "info", tmp_path / "boxes").stdout
    assert (
        json.loads(ccrop("boxes", "audit", tmp_path / "boxes", "--json").stdout)["unreadable_keys"]
        == []
    )


def test_what_pillow_says_of_an_image_without_its_name_is_left_out(tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\xff\xff"
    Image.new("RGB", (64, 64)).save(tmp_path / "cut.jpg", exif=exif)
    result = ccrop("boxes", "full", tmp_path, tmp_path / "boxes")
    assert result.exit_code == 0
    assert result.stderr == f"{tmp_path}: 1 image; 1 without a label\n"
