import json

import pyarrow.parquet as pq
import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner

from ccrop_pipeline.images import Scenes, pack
from ccrop_pipeline.localize import build_backbone
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Checkpoint
from ccrop_pipeline.training.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run, and three shards of images."""
    place = tmp_path_factory.mktemp("embed")
    pack(Scenes(30, size=32), place / "data", max_images=10)
    state = build_backbone("small").state_dict()
    weights = {f"backbone.{name}": value for name, value in state.items()}
    checkpoint = Checkpoint(3, load_recipe("demo"), weights, {})
    save_checkpoint(place / "run/checkpoint.pt", checkpoint)
    return place


def embed(place, out, *arguments):
    line = [str(place / "run"), str(place / "data"), str(out), "--input-size", "32"]
    return CliRunner().invoke(cli, ["embed", *line, "--device", "cpu", *arguments])


@pytest.mark.slow
def test_it_says_what_it_wrote_and_goes_on_with_it(place, tmp_path):
    out = tmp_path / "out"
    done = embed(place, out)
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"{out}/embeddings: 30 embeddings of 128 numbers (float32) by small, layer layer4\n"
    )
    assert "3 shards to compute" in done.stderr
    again = json.loads(embed(place, out, "--json").stdout)
    assert again.pop("sources")[0]["images"] == 30
    assert again.pop("made_by")["encoder"]["epoch"] == 3
    expected = {"folder": str(out), "complete": True, "images": 30, "unreadable": []}
    assert again == expected
    other = embed(place, out, "--dtype", "float16")
    assert (other.exit_code, other.stdout) == (1, "")
    assert "dtype: float32 -> float16" in other.stderr
    assert "set --overwrite." in other.stderr
    assert embed(place, out, "--dtype", "float16", "--overwrite").exit_code == 0
    file = sorted((out / "embeddings").iterdir())[0]
    assert pq.read_schema(file).field("embedding").type.value_type == "halffloat"


@pytest.mark.slow
def test_a_portion_says_that_others_are_at_work(place, tmp_path):
    line = (place, tmp_path / "out", "--world-size", "2", "--rank")
    first = embed(*line, "0")
    assert (first.exit_code, first.stdout) == (0, "")
    assert "rank 0: this portion is done; others are still at work on" in first.stderr
    told = json.loads(embed(*line, "0", "--json").stdout)
    assert (told["folder"], told["complete"]) == (str(tmp_path / "out"), False)
    assert "30 embeddings" in embed(*line, "1").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("embed", "nowhere.pth", "d", "out"), 1, "no model nowhere.pth"),
        (("embed", "torchvision:resnet19", "d", "out"), 1, "did you mean resnet18"),
        (("embed", "torchvision:resnet18", "no/where", "out"), 1, "no/where"),
        (("embed", "torchvision:resnet18", "d", "out", "--rank", "1"), 1, "--world-size"),
        (("embed", "torchvision:resnet18", "d", "out", "--dtype", "int8"), 2, "int8"),
    ],
)
def test_mistakes_get_one_message_and_the_right_status(arguments, status, said):
    result = CliRunner().invoke(cli, [*arguments])
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr
