"""Random weights are told from trained ones by their spectrum alone."""

import gzip
import io
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from ccrop_pipeline.base import Observer
from ccrop_pipeline.compute import compute_boxes
from ccrop_pipeline.images import Scenes
from ccrop_pipeline.localize import BoxRule, Localizer, build_backbone
from ccrop_pipeline.localize.weights import _beside_noise, looks_untrained
from ccrop_pipeline.models import open_encoder


def tower(width: int = 48) -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(width, width, 3) for _ in range(4)]
    return nn.Sequential(nn.Conv2d(3, width, 5), *convolutions, nn.Conv2d(width, 4, 1))


def test_weights_are_measured_by_the_spectrum_of_noise_of_their_size():
    module = tower()
    with torch.no_grad():
        module[1].weight += 0.3 * torch.randn(48, 1, 1, 1)  # a direction that stands out
    found = list(_beside_noise(module))
    expected = []
    for layer in [*module][1:-1]:  # the others have too few rows or columns or numbers
        matrix = layer.weight.detach().reshape(48, 48 * 9)
        matrix = matrix - matrix.mean()
        noise = matrix.std() * (math.sqrt(48) + math.sqrt(48 * 9))
        expected.append(float(torch.linalg.svdvals(matrix)[0] / noise))
    assert found[1:] == pytest.approx(expected, rel=0.08)
    assert found[1] == pytest.approx(expected[0], rel=1e-3)
    assert found[1] > 2


@pytest.mark.parametrize("seed", range(3))
def test_random_weights_are_noise_however_they_are_drawn(seed):
    torch.manual_seed(seed)
    assert looks_untrained(build_backbone("small"))
    for draw in (nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.orthogonal_):
        module = tower()
        for layer in module:
            draw(layer.weight)
        assert looks_untrained(module)


@pytest.mark.parametrize("method", ["simclr", "mocov2"])
def test_what_three_epochs_of_training_leave_is_no_noise(method):
    file = Path(__file__).parents[1] / f"golden/checkpoints/{method}.pt.gz"
    saved = torch.load(io.BytesIO(gzip.decompress(file.read_bytes())), weights_only=True)
    floats = [each for each in saved["method"].values() if each.is_floating_point()]
    assert not looks_untrained(nn.ParameterList(floats))


def test_few_weights_and_odd_ones_are_not_judged():
    assert not looks_untrained(nn.Sequential(*[*tower()][:3]))
    flat = tower()
    for layer in flat:
        nn.init.constant_(layer.weight, 0.1)
    assert not looks_untrained(flat)


class Heard(Observer):
    def __init__(self) -> None:
        self.lines = list[str]()

    def warning(self, note: str) -> None:
        self.lines.append(note)


def test_only_what_records_an_encoder_looks_at_its_weights(tmp_path, monkeypatch):
    torch.save(resnet18().state_dict(), tmp_path / "random.pth")

    def looked(module: nn.Module) -> bool:
        raise AssertionError("the weights were looked at")

    monkeypatch.setattr("ccrop_pipeline.localize.encoder.looks_untrained", looked)
    encoder = open_encoder(tmp_path / "random.pth", input_size=32)
    encoder.features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(AssertionError, match="looked at"):
        _ = encoder.info


def test_a_file_of_random_weights_is_known_as_one(tmp_path):
    torch.manual_seed(5)
    module = resnet18()
    torch.save(module.state_dict(), tmp_path / "random.pth")

    def told(file: str) -> tuple[int | None, bool]:
        encoder, heard = open_encoder(tmp_path / file, input_size=32), Heard()
        localizer = Localizer(encoder, "sum", BoxRule(0.1))
        made = compute_boxes(Scenes(2, size=32), localizer, tmp_path / f"{file}.b", observer=heard)
        assert made.manifest.provenance.encoder == encoder.info
        return encoder.info.epoch, any("most weights are noise" in line for line in heard.lines)

    assert told("random.pth") == (0, True)
    with torch.no_grad():
        for weights in module.parameters():
            if weights.ndim == 4:
                weights += weights.std() * torch.randn(len(weights), 1, 1, 1)
    torch.save(module.state_dict(), tmp_path / "shaped.pth")
    assert told("shaped.pth") == (None, False)
