"""Checkpoints of format version 1 as they were first written: every later version reads them.

Files are never written again: `sha256sum -c SHA256SUMS`. They are gzipped, as their weights are
the pattern below, which `checkpoint.pt` itself would hold number by number.
"""

import gzip
import hashlib
import json
from pathlib import Path

import pytest
import torch

from ccrop_pipeline.methods import build_method
from ccrop_pipeline.models import open_encoder
from ccrop_pipeline.training import load_checkpoint
from ccrop_pipeline.training.optimizers import build_optimizer

HERE = Path(__file__).parent
NAMES = ("simclr", "mocov2")


def pattern(number, like):
    """The values of the tensor of this number among those sorted by name."""
    values = ((torch.arange(like.numel()) + number) % 7).reshape(like.shape)
    if not like.is_floating_point():
        return torch.full_like(like, number)
    return values.to(like.dtype) / 8 + 0.125


@pytest.fixture(params=NAMES)
def golden(request, tmp_path):
    data = gzip.decompress((HERE / f"checkpoints/{request.param}.pt.gz").read_bytes())
    (tmp_path / "checkpoint.pt").write_bytes(data)
    return request.param, tmp_path / "checkpoint.pt"


def test_no_file_has_changed():
    lines = (HERE / "SHA256SUMS").read_text("utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = sorted((HERE / "checkpoints").iterdir())
    assert {f"checkpoints/{file.name}" for file in files} == {
        name for name in listed if name.startswith("checkpoints/")
    }
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert digest == listed[f"checkpoints/{file.name}"], file.name


def test_every_value_is_read_as_it_was_written(golden):
    name, file = golden
    expected = json.loads((HERE / f"checkpoints/{name}.json").read_text("utf-8"))
    checkpoint = load_checkpoint(file)
    assert checkpoint.epoch == expected["epoch"] == 3
    assert checkpoint.recipe.to_dict() == {**checkpoint.recipe.to_dict(), **expected["recipe"]}
    assert sorted(checkpoint.method) == expected["tensors"]
    for number, key in enumerate(expected["tensors"]):
        value = checkpoint.method[key]
        assert torch.equal(value, pattern(number, value)), key
    buffers = [state["momentum_buffer"] for state in checkpoint.optimizer["state"].values()]
    assert len(buffers) == expected["buffers"]
    assert all(torch.equal(value, pattern(n, value)) for n, value in enumerate(buffers))


def test_a_run_could_go_on_from_it(golden):
    checkpoint = load_checkpoint(golden[1])
    method = build_method(checkpoint.recipe.method, checkpoint.recipe.backbone)
    method.load_state_dict(checkpoint.method)
    build_optimizer(method, checkpoint.recipe.optimizer).load_state_dict(checkpoint.optimizer)


def test_it_is_a_model_and_carries_its_checksum(golden):
    name, file = golden
    expected = json.loads((HERE / f"checkpoints/{name}.json").read_text("utf-8"))
    images = torch.arange(2 * 3 * 24 * 24).reshape(2, 3, 24, 24).remainder(251).to(torch.uint8)
    heat = open_encoder(file).features(images).sum(1)
    torch.testing.assert_close(
        heat.double(), torch.tensor(expected["sum"]).double(), rtol=1e-4, atol=1e-4
    )
    data = file.read_bytes()
    assert data[-77:-64] == b"ccrop sha256 "
    assert data[-64:].decode() == hashlib.sha256(data[:-64]).hexdigest()
