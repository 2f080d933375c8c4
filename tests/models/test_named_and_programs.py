"""Networks by name and networks that bring their code; the oracle is the library's own network."""

import contextlib
import io
import os
import sys
import zipfile

import pytest
import torch
from ccrop_cli.main import cli
from click.testing import CliRunner
from made_checkpoints import moco, resnet18, stirred
from test_checkpoints import assert_equal, made_images, normalised, trunk_of
from torch import nn
from torchvision import models

from ccrop_pipeline.errors import CcropError, SettingError
from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD, BoxRule, Localizer, build_backbone
from ccrop_pipeline.models import layers_of, open_encoder

RANDOM = {"weights": "random"}


@pytest.mark.slow
def test_torchvision_with_a_file(tmp_path) -> None:
    resnet = resnet18()
    torch.save(moco(resnet.state_dict()), tmp_path / "moco.pth")
    options = {"weights": tmp_path / "moco.pth", "input_size": 64}
    encoder = open_encoder("torchvision:resnet18", **options)
    assert encoder.name == "torchvision:resnet18"
    images = made_images(64)
    assert_equal(encoder.features(images), trunk_of(resnet, images))


def test_timm_with_a_file_and_its_own_colours(tmp_path) -> None:
    timm = pytest.importorskip("timm")
    module = stirred(timm.create_model("vit_tiny_patch16_224", img_size=64))
    torch.save({"state_dict": module.state_dict()}, tmp_path / "vit.pth")
    options = {"weights": tmp_path / "vit.pth", "input_size": 64}
    encoder = open_encoder("timm:vit_tiny_patch16_224", **options)
    half = (0.5, 0.5, 0.5)  # what timm's configuration says of this one
    assert (encoder.mean, encoder.std, encoder.layer) == (half, half, "blocks.11")
    images = made_images(64)
    with torch.no_grad():
        (expected,) = module.forward_intermediates(
            normalised(images, half, half), indices=1, norm=False, intermediates_only=True
        )
    assert_equal(encoder.features(images), expected)


@pytest.mark.slow
def test_swins_channels_are_put_first() -> None:
    pytest.importorskip("timm")
    encoder = open_encoder("timm:swin_tiny_patch4_window7_224", **RANDOM)
    assert (encoder.layout, encoder.has_attention) == ("bhwc", False)
    images = made_images(224)
    with torch.no_grad():
        module = encoder.module.eval()
        expected = module.forward_features(normalised(images)).permute(0, 3, 1, 2)
    assert_equal(encoder.features(images), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_torchscript_gives_its_output(tmp_path) -> None:
    resnet, images = resnet18(), made_images(64)
    trunk = nn.Sequential(*list(resnet.children())[:-2])
    torch.jit.trace(trunk, torch.zeros(2, 3, 64, 64)).save(str(tmp_path / "trunk.pt"))
    encoder = open_encoder(str(tmp_path / "trunk.pt"), input_size=64)
    assert (encoder.layer, encoder.name) == ("", "torchscript:trunk.pt")
    assert_equal(encoder.features(images), trunk_of(resnet, images))
    assert len(encoder.info.weights_sha256) == 64
    with pytest.raises(CcropError, match="inner layers cannot be read"):
        open_encoder(str(tmp_path / "trunk.pt"), layer="7")
    pooled = torch.nn.Sequential(trunk, torch.nn.AdaptiveAvgPool2d(1))
    torch.jit.trace(pooled, torch.zeros(2, 3, 64, 64)).save(str(tmp_path / "pooled.pt"))
    # It has no larger feature map at any size.
    with pytest.raises(CcropError, match="torchvision:NAME or timm:NAME, `weights` and `unsafe`"):
        open_encoder(tmp_path / "pooled.pt", input_size=64)


@pytest.mark.slow
def test_an_exported_program_keeps_its_layers(tmp_path) -> None:
    small, images = stirred(build_backbone("small")), made_images(64)
    free = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(small, (torch.zeros(2, 3, 64, 64),), dynamic_shapes=free)
    torch.export.save(program, tmp_path / "resnet.pt2")
    encoder = open_encoder(tmp_path / "resnet.pt2", unsafe=True)
    assert (encoder.layer, encoder.input_size) == ("layer4", 64)
    with torch.no_grad():
        expected = normalised(images)
        for number in range(1, 5):
            expected = small.get_submodule(f"layer{number}")(expected)
    assert_equal(encoder.features(images), expected)
    assert_equal(encoder.features(images[:1]), expected[:1])
    with pytest.raises(CcropError, match="64 pixels only, not 96"):
        open_encoder(tmp_path / "resnet.pt2", input_size=96, unsafe=True)


def test_an_exported_program_for_one_batch_size_is_refused(tmp_path) -> None:
    program = torch.export.export(nn.Conv2d(3, 4, 3), (torch.zeros(2, 3, 16, 16),))
    torch.export.save(program, tmp_path / "fixed.pt2")
    with pytest.raises(CcropError, match="batches of 2 images only"):
        open_encoder(tmp_path / "fixed.pt2", unsafe=True)


FACTORY = """
import torch
from torch import nn
from beside import CHANNELS
from ccrop_pipeline.localize import Encoder

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, CHANNELS, 4, stride=4), nn.ReLU(), nn.AvgPool2d(2))

def encoder():
    return Encoder(network(), "0", 32, mean=(0, 0, 0), std=(1, 1, 1), name="mine")

def number():
    return 3
"""


def test_a_factory_gives_a_module_or_an_encoder(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    (tmp_path / "beside.py").write_text("CHANNELS = 5")
    spec = f"{tmp_path}/mine.py:"
    found = open_encoder(spec + "network", input_size=32)
    assert (found.layer, found.name) == ("1", "mine.py:network")
    images = made_images(32)
    with torch.no_grad():
        conv = found.module[0]
        assert_equal(found.features(images), conv(normalised(images)).relu())
        own = open_encoder(spec + "encoder")
        assert (own.name, own.layer) == ("mine", "0")
        assert_equal(own.features(images), own.module[0](images / 255))
    assert str(tmp_path) not in sys.path
    with pytest.raises(CcropError, match=r"no function 'netwrk'.*network"):
        open_encoder(spec + "netwrk")
    with pytest.raises(CcropError, match="returned int"):
        open_encoder(spec + "number")
    with pytest.raises(CcropError, match=r"no Python file .*missing\.py"):
        open_encoder(f"{tmp_path}/missing.py:network")


def test_a_run_of_ours(tmp_path) -> None:
    from ccrop_pipeline.recipes import load_recipe
    from ccrop_pipeline.training import Checkpoint
    from ccrop_pipeline.training.checkpoint import save_checkpoint

    recipe = load_recipe("demo")
    backbone = stirred(build_backbone(recipe.backbone))
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", Checkpoint(7, recipe, state, {}))
    for spec in ("run", "run/checkpoint.pt"):
        encoder = open_encoder(str(tmp_path / spec))
        assert (encoder.name, encoder.layer, encoder.epoch) == (recipe.backbone, "layer4", 7)
        assert torch.equal(encoder.module.layer1[0].weight, backbone.layer1[0].weight)
    other = open_encoder(str(tmp_path / "run"), layer="layer3", input_size=64)
    assert (other.layer, other.input_size) == ("layer3", 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "layer", "grid"),
    [
        ("torchvision:resnet18", "layer4", 2),
        ("torchvision:alexnet", "features.11", 3),  # the ReLU before the last max-pooling
        ("torchvision:densenet121", "features", 2),
        ("torchvision:efficientnet_b0", "features", 2),
        ("torchvision:mobilenet_v3_small", "features", 2),
        ("torchvision:regnet_y_400mf", "trunk_output", 2),
        ("torchvision:shufflenet_v2_x0_5", "conv5", 2),
        ("timm:convnext_atto", "stages", 2),
        ("timm:seresnet18", "layer4", 2),
        ("timm:densenet121", "features", 2),
        ("timm:efficientnet_b0", "bn2", 2),
        ("timm:vit_tiny_patch16_224", "blocks.11", 4),
        ("timm:deit_tiny_distilled_patch16_224", "blocks.11", 4),
        ("timm:mixer_s32_224", "blocks.7", 2),
    ],
)
def test_the_default_layer(spec, layer, grid) -> None:
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    encoder = open_encoder(spec, weights="random", input_size=64)
    assert encoder.layer == layer
    features = encoder.features(made_images(64))
    (info,) = [info for info in layers_of(encoder) if info.is_default]
    assert (info.name, info.channels, info.grid) == (layer, features.shape[1], (grid, grid))
    assert features.shape[2:] == (grid, grid)


def test_layers_are_listed_with_what_they_give() -> None:
    encoder = open_encoder("torchvision:resnet18", weights="random", input_size=64)
    found = {info.name: info for info in layers_of(encoder)}
    assert list(found)[-1] == "layer4"
    assert (found["layer2"].channels, found["layer2"].grid) == (128, (8, 8))
    assert found["conv1"].signed
    assert not found["layer4"].signed
    assert "avgpool" not in found
    assert "maxpool" not in found


def test_wrong_names_are_answered_with_near_ones(tmp_path) -> None:
    with pytest.raises(CcropError, match=r"no network 'resnet19'.*resnet18"):
        open_encoder("torchvision:resnet19", **RANDOM)
    with pytest.raises(CcropError, match=r"no layer 'layer5'.*layer4"):
        open_encoder("torchvision:resnet18", weights="random", layer="layer5")
    with pytest.raises(CcropError, match=r"'avgpool' of torchvision:resnet18 gives no feature map"):
        open_encoder("torchvision:resnet18", weights="random", layer="avgpool")
    with pytest.raises(CcropError, match="there is no model nowhere"):
        open_encoder("nowhere")
    with pytest.raises(CcropError, match="`weights` goes with"):
        open_encoder(str(tmp_path), **RANDOM)
    with pytest.raises(CcropError, match="no file of weights"):
        open_encoder("torchvision:resnet18", weights=tmp_path / "none.pth")
    pytest.importorskip("timm")
    with pytest.raises(CcropError, match=r"no network 'vit_tinny_patch16_224'.*vit_tiny"):
        open_encoder("timm:vit_tinny_patch16_224", **RANDOM)


def test_pretrained_weights_that_cannot_be_fetched(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(CcropError, match=r"torchvision:resnet18 cannot be had.*`weights` a file"):
        open_encoder("torchvision:resnet18")


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.slow
def test_a_file_that_runs_code_is_refused_unless_told(tmp_path) -> None:
    content = moco(resnet18().state_dict()) | {"extra": Planted(tmp_path / "ran")}
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(CcropError, match=r"posix.mkdir.*run any code.*`unsafe`"):
        open_encoder(str(tmp_path / "bad.pth"))
    assert not (tmp_path / "ran").exists()
    options = {"unsafe": True, "input_size": 64}
    assert open_encoder(str(tmp_path / "bad.pth"), **options).name == "resnet18"
    assert (tmp_path / "ran").exists()


def test_a_cached_file_of_torchvision_runs_no_code(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    cached = tmp_path / "hub/checkpoints" / models.ResNet18_Weights.DEFAULT.url.split("/")[-1]
    torch.save({"fc.weight": Planted(tmp_path / "ran")}, cached)
    with pytest.raises(CcropError, match=f"{cached} is damaged or no file of weights"):
        open_encoder("torchvision:resnet18")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["program.pt2", "program.pth"])
def test_an_exported_program_that_runs_code_is_refused_whatever_its_name(name, tmp_path) -> None:
    program = torch.export.export(nn.Conv2d(3, 4, 3), (torch.zeros(2, 3, 16, 16),))
    torch.export.save(program, tmp_path / "sound.pt2")
    hostile = io.BytesIO()
    torch.save((Planted(tmp_path / "ran"),), hostile)
    with zipfile.ZipFile(tmp_path / "sound.pt2") as sound:
        members = {member: sound.read(member) for member in sound.namelist()}
    (inputs,) = (member for member in members if "sample_inputs" in member)
    with zipfile.ZipFile(tmp_path / name, "w") as file:
        for member, content in members.items():
            file.writestr(member, hostile.getvalue() if member == inputs else content)
    with pytest.raises(CcropError, match=r"torch\.export.*unpickling.*`unsafe`"):
        open_encoder(tmp_path / name)
    result = CliRunner().invoke(cli, ["boxes", "layers", str(tmp_path / name)])
    assert result.exit_code == 1
    assert "--unsafe" in result.stderr
    assert not (tmp_path / "ran").exists()
    # The attack itself is sound: torch runs it.
    with contextlib.suppress(Exception):
        torch.export.load(tmp_path / name)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no checkpoint at all"])
def test_damaged_files_are_refused(content, tmp_path) -> None:
    for name in ("a.pth", "a.pt", "a.safetensors", "a.pt2"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CcropError, match="cannot be read as"):
            open_encoder(str(tmp_path / name))


def test_files_of_something_else_are_refused(tmp_path) -> None:
    torch.save({"optimizer": {}, "loss": 3}, tmp_path / "other.pth")
    with pytest.raises(CcropError, match=r"no weights where.*optimizer, loss"):
        open_encoder(str(tmp_path / "other.pth"))
    torch.save(models.alexnet().features.state_dict(), tmp_path / "alexnet.pth")
    with pytest.raises(CcropError, match=r"cannot be told from its weights, .*10 in all.*Name it"):
        open_encoder(str(tmp_path / "alexnet.pth"))


def test_mean_and_standard_deviation_are_given_or_said(tmp_path) -> None:
    torch.save(resnet18().state_dict(), tmp_path / "file.pth")
    lines: list[str] = []
    assumed = open_encoder(tmp_path / "file.pth", input_size=64, say=lines.append)
    assert (assumed.mean, assumed.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert "ImageNet's, assumed" in lines[-1]
    given = open_encoder(tmp_path / "file.pth", input_size=64, mean=0, std=[0.5, 0.25, 1])
    images, colours = made_images(64), ((0.0, 0.0, 0.0), (0.5, 0.25, 1.0))
    assert_equal(given.features(images), trunk_of(resnet18(), images, *colours))
    assert (
        "mean [0.0, 0.0, 0.0], std [0.5, 0.25, 1.0]"
        in Localizer(given, rule=BoxRule(0.1)).info.preprocessing
    )
    options = {"weights": tmp_path / "file.pth", "input_size": 64, "say": lines.append}
    named = open_encoder("torchvision:resnet18", mean=0.5, **options)
    assert (named.mean, named.std) == ((0.5, 0.5, 0.5), IMAGENET_STD)
    assert "torchvision's for its own weights, assumed for this file as well" in lines[-1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mean": 123.7}, "`mean` is 123.7; it must be from 0 to 1"),
        ({"std": [0.2, 0.0, 0.2]}, "`std` is .*above 0"),
        ({"std": [0.2, 0.2]}, "`std` has 2 numbers"),
        ({"mean": float("nan")}, "`mean` is nan"),
    ],
)
def test_means_that_cannot_be_are_refused(wrong, message) -> None:
    with pytest.raises(SettingError, match=message):
        open_encoder("torchvision:resnet18", weights="random", **wrong)


def test_names_of_timm_with_a_slash_say_where_from(tmp_path):
    pytest.importorskip("timm")
    for name in ("foo/bar", "http://x/y"):
        with pytest.raises(CcropError, match=f"timm has no network '{name}'.*timm:hf-hub:{name}"):
            open_encoder(f"timm:{name}")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.pth")
    with pytest.raises(CcropError, match=r"model\.pth is neither a file nor a folder"):
        open_encoder(tmp_path / "model.pth")
