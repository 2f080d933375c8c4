import pytest
import torch

from ccrop_pipeline.base import Observer
from ccrop_pipeline.images import Scenes, open_source, pack
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Inputs, Machine, Trainer
from ccrop_pipeline.training.processes import emulates_bf16, slow_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("instructions", "emulated"),
    [
        ("DEFAULT", True),
        ("NO AVX", True),
        ("AVX2", True),
        ("AVX512", False),
        ("AVX512_VNNI", False),
        ("AMX", False),
        ("SVE256", False),
    ],
)
def test_a_cpu_emulates_bf16_unless_it_has_instructions_for_it(monkeypatch, instructions, emulated):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    assert emulates_bf16(CPU) is emulated


def test_a_gpu_is_asked_for_what_it_has_and_not_for_what_it_emulates(monkeypatch):
    def only_emulated(including_emulation=True):
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", only_emulated)
    assert emulates_bf16(torch.device("cuda", 0))


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_only_bf16_can_be_slow(monkeypatch, precision):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert slow_precision(precision, CPU) is None
    assert "precision=fp32" in slow_precision("bf16", CPU)


class Heard(Observer):
    def __init__(self):
        self.warnings, self.losses = [], []

    def warning(self, note):
        self.warnings.append(note)

    def epoch_done(self, record):
        self.losses.append(record["loss"])


def trained(source, folder, precision):
    heard = Heard()
    settings = [f'precision="{precision}"', "epochs=1", "batch_size=16", "eval_size=0"]
    settings += ["optimizer.lr_warmup_epochs=0", "optimizer.lr=0.1"]
    settings += ['boxes.kind="none"', "probe.every=0"]
    recipe = load_recipe("demo", settings)
    Trainer(Inputs(source), folder, recipe, Machine(), heard).train()
    return heard


def test_a_run_in_bf16_is_warned_of_where_it_is_slow_and_learns_nearly_the_same(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    pack(Scenes(32, size=32), tmp_path / "tars", max_images=16)
    source = open_source(tmp_path / "tars")
    half, single = (trained(source, tmp_path / p, p) for p in ("bf16", "fp32"))
    assert len(half.warnings) == 1
    assert single.warnings == []
    # bfloat16 has 8 bits of mantissa: 0.4 % a rounding.
    assert half.losses == pytest.approx(single.losses, rel=0.02)
    assert half.losses != single.losses


def test_recipes_for_a_cpu_do_not_need_its_newest_instructions():
    for name in ("demo", "cifar10-mocov2-2core", "cifar10-simclr-2core", "photos-simclr-2core"):
        assert load_recipe(name).precision == "fp32"
