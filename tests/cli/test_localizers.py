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
