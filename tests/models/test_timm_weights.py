"""Files of other projects in timm's networks; the oracle is timm's network with those weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made_checkpoints import clip_resnet, clip_vit, dinov3, stirred
from torch import Tensor, nn

from ccrop_pipeline.errors import ModelError
from ccrop_pipeline.localize import Encoder, weights_sha256
from ccrop_pipeline.localize.encoder import probe_images
from ccrop_pipeline.models import open_encoder
from ccrop_pipeline.models.checkpoints import Checkpoint
from ccrop_pipeline.models.timm_weights import converted

timm = pytest.importorskip("timm")


def built(name: str, **options: Any) -> nn.Module:
    return stirred(timm.create_model(name.removeprefix("timm:"), num_classes=0, **options))


def features(module: Any, encoder: Encoder, images: Tensor) -> Tensor:
    """The output of the layer, from the module itself and by hand."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoder.mean, encoder.std))
    found: list[Tensor] = []
    handle = module.get_submodule(encoder.layer).register_forward_hook(
        lambda _part, _args, output: found.append(output)
    )
    with torch.no_grad():
        module((images / 255 - mean) / std)
    handle.remove()
    if found[0].ndim == 4:
        return found[0]
    patches = found[0][:, module.num_prefix_tokens :]
    side = int(patches.shape[1] ** 0.5)
    return patches.transpose(1, 2).reshape(len(images), -1, side, side)


def assert_filled(
    name: str, module: nn.Module, content: Any, tmp_path, **options: Any
) -> list[str]:
    torch.save(content, tmp_path / "weights.pth")
    lines: list[str] = []
    encoder = open_encoder(name, weights=tmp_path / "weights.pth", say=lines.append, **options)
    images = probe_images(encoder.input_size)[::4]
    expected = features(module, encoder, images)
    torch.testing.assert_close(
        encoder.features(images), expected, rtol=1e-3, atol=1e-4 * float(expected.std())
    )
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("place", ["bare", "teacher"])
@pytest.mark.parametrize("biases", [False, True], ids=["biases of 0", "biases"])
def test_dinov3_of_the_original_project(biases, place, tmp_path) -> None:
    name = "timm:vit_small_patch16_dinov3"
    module = built(name, qkv_bias=biases)
    content: Any = dinov3(module.state_dict())
    if place == "teacher":
        content = {"teacher": {f"backbone.{name}": value for name, value in content.items()}}
    lines = assert_filled(name, module, content, tmp_path)
    total = 186 if biases else 162
    assert any(f"{total} of {total} weights" in line for line in lines)
    assert any("left out by timm's conversion" in line and "periods" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("name", "saved_by"),
    [
        ("timm:vit_base_patch32_clip_quickgelu_224", clip_vit),
        ("timm:resnet50_clip", clip_resnet),
    ],
)
def test_clip_of_the_original_project(name, saved_by, prefix, tmp_path) -> None:
    module = built(name)
    state = {prefix + key: value.half() for key, value in saved_by(module.state_dict()).items()}
    module.load_state_dict({k: v.half() for k, v in module.state_dict().items()})
    content = {"state_dict": state, "epoch": 32} if prefix else state
    assert_filled(name, module, content, tmp_path)


@pytest.mark.slow
def test_clip_at_another_size_has_its_positions_resampled_by_timm(tmp_path) -> None:
    name = "timm:vit_base_patch32_clip_quickgelu_224"
    module = built(name)
    content = clip_vit(module.state_dict())
    larger = built(name, img_size=288)
    resampled = timm.layers.resample_abs_pos_embed(module.pos_embed.detach(), [9, 9])
    larger.load_state_dict(module.state_dict() | {"pos_embed": resampled})
    assert_filled(name, larger, content, tmp_path, input_size=288)


def test_what_a_conversion_would_lose_refuses_the_file() -> None:
    module = nn.Sequential(nn.Linear(3, 2, bias=False))
    state = {
        "net.0.weight": torch.ones(2, 3),
        "net.0.bias": torch.zeros(2),
        "net.mean": torch.ones(1),
    }

    def without_biases(state: dict[str, Tensor], _module: nn.Module) -> dict[str, Tensor]:
        return {k: v for k, v in state.items() if k.endswith("weight")}

    found = converted(module, without_biases, Checkpoint(Path("made.pth"), state))
    assert found.checkpoint.state.keys() == {"net.0.weight"}
    lines: list[str] = []
    found.account("timm:made", partial=False, say=lines.append)  # a bias of 0 is no loss
    assert lines == ["made.pth: left out by timm's conversion (2): net.0.bias, net.mean"]
    state["net.0.bias"] += 1
    found = converted(module, without_biases, Checkpoint(Path("made.pth"), state))
    found.account("timm:made", partial=True, say=lines.append)
    with pytest.raises(ModelError, match=r"drops net\.0\.bias, which .* not 0"):
        found.account("timm:made", partial=False, say=lines.append)


@pytest.mark.parametrize("saved_by", ["dinov3", "clip"])
def test_a_file_that_is_not_named_says_what_to_name(saved_by, tmp_path) -> None:
    content = {
        "dinov3": {"storage_tokens": torch.ones(1, 4, 8), "patch_embed.proj.weight": torch.ones(1)},
        "clip": {"visual.attnpool.positional_embedding": torch.ones(50, 8)},
    }[saved_by]
    torch.save(content, tmp_path / "weights.pth")
    example = {"dinov3": "vit_small_patch16_dinov3", "clip": "resnet50_clip"}[saved_by]
    with pytest.raises(ModelError, match=rf"Name .* timm:{example} with `weights`"):
        open_encoder(tmp_path / "weights.pth")


def test_timm_loads_its_own_weights_as_before(tmp_path) -> None:
    """What catches the conversion leaves nothing behind."""
    from timm.models import _builder

    own = _builder.load_pretrained
    module = stirred(timm.create_model("resnet10t", num_classes=0))
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    encoder = open_encoder("timm:resnet10t", weights=tmp_path / "weights.pth")
    assert _builder.load_pretrained is own
    assert weights_sha256(encoder.module) == weights_sha256(module)
