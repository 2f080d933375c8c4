"""Exported backbones, loaded by the libraries they are for."""

import re
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from made_checkpoints import stirred

from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.export import export_backbone
from ccrop_pipeline.export.detectron2 import detectron2_state
from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD, build_backbone, state_sha256
from ccrop_pipeline.models import open_encoder
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Checkpoint
from ccrop_pipeline.training.checkpoint import save_checkpoint

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """Runs by the name of their backbone, with their online encoder; `small` has a momentum one."""
    place = tmp_path_factory.mktemp("runs")

    @cache
    def made(name):
        recipe = replace(load_recipe("demo"), backbone=name)
        online = stirred(build_backbone(name), 1)
        state = {f"backbone.{key}": value for key, value in online.state_dict().items()}
        if name == "small":
            momentum = momentum_of(name).state_dict()
            state |= {f"momentum_backbone.{key}": value for key, value in momentum.items()}
        state["projector.weight"] = torch.zeros(2, 2)
        save_checkpoint(place / name / "checkpoint.pt", Checkpoint(7, recipe, state, {}))
        return place / name, online

    yield made
    shutil.rmtree(place)


def momentum_of(name):
    return stirred(build_backbone(name), 2)


def used(lines):
    """The `model` that the printed lines leave."""
    names = {}
    exec("\n".join(lines), names)
    return names["model"]


def assert_same(model, backbone):
    assert not model.training
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected, found = backbone(images), model(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "form"),
    [
        ("resnet18", "b.pth", None),
        ("resnet18", "b.safetensors", None),
        ("resnet18", "b.pth", "timm"),
        ("resnet18", "b.safetensors", "timm"),
        ("resnet18-cifar", "b.pth", "torchvision"),
        ("resnet18-cifar", "b.pth", "timm"),
        ("resnext50_32x4d", "b.pth", "timm"),
        ("small", "it's b.safetensors", None),
    ],
)
def test_the_printed_lines_give_the_backbone_in_the_library(a_run, tmp_path, name, file, form):
    run, online = a_run(name)
    done = export_backbone(run, tmp_path / "out" / file, form=form)
    model = used(done.lines)
    assert_same(model, online)
    assert (done.backbone, done.epoch, done.weights) == (name, 7, len(online.state_dict()))
    assert done.difference is not None
    assert done.difference <= 1e-6
    library = "timm" if form == "timm" else "ccrop_pipeline" if name == "small" else "torchvision"
    assert type(model).__module__.split(".")[0] == library
    assert [path.name for path in (tmp_path / "out").iterdir()] == [file]
    text = "\n".join(done.lines)
    assert str(IMAGENET_MEAN) in text
    assert str(IMAGENET_STD) in text


def loaded_by_detectron2(file, names):
    """What detectron2 puts where: by the longest end of a name, if the file asks for that."""
    content = torch.load(file, weights_only=True)
    if "model" not in content:
        content = {"model": content}
    weights = content["model"]
    if not content.get("matching_heuristics") or content.get("__author__") == "Caffe2":
        return {name: weights[name] for name in names if name in weights}
    fitting = {name: [own for own in weights if ("." + name).endswith("." + own)] for name in names}
    return {name: weights[max(own, key=len)] for name, own in fitting.items() if own}


@pytest.mark.slow
def test_detectron2_finds_every_weight_wherever_a_detector_has_its_backbone(a_run, tmp_path):
    run, online = a_run("resnet50")
    done = export_backbone(run, tmp_path / "b.pth", form="detectron2")
    expected = detectron2_state(online)
    for place in ("backbone.", "backbone.bottom_up."):
        names = [place + name for name in expected]
        found = loaded_by_detectron2(done.path, [*names, "proposal_generator.rpn_head.conv.weight"])
        assert sorted(found) == sorted(names)
        assert all(torch.equal(found[place + name], value) for name, value in expected.items())
    assert done.weights == len(expected)


def test_the_momentum_encoder_is_another_one_and_must_be_there(a_run, tmp_path):
    run, _ = a_run("small")
    done = export_backbone(run, tmp_path / "m.safetensors", encoder="momentum")
    assert_same(used(done.lines), momentum_of("small"))
    checkpoint = Checkpoint(1, load_recipe("demo"), {"backbone.x": torch.zeros(1)}, {})
    save_checkpoint(tmp_path / "none" / "checkpoint.pt", checkpoint)
    with pytest.raises(CcropError, match="no momentum encoder"):
        export_backbone(tmp_path / "none", tmp_path / "n.pth", encoder="momentum")


@pytest.mark.slow
def test_an_export_is_a_model_of_ours_again(a_run, tmp_path):
    run, _ = a_run("resnet18")
    out = export_backbone(run, tmp_path / "b.safetensors").path
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    ours, again = (open_encoder(str(of), input_size=64) for of in (run, out))
    assert torch.equal(again.features(images), ours.features(images))


@pytest.mark.slow
def test_equal_backbones_give_equal_bytes(a_run, tmp_path):
    run, _ = a_run("small")
    # The library writes metadata in an order that it draws anew for each file.
    files = [export_backbone(run, tmp_path / f"{i}.safetensors").path for i in range(8)]
    assert len({file.read_bytes() for file in files}) == 1
    with safetensors.safe_open(files[0], "pt") as file:
        about = file.metadata()
    assert about.pop("ccrop_sha256") == state_sha256(safetensors.torch.load_file(files[0]))
    assert about == {"backbone": "small", "epoch": "7", "format": "pt"}


def test_a_file_that_is_there_stays_unless_told_otherwise(a_run, tmp_path):
    run, online = a_run("small")
    out = tmp_path / "b.safetensors"
    out.write_text("precious")
    with pytest.raises(CcropError, match=r"b\.safetensors is already there.*`overwrite`"):
        export_backbone(run, out)
    assert out.read_text() == "precious"
    assert_same(used(export_backbone(run, out, overwrite=True).lines), online)
    # As after a kill in its very last steps: the file is complete, and nothing is left to do.
    assert export_backbone(run, out).path.read_bytes() == out.read_bytes()


def test_a_file_that_fails_the_check_never_appears(a_run, tmp_path, monkeypatch):
    run, _ = a_run("small")
    written = safetensors.torch.save

    def damaged(state, metadata):
        name = "layer4.1.weight"
        return written({**state, name: state[name] * 1.001}, metadata)

    monkeypatch.setattr(safetensors.torch, "save", damaged)
    out = tmp_path / "out" / "b.safetensors"
    out.parent.mkdir()
    out.write_text("precious")
    with pytest.raises(CcropError, match="other outputs"):
        export_backbone(run, out, overwrite=True)
    assert out.read_text() == "precious"
    assert len(list(out.parent.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "form", "message"),
    [
        ("small", "b.pth", None, r"torchvision has no network like .*\.safetensors"),
        ("small", "b.pth", "timm", "timm has no network"),
        ("small", "b.pth", "detectron2", "detectron2 has no network"),
        ("resnet18-cifar", "b.pth", "detectron2", "7x7"),
        ("resnet18", "b.pth", "safetensors", "let its name end in it"),
        ("resnet18", "b.safetensors", "detectron2", r"must end in \.pth"),
        ("resnet18", "", None, "is a folder"),
    ],
)
def test_what_cannot_be_is_said_and_writes_nothing(a_run, tmp_path, name, file, form, message):
    run, _ = a_run(name)
    with pytest.raises(CcropError, match=message):
        export_backbone(run, tmp_path / file, form=form)
    assert not list(tmp_path.iterdir())


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.mark.slow
def test_the_programs_of_the_document_run(a_run, tmp_path, monkeypatch):
    run, online = a_run("resnet50")
    monkeypatch.chdir(tmp_path)
    export_backbone(run, Path("backbone.pth"))
    for block in blocks((DOCS / "export.md").read_text()):
        if "detectron2" in block:
            compile(block, "docs/export.md", "exec")
            continue
        names = {}
        exec(block, names)
        body = names["detector"].backbone.body
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            last = body.eval()(images)["3"]
            torch.testing.assert_close(
                last.mean((2, 3)), online(images), rtol=1e-4, atol=1e-4 * float(last.max())
            )
        break
    else:
        pytest.fail("docs/export.md has no program for torchvision's detectors")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["b.pth", "b.safetensors"])
def test_flipped_bits_of_an_exported_file_are_noticed(a_run, tmp_path, file):
    run, _ = a_run("resnet18-cifar")
    export_backbone(run, tmp_path / file)
    assert open_encoder(tmp_path / file).layer == "layer4"
    data = bytearray((tmp_path / file).read_bytes())
    data[len(data) // 2] ^= 1
    data[len(data) // 3] ^= 8
    (tmp_path / file).write_bytes(data)
    with pytest.raises(CcropError, match=re.escape(f"{tmp_path / file} is damaged: ")):
        open_encoder(tmp_path / file)


@pytest.mark.parametrize("name", ["b.pt2", "b.npz", "b.SAFETENSORS", "b.h5"])
def test_a_name_of_another_format_is_refused(name, tmp_path):
    with pytest.raises(SettingError, match=rf"{name} would hold weights.*\.pth or \.safetensors"):
        export_backbone(tmp_path / "run", tmp_path / name)
