"""ONNX files, run by onnxruntime: the features of the model, of as many images as there are."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made_checkpoints import stirred
from PIL import Image

from ccrop_pipeline.errors import CcropError, ModelError, SettingError
from ccrop_pipeline.export import embed, export_backbone
from ccrop_pipeline.export.onnx_form import difference_of
from ccrop_pipeline.images import Scenes
from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD, Encoder, build_backbone
from ccrop_pipeline.models import open_encoder
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Checkpoint
from ccrop_pipeline.training.checkpoint import save_checkpoint

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
SIZE = 32


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run, what was exported of it, and its backbone."""
    folder = tmp_path_factory.mktemp("onnx")
    backbone = stirred(build_backbone("small"), 1)
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    save_checkpoint(folder / "run/checkpoint.pt", Checkpoint(7, load_recipe("demo"), state, {}))
    done = export_backbone(folder / "run", folder / "out/it's b.onnx", input_size=SIZE)
    return folder / "run", done, backbone.eval()


def used(lines):
    """The `model` that the printed lines leave."""
    names = {}
    exec("\n".join(lines), names)
    return names["model"]


def normalised(samples):
    pixels = [
        np.asarray(Image.open(io.BytesIO(sample.image)).resize((SIZE, SIZE), Image.BILINEAR))
        for sample in samples
    ]
    return (
        ((np.stack(pixels) / 255 - IMAGENET_MEAN) / IMAGENET_STD)
        .astype(np.float32)
        .transpose(0, 3, 1, 2)
    )


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_printed_lines_give_the_backbone_for_any_number_of_images(exported, count):
    _, done, backbone = exported
    images = np.random.default_rng(count).normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)
    with torch.no_grad():
        expected = backbone(torch.from_numpy(images)).numpy()
    found = used(done.lines)(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert f"less {IMAGENET_MEAN},\n# divided by {IMAGENET_STD}, " in "\n".join(done.lines)


@pytest.mark.slow
def test_the_file_says_what_it_is_and_not_where_it_was_made(exported):
    _, done, _ = exported
    model = onnx.load(done.path)
    onnx.checker.check_model(model, full_check=True)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert len(about.pop("weights_sha256")) == 64
    assert {name: about.pop(name) for name in ("backbone", "layer")} == {
        "backbone": "small",
        "layer": "layer4",
    }
    assert {name: json.loads(value) for name, value in about.items()} == {
        "epoch": 7,
        "input_size": SIZE,
        "mean": [*IMAGENET_MEAN],
        "std": [*IMAGENET_STD],
    }
    (taken,), (given,) = model.graph.input, model.graph.output
    shapes = [
        [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (taken, given)
    ]
    assert shapes == [["batch", 3, SIZE, SIZE], ["batch", 128]]
    content = done.path.read_bytes()
    for trace in (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), "forward"):
        assert trace.encode() not in content
    assert (done.form, done.backbone, done.epoch) == ("onnx", "small", 7)
    assert done.difference < 1e-5
    assert [path.name for path in done.path.parent.iterdir()] == [done.path.name]


@pytest.mark.slow
def test_its_features_are_those_that_embed_writes(exported, tmp_path):
    run, done, _ = exported
    scenes = Scenes(6, size=48)
    embed(open_encoder(run, input_size=SIZE), scenes, tmp_path / "out")
    (file,) = (tmp_path / "out/embeddings").iterdir()
    written = np.stack(pq.read_table(file)["embedding"].to_numpy())
    found = used(done.lines)(normalised(scenes.read(scenes.shards[0])))
    np.testing.assert_allclose(found, written, atol=1e-5 * np.abs(written).max())


def transformer():
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=SIZE, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=5
    )


def convnext():
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 8, 12, 16), num_classes=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "fields", "own"),
    [
        (
            transformer,
            {"layer": "blocks.0", "layout": "tokens", "prefix_tokens": 1},
            lambda module, images: module.forward_intermediates(
                images, indices=[0], norm=False, intermediates_only=True
            )[0].mean((2, 3)),
        ),
        (
            convnext,
            {"layer": "stages"},
            lambda module, images: module.forward_features(images).mean((2, 3)),
        ),
    ],
)
def test_transformers_and_convnexts_give_what_their_library_gives(network, fields, own, tmp_path):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    module = network().eval()
    encoder = Encoder(module, input_size=SIZE, name="made", mean=(0.5,) * 3, **fields)
    done = export_backbone(encoder, tmp_path / "b.onnx")
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = own(module, images).numpy()
    found = used(done.lines)(images.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert done.difference < 1e-5
    names = {weight.name for weight in onnx.load(done.path).graph.initializer}
    assert not {name for name in names if "head.fc" in name or name.startswith("head")}


def test_a_file_of_other_weights_is_found_out(exported):
    _, done, backbone = exported
    assert difference_of(done.path, Encoder(backbone, "layer4", SIZE)) == done.difference
    other = stirred(build_backbone("small"), 2)
    with pytest.raises(CcropError, match="onnxruntime gives other features"):
        difference_of(done.path, Encoder(other, "layer4", SIZE))


class Branching(torch.nn.Module):
    """What no program without Python can do."""

    def forward(self, images):
        return images[:, :, ::4, ::4] if float(images.sum()) > 0 else images[:, :, ::2, ::2]


def test_a_network_that_cannot_be_written_is_an_error_for_people(tmp_path):
    with pytest.raises(ModelError, match=r"branching cannot be written as ONNX: torch.*"):
        export_backbone(Encoder(Branching(), "", SIZE, name="branching"), tmp_path / "b.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "file", "more", "message"),
    [
        ("run", "b.pth", {"form": "onnx"}, r"let its name end in \.onnx"),
        ("run", "b.onnx", {"form": "timm"}, r"and no \.onnx file"),
        ("run", "b.pth", {"input_size": 64}, "`input_size`"),
        (Encoder(build_backbone("small"), "layer4", SIZE), "b.pth", {}, "is of a run"),
        ("torchvision:resnet18", "b.onnx", {"encoder": "momentum"}, "has no momentum encoder"),
        ("run", "b.onnx", {"encoder": "momentum"}, "has no momentum encoder"),
    ],
)
def test_what_cannot_be_is_said(exported, tmp_path, model, file, more, message):
    model = exported[0] if model == "run" else model
    with pytest.raises((SettingError, ModelError), match=message):
        export_backbone(model, tmp_path / file, **more)
    assert not list(tmp_path.iterdir())


def test_what_packages_are_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(CcropError, match=r"needs onnxscript.*`pip install onnxscript`"):
        export_backbone(tmp_path / "run", tmp_path / "b.onnx")
