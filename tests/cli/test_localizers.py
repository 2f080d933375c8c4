"""The localizers of the literature on the command line."""

import json
import re

import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner

from ccrop_pipeline.boxset import BoxSet
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
    ccrop(*line)  # as after a kill in its last steps: the same file is left as it is
    head.write_bytes(b"mine")
    assert "already there" in ccrop(*line, status=1).stderr
    assert head.read_bytes() == b"mine"
    again = ccrop(*line, "--overwrite").stdout
    assert "513 numbers on the layer" in again
    assert f"(with one answer for all: {fitted['base_rate']:.1%})" in again
    assert head.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("linear:nowhere.pt", 1, "there is no file nowhere.pt of a linear head"),
        ("linear:", 2, "linear:FILE"),
        ("linear", 2, "linear:FILE"),
        ("second", 2, "linear:FILE"),
    ],
)
def test_a_map_that_is_not_there(scenes, tmp_path, name, status, message):
    line = ["boxes", "compute", scenes, tmp_path / "out", *MODEL, "--device", "cpu"]
    assert message in ccrop(*line, "--map", name, status=status).stderr


def test_a_rule_that_sets_itself_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack(Scenes(36, size=48), tmp_path / "scenes", max_images=12)
    model = ["--model", "torchvision:resnet18", "--weights", "random", "--input-size", "48"]
    line = ["boxes", "compute", "scenes", "itself", *model, "--device", "cpu"]
    done = ccrop(*line)
    assert "the box rule sets itself by some of the images" in done.stderr
    found = json.loads(ccrop("boxes", "info", "itself", "--json").stdout)
    made = found["provenance"]["localizer"]
    kappa = made["choice"]["kappa"][made["choice"]["threshold"].index(made["threshold"])]
    rule = f"threshold {made['threshold']:g} + 0.5 of the image's mean heat"
    assert (made["centre_weight"], made["choice"]["worthless"]) == (0.5, True)
    rule += "; weight 0.5 of the central 80 %"
    chosen = f"{rule}; set itself by 36 images, kappa {kappa:.2f}"
    assert re.search(f"box rule +{re.escape(chosen)}", done.stdout)
    names = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert names == ["verdict", "because", "box set", "images", "boxes", "box rule", "details"]
    assert done.stdout.endswith("details     ccrop boxes audit itself\n")

    def changed(new, *options, base="itself", status=0):
        return ccrop("boxes", "rethreshold", base, new, *options, status=status)

    wider = changed("wider", "--threshold", "auto", "--margin", "0.1")
    assert chosen.replace("; set", "; margin 0.1; set") in wider.stdout
    assert "threshold 0.2\n" in changed("fixed", "--threshold", "0.2").stdout
    by_hand = changed("by-hand", "--threshold", "0.2", "--mean-share", "0.5")
    assert "threshold 0.2 + 0.5 of the image's mean heat\n" in by_hand.stdout
    assert "; weight" not in changed("back", "--threshold", "0.2").stdout
    moved = changed("moved", "--threshold", "0.2", "--centre-weight", "0.25")
    assert "threshold 0.2; weight 0.25 of the central 80 %\n" in moved.stdout
    ccrop(*line[:3], "objects", *model, "--device", "cpu", "--objects", "3")
    assert "; weight" not in changed("several", "--objects", "3").stdout
    assert chosen in changed("one", "--objects", "1", base="objects").stdout
    for name, anew in (("several", "objects"), ("one", "itself")):
        found, wanted = BoxSet.open(name), BoxSet.open(anew)
        assert found.manifest.provenance == wanted.manifest.provenance
        for shard, table in wanted.tables():
            assert (found.read(shard).boxes == table.boxes).all()
    refused = changed("no", "--threshold", "auto", base="fixed", status=1)
    assert "none can set itself. Give --threshold or --mass." in refused.stderr
    assert "give one" in ccrop(*line, "--mean-share", "0.5", status=2).stderr
    wrong = ccrop(*line, "--threshold", "AUTO", status=2).stderr
    assert "'AUTO' is neither a number nor auto." in wrong


def test_few_images_are_told_to_be_too_few(scenes, tmp_path):
    done = ccrop("boxes", "compute", scenes, tmp_path / "few", *MODEL, "--device", "cpu")
    assert "threshold 0.1; set itself: too few to choose by (12 images)" in done.stdout
    assert "the box rule sets itself" not in done.stderr
