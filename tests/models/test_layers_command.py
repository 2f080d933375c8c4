import json

from ccrop_cli.main import cli
from click.testing import CliRunner


def run(*arguments: str):
    return CliRunner().invoke(cli, ["boxes", "layers", *arguments])


def test_lists_the_layers_and_marks_the_default() -> None:
    model = ("torchvision:resnet18", "--weights", "random", "--input-size", "64")
    result = run(*model)
    assert result.exit_code == 0
    (marked,) = [line.split() for line in result.stdout.splitlines() if line.startswith("*")]
    assert marked == ["*", "layer4", "512", "2x2", "not", "negative"]
    assert "random weights" in result.stderr
    found = json.loads(run(*model, "--json").stdout)
    assert found["input_size"] == 64
    assert [layer["name"] for layer in found["layers"] if layer["is_default"]] == ["layer4"]


def test_bad_input_is_one_message_and_bad_usage_another() -> None:
    result = run("torchvision:resnet180")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: torchvision has no network 'resnet180'")
    assert run("torchvision:resnet18", "--precision", "int8").exit_code == 2
    assert run("torchvision:resnet18", "--weights", "random", "--precision", "fp16").exit_code == 1
