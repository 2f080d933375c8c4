"""The examples as their users start them."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.images import Scenes, open_source, pack
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer, build_backbone

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def scenes():
    return [Scenes(128, size=48).sample(i) for i in range(128)]


def boxes_of(source, folder):
    torch.manual_seed(0)
    backbone = build_backbone("small")
    encoder = Encoder(backbone, backbone.layer, 32, name="small")
    compute_boxes(open_source(str(source)), Localizer(encoder, rule=BoxRule(0.1)), folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tar shards in images/, their boxes in boxes/."""
    folder = tmp_path_factory.mktemp("made")
    pack(Scenes(128, size=48), folder / "images", max_images=64)
    boxes_of(folder / "images", folder / "boxes")
    return folder


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory, scenes):
    """A folder of ten classes in images/, its boxes in boxes/."""
    folder = tmp_path_factory.mktemp("image_folder")
    for scene in scenes:
        path = folder / f"images/class {scene.label}/{scene.key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(scene.image)
    boxes_of(folder / "images", folder / "boxes")
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory, scenes):
    """A table in the Hugging Face layout, images.parquet, its boxes in boxes/."""
    folder = tmp_path_factory.mktemp("table")
    cells = [{"bytes": scene.image, "path": f"{scene.key}.jpg"} for scene in scenes]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = [scene.label for scene in scenes]
    columns = {"image": pa.array(cells, kind), "label": labels}
    pq.write_table(pa.table(columns), folder / "images.parquet")
    boxes_of(folder / "images.parquet", folder / "boxes")
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs an example as `python NAME ...` does, and returns what it prints."""

    def ran(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return ran


def losses_of(output):
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", output)]
    assert all(0 < loss < 20 for loss in losses)
    return losses


def test_examples_are_short():
    files = sorted(EXAMPLES.glob("*.py"))
    assert len(files) >= 2
    assert all(len(file.read_text().splitlines()) <= 60 for file in files)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_without_arguments_an_example_says_how_it_is_started(run, name):
    try:
        with pytest.raises(SystemExit, match=f": python {re.escape(name)} "):
            run(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")


def test_boxes_in_a_plain_torchvision_loop(run, image_folder):
    output = run("torchvision_training_loop.py", image_folder / "images", image_folder / "boxes")
    assert len(losses_of(output)) == 2  # 128 images in batches of 64


def test_boxes_in_timms_loader(run, image_folder):
    pytest.importorskip("timm")
    output = run("timm_loader.py", image_folder / "images", image_folder / "boxes")
    assert len(losses_of(output)) == 2
    assert output.count("views (64, 3, 64, 64)") == 2


def test_boxes_in_lightlys_transforms(run, image_folder):
    pytest.importorskip("lightly")
    output = run("lightly_transform.py", image_folder / "images", image_folder / "boxes")
    assert len(losses_of(output)) == 2
    assert output.count("views 2 ") == 2


def test_boxes_in_hugging_face_data_sets(run, table, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    output = run("huggingface_datasets.py", table / "images.parquet", table / "boxes")
    assert len(losses_of(output)) == 2
    assert output.count("views (64, 3, 32, 32)") == 2


def test_boxes_in_a_webdataset_pipeline(run, made):
    shards = made / "images/data-{000000..000001}.tar"
    output = run("webdataset_pipeline.py", shards, made / "boxes")
    assert len(losses_of(output)) == 4  # batches of 32, 64 images a shard
    assert output.count("views (32, 3, 32, 32)") == 4


def test_boxes_in_a_lightning_data_module(run, made):
    pytest.importorskip("lightning")
    output = run("lightning_datamodule.py", made / "images", made / "boxes")
    assert len(losses_of(output)) == 4
    assert re.findall(r"epoch (\d)  loss", output) == ["0", "0", "1", "1"]


def test_boxes_with_pyarrow_alone(run, made):
    assert "ccrop_pipeline" not in (EXAMPLES / "read_boxes_with_pyarrow.py").read_text()
    output = run("read_boxes_with_pyarrow.py", made / "boxes")
    table = BoxSet.open(made / "boxes").read("data-000000")
    area = BoxSet.open(made / "boxes").manifest.statistics.mean_area
    assert f"boxes:   128, mean share of the image {area:.3f}" in output
    left, right = table.boxes[0, 0] * 48, table.boxes[0, 2] * 48
    assert f"{table.keys[0]}: x {left:.1f} to {right:.1f}" in output


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_are_well_formed(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


def test_the_slurm_job_has_srun_end_all_tasks_when_one_dies(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    started = subprocess.run(
        ["bash", str(EXAMPLES / "slurm_train.sh"), "my data", "runs/first", "mocov2"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    command = started.index("ccrop")
    assert "--kill-on-bad-exit=1" in started[:command]
    assert started[command + 1 : command + 4] == ["train", "my data", "runs/first"]


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch, capsys):
    """Without a kernel: cells are plain Python, and their last expression is what is shown."""
    monkeypatch.chdir(tmp_path)
    text = (EXAMPLES / "boxes_of_your_images.ipynb").read_text()
    assert all((EXAMPLES / link).exists() for link in re.findall(r"\]\((\.[^)]*)\)", text))
    book = json.loads(text)
    names, shown = {}, []
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            program = ast.parse("".join(cell["source"]))
            last = program.body.pop() if isinstance(program.body[-1], ast.Expr) else None
            exec(compile(program, "notebook", "exec"), names)
            if last:
                shown.append(eval(compile(ast.Expression(last.value), "notebook", "eval"), names))
    output = capsys.readouterr().out
    assert "follow the image:" in output
    shares = [float(share) for share in re.findall(r"\d: mean share of the image (\S+)", output)]
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) == 4
    assert len(losses_of(output)) == 4
    pictures = [each for each in shown if isinstance(each, Image.Image)]
    assert len(pictures) == 3
    assert pictures[-1].size == (768, 192)
