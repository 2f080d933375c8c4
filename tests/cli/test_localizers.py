"""The localizers of the literature on the command line."""

import json

import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner

from ccrop_pipeline.images import Scenes, pack

MODEL = ["--model", "torchvision:resnet18", "--weights", "random", "--input-size", "96"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("localizers") / "scenes"
    pack(Scenes(12, size=96), folder)
    return folder


def ccrop(*line, status=0):
    result = CliRunner().invoke(cli, [str(part) for part in line])
    assert result.exit_code == status, result.output
    return result


def computed(scenes, out, *options):
    line = ["boxes", "compute", scenes, out, *MODEL, "--device", "cpu", "--json", *options]
    return json.loads(ccrop(*line).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lost", "tokencut"])
def test_a_mask_brings_its_own_threshold_unless_a_rule_is_given(scenes, tmp_path, name):
    own = computed(scenes, tmp_path / "own", "--map", name)["provenance"]["localizer"]
    assert (own["map"], own["threshold"], own["mass"]) == (name, 0.5, None)
    given = computed(scenes, tmp_path / "given", "--map", name, "--mass", "0.9")
    assert given["provenance"]["localizer"]["mass"] == 0.9


@pytest.mark.slow
def test_a_head_is_fitted_and_used_in_two_commands(scenes, tmp_path):
    ccrop("boxes", "centre", scenes, tmp_path / "centre")
    head = tmp_path / "head.safetensors"
    line = ["boxes", "fit-linear", tmp_path / "centre", scenes, head, *MODEL, "--device", "cpu"]
    fitted = json.loads(ccrop(*line, "--json").stdout)
    assert (fitted["on"], fitted["images"], fitted["cells"]) == ("layer", 12, 12 * 9)
    found = computed(scenes, tmp_path / "linear", "--map", f"linear:{head}")
    localizer = found["provenance"]["localizer"]
    assert localizer["map"].startswith("linear sha256 ")
    assert localizer["threshold"] == 0.5
    before = head.read_bytes()
    assert "already there" in ccrop(*line, status=1).stderr
    assert "513 numbers on the layer" in ccrop(*line, "--overwrite").stdout
    assert head.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("linear:nowhere.pt", 1, "there is no file of weights at nowhere.pt"),
        ("linear:", 2, "linear:FILE"),
        ("linear", 2, "linear:FILE"),
        ("second", 2, "linear:FILE"),
    ],
)
def test_a_map_that_is_not_there(scenes, tmp_path, name, status, message):
    line = ["boxes", "compute", scenes, tmp_path / "out", *MODEL, "--device", "cpu"]
    assert message in ccrop(*line, "--map", name, status=status).stderr
