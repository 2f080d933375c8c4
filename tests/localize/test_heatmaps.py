import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ccrop_pipeline.localize import channel_sum, min_max

# Half a unit in the last place of float16: relative, and absolute below its normal range.
RELATIVE, ABSOLUTE = 2.0**-11, 2.0**-25


def test_channel_sum_is_the_plain_sum() -> None:
    features = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    maps = channel_sum(features)
    for b, y, x in np.ndindex(2, 3, 4):
        expected = math.fsum(float(features[b, c, y, x]) for c in range(5))
        assert float(maps[b, y, x]) == pytest.approx(expected, abs=1e-6)


def test_channel_sum_does_not_round_to_bfloat16_on_the_way() -> None:
    maps = channel_sum(torch.ones(1, 1001, 2, 2, dtype=torch.bfloat16))
    assert maps.dtype == torch.float32
    assert maps.eq(1001).all()


def test_channel_sum_refuses_tokens() -> None:
    with pytest.raises(ValueError, match=r"not \(2, 197, 768\)"):
        channel_sum(torch.zeros(2, 197, 768))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    npst.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
        | st.integers(-3, 3).map(float),
    )
)
def test_min_max_of_any_finite_maps(maps: np.ndarray) -> None:
    heatmaps = min_max(torch.from_numpy(maps))
    assert heatmaps.dtype == torch.float16
    for one, heatmap in zip(maps.tolist(), heatmaps.tolist(), strict=True):
        values = [value for row in one for value in row]
        low, high = min(values), max(values)
        for value, heat in zip(values, [v for row in heatmap for v in row], strict=True):
            expected = (value - low) / (high - low) if low != high else 0.0
            assert abs(heat - expected) <= max(expected * RELATIVE, ABSOLUTE) * 1.001


@pytest.mark.parametrize(
    "values",
    [
        [-3.0e38, 0.0, 3.0e38],  # the range is not a float32 number
        [0.0, 1.4e-45, 2.8e-45],  # the smallest numbers there are
        [1.0, 1.0 + 2**-23, 1.0 + 2**-22],  # neighbours in float32
        [-9.0, -8.0, -7.0],
    ],
)
def test_evenly_spaced_values_come_out_as_nought_half_one(values: list[float]) -> None:
    heatmaps = min_max(torch.tensor(values).reshape(1, 1, 3))
    assert heatmaps.flatten().tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_cell_empties_its_map_and_no_other(bad: float) -> None:
    maps = torch.arange(24.0).reshape(2, 3, 4)
    whole = min_max(maps)
    maps[0, 1, 2] = bad
    heatmaps = min_max(maps)
    assert heatmaps[0].eq(0).all()
    assert torch.equal(heatmaps[1], whole[1])


@pytest.mark.parametrize("value", [0.0, -2.5, 3.0e38, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(1, 1), (7, 7)])
def test_constant_maps_have_no_heat(value: float, shape: tuple[int, int]) -> None:
    assert min_max(torch.full((2, *shape), value)).eq(0).all()


def test_min_max_of_no_maps() -> None:
    assert min_max(torch.zeros(0, 7, 7)).shape == (0, 7, 7)


@pytest.mark.parametrize("shape", [(7, 7), (1, 2, 7, 7), (1, 0, 7)])
def test_min_max_refuses(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="maps must be"):
        min_max(torch.zeros(shape))
