import json
from dataclasses import replace

import pytest
import torch
from ccrop_cli.main import cli
from click.testing import CliRunner

from ccrop_pipeline.localize import build_backbone
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Checkpoint
from ccrop_pipeline.training.checkpoint import save_checkpoint


def export(*arguments):
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


@pytest.fixture
def run(tmp_path):
    backbone = build_backbone("resnet18-cifar")
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    recipe = replace(load_recipe("demo"), backbone="resnet18-cifar")
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", Checkpoint(3, recipe, state, {}))
    return tmp_path / "run"


@pytest.mark.slow
def test_stdout_is_a_program_and_stderr_says_what_was_checked(run, tmp_path):
    result = export(run, tmp_path / "out" / "b.pth", "--form", "timm")
    assert result.exit_code == 0, result.output
    names = {}
    exec(result.stdout, names)
    assert names["model"](torch.zeros(1, 3, 32, 32)).shape == (1, 512)
    assert "online encoder resnet18-cifar after epoch 3" in result.stderr
    assert "differ by" in result.stderr


@pytest.mark.slow
def test_json_has_the_same_lines(run, tmp_path):
    shown = export(run, tmp_path / "b.safetensors").stdout
    result = export(run, tmp_path / "b.safetensors", "--overwrite", "--json")
    found = json.loads(result.stdout)
    assert "\n".join(found["lines"]) + "\n" == shown
    assert found["path"] == str(tmp_path / "b.safetensors")
    assert (found["form"], found["epoch"], found["encoder"]) == ("safetensors", 3, "online")


@pytest.mark.slow
def test_mistakes_get_one_message_and_the_right_status(run, tmp_path):
    (tmp_path / "there.pth").write_text("precious")
    for arguments, status, message in [
        ((run, tmp_path / "there.pth"), 1, "--overwrite"),
        ((run, tmp_path / "b.pth", "--encoder", "momentum"), 1, "no momentum encoder"),
        ((run, tmp_path / "b.pth", "--form", "detectron2"), 1, "7x7"),
        ((tmp_path, tmp_path / "b.pth"), 1, "no checkpoint"),
        ((tmp_path / "nowhere", tmp_path / "b.pth"), 1, "no model"),
        ((run, tmp_path / "b.pth", "--form", "keras"), 2, "keras"),
        ((run, tmp_path / "b.pth", "--form", "onnx"), 1, "end in .onnx"),
        ((run, tmp_path / "b.onnx", "--form", "timm"), 1, "no .onnx file"),
        ((run, tmp_path / "b.pth", "--input-size", "64"), 1, "--input-size"),
        (("torchvision:resnet18", tmp_path / "b.pth"), 1, "no checkpoint"),
    ]:
        result = export(*arguments)
        assert (result.exit_code, result.stdout) == (status, "")
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert (tmp_path / "there.pth").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "there.pth"]
