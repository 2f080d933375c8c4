"""Names that detectron2 gives to the weights of a ResNet."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ccrop_pipeline.errors import ModelError
from ccrop_pipeline.localize import Backbone

_STAGE = re.compile(r"^layer(\d)\.")
_NORM = re.compile(r"(^|\.)bn(\d)\.")
_COUNTER = ".num_batches_tracked"  # detectron2's frozen normalisation has none


def detectron2_name(name: str) -> str:
    """Return the name of a weight in detectron2's ResNet.

    Source: `detectron2/modeling/backbone/resnet.py`.

    Stages count from 2, each normalisation belongs to its convolution, and the shortcut is one
    convolution with a normalisation.

    Args:
        name: Its name in torchvision's.
    """
    staged, inside = _STAGE.subn(lambda found: f"res{int(found[1]) + 1}.", name)
    if not inside:
        staged = "stem." + staged
    shortcut = staged.replace("downsample.0.", "shortcut.").replace(
        "downsample.1.", "shortcut.norm."
    )
    return _NORM.sub(r"\1conv\2.norm.", shortcut)


def detectron2_state(backbone: Backbone) -> dict[str, Tensor]:
    """Return the weights of a ResNet under detectron2's names, without counters of batches.

    Raises:
        ModelError: If the backbone is no ResNet as detectron2 builds it.
    """
    if not re.fullmatch(r"(wide_)?resne(x)?t\d+(_\d+(x\d+d)?)?", backbone.name):
        raise ModelError(
            f"detectron2 has no network with the layers of {backbone.name!r}: its ResNets start "
            "with a 7x7 convolution. Train a backbone such as resnet50 for detection."
        )
    state: Mapping[str, Tensor] = backbone.state_dict()
    return {
        detectron2_name(name): value for name, value in state.items() if not name.endswith(_COUNTER)
    }


def detectron2_file(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what a file must contain for detectron2 to find the weights in any detector.

    It looks for them by the ends of their names (`stem.conv1.weight` is
    `backbone.bottom_up.stem.conv1.weight` in an FPN) only in files that ask for it, as those of
    MoCo do; a plain state dict leaves the detector at random weights, with no more than a warning
    (`detectron2/checkpoint/detection_checkpoint.py`).

    Args:
        state: From `detectron2_state`.
    """
    return {"model": dict(state), "__author__": "ccrop", "matching_heuristics": True}


def detectron2_settings(backbone: Backbone) -> list[tuple[str, object]]:
    """Return what the configuration must say for detectron2 to build and feed this ResNet alike.

    detectron2's own defaults are for weights converted from Caffe: BGR from 0 to 255 with a mean
    only, the stride in the 1x1 convolution, and frozen first stages.

    Args:
        backbone: A ResNet that `detectron2_state` takes.

    Returns:
        Names below `MODEL` or `INPUT`, and values.
    """
    first = backbone.get_submodule("layer1.0")
    basic = not hasattr(first, "conv3")
    depth = int(re.findall(r"\d+", backbone.name)[0])
    groups = first.get_submodule("conv2").groups
    width = first.get_submodule("conv2").out_channels
    assert isinstance(groups, int)
    assert isinstance(width, int)
    settings: list[tuple[str, object]] = [
        ("MODEL.PIXEL_MEAN", [123.675, 116.280, 103.530]),
        ("MODEL.PIXEL_STD", [58.395, 57.120, 57.375]),
        ("INPUT.FORMAT", "RGB"),
        ("MODEL.RESNETS.DEPTH", depth),
        ("MODEL.RESNETS.STRIDE_IN_1X1", False),
    ]
    if basic:
        settings.append(("MODEL.RESNETS.RES2_OUT_CHANNELS", 64))
    elif (groups, width) != (1, 64):
        settings.append(("MODEL.RESNETS.NUM_GROUPS", groups))
        settings.append(("MODEL.RESNETS.WIDTH_PER_GROUP", width // int(groups)))
    return settings
