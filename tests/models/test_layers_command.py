import json

import numpy as np
import pytest
import torch
from ccrop_cli.main import cli
from click.testing import CliRunner
from PIL import Image
from torch import nn
from torchvision.ops import box_iou

from ccrop_pipeline.errors import ModelError
from ccrop_pipeline.localize import BoxRule, Encoder, Localizer
from ccrop_pipeline.models.layers import expect_whole_images


def run(*arguments: str):
    return CliRunner().invoke(cli, ["boxes", "layers", *arguments])


def test_lists_the_layers_and_marks_the_default() -> None:
    model = ("torchvision:resnet18", "--weights", "random", "--input-size", "64")
    result = run(*model)
    assert result.exit_code == 0
    (marked,) = [line.split() for line in result.stdout.splitlines() if line.startswith("*")]
    assert marked == ["*", "layer4", "512", "2x2", "not", "negative"]
    assert "random weights" in result.stderr
    found = json.loads(run(*model, "--json").stdout)
    assert found["input_size"] == 64
    assert [layer["name"] for layer in found["layers"] if layer["is_default"]] == ["layer4"]


def test_bad_input_is_one_message_and_bad_usage_another() -> None:
    result = run("torchvision:resnet180")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: torchvision has no network 'resnet180'")
    assert run("torchvision:resnet18", "--precision", "int8").exit_code == 2
    assert run("torchvision:resnet18", "--weights", "random", "--precision", "fp16").exit_code == 1


@pytest.mark.parametrize(
    ("layers", "taken", "refused"),
    [
        # Patches, as of a ViT: what fills none is not seen. Less than a 64th of the side may be.
        ([nn.Conv2d(3, 8, 16, 16)], (224, 226, 240), {239: (224, 240), 255: (240, 256)}),
        ([nn.Conv2d(3, 8, 14, 14)], (224, 252, 255), {256: (252, 266)}),
        ([nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 2, 2)], (64, 72, 65), {70: (64, 72)}),
        # Pools, behind convolutions with padding, which see beyond their step.
        ([nn.Conv2d(3, 8, 3, 1, 1), nn.MaxPool2d(2), nn.MaxPool2d(8)], (224,), {239: (224, 240)}),
        # With padding all is seen; without, as much is lost at the left as at the right.
        ([nn.Conv2d(3, 8, 7, 2, 3), nn.MaxPool2d(3, 2, 1)], (224, 225, 226, 227, 239), {}),
        ([nn.Conv2d(3, 8, 11, 4, 2), nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2)], (224,), {}),
    ],
)
def test_sizes_that_a_grid_does_not_cover_are_refused(layers, taken, refused) -> None:
    network = nn.Sequential(*layers, nn.ReLU())
    name = str(len(layers))
    for size in taken:
        expect_whole_images(Encoder(network, name, size))
    for size, (lower, upper) in refused.items():
        with pytest.raises(
            ModelError, match=rf"is {size}, of which .* displaced\. Give {lower} or {upper}\."
        ):
            expect_whole_images(Encoder(network, name, size))


def test_boxes_of_patches_lie_on_the_object_at_every_size_that_is_taken(tmp_path) -> None:
    """Squares of noise on grey, against where they were drawn (closed form)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 16, 16), nn.BatchNorm2d(32), nn.ReLU())
    network[0].weight.data -= network[0].weight.data.mean(dim=(1, 2, 3), keepdim=True)
    network[0].bias.data.zero_()  # grey gives nothing
    generator = np.random.default_rng(0)
    for size in (224, 240):
        expect_whole_images(encoder := Encoder(network, "", size, mean=(0.5,) * 3, std=(1,) * 3))
        found = []
        for _ in range(16):
            image = np.full((480, 480, 3), 127.5).astype(np.uint8)
            width = int(generator.integers(140, 200))
            x, y = map(int, generator.integers(0, 480 - width, 2))
            image[y : y + width, x : x + width] = generator.integers(0, 255, (width, width, 3))
            small = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))
            pixels = torch.from_numpy(small.copy()).permute(2, 0, 1)[None]
            _, box, _ = Localizer(encoder, "l2", BoxRule(0.3)).locate(pixels)
            true = torch.tensor([[x, y, x + width, y + width]]) / 480
            found.append(float(box_iou(box, true)))
        assert np.mean(found) > 0.7, size


@pytest.mark.slow
def test_a_transformer_is_given_whole_patches_or_refuses() -> None:
    for model in ("torchvision:vit_b_16", "timm:vit_tiny_patch16_224", "timm:convnext_atto"):
        result = run(model, "--weights", "random", "--input-size", "239", "--device", "cpu")
        assert result.exit_code == 1
        assert "--input-size" in result.stderr
        assert "Traceback" not in result.stderr


def test_mean_and_std_of_a_command() -> None:
    model = ("torchvision:resnet18", "--weights", "random", "--input-size", "64")
    said = run(*model).stderr
    assert "mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225): torchvision's" in said
    assert "--mean and --std set others" in said
    said = run(*model, "--mean", "0.5", "--std", "0.5, 0.4,0.3").stderr
    assert "mean (" not in said
    assert run(*model, "--mean", "0.5;0.4").exit_code == 2
    refused = run(*model, "--std", "58")
    assert refused.exit_code == 1
    assert "--std is [58.0]" in refused.stderr
