"""Names from data reach a terminal as text: neither as markup, nor as what it would obey."""

import ast
import io
import json
import re
import shlex
import subprocess
import unicodedata
import warnings
from pathlib import Path

import click
import numpy as np
import pytest
from ccrop_cli import boxes_audit, demo, printing, progress
from ccrop_cli.compute_progress import ComputeProgress
from ccrop_cli.main import cli
from ccrop_cli.train_progress import TrainProgress
from click.testing import CliRunner
from rich.console import Console

from ccrop_pipeline.boxset import (
    BoxTable,
    Provenance,
    SourceInfo,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.errors import printable
from ccrop_pipeline.recipes import load_recipe, make_plan

CLI = sorted((Path(__file__).parents[2] / "cli").glob("*.py"))
# A title for the window, a colour, a jump up, the 8-bit form of the same, writing turned around,
# half a character; and what rich takes for markup.
HOSTILE = (
    "a[/red][red]b\x1b]0;title\x07\x1b[31m\x1b[2A\x9b2J\x7f\u202egnp\u2066\ndone\r\udce9:smile:"
)
SHOWN = (
    "a[/red][red]b\\u001b]0;title\\u0007\\u001b[31m\\u001b[2A\\u009b2J\\u007f\\u202egnp\\u2066"
    "\\ndone\\r\\udce9:smile:"
)


def ccrop(*arguments, charset="utf-8"):
    result = CliRunner(charset=charset).invoke(cli, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def is_obeyed(text):
    """An oracle of its own: categories of Unicode, line ends left out."""
    turning = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return [
        character
        for character in text
        if (unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") and character != "\n")
        or unicodedata.bidirectional(character) in turning
    ]


def box_set_of(folder, rule):
    table = BoxTable(
        keys=["a"],
        boxes=np.array([[0, 0, 1, 1]], np.float32),
        sizes=np.array([[4, 4]], np.uint32),
        orientation=np.ones(1, np.uint8),
        status=np.zeros(1, np.uint8),
        image_hash=np.zeros(1, np.uint64),
    )
    provenance = Provenance(None, None, SourceInfo("folder", "00"), rule=rule)
    write_shard(folder, "s", table, provenance)
    write_manifest(folder, ["s"], provenance)
    return folder


def test_every_character_is_escaped_or_harmless():
    everything = "".join(map(chr, range(0x11000)))
    assert is_obeyed(printable(everything)) == []
    assert printable(HOSTILE) == SHOWN
    assert printable("café ☕ 猫 👩\u200d🚀 [bold]") == "café ☕ 猫 👩\u200d🚀 [bold]"


@pytest.mark.parametrize("file", CLI, ids=lambda file: file.name)
def test_text_is_printed_in_one_place(file):
    calls = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
    }
    allowed = {
        "printing.py": {"print"},
        "progress.py": {"console.print"},
        "demo.py": {"console.print"},
    }
    found = calls & {"click.echo", "click.secho", "print", "console.print", "console.log"}
    assert found <= allowed.get(file.name, set())


@pytest.mark.parametrize("charset", ["utf-8", "ascii", "latin-1"])
def test_a_rule_and_a_path_are_shown_and_not_obeyed(tmp_path, charset):
    rule = HOSTILE.replace("\udce9", "")  # no rule can hold one
    folder = box_set_of(tmp_path / "[red]b\x1b[31m", rule)
    said = ccrop("boxes", "info", folder, charset=charset).stdout
    assert f"rule        {SHOWN.replace(chr(92) + 'udce9', '')}\n" in said
    assert "[red]b\\u001b[31m (parquet)" in said
    assert is_obeyed(said) == []
    lost = ccrop("boxes", "info", tmp_path / "lost[/red]\x1b]0;t\x07", charset=charset)
    assert "lost[/red]\\u001b]0;t\\u0007" in lost.stderr
    assert is_obeyed(lost.stderr) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["boxes", "info", HOSTILE],
        ["boxes", "export", HOSTILE, "out", "--form", HOSTILE],
        ["boxes", HOSTILE],
        [f"--{HOSTILE}"],
        ["boxes", "compute", HOSTILE, "out", "--model", HOSTILE],
        ["boxes", "import", HOSTILE, "out", "--coco", HOSTILE],
        ["train", HOSTILE, "out", "--recipe", HOSTILE],
        ["train", "x", "out", "--recipe", "demo", "--set", HOSTILE],
        ["data", "pack", HOSTILE, "out"],
        ["recipes", HOSTILE],
    ],
    ids=lambda arguments: " ".join(each for each in arguments if each.isascii())[:40],
)
def test_errors_name_what_was_given_and_the_terminal_obeys_nothing(
    arguments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = ccrop(*arguments)
    assert result.exit_code in (1, 2)
    assert "a[/red][red]b" in result.stderr
    assert is_obeyed(result.output) == []


def test_live_lines_show_names_as_they_are(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, color_system=None, width=1000)
    monkeypatch.setattr(progress, "console", terminal)
    computing, training = (
        ComputeProgress(10, HOSTILE),
        TrainProgress(make_plan(load_recipe("demo")), HOSTILE),
    )
    with computing:
        computing.begun(1, 0)
        computing.images_done(5, HOSTILE)
        computing.shard_written(HOSTILE, 5, unreadable=1)
        computing.summary()
    with training:
        training.loading(5, HOSTILE)
        training.warning(HOSTILE)
        training.stage({"stage": "refresh", "text": HOSTILE, "overlapped": False, "epoch": 1})
        training.images_done(1, HOSTILE)
    said = screen.getvalue()
    assert f"{SHOWN}: 1 of 5 images are unreadable" in said
    assert f"shard 1/1 {SHOWN}" in said
    assert f"Warning: {SHOWN}" in said
    own = re.compile(r"\x1b\[[?\d]*[hlKA]|\r")  # rich's: cursor off and on, up, erase the line
    assert is_obeyed(own.sub("", said)) == []


def test_tables_of_the_demo_need_no_unicode(tmp_path, monkeypatch):
    from ccrop_pipeline.report import Quality

    quality = Quality(images=2, found=0.5, whole_image=0.5, centre=0.5, mean_iou=0.5)
    monkeypatch.setattr(
        demo, "run_demo", lambda out, size: demo.DemoResult(out / "b", quality, {"x": 1.0})
    )
    said = ccrop("demo", tmp_path / "café", charset="ascii")
    assert said.exit_code == 0
    assert "whole image" in said.stdout
    assert "caf\\xe9" in said.stdout


def test_stdout_has_json_alone_whatever_a_library_prints(tmp_path):
    model = tmp_path / "loud.py"
    model.write_text(
        "import sys, warnings, torch\n"
        "print('downloading...')\n"
        "def make():\n"
        "    print('by file', file=sys.stdout)\n"
        "    warnings.warn('old\\x1b[31m weights')\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU())\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = ccrop("boxes", "layers", f"{model}:make", "--device", "cpu", "--json")
    assert json.loads(result.stdout)["model"] == "loud.py:make"
    assert "downloading...\nby file\nWarning: old\\u001b[31m weights\n" in result.stderr


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [40, 80])
def test_warnings_and_errors_are_wrapped_between_words(width, monkeypatch):
    words = "the embeddings of all images are nearly-the-same in /a/very/long/path/" + "x" * 90
    text = f"{words} and what to do about it is said here."
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    for where in ("warning", "live", "error"):
        screen = Terminal()
        if where == "live":
            live = Console(file=screen, force_terminal=True, color_system=None, width=width)
            live.soft_wrap = True
            monkeypatch.setattr(progress, "console", live)
            ComputeProgress(1).warning(text)
        else:
            monkeypatch.setattr("sys.stderr", screen)
            if where == "warning":
                printing.warn(text)
            else:
                with pytest.raises(click.ClickException) as raised, printing.escaped_messages():
                    raise click.ClickException(text)
                raised.value.show(screen)
        said = screen.getvalue()
        assert said.split() == [f"{'Error' if where == 'error' else 'Warning'}:", *text.split()]
        lines = said.splitlines()
        assert len(lines) >= 3
        assert all(len(line) <= width or " " not in line.strip() for line in lines)


def test_warnings_are_yellow_on_a_terminal_and_nowhere_else(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for stream, said in (
        (Terminal(), "\x1b[33mWarning: mind this\x1b[0m\n"),
        (io.StringIO(), "Warning: mind this\n"),
    ):
        monkeypatch.setattr("sys.stderr", stream)
        printing.warn("mind this")
        assert stream.getvalue() == said


@pytest.mark.parametrize("kind", [click.ClickException, click.UsageError])
def test_the_word_error_is_red_on_a_terminal_where_colours_are_wanted(monkeypatch, kind):
    def said(stream, no_color=""):
        monkeypatch.setenv("NO_COLOR", no_color)
        monkeypatch.setattr("sys.stderr", stream)
        error = kind("OSError: all is lost")
        with pytest.raises(kind), printing.escaped_messages():
            raise error
        error.show()
        return stream.getvalue()

    plain = said(io.StringIO())
    assert plain.splitlines()[-1] == "Error: OSError: all is lost"
    assert said(Terminal(), "1") == plain
    assert said(Terminal()) == plain.replace("Error: OS", "\x1b[31mError:\x1b[0m OS")


def test_what_goes_to_a_file_is_not_wrapped(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", file)
    printing.warn("word " * 100)
    assert len(file.getvalue().splitlines()) == 1


@pytest.mark.parametrize("width", [80, 40])
def test_results_are_wrapped_on_a_terminal_beside_their_name(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    text = (
        "crops       paper, alpha 0.6 (plain random crops): IoU of a pair 0.39 (0.46), of the box"
    )
    shown, piped = Terminal(), io.StringIO()
    for stream in (shown, piped):
        monkeypatch.setattr("sys.stdout", stream)
        printing.print_line(text)
        printing.print_as_is(text)
        printing.print_json({"text": text})
    assert piped.getvalue() == f"{text}\n{text}\n{json.dumps({'text': text})}\n"
    *wrapped, last, object_ = shown.getvalue().splitlines()
    assert (last, json.loads(object_)) == (text, {"text": text})
    assert " ".join(line.strip() for line in wrapped) == text
    assert all(len(line) <= width for line in wrapped)
    assert len(wrapped) > 1
    assert {re.match(" *", line)[0] for line in wrapped[1:]} == {" " * 12}


@pytest.mark.parametrize("width", [80, 40])
def test_a_command_of_several_lines_is_one_for_a_shell(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    words = ["ccrop", "train", "my photos", "RUN", "--recipe", "photos-simclr-2core", "--boxes"]
    words += ["a/place/with some/long name/of it", "--set", "batch_size=32"]
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    printing.note_command("next", shlex.join(words))
    lines = shown.getvalue().splitlines()
    assert len(lines) > 1
    assert all(len(line) <= width for line in lines)
    done = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {shown.getvalue().removeprefix('next: ')}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == words


def test_histograms_fit_the_terminal(monkeypatch):
    counts = [1, 5, 100, 3000, 0, 0, 7, 8, 9, 10]
    for width, longest in ((80, 65), (40, 40)):
        monkeypatch.setenv("COLUMNS", str(width))
        assert max(map(len, boxes_audit.bars(counts, "area"))) in (longest, longest - 1)
