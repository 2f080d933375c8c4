"""Every fenced block of docs/, run as it stands, page by page, where what pages name is made.

`bash` is lines to copy, `console` a session with its output, `text` what nobody runs.
"""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import torch
from ccrop_cli.main import cli
from click.testing import CliRunner

from ccrop_pipeline.images import Scenes
from ccrop_pipeline.localize import build_backbone
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Checkpoint
from ccrop_pipeline.training.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[1]
# Pages whose blocks a test of their own runs, and compares with what they should give.
OWN_TESTS = {
    "frameworks.md": "tests/adapters/test_frameworks_page.py",
    "import-export.md": "tests/exchange/test_import_page.py",
    "quickstart.md": "tests/test_readme.py",
    "quickstart.zh.md": "tests/test_readme.py",
}
# What is not here, by what a line has of it. Such lines of `ccrop` are parsed, and no more.
NOT_HERE = {
    "cifar10": "downloads CIFAR-10",
    "convnext.pth": "weights from elsewhere",
    "cuda:$rank": "eight GPUs",
    "detectron2.config": "detectron2",
    "docker ": "a daemon",
    "ccrop demo": "three minutes; tests/cli/test_demo.py has a smaller one",
    "ccrop quickstart": "asks the network; tests/cli/test_quickstart.py has it",
    "ccrop export timm:": "downloads weights",
    "FLIPPED = ": "a part of a program; tests/boxset/test_upright.py runs it",
    "pip install": "changes the environment",
    "--init torchvision:": "downloads weights",
    "s3://": "a bucket",
    "sbatch ": "a cluster",
    "STL10": "downloads STL-10",
}
# Added to commands by what they have, so that they take seconds and one CPU.
ADDED = {
    "boxes compute": "--device cpu",
    "boxes compute data/photos boxes/first": "--threshold 0.6",  # none sets itself for this encoder
    "boxes fit-linear": "--device cpu",
    "boxes follow": "--device cpu",
    "ccrop embed": "--device cpu",
    "ccrop probe": "--device cpu",
    "ccrop train": "--device cpu --workers 0 --set image_size=32 --set batch_size=32 "
    "--set epochs=2 --set backbone=small --set precision=fp32 --set probe.every=0",
    "--model timm:": "--weights random --input-size 64 --threshold 0.5",
    "--model torchvision:": "--weights random --input-size 64 --threshold 0.5",
    "--model moco_v2_800ep": "--input-size 64 --threshold 0.5",
    "embed timm:": "--weights random --input-size 64",
    "layers torchvision:resnet50\n": "--weights random",
    "--recipe dino-vit": "--set drop_path_rate=0 --set method.projection_dim=64 "
    "--set local_views.size=32 --set local_views.count=2",
    "--method dino": "--set method.projection_dim=64 --set local_views.size=32 "
    "--set local_views.count=2",
}
LAUNCHERS = ("torchrun", "srun")  # one process of those that they start is run
PROGRAMS = ("jq", "mkdir")  # run where they are installed; all others are named above


@dataclass(frozen=True)
class Unit:
    """What is run at once: a command with the output that the page shows, or a block."""

    page: str
    line: int
    language: str
    text: str
    output: str = ""

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks_of(text):
    """Yield the line, language and text of each fenced block, indented ones as well."""
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        if opened := re.match(r"\s*(```+)\s*(\w*)", line):
            fence, language = opened.groups()
            inside = []
            for _, line in lines:
                if line.strip() == fence:
                    break
                inside.append(line)
            yield number, language, textwrap.dedent("\n".join(inside)) + "\n"


def units_of(page):
    for number, language, text in blocks_of(page.read_text()):
        if language == "console" or (language == "bash" and not re.search("^for ", text, re.M)):
            # What a backslash continues is one command; what follows `$ ` to the next is a session.
            ends = r"\n(?=\$ )" if language == "console" else r"(?<!\\)\n"
            for part in re.split(ends, text.removesuffix("\n")):
                number += 1
                command, _, output = part.replace("\\\n", " ").removeprefix("$ ").partition("\n")
                yield Unit(page.name, number, language, command, output)
                number += part.count("\n")
        else:
            yield Unit(page.name, number, language, text)


def not_here(unit):
    if "--dry-run" in unit.text:  # reads no images
        return None
    return next((reason for word, reason in NOT_HERE.items() if word in unit.text), None)


UNITS = [unit for page in sorted((ROOT / "docs").rglob("*.md")) for unit in units_of(page)]
RUN_HERE = [unit for unit in UNITS if unit.page not in OWN_TESTS and unit.language != "text"]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """What README's first commands leave: photos, data/photos, runs/first and boxes/first."""
    place = tmp_path_factory.mktemp("docs")
    for folder, split, count in (("photos", "train", 70), ("test", "test", 12)):
        for i in range(count):
            sample = Scenes(count, size=48, split=split).sample(i)
            path = place / folder / ("cats", "dogs")[i % 2] / f"{i:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.image)
    for line in (
        "ccrop data pack photos data/photos",
        "ccrop data pack test data/test",
        "ccrop train data/photos runs/first --recipe photos-simclr-2core",
        "ccrop boxes compute data/photos boxes/first --model runs/first",
        "ccrop boxes export boxes/first boxes.json --form coco --suffix .jpg",
        "ccrop boxes import data/photos boxes/coco --coco boxes.json",
    ):
        with contextlib.chdir(place):
            ran(line)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({unit.page for unit in RUN_HERE}))
def test_the_blocks_of_a_page_run_in_their_order(page, made, tmp_path):
    place = shutil.copytree(made, tmp_path / "place")
    units = [unit for unit in RUN_HERE if unit.page == page and not not_here(unit)]
    text = "".join(unit.text for unit in units)
    with contextlib.chdir(place):
        if "moco_v2_800ep" in text or "export runs/moco" in text:
            save_moco()
        for unit in units:
            try:
                RUNNERS[unit.language](unit)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"docs/{unit} does not run: {error}") from error


def save_moco():
    """A run of MoCo v2 with a ResNet-50, and a file of its authors' code; weights are random."""
    recipe, state = load_recipe("mocov2"), build_backbone("resnet50").state_dict()
    both = {f"{of}backbone.{name}": x for of in ("", "momentum_") for name, x in state.items()}
    save_checkpoint(Path("runs/moco/checkpoint.pt"), Checkpoint(recipe.epochs, recipe, both, {}))
    theirs = {f"module.encoder_q.{name}": x for name, x in state.items()}
    torch.save({"state_dict": theirs}, "moco_v2_800ep.pth.tar")


@pytest.mark.parametrize("unit", [unit for unit in RUN_HERE if not_here(unit)], ids=str)
def test_what_cannot_run_here_is_well_formed(unit):
    if unit.language == "python":
        compile(unit.text, str(unit), "exec")
    else:
        expect_options(unit.text)
    pytest.skip(not_here(unit))


def ran(line):
    """Run a line of shell; return what it prints."""
    words = shlex.split(line, comments=True)
    if words[0] in LAUNCHERS:
        words = words[words.index("ccrop") :]
    if words[0] in PROGRAMS:
        if not shutil.which(words[0]):
            return ""
        done = subprocess.run(["bash", "-ec", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
    assert words[0] == "ccrop", f"{words[0]} is neither in PROGRAMS nor in NOT_HERE"
    words = [word for word in words[1:] if word != "&"]
    if "--dry-run" not in words:
        words += " ".join(more for word, more in ADDED.items() if word in f"{line}\n").split()
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, f"{line}\n{result.output}"
    return result.output


def expect_options(text):
    """Parse the options of commands that are not run."""
    for command in re.findall(r"\bccrop (?:[^&|;\n>]|\\\n)*", text.replace("\\\n", " ")):
        found, rest = cli, shlex.split(command.removesuffix(" 2"), comments=True)[1:]
        while isinstance(found, click.Group):
            found = found.commands[rest.pop(0)]
        found.make_parser(click.Context(found)).parse_args(args=rest)


def run_console(unit):
    """Expect the lines of the page in their order; any others may stand before and between."""
    found = iter(" ".join(line.split()) for line in ran(unit.text).splitlines())
    for line in unit.output.splitlines():
        pattern = as_pattern(" ".join(line.split()))
        assert any(re.fullmatch(pattern, one) for one in found), f"{unit} prints no {line!r}"


def as_pattern(line):
    """Return what matches a line: any number for a number, anything for `...`."""
    parts = re.split(r"(\.\.\.|\d+(?:[.,:]\d+)*)", line)
    return "".join(
        re.escape(part) if i % 2 == 0 else ".*" if part == "..." else r"\d+([.,:]\d+)*"
        for i, part in enumerate(parts)
    )


def test_a_line_of_output_is_told_by_its_words():
    pattern = as_pattern("3. train epochs 101-200: ... in 1.5 s (half)")
    assert re.fullmatch(pattern, "1. train epochs 7-12: boxes from here in 10,000 s (half)")
    assert not re.fullmatch(pattern, "1. train epochs 7-12: boxes from here in ten s (half)")
    assert not re.fullmatch(pattern, "1. train epochs 7-12: boxes from here in 10 s half")


def run_python(unit):
    exec(compile(unit.text, str(unit), "exec"), {"__name__": "__main__"})


def run_toml(unit):
    """A file, which its first line names, or settings, each of which is one for `--set`."""
    if named := re.match(r"# (\S+\.toml)\n", unit.text):
        Path(named[1]).write_text(unit.text)
        load_recipe(named[1])
        return
    tomllib.loads(unit.text)
    for line in unit.text.splitlines():
        load_recipe("mocov2", [line.partition("#")[0].replace(" ", "")])


RUNNERS = {
    "bash": lambda unit: ran(unit.text),
    "console": run_console,
    "python": run_python,
    "toml": run_toml,
    "json": lambda unit: json.loads(unit.text),
}


def test_every_block_has_a_language_that_is_run():
    assert {str(unit) for unit in UNITS if unit.language not in {*RUNNERS, "text"}} == set()
    commands = re.compile(r"^(\$ |ccrop )", re.M)
    assert {str(u) for u in UNITS if u.language == "text" and commands.search(u.text)} == set()


def test_what_is_not_here_is_named_once_and_stands_somewhere():
    assert [word for word in NOT_HERE if not any(word in unit.text for unit in RUN_HERE)] == []


def test_pages_with_a_test_of_their_own_are_read_by_it():
    read = {page: (ROOT / test).read_text() for page, test in OWN_TESTS.items()}
    assert [page for page, test in read.items() if page.split(".")[0] not in test] == []


PROSE = sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "lab").glob("*.md"), *ROOT.glob("*.md")])


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_commands_named_in_sentences_have_their_options(page):
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.M | re.S)
    for command in re.findall(r"`(ccrop [^`]+)`", text):
        with contextlib.suppress(click.BadOptionUsage):  # an option named without its value
            expect_options(" ".join(command.split()))
