"""The examples as their users start them."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.compute import ComputeSettings, compute_boxes
from ccrop_pipeline.crops import decode
from ccrop_pipeline.localize import Encoder, build_backbone
from ccrop_pipeline.sources import Scenes, open_source, pack

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    pack(Scenes(128, size=48), folder / "images")
    torch.manual_seed(0)
    backbone = build_backbone("small")
    source = open_source(folder / "images")
    encoder = Encoder(backbone, backbone.layer, 32, name="small")
    compute_boxes(source, encoder, folder / "boxes", ComputeSettings())
    return folder


def run(name, *arguments):
    command = [sys.executable, EXAMPLES / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_examples_are_short():
    files = sorted(EXAMPLES.glob("*.py"))
    assert len(files) >= 2
    assert all(len(file.read_text().splitlines()) <= 60 for file in files)


def test_boxes_in_a_plain_torchvision_loop(made):
    output = run("torchvision_training_loop.py", made / "images", made / "boxes")
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", output)]
    assert len(losses) == 2  # 128 images in batches of 64
    assert all(0 < loss < 20 for loss in losses)


def test_boxes_with_pyarrow_alone(made):
    assert "ccrop_pipeline" not in (EXAMPLES / "read_boxes_with_pyarrow.py").read_text()
    output = run("read_boxes_with_pyarrow.py", made / "boxes")
    table = BoxSet.open(made / "boxes").read("data-000000")
    area = np.prod(table.boxes[:, 2:] - table.boxes[:, :2], axis=1).mean()
    assert f"boxes:   128, mean share of the image {area:.3f}" in output
    left, right = table.boxes[0, 0] * 48, table.boxes[0, 2] * 48
    assert f"{table.keys[0]}: x {left:.1f} to {right:.1f}" in output


def test_the_lines_of_the_readme_cut_a_view(made, monkeypatch):
    readme = (EXAMPLES.parent / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    monkeypatch.chdir(made)
    sample = next(open_source(made / "images").read("data-000000"))
    known = {"key": sample.key, "image": decode(sample.image)}
    exec(block.replace("boxes/first", "boxes"), known)
    assert known["found"].all()
    assert known["view"].size == (224, 224)
