"""Everything that a user can put right is a `CcropError`; its leaves say what it is about."""

import pytest

import ccrop_pipeline as ccrop
from ccrop_pipeline.errors import (
    BoxSetError,
    CcropError,
    ModelError,
    SettingError,
    SourceError,
    counted,
    few,
    reading,
)
from ccrop_pipeline.images import Scenes

SCENES = Scenes(4, size=16)


@pytest.mark.parametrize(
    ("leaf", "mistake"),
    [
        (SourceError, lambda: ccrop.open_source("nowhere")),
        (SourceError, lambda: ccrop.open_source("nowhere/images-*.tar")),
        (BoxSetError, lambda: ccrop.BoxSet.open("nowhere")),
        (ModelError, lambda: ccrop.open_encoder("nowhere.pth")),
        (SettingError, lambda: ccrop.load_recipe("nowhere")),
        (SettingError, lambda: ccrop.load_recipe("demo", ["epochs=0"])),
        (SettingError, lambda: ccrop.BoxRule(2.0)),
        (SettingError, lambda: ccrop.ViewGroup(0)),
        (
            SettingError,
            lambda: ccrop.ViewLoader(Scenes(4, size=16), ccrop.ViewGroup(), batch_size=0),
        ),
    ],
)
def test_a_mistake_has_the_leaf_of_what_it_is_about(leaf, mistake):
    with pytest.raises(leaf) as found:
        mistake()
    assert type(found.value) is leaf
    assert isinstance(found.value, ccrop.CcropError)


def test_a_wrong_setting_is_also_what_python_has_for_wrong_arguments():
    with pytest.raises(ValueError, match=r"threshold is 2\.0"):
        ccrop.BoxRule(2.0)


def test_one_is_counted_in_the_singular():
    nouns = ("image", "box", "class", "batch", "epoch", "GPU")
    assert [counted(1, noun) for noun in nouns] == [f"1 {noun}" for noun in nouns]
    several = [
        counted(number, noun) for number, noun in zip((0, 2, 3, 4, 5, 6000), nouns, strict=True)
    ]
    assert several == ["0 images", "2 boxes", "3 classes", "4 batches", "5 epochs", "6,000 GPUs"]


def test_of_a_very_long_message_beginning_and_end_are_kept():
    for kind in (SourceError, ccrop.boxset.MissingBoxError):
        text = str(kind("a.tar is wrong: " + "x" * 10**6 + ". Do this."))
        assert text.startswith("a.tar is wrong: xxx")
        assert text.endswith("xxx. Do this.")
        assert " ... " in text
        assert len(text) == 1_500
        assert str(kind("y" * 1_500)) == "y" * 1_500


def test_a_few_names_stand_for_many():
    assert few(["a", "b", "c"]) == "a, b, c"
    assert few("abcd") == "a, b, c, ... (4 in all)"
    assert few(["a" * 999, "b"], 1) == "a" * 200 + "..., ... (2 in all)"


@pytest.mark.parametrize("read", [lambda v: v["a"], lambda v: v.get("a"), lambda v: v[3]])
def test_another_shape_is_not_told_in_the_words_of_python(read):
    with (
        pytest.raises(CcropError) as raised,
        reading("a.json", "is no record", "Choose another."),
    ):
        read([1])
    assert str(raised.value) == (
        "a.json is no record (a value in it is not of the kind that belongs there). Choose another."
    )
