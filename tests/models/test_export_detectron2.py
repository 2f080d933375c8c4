"""Names of detectron2's ResNet, against lists written out after its modules."""

import pytest
import torch

from ccrop_pipeline.export.detectron2 import detectron2_name, detectron2_settings, detectron2_state
from ccrop_pipeline.localize import build_backbone

NORM = ("weight", "bias", "running_mean", "running_var")
STEM = ["stem.conv1.weight", *(f"stem.conv1.norm.{part}" for part in NORM)]
BOTTLENECK = [  # the first block of the first stage; the others have no shortcut but at a start
    "res2.0.conv1.weight",
    "res2.0.conv1.norm.weight",
    "res2.0.conv1.norm.bias",
    "res2.0.conv1.norm.running_mean",
    "res2.0.conv1.norm.running_var",
    "res2.0.conv2.weight",
    "res2.0.conv2.norm.weight",
    "res2.0.conv2.norm.bias",
    "res2.0.conv2.norm.running_mean",
    "res2.0.conv2.norm.running_var",
    "res2.0.conv3.weight",
    "res2.0.conv3.norm.weight",
    "res2.0.conv3.norm.bias",
    "res2.0.conv3.norm.running_mean",
    "res2.0.conv3.norm.running_var",
    "res2.0.shortcut.weight",
    "res2.0.shortcut.norm.weight",
    "res2.0.shortcut.norm.bias",
    "res2.0.shortcut.norm.running_mean",
    "res2.0.shortcut.norm.running_var",
]


def all_names(blocks, convolutions, shortcuts):
    names = list(STEM)
    for stage, count in enumerate(blocks, 2):
        for block in range(count):
            parts = [f"conv{number + 1}" for number in range(convolutions)]
            parts += ["shortcut"] * (block == 0 and stage in shortcuts)
            for part in parts:
                at = f"res{stage}.{block}.{part}"
                names += [f"{at}.weight", *(f"{at}.norm.{kind}" for kind in NORM)]
    return names


def test_the_names_of_a_bottleneck_are_those_written_out():
    assert all_names([1], 3, {2}) == STEM + BOTTLENECK
    state = detectron2_state(build_backbone("resnet50"))
    assert {name for name in state if name.startswith(("stem", "res2.0."))} == {*STEM, *BOTTLENECK}


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("resnet18", all_names([2, 2, 2, 2], 2, {3, 4, 5})),
        ("resnet50", all_names([3, 4, 6, 3], 3, {2, 3, 4, 5})),
        ("resnext50_32x4d", all_names([3, 4, 6, 3], 3, {2, 3, 4, 5})),
    ],
)
def test_every_weight_of_detectron2s_network_is_there_and_no_other(name, names):
    backbone = build_backbone(name)
    state = detectron2_state(backbone)
    assert sorted(state) == sorted(names)
    own = backbone.state_dict()
    for there, here in [
        ("stem.conv1.weight", "conv1.weight"),
        ("stem.conv1.norm.running_var", "bn1.running_var"),
        ("res5.1.conv2.norm.bias", "layer4.1.bn2.bias"),
        ("res3.0.shortcut.weight", "layer2.0.downsample.0.weight"),
        ("res3.0.shortcut.norm.running_mean", "layer2.0.downsample.1.running_mean"),
    ]:
        assert detectron2_name(here) == there
        assert torch.equal(state[there], own[here])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("resnet50", {"DEPTH": 50}),
        ("resnet18", {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}),
        ("resnext101_32x8d", {"DEPTH": 101, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 8}),
        ("wide_resnet50_2", {"DEPTH": 50, "NUM_GROUPS": 1, "WIDTH_PER_GROUP": 128}),
    ],
)
def test_the_settings_tell_the_networks_apart(name, own):
    settings = dict(detectron2_settings(build_backbone(name)))
    resnets = {key[14:]: value for key, value in settings.items() if key.startswith("MODEL.RESN")}
    assert resnets == {**own, "STRIDE_IN_1X1": False}
    assert settings["INPUT.FORMAT"] == "RGB"
    assert settings["MODEL.PIXEL_MEAN"] == pytest.approx([0.485 * 255, 0.456 * 255, 0.406 * 255])
    assert settings["MODEL.PIXEL_STD"] == pytest.approx([0.229 * 255, 0.224 * 255, 0.225 * 255])
