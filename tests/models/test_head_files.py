"""Files of linear heads: FOUND's form, ours, and what is neither."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from ccrop_pipeline.errors import CcropError, ModelError
from ccrop_pipeline.localize import Encoder, LinearHead, build_backbone
from ccrop_pipeline.models.head_files import read_head, save_head


def small() -> Encoder:
    return Encoder(build_backbone("small"), "layer4", 32)


def transformer() -> Encoder:
    timm = pytest.importorskip("timm")
    module = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, num_classes=0)
    return Encoder(module, "blocks.0", 64, layout="tokens", prefix_tokens=1)


def test_founds_file_is_read(tmp_path):
    """valeoai/FOUND saves {"decoder": state dict of Conv2d(384, 1, 1)}: 385 numbers."""
    decoder = nn.Conv2d(384, 1, (1, 1))
    torch.save({"decoder": decoder.state_dict()}, tmp_path / "decoder_weights.pt")
    head = read_head(tmp_path / "decoder_weights.pt", transformer())
    assert torch.equal(head.weight, decoder.weight.detach().flatten())
    assert (head.bias, head.on) == (float(decoder.bias.detach()), "keys")
    assert read_head(tmp_path / "decoder_weights.pt", small()).on == "layer"


def test_a_linear_layer_is_read(tmp_path):
    linear = nn.Linear(128, 1)
    torch.save(OrderedDict(linear.state_dict()), tmp_path / "linear.pth")
    head = read_head(tmp_path / "linear.pth", small())
    assert torch.equal(head.weight, linear.weight.detach()[0])


@pytest.mark.parametrize("on", ["keys", "layer"])
def test_ours_is_read_back_and_says_what_it_takes(tmp_path, on):
    head = LinearHead(torch.randn(192), 0.25, on)
    save_head(head, tmp_path / "new/head.safetensors")
    again = read_head(tmp_path / "new/head.safetensors", transformer())
    assert (again.sha256, again.on) == (head.sha256, on)
    convolution = nn.Conv2d(192, 1, 1)
    from safetensors.torch import load_file

    state = load_file(tmp_path / "new/head.safetensors")
    convolution.load_state_dict({name.partition(".")[2]: value for name, value in state.items()})
    assert torch.equal(convolution.weight.flatten(), head.weight)


def test_a_head_is_not_overwritten_unless_asked(tmp_path):
    path = tmp_path / "head.safetensors"
    save_head(LinearHead(torch.zeros(3), 0.0, "keys"), path)
    before = path.read_bytes()
    save_head(LinearHead(torch.zeros(3), 0.0, "keys"), path, overwrite=True)
    assert path.read_bytes() == before
    other = LinearHead(torch.ones(3), 0.0, "keys")
    with pytest.raises(CcropError, match="already there"):
        save_head(other, path)
    assert path.read_bytes() == before
    save_head(other, path, overwrite=True)
    assert read_head(path, small()).sha256 == other.sha256
    with pytest.raises(CcropError, match="safetensors"):
        save_head(other, tmp_path / "head.pt")


@pytest.mark.parametrize(
    "content",
    [
        {"weight": torch.zeros(2, 5), "bias": torch.zeros(2)},
        {"weight": torch.zeros(1, 5)},
        {"weight": torch.zeros(1, 5, 3, 3), "bias": torch.zeros(1)},
        {"weight": torch.full((1, 5), float("nan")), "bias": torch.zeros(1)},
        {"weight": torch.randn(1, 5).to_sparse(), "bias": torch.zeros(1)},
        {"weight": torch.randn(1, 5, dtype=torch.complex64), "bias": torch.zeros(1)},
        {"weight": torch.ones(1, 5, dtype=torch.int64), "bias": torch.zeros(1)},
        {"weight": torch.full((1, 5), 1e300, dtype=torch.float64), "bias": torch.zeros(1)},
        {"weight": torch.zeros(1, 5), "bias": torch.zeros(1)},
        {"a": {"weight": torch.ones(1, 5)}, "b": {"bias": torch.zeros(1)}},
        {"a": nn.Linear(3, 1).state_dict(), "b": nn.Linear(3, 1).state_dict()},
        {"epoch": 3},
        [torch.zeros(3)],
    ],
)
def test_what_is_no_head_is_refused_with_what_it_holds(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CcropError, match=r"other.pt is no linear head: it holds .*Expected"):
        read_head(tmp_path / "other.pt", small())


class Evil:
    def __reduce__(self):
        return (eval, ("1/0",))


def test_no_head_runs_code(tmp_path):
    torch.save({"weight": Evil(), "bias": torch.zeros(1)}, tmp_path / "x")
    with pytest.raises(ModelError, match=r"any code with your rights\. Save it again") as error:
        read_head(tmp_path / "x", small())
    assert "unsafe" not in str(error.value)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    save_head(LinearHead(torch.randn(30), 0.0, "keys"), path)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(CcropError, match="damaged"):
        read_head(path, small())
    path.write_bytes(data[:40])
    with pytest.raises(CcropError, match="safetensors"):
        read_head(path, small())
    with pytest.raises(CcropError, match="no file of weights"):
        read_head(tmp_path / "nothing.pt", small())
