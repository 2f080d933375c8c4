"""`ccrop recipes`: what is printed can be used."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from ccrop_cli.main import cli
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from ccrop_pipeline.recipes import Recipe, bundled_recipes, load_recipe


def run(*arguments):
    return CliRunner().invoke(cli, ["recipes", *arguments])


def test_the_list_names_each_recipe():
    shown = [line.split()[0] for line in run().stdout.splitlines() if line.startswith("  ")]
    texts = bundled_recipes()
    assert sorted(shown) == sorted(texts)
    listed = json.loads(run("--json").stdout)
    assert [entry["name"] for entry in listed] == list(texts)
    for entry in listed:
        assert texts[entry["name"]].startswith(f"# {entry['purpose']}\n")
    groups = {entry["name"]: entry["group"] for entry in listed}
    assert groups["in1k-mocov2"] == "ImageNet-1K"
    assert groups["mocov2"].startswith("Photographs")
    assert groups["cifar10-simclr-2core"] == groups["demo"] == "Small enough for two CPU cores"


@pytest.mark.parametrize("name", ["cifar100-simclr", "demo"])
def test_a_recipe_is_printed_as_it_is_written(name):
    assert run(name).stdout == bundled_recipes()[name]


@pytest.mark.parametrize("name", ["stl10-simclr", "dino", "in1k-mocov1"])
def test_resolved_settings_are_a_recipe(name, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(run(name, "--resolved").stdout)
    recipe = load_recipe(name)
    assert "extends" not in file.read_text()
    assert load_recipe(str(file)) == recipe
    assert Recipe.from_dict(json.loads(run(name, "--resolved", "--json").stdout)) == recipe
    assert run(str(file)).stdout == file.read_text()


def test_mistakes():
    unknown = run("cifar10-simcrl")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "did you mean cifar10-simclr" in unknown.stderr
    former = run("cifar10-simclr-random")
    assert (former.exit_code, former.stdout) == (1, "")
    assert "did you mean cifar10-simclr?" in former.stderr
    assert run("--resolved").exit_code == 2


def test_the_list_needs_no_torch():
    code = (
        "import sys; from ccrop_cli.main import cli; from click.testing import CliRunner\n"
        "assert 'cifar10-simclr' in CliRunner().invoke(cli, ['recipes']).stdout\n"
        "assert CliRunner().invoke(cli, ['recipes', 'demo']).exit_code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_recipe_is_fitted_to_few_epochs_but_for_what_was_set_by_hand():
    line = ["train", "cifar10", "y", "--recipe", "mocov1", "--set", "epochs=2", "--dry-run"]
    fitted = CliRunner().invoke(cli, line)
    assert fitted.stdout.splitlines()[-1] == "3. train epoch 2: boxes from boxes/epoch-0001"
    assert "optimizer.schedule=cosine, optimizer.milestones=[], boxes.refresh_at=[0.5]." in (
        fitted.stderr
    )
    refused = CliRunner().invoke(cli, [*line, "--set", "boxes.refresh_every=7"])
    assert refused.exit_code == 1
    (given,) = re.findall("Give (--set .+) as well, or train for more", refused.stderr)
    copied = CliRunner().invoke(cli, [*line, *shlex.split(given)])
    assert copied.stdout.splitlines()[-1] == fitted.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "command", ["recipes", "train photos new --recipe", "boxes audit boxes --recipe"]
)
def test_shells_complete_the_names_of_recipes(command):
    shell = ShellComplete(cli, {}, "ccrop", "_CCROP_COMPLETE")
    found = shell.get_completions(command.split(), "photos-")
    names = {name for name in bundled_recipes() if name.startswith("photos-")}
    assert (
        {item.value for item in found if item.type == "plain"} == names >= {"photos-simclr-2core"}
    )
    assert [item.value for item in found if item.type == "file"] == ["photos-"]
