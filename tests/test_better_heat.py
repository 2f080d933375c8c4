"""What `benchmarks/better_heat.py` does to heat, on heat whose answers are known."""

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks.better_heat import FIXED, SIDE, Profiles, main, own_shift, resized, variants
from ccrop_pipeline.images import Scenes, pack
from ccrop_pipeline.localize import BoxRule, boxes_from_heatmaps


def test_boxes_are_those_of_the_package():
    """Away from thresholds that a pixel meets to within float32."""
    heat = np.random.default_rng(0).random((40, 7, 5)).astype(np.float16)
    profiles = Profiles.of(heat)
    different = 0
    for threshold in (0.1, 0.5, 0.9, 0.97, 0.999):
        rule = BoxRule(threshold)
        expected, _ = boxes_from_heatmaps(torch.from_numpy(heat), rule, SIDE)
        different += (np.abs(profiles.boxes(threshold) - expected.numpy()) > 1e-6).any(1).sum()
    assert different <= 2
    each = np.linspace(0.2, 0.9, 40)
    alone = [Profiles.of(one[None]).boxes(k)[0] for one, k in zip(heat, each, strict=True)]
    np.testing.assert_allclose(profiles.boxes(each), alone, atol=1e-6)


def blob(x: float, cells: int = 12) -> np.ndarray:
    """A blob about a place along x, in cells from the middle."""
    along = np.arange(cells) - (cells - 1) / 2
    return np.exp(-((along - x) ** 2) / 4) * np.exp(-(along[:, None] ** 2) / 4)


@pytest.mark.parametrize("drawn", [-0.5, 0.0, 0.25])
def test_the_shift_of_heat_is_found_from_mirror_images(drawn):
    """Heat is drawn so many cells too far right, of mirror images as well."""
    places = np.random.default_rng(0).uniform(-2, 2, 30)
    heat = np.stack([blob(x + drawn) for x in places])[:, None]
    mirror = np.stack([blob(-x + drawn)[:, ::-1] for x in places])[:, None]
    assert own_shift(heat, mirror) == pytest.approx(-drawn, abs=0.126)


def test_a_shift_of_whole_cells_moves_heat_down_and_to_the_right():
    heat = np.random.default_rng(0).random((3, 2, 5, 6)).astype(np.float32)
    moved = resized(heat, (5, 6), 1)
    np.testing.assert_allclose(moved[:, :, 1:, 1:], heat[:, :, :-1, :-1], atol=1e-5)
    np.testing.assert_allclose(moved[:, :, 0, 0], heat[:, :, 0, 0], atol=1e-5)
    np.testing.assert_allclose(
        resized(heat, (5, 6), -2)[:, :, :-2, :-2], heat[:, :, 2:, 2:], atol=1e-5
    )


def test_each_variant_is_what_it_says():
    rng = np.random.default_rng(1)
    raw = {
        f"sum {name}": rng.random((6, 3, 4, 4)).astype(np.float16) for name in ("plain", "mirror")
    }
    found = variants(raw, "sum")
    plain, mirror = (raw[f"sum {name}"].astype(np.float32) for name in ("plain", "mirror"))
    both = (plain + mirror) / 2
    one = both[2, 1]
    np.testing.assert_allclose(
        found["mirrored"][2, 1], (one - one.min()) / (one.max() - one.min()), atol=1e-6
    )
    apart = plain[4, 2] - sum(plain[i, 0] for i in range(6)) / 6
    expected = (apart - apart.min()) / (apart.max() - apart.min())
    np.testing.assert_allclose(found["less mean"][4, 2], expected, atol=1e-5)


@pytest.mark.slow
def test_the_program_runs(tmp_path, monkeypatch, capsys):
    pack(Scenes(12, size=48), tmp_path / "scenes")
    model = tmp_path / "model.py"
    model.write_text(
        "import torch\n"
        "from ccrop_pipeline.localize import Encoder, build_backbone\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    return Encoder(build_backbone('small'), 'layer4', 32)\n"
    )
    line = ["x", str(tmp_path / "scenes"), "--model", f"{model}:build", "--earlier", "layer3"]
    monkeypatch.setattr(sys, "argv", [*line, "--heat", str(tmp_path / "heat.npz")])
    main()
    first = capsys.readouterr().out
    rows = [json.loads(row) for row in first.splitlines()]
    assert {row["heat"] for row in rows} >= {"as it is", "mirrored", "x1.5", "x2", "two layers"}
    for row in rows:
        assert row["n"] == 12
        if row["heat"] == "as it is":
            assert row["found_gain"] == 0
        if row["chosen"] == "best":
            assert row["value"] in FIXED
    main()  # from the heat that was kept
    assert [json.loads(row)["chosen"] for row in capsys.readouterr().out.splitlines()] == [
        row["chosen"] for row in rows
    ]
