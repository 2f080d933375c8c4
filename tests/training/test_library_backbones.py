"""Networks of timm and torchvision as what is trained; the oracle is the library's own network."""

import re
import sys
from dataclasses import replace

import pytest
import torch
from ccrop_cli.main import cli
from click.testing import CliRunner
from torch import nn
from torchvision import models

from ccrop_pipeline.base import Observer
from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.errors import CcropError, ModelError
from ccrop_pipeline.export.backbone import export_backbone
from ccrop_pipeline.images import Scenes, open_source, pack
from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD
from ccrop_pipeline.localize.backbones import Renormalise
from ccrop_pipeline.models import open_encoder
from ccrop_pipeline.models.trainable import open_backbone
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import PretrainedEncoder, load_checkpoint, train

timm = pytest.importorskip("timm")
VIT = "timm:test_vit"  # of timm for its own tests: patches of 16 pixels, 0.3 million parameters
SETTINGS = [f"backbone={VIT}", "image_size=32", "batch_size=8", "optimizer.lr_warmup_epochs=0"]
IMAGES = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
HALF = (0.5, 0.5, 0.5)


def in_colours(images, mean, std):
    shape = (1, 3, 1, 1)
    return (images / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    pack(Scenes(16, size=32), tmp_path_factory.mktemp("data") / "tars")
    return open_source(tmp_path_factory.getbasetemp() / "data0/tars")


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "vit"
    recipe = load_recipe(
        "dino",
        [
            *SETTINGS,
            *("epochs=2", "boxes.refresh_at=[0.5]", "precision=fp32", "method.projection_dim=64"),
            *("method.hidden_dim=32", "local_views.count=1", "local_views.size=16"),
            *("method.encoder_momentum=0.5", "eval_size=64"),
        ],
    )
    train(source, folder, recipe=recipe, device="cpu")
    return folder


def test_a_run_opens_as_the_librarys_own_network(run):
    encoder = open_encoder(run)
    plain = timm.create_model("test_vit", num_classes=0, img_size=32, dynamic_img_size=True).eval()
    plain.load_state_dict(encoder.module.state_dict())
    assert (encoder.name, encoder.layer, encoder.input_size) == (VIT, "blocks.5", 64)
    images = torch.nn.functional.interpolate(IMAGES.float(), 64).byte()
    seen = in_colours(images, HALF, HALF)  # what timm says of it
    with torch.no_grad():
        assert torch.allclose(encoder.pooled(images), plain(seen), atol=1e-5)
        _, maps = plain.forward_intermediates(seen, indices=1, norm=False)
    assert torch.allclose(encoder.features(images), maps[-1], atol=1e-5)


def test_boxes_of_a_refresh_come_from_the_map_that_suits_the_encoder(run):
    assert BoxSet.open(run / "boxes/epoch-0001").manifest.provenance.localizer.map == "keys"


def test_a_killed_run_drops_the_same_paths_when_it_goes_on(source, tmp_path):
    settings = [*SETTINGS, "epochs=2", "boxes.kind=none", "method.projection_dim=64"]
    settings += ["method.hidden_dim=32", "local_views.count=0", "probe.every=0"]
    recipe = load_recipe("dino-vit", settings)
    assert recipe.drop_path_rate == 0.1

    class Killed(Observer):
        def epoch_done(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(source, tmp_path / "killed", recipe=recipe, device="cpu", observer=Killed())
    without = replace(recipe, drop_path_rate=0.0)
    for name, each in (("killed", recipe), ("whole", recipe), ("without", without)):
        train(source, tmp_path / name, recipe=each, device="cpu")
    killed, whole, without = (
        load_checkpoint(tmp_path / name).method for name in ("killed", "whole", "without")
    )
    assert all(torch.equal(value, whole[name]) for name, value in killed.items())
    assert not torch.equal(without["projector.layers.0.weight"], whole["projector.layers.0.weight"])


def test_an_exported_file_is_loaded_by_the_lines_that_come_with_it(run, tmp_path):
    exported = export_backbone(run, tmp_path / "vit.pth")
    assert exported.form == "timm"
    made: dict = {}
    exec("\n".join(exported.lines), made)
    images = torch.ones(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(made["model"](images), open_encoder(run).module.eval()(images))
    with pytest.raises(CcropError, match="no form torchvision: give the form timm"):
        export_backbone(run, tmp_path / "other.pth", form="torchvision")


def test_a_network_sees_the_colours_that_its_library_names():
    images = in_colours(IMAGES, IMAGENET_MEAN, IMAGENET_STD)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    assert torch.allclose(Renormalise(mean, std)(images), in_colours(IMAGES, mean, std), atol=1e-5)
    backbone = open_backbone(VIT, [32]).eval()
    with torch.no_grad():
        assert torch.allclose(
            backbone(images), backbone.whole(in_colours(IMAGES, HALF, HALF)), atol=1e-5
        )


def test_the_classifier_of_torchvision_is_taken_off_and_nothing_else():
    backbone = open_backbone("torchvision:mobilenet_v3_small", [64]).eval()
    whole = models.mobilenet_v3_small(weights=None).eval()
    whole.load_state_dict(backbone.whole.state_dict(), strict=False)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = whole.avgpool(whole.features(images)).flatten(1)
        assert torch.equal(backbone(images), whole.classifier[:2](features))
    assert backbone.feature_dim == 1024
    assert not isinstance(backbone.whole.classifier[2], nn.Dropout)
    assert open_backbone("torchvision:resnet18-cifar", [32]).name == "resnet18-cifar"


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        (VIT, [40], "fails on views of 40 pixels.*image_size"),
        (VIT, [32, 32, 24], "fails on views of 24 pixels.*local_views.size"),
        (VIT, [16], "no layer that gives feature maps of more than one cell at 16 pixels"),
        ("timm:vit_tiny_patch16_225", [32], "has no network .*vit_tiny_patch16_224"),
        ("torchvision:resnet81", [32], "torchvision has no network 'resnet81'.*resnet18"),
    ],
)
def test_what_cannot_be_trained_is_refused(name, sizes, message):
    with pytest.raises(ModelError, match=message):
        open_backbone(name, sizes)


def test_without_timm_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match="pip install timm"):
        open_backbone(VIT, [32])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "vit.pth"
    torch.save(timm.create_model("test_vit").state_dict(), file)  # with a classifier
    return file


def test_a_run_begins_with_weights_from_elsewhere(source, weights, tmp_path):
    recipe = load_recipe("mocov3", [*SETTINGS, "epochs=2", "precision=fp32", "boxes.kind=none"])
    init = PretrainedEncoder(VIT, weights)
    from ccrop_pipeline.training import Inputs, Machine, Trainer

    trainer = Trainer(Inputs(source, weights=init), tmp_path / "run", recipe, Machine())
    given = torch.load(weights, weights_only=True)
    method = trainer.learner.method
    for backbone in (method.backbone, method.momentum_backbone):
        state = backbone.whole.state_dict()
        assert all(
            torch.equal(state[k], v)
            for k, v in given.items()
            if "head" not in k and k != "pos_embed"
        )
    grid = given["pos_embed"][:, 1:].reshape(1, 10, 10, -1).permute(0, 3, 1, 2)
    resampled = nn.functional.interpolate(grid, 2, mode="bicubic", antialias=True)
    assert torch.allclose(state["pos_embed"][:, 1:], resampled.flatten(2).mT, atol=1e-6)
    assert "weights of timm:test_vit" in trainer.learner.started_from


def test_the_command_takes_the_backbone_of_the_model(source, weights, tmp_path):
    images = str(source.paths[0])
    train_it = ["train", images, str(tmp_path / "run"), "--recipe", "demo", "--device", "cpu"]
    train_it += ["--init", VIT, "--weights", str(weights), "--set", "epochs=1"]
    train_it += ["--set", "image_size=32", "--set", "eval_size=0", "--set", "batch_size=8"]
    train_it += ["--set", "boxes.kind=none", "--set", "optimizer.lr_warmup_epochs=0"]
    done = CliRunner().invoke(cli, train_it)
    assert done.exit_code == 0, done.stderr
    assert open_encoder(tmp_path / "run").name == VIT
    again = CliRunner().invoke(cli, train_it)
    assert "complete before" in again.stderr
    other = [
        "train",
        images,
        str(tmp_path / "other"),
        *train_it[3:7],
        "--set",
        "batch_size=8",
        "--init",
        str(tmp_path / "run"),
    ]
    done = CliRunner().invoke(cli, [*other, "--dry-run", "--json"])
    assert '"timm:test_vit"' in done.stdout
    done = CliRunner().invoke(cli, [*other, "--set", "backbone=small"])
    assert done.exit_code == 1
    assert re.search(
        r"none of the .* weights .* trains the backbone 'small'", done.stderr, re.DOTALL
    )
    done = CliRunner().invoke(cli, [*train_it[:7], "--weights", str(weights)])
    assert done.exit_code == 2
    assert "go with --init" in done.stderr


def test_names_of_another_port_are_matched_by_their_order(tmp_path):
    plain = timm.create_model("test_efficientnet", num_classes=3)
    state = {
        f"part{n}.{k.rpartition('.')[2]}": v for n, (k, v) in enumerate(plain.state_dict().items())
    }
    *own, weight, bias = state.items()  # the last two are the classifier
    state = dict([*own, ("fc.weight", weight[1]), ("fc.bias", bias[1])])
    torch.save(state, tmp_path / "port.pth")
    said = []
    encoder = open_encoder("timm:test_efficientnet", weights=tmp_path / "port.pth", say=said.append)
    assert all(
        torch.equal(v, plain.state_dict()[k]) for k, v in encoder.module.state_dict().items()
    )
    assert "in which every shape fits" in said[0]
    swapped = dict([own[1], own[0], *own[2:]])
    torch.save(swapped, tmp_path / "swapped.pth")
    with pytest.raises(ModelError, match="has none of"):
        open_encoder("timm:test_efficientnet", weights=tmp_path / "swapped.pth")


def test_blocks_that_are_numbered_anew_in_each_stage_are_kept_apart(tmp_path):
    plain = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    torch.save(plain.state_dict(), tmp_path / "lite0.pth")
    encoder = open_encoder("timm:tf_efficientnet_lite0", weights=tmp_path / "lite0.pth")
    state = encoder.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
