"""`ccrop boxes show`: files, and pictures as terminals get them."""

import base64
import io
import json
import re

import numpy as np
import pytest
from ccrop_cli import pictures
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image

from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.images import Scenes, open_source, pack

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, with images and boxes."""
    monkeypatch.chdir(tmp_path)
    pack(Scenes(20, size=48), tmp_path / "tars")
    fixed_boxes(open_source("tars"), tmp_path / "sets/centre", "centre")
    return tmp_path


def ccrop(*arguments):
    return CliRunner().invoke(cli, ["boxes", "show", *map(str, arguments)])


@pytest.mark.slow
def test_the_picture_is_a_file_that_is_named_and_never_replaced_unasked(place):
    done = ccrop("sets/centre", "tars", "--count", "3")
    assert done.exit_code == 0, done.output
    assert done.stdout == "3 images in centre.png\n"
    with Image.open("centre.png") as picture:
        picture.load()
        assert picture.size == (2 * (3 * 150 + 12) - 18 + 2 * 8, 44 + 2 * 168)
    first = (place / "centre.png").read_bytes()
    # The same picture again is no other content.
    assert ccrop("sets/centre", "tars", "--count", "3").exit_code == 0
    other = ccrop("sets/centre", "tars", "--count", "4", "--json")
    assert other.exit_code == 1
    assert "set --overwrite" in other.stderr
    assert (place / "centre.png").read_bytes() == first
    again = ccrop("sets/centre", "tars", "--count", "4", "--json", "--overwrite")
    found = json.loads(again.stdout)
    assert (found["path"], len(found["keys"])) == ("centre.png", 4)
    assert (place / "centre.png").read_bytes() != first
    key = found["keys"][2]
    assert ccrop("sets/centre", "tars", key, "--out", "new/one.png").stdout == (
        "1 image in new/one.png\n"
    )


def test_a_name_of_another_form_is_refused_before_anything_is_read():
    done = ccrop("nowhere", "tars", "--out", "sheet.jpg")
    assert done.exit_code == 2
    assert "'sheet.jpg', and a PNG is written: let it end in .png." in done.stderr


def test_a_picture_below_a_file_is_refused_and_the_file_left(place):
    (place / "notes").write_text("mine")
    done = ccrop("sets/centre", "tars", "--count", "1", "--out", "notes/x.png")
    said = "Error: notes is a file, and a folder is needed there. Choose another."
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (1, said)
    assert (place / "notes").read_text() == "mine"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "mlterm-256color"}, "sixel"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "iTerm.app"}, None),
        ({"TERM": "screen", "LC_TERMINAL": "iTerm2"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, None),
        ({}, None),
    ],
)
def test_the_environment_tells_the_protocol(environment, expected):
    assert pictures.protocol(environment) == expected


def test_kitty_gets_the_picture_in_parts(monkeypatch):
    monkeypatch.setenv("COLUMNS", "10")
    drawn = pictures.draw(PICTURE, "kitty")
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", drawn)
    assert "".join(f"\x1b_G{head};{data}\x1b\\" for head, data in parts) + "\n" == drawn
    heads = [dict(pair.split("=") for pair in head.split(",")) for head, _ in parts]
    assert heads[0] == {"a": "T", "f": "100", "c": "10", "q": "2", "m": "1"}
    assert len(parts) > 2
    assert [head["m"] for head in heads] == ["1"] * (len(parts) - 1) + ["0"]
    assert all(len(data) <= 4096 for _, data in parts)
    assert all(len(data) % 4 == 0 for _, data in parts)
    with Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in parts)))) as picture:
        assert (np.asarray(picture) == np.asarray(PICTURE)).all()


def test_iterm_gets_the_file(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    told, data = re.fullmatch(
        r"\x1b\]1337;File=([^:]*):(.*)\a\n", pictures.draw(PICTURE, "iterm")
    ).groups()
    file = base64.b64decode(data)
    assert dict(pair.split("=") for pair in told.split(";")) == {
        "inline": "1", "size": str(len(file)), "width": "12", "preserveAspectRatio": "1",
    }  # fmt: skip
    with Image.open(io.BytesIO(file)) as picture:
        assert (np.asarray(picture) == np.asarray(PICTURE)).all()


def decoded_sixel(text):
    """Read sixels sign by sign."""
    head, body = re.fullmatch(r'\x1bP0;1q"1;1;(\d+;\d+)(.*)\x1b\\', text, re.S).groups()
    width, height = map(int, head.split(";"))
    pixels = np.full((height + 6, width, 3), -1)
    colours, colour, left, top = {}, None, 0, 0
    for sign in re.findall(r"#\d+;2;\d+;\d+;\d+|#\d+|!\d+.|[$\-]|[?-~]", body):
        if sign[0] == "#" and ";" in sign:
            number, _, *percents = map(int, sign[1:].split(";"))
            colours[number] = percents
        elif sign[0] == "#":
            colour = colours[int(sign[1:])]
        elif sign in "$-":
            left, top = 0, top + 6 * (sign == "-")
        else:
            times = int(sign[1:-1]) if sign[0] == "!" else 1
            for column in range(left, left + times):
                for bit in range(6):
                    if ord(sign[-1]) - 63 >> bit & 1:
                        pixels[top + bit, column] = colour
            left += times
    assert (pixels[height:] == -1).all()
    return pixels[:height]


def test_sixels_are_the_picture_in_its_colours(monkeypatch):
    flat = Image.new("RGB", (90, 50), (255, 0, 102))
    flat.paste((0, 255, 51), (20, 10, 70, 40))
    expected = np.round(np.asarray(flat) / 2.55)
    assert (decoded_sixel(pictures.sixel(flat)) == expected).all()
    monkeypatch.setenv("COLUMNS", "5")
    small = decoded_sixel(pictures.draw(PICTURE, "sixel").removesuffix("\n"))
    assert small.shape == (22, 40, 3)
    assert (small >= 0).all()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.slow
def test_a_terminal_that_can_gets_the_picture_and_no_file(place, monkeypatch):
    for name in ("TMUX", "STY", "TERM_PROGRAM", "LC_TERMINAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-kitty")
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    line = ["boxes", "show", "sets/centre", "tars", "--count", "2"]
    cli.main(line, standalone_mode=False)
    assert terminal.getvalue().startswith("\x1b_Ga=T,f=100,")
    assert not (place / "centre.png").exists()
    monkeypatch.setenv("TERM", "dumb")
    cli.main(line, standalone_mode=False)
    assert terminal.getvalue().endswith("2 images in centre.png\n")
