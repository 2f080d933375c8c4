"""Checkpoints of other training codes; the oracle is the plain network with the same weights."""

import json
import pickle
import re

import pytest
import safetensors.torch
import torch
from made_checkpoints import (
    RESNETS,
    dino,
    lightly,
    moco,
    moco_v3,
    plain,
    resnet18,
    simclr_sequential,
    solo_learn,
    stirred,
    vissl,
)
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import functional as vision

from ccrop_pipeline.errors import CcropError, ModelError
from ccrop_pipeline.localize import IMAGENET_MEAN, IMAGENET_STD, weights_sha256
from ccrop_pipeline.models import open_encoder

timm = pytest.importorskip("timm")


def made_images(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)


def assert_equal(features: Tensor, expected: Tensor) -> None:
    """But for the order of sums, which follows the memory layout."""
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4 * float(expected.std()))


def normalised(images: Tensor, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> Tensor:
    return torch.stack([vision.normalize(image / 255, mean, std) for image in images])


@torch.no_grad()
def trunk_of(resnet: nn.Module, images: Tensor, *colours: tuple) -> Tensor:
    """layer4 of a ResNet, its stages called one after the other."""
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(normalised(images, *colours)))))
    return resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(x))))


@pytest.fixture(scope="module")
def plain_resnet() -> nn.Module:
    return resnet18()


@pytest.fixture(scope="module")
def small_resnet() -> nn.Module:
    return resnet18(small=True)


@pytest.mark.slow
@pytest.mark.parametrize("saved_by", RESNETS, ids=lambda function: function.__name__)
def test_the_right_weights_reach_the_right_places(saved_by, plain_resnet, tmp_path) -> None:
    path, images = tmp_path / "checkpoint.pth", made_images(64)
    torch.save(saved_by(plain_resnet.state_dict()), path)
    encoder = open_encoder(str(path), input_size=64)
    assert (encoder.layer, encoder.layout, encoder.name) == ("layer4", "bchw", "resnet18")
    assert_equal(encoder.features(images), trunk_of(plain_resnet, images))


SOME = [moco, lightly, simclr_sequential, solo_learn]


@pytest.mark.slow
@pytest.mark.parametrize("saved_by", SOME, ids=lambda function: function.__name__)
def test_the_stem_for_small_images_is_recognised(saved_by, small_resnet, tmp_path) -> None:
    path, images = tmp_path / "checkpoint.pth", made_images(32)
    torch.save(saved_by(small_resnet.state_dict()), path)
    encoder = open_encoder(str(path))
    assert (encoder.name, encoder.input_size) == ("resnet18-cifar", 32)
    if saved_by is solo_learn:  # its own stem is padded by 2
        resnet = resnet18(small=True)
        resnet.conv1.padding = (2, 2)
        assert_equal(encoder.features(images), trunk_of(resnet, images))
    else:
        assert_equal(encoder.features(images), trunk_of(small_resnet, images))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34", "resnext50_32x4d"])
def test_the_architecture_is_told_by_the_shapes(name, tmp_path) -> None:
    resnet = models.get_model(name, weights=None).eval()
    torch.save(vissl(resnet.state_dict()), tmp_path / "model.torch")
    encoder = open_encoder(str(tmp_path / "model.torch"), input_size=64)
    assert encoder.name == name
    images = made_images(64)
    assert_equal(encoder.features(images), trunk_of(resnet, images))


@pytest.mark.slow
def test_lightlys_own_resnet(tmp_path) -> None:
    from lightly.models import ResNetGenerator

    resnet = stirred(ResNetGenerator("resnet-18"))
    layers = nn.Sequential(*list(resnet.children())[:-1])
    state = {f"backbone.{name}": value for name, value in layers.state_dict().items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2"}, tmp_path / "last.ckpt")
    encoder = open_encoder(str(tmp_path / "last.ckpt"))
    images = made_images(32)
    with torch.no_grad():
        expected = layers(normalised(images))
    assert_equal(encoder.features(images), expected)


def vit(depth: int = 2, **options) -> nn.Module:
    """A ViT-S of 64 px, which is quick; the oracle of the tests that load one."""
    given = {"embed_dim": 384, "num_heads": 6} | options
    shape = {"img_size": 64, "patch_size": 16, "depth": depth, "num_classes": 0}
    return stirred(timm.models.VisionTransformer(**shape, **given))


def last_tokens(module: nn.Module, images: Tensor, prefix: int) -> Tensor:
    """What the last block gives, before the final norm, on its grid."""
    with torch.no_grad():
        _, (tokens,) = module.forward_intermediates(
            normalised(images), indices=1, norm=False, output_fmt="NCHW"
        )[0:2]
    assert tokens.shape[1:] == (384, 4, 4)
    assert module.num_prefix_tokens == prefix
    return tokens


@pytest.mark.parametrize(
    ("saved_by", "heads"), [(dino, 6), (plain, 6), (moco_v3, 12)], ids=["dino", "plain", "mocov3"]
)
def test_a_vit_is_built_after_its_weights(saved_by, heads, tmp_path) -> None:
    module, images = vit(num_heads=heads), made_images(64)
    torch.save(saved_by(module.state_dict()), tmp_path / "vit.pth")
    encoder = open_encoder(str(tmp_path / "vit.pth"))
    assert (encoder.layer, encoder.input_size, encoder.prefix_tokens) == ("blocks.1", 64, 1)
    assert f"heads {heads}" in encoder.name
    assert_equal(encoder.features(images), last_tokens(module, images, 1))


def test_dinov2_with_registers_keeps_the_position_of_its_class_token(tmp_path) -> None:
    module = vit(reg_tokens=4, no_embed_class=True, init_values=0.5)
    images = made_images(64)
    state = dict(module.state_dict())
    at_class = torch.full((1, 1, 384), 0.25)
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([at_class, state["pos_embed"]], dim=1)
    state["cls_token"] = state["cls_token"] - at_class
    state["mask_token"] = torch.zeros(1, 384)
    torch.save(state, tmp_path / "dinov2.pth")
    encoder = open_encoder(str(tmp_path / "dinov2.pth"))
    assert encoder.prefix_tokens == 5
    assert_equal(encoder.features(images), last_tokens(module, images, 5))


def test_positions_are_resampled_to_another_size(tmp_path) -> None:
    from timm.layers import resample_abs_pos_embed

    module, images = vit(), made_images(96)
    torch.save(dino(module.state_dict()), tmp_path / "vit.pth")
    encoder = open_encoder(str(tmp_path / "vit.pth"), input_size=96)
    own = encoder.module.pos_embed
    torch.testing.assert_close(own, resample_abs_pos_embed(module.pos_embed, [6, 6]))
    assert encoder.features(images).shape == (2, 384, 6, 6)


@pytest.mark.slow
def test_torchvisions_vit_is_told_by_its_shapes(tmp_path) -> None:
    module = models.vit_b_32(weights=None, image_size=64).eval()
    torch.save({"model": module.state_dict()}, tmp_path / "vit.pth")
    encoder = open_encoder(str(tmp_path / "vit.pth"), input_size=64)
    assert (encoder.name, encoder.layer) == ("vit_b_32", "encoder.layers.encoder_layer_11")
    images = made_images(64)
    with torch.no_grad():
        tokens = module._process_input(normalised(images))
        tokens = torch.cat([module.class_token.expand(2, 1, -1), tokens], dim=1)
        tokens = module.encoder.layers(tokens + module.encoder.pos_embedding)
    expected = tokens[:, 1:].transpose(1, 2).unflatten(2, (2, 2))
    assert_equal(encoder.features(images), expected)


@pytest.mark.slow
def test_every_weight_is_accounted_for(plain_resnet, tmp_path) -> None:
    content = moco(plain_resnet.state_dict())
    content["state_dict"]["module.surprise"] = torch.zeros(1)
    torch.save(content, tmp_path / "moco.pth")
    lines: list[str] = []
    open_encoder(str(tmp_path / "moco.pth"), input_size=64, say=lines.append)
    text = "\n".join(lines)
    assert "MoCo; 100 of 100 weights of the backbone found in state_dict" in text
    assert "under 'module.encoder_q.'" in text
    assert "unexpected (1): module.surprise" in text
    assert "left out, other copies of the network (124)" in text
    counts = [int(number) for number in re.findall(r"\((\d+)\)", text)]
    counters = sum("num_batches_tracked" in k and "_q." in k for k in content["state_dict"])
    assert sum(counts) + 100 + counters == len(content["state_dict"])


@pytest.mark.slow
def test_a_weight_that_is_missing_refuses_the_file_unless_told(plain_resnet, tmp_path) -> None:
    state = dict(plain_resnet.state_dict())
    del state["layer3.0.conv2.weight"]
    state["layer4.1.bn1.bias"] = torch.zeros(3)
    torch.save(moco(state), tmp_path / "moco.pth")
    lines: list[str] = []
    with pytest.raises(CcropError, match=r"98 of 100 weights.*1 missing \(layer3.0.conv2.weight"):
        open_encoder(str(tmp_path / "moco.pth"), say=lines.append)
    assert "missing (1): layer3.0.conv2.weight" in "\n".join(lines)
    assert "layer4.1.bn1.bias (3,) in the file, (512,) in the network" in "\n".join(lines)
    encoder = open_encoder(str(tmp_path / "moco.pth"), partial=True, input_size=64)
    assert torch.equal(encoder.module.layer1[0].conv1.weight, plain_resnet.layer1[0].conv1.weight)


def test_a_backbone_with_more_than_the_network_is_refused(plain_resnet, tmp_path) -> None:
    state = dict(plain_resnet.state_dict()) | {"layer1.0.se.conv.weight": torch.zeros(1)}
    torch.save(moco(state), tmp_path / "moco.pth")
    with pytest.raises(CcropError, match=r"1 unexpected \(layer1.0.se.conv.weight\)"):
        open_encoder(str(tmp_path / "moco.pth"))


@pytest.mark.slow
def test_the_hash_is_that_of_the_weights_and_the_epoch_that_of_the_file(
    plain_resnet, tmp_path
) -> None:
    for name, saved_by in (("a", moco), ("b", dino)):
        torch.save(saved_by(plain_resnet.state_dict()), tmp_path / name)
    first, second = (open_encoder(str(tmp_path / name), input_size=64).info for name in "ab")
    assert first.weights_sha256 == second.weights_sha256
    assert first.weights_sha256 != weights_sha256(resnet18(small=True))
    assert (first.epoch, second.epoch) == (200, 100)


def test_a_file_of_safetensors(plain_resnet, tmp_path) -> None:
    safetensors.torch.save_file(dict(plain_resnet.state_dict()), tmp_path / "model.safetensors")
    encoder = open_encoder(str(tmp_path / "model.safetensors"), input_size=64)
    images = made_images(64)
    assert_equal(encoder.features(images), trunk_of(plain_resnet, images))


@pytest.mark.slow
def test_a_folder_of_sharded_safetensors_is_one_model(plain_resnet, tmp_path) -> None:
    state = dict(plain_resnet.state_dict())
    names = sorted(state)
    shards = {"model-1-of-2.safetensors": names[:50], "model-2-of-2.safetensors": names[50:]}
    for file, own in shards.items():
        safetensors.torch.save_file({name: state[name] for name in own}, tmp_path / file)
    with pytest.raises(ModelError, match=r"one file \*\.safetensors, or shards and their index"):
        open_encoder(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    files = {name: file for file, own in shards.items() for name in own}
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    images = made_images(64)
    encoder = open_encoder(tmp_path, input_size=64)
    assert_equal(encoder.features(images), trunk_of(plain_resnet, images))
    named = open_encoder("torchvision:resnet18", weights=tmp_path, input_size=64)
    assert_equal(named.features(images), trunk_of(plain_resnet, images))
    (tmp_path / "model-2-of-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lists model-2-of-2\.safetensors, which is not there"):
        open_encoder(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, "{}", '{"weight_map": {"a": "../a.safetensors"}}', '{"weight_map": {"a": 3}}'],
    ids=range(4),
)
def test_an_index_names_files_beside_it_or_is_refused(content, tmp_path) -> None:
    (tmp_path / "a.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"index\.json is no index of safetensors"):
        open_encoder(tmp_path)


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.safetensors", "a.pt2"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n",
            "a git-lfs pointer",
        ),
        (b"<!doctype html>", "is HTML"),
        (b"\xef\xbb\xbf\r\n<HTML lang='en'>", "is HTML"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC ...>', "is HTML"),
    ],
)
def test_what_stands_in_place_of_a_file_is_told_apart(name, content, said, tmp_path) -> None:
    (tmp_path / name).write_bytes(content)
    for way in (
        {"spec": tmp_path / name},
        {"spec": "torchvision:resnet18", "weights": tmp_path / name},
    ):
        with pytest.raises(ModelError, match=rf"{name} .*{said}"):
            open_encoder(**way)


def test_what_torch_advises_against_a_damaged_file_is_not_passed_on(tmp_path) -> None:
    class Danger:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    whole = tmp_path / "whole.pth"
    torch.save({"a": torch.zeros(100)}, whole)
    for number, content in enumerate(
        [
            pickle.dumps(Danger()),
            b"\x80\x02}q\x00.",
            b"\x80\x02X" + b"\xff" * 9,
            whole.read_bytes()[:-99],
        ]
    ):
        file = tmp_path / f"{number}.pth"
        file.write_bytes(content)
        with pytest.raises(ModelError, match=f"{number}.pth") as caught:
            open_encoder(file)
        assert "weights_only" not in str(caught.value)
        assert "torch.load" not in str(caught.value)
