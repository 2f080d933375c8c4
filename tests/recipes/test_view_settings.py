import pytest

from ccrop_pipeline.crops import CropParams
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.recipes import AugmentSettings, ViewGroup


@pytest.mark.parametrize(
    "setting",
    [
        {"hue": 0.6},
        {"brightness": -0.1},
        {"brightness": float("nan")},
        {"flip_p": 1.1},
        {"blur_p": -0.5},
        {"blur_sigma": (0.0, 1.0)},
        {"blur_sigma": (2.0, 1.0)},
        {"blur_sigma": (1.0,)},
        {"blur_sigma": (0.1, float("inf"))},
        {"solarize_p": 2.0},
        {"solarize_threshold": 128},
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(setting):
    name, value = next(iter(setting.items()))
    with pytest.raises(CcropError, match=rf"^{name} is ") as refusal:
        AugmentSettings(**setting)
    assert str(value) in str(refusal.value)


def test_limits_themselves_are_allowed():
    AugmentSettings(
        hue=0.5, brightness=3.0, flip_p=1.0, blur_sigma=(1.0, 1.0), solarize_threshold=0
    )


@pytest.mark.parametrize(
    ("setting", "said"), [({"count": 0}, "count is 0"), ({"size": 7}, "size is 7")]
)
def test_a_group_without_views_or_with_tiny_ones_is_refused(setting, said):
    with pytest.raises(CcropError, match=said):
        ViewGroup(**setting)


def test_a_group_names_how_its_windows_are_drawn():
    assert ViewGroup().crop == CropParams()
    numbers = {"scale": (0.1, 0.4), "ratio": (0.5, 2.0), "alpha": 0.3, "min_overlap": 0.7}
    group = ViewGroup(2, 32, rule="overlap", **numbers)
    assert group.crop == CropParams("overlap", **numbers)
    with pytest.raises(CcropError, match="alpha is 0"):
        ViewGroup(alpha=0)
