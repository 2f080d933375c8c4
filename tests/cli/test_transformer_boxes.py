"""A transformer on real photographs: the sum is of no use, which is said, and another map is."""

import json

import pytest
from ccrop_cli.main import cli
from click.testing import CliRunner


def computed(source, out, name):
    model = ["--model", "timm:vit_tiny_patch16_224", "--weights", "random", "--input-size", "96"]
    line = ["boxes", "compute", str(source), str(out), *model, "--map", name]
    result = CliRunner().invoke(cli, [*line, "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


@pytest.mark.slow
def test_the_sum_of_a_transformer_is_called_useless_and_auto_takes_another(real_data, tmp_path):
    pytest.importorskip("timm")
    source = real_data / "objects-webdataset/objects-000000.tar"
    summary, said = computed(source, tmp_path / "sum", "sum")
    localizer = summary["provenance"]["localizer"]
    assert (localizer["choice"]["worthless"], localizer["centre_weight"]) == (True, 0.5)
    assert summary["mean_area"] > 0.75
    assert "can be negative, and the map 'sum' lets them cancel" in said
    assert "carry nothing of what is in the image" in said
    assert "--map auto would choose 'keys'" in said
    summary, said = computed(source, tmp_path / "auto", "auto")
    assert summary["provenance"]["localizer"]["map"] == "keys"
    assert summary["mean_area"] < 0.75
    assert "lets them cancel" not in said
