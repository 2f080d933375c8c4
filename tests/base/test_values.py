"""Plain values and dataclasses: every kind there and back, and what is refused."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrop_pipeline.base.values import (
    check_ranges,
    did_you_mean,
    differences,
    from_plain,
    parse_json,
    ranged,
    to_plain,
)
from ccrop_pipeline.errors import CcropError, SettingError


@dataclass(frozen=True)
class Inner:
    share: float = ranged(0.5, "[0, 1)")
    sizes: tuple[float, float] = ranged((1.0, 2.0), "(0, inf)")

    def __post_init__(self):
        check_ranges(self)


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["one", "two"] = "one"
    count: int = ranged(3, "[1, inf)")
    on: bool = False
    limit: float | None = ranged(None, "(0, 1]")
    epochs: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)
    second: Inner | None = None
    parts: tuple[Inner, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        check_ranges(self)


inners = st.builds(
    Inner,
    st.floats(0, 1, exclude_max=True),
    st.tuples(st.floats(0.1, 1e9), st.floats(0.1, 1e9)),
)
outers = st.builds(
    Outer,
    st.text(),
    st.sampled_from(["one", "two"]),
    st.integers(1),
    st.booleans(),
    st.none() | st.floats(0, 1, exclude_min=True),
    st.lists(st.integers()).map(tuple),
    inners,
    st.none() | inners,
    st.lists(inners, max_size=3).map(tuple),
    st.dictionaries(st.text(), st.text(), max_size=3),
)


@given(outers)
def test_what_becomes_json_comes_back(outer):
    plain = to_plain(outer)
    assert from_plain(Outer, json.loads(json.dumps(plain)), complete=True) == outer
    assert from_plain(Outer, {**plain, "inner": outer.inner}) == outer


def test_what_is_left_out_has_its_default_unless_all_must_be_there():
    assert from_plain(Outer, {"name": "a", "inner": {"share": 0}}) == Outer("a", inner=Inner(0.0))
    for values, complete, missing in [
        ({}, False, "name is missing"),
        ({**to_plain(Outer("a")), "inner": {"share": 0}}, True, "inner.sizes is missing"),
    ]:
        with pytest.raises(SettingError, match=missing):
            from_plain(Outer, values, complete=complete)


@pytest.mark.parametrize("values", [None, 3, "name", ["name"]])
def test_what_is_no_table_is_refused(values):
    with pytest.raises(SettingError, match="must be a table"):
        from_plain(Outer, values)


def test_unknown_names_are_refused_with_a_near_one_or_passed_over():
    with pytest.raises(SettingError, match=r"^x\.inner\.shar is unknown \(did you mean share\?\)"):
        from_plain(Outer, {"name": "a", "inner": {"shar": 0.1}}, path="x.")
    values = {"name": "a", "inner": {"later": 0.1}, "new": 3}
    assert from_plain(Outer, values, ignore_unknown=True) == Outer("a")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": 3}, "name is 3; it must be text."),
        ({"count": True}, "count is True; it must be a whole number."),
        ({"count": 2.0}, "count is 2.0; it must be a whole number."),
        ({"count": "2"}, "count is '2'; it must be a whole number."),
        ({"count": None}, "count is None; it must be a whole number."),
        ({"on": 1}, "on is 1; it must be true or false."),
        ({"kind": "three"}, "kind is 'three'; it must be one of one, two."),
        ({"limit": "x"}, "limit is 'x'; it must be a number."),
        ({"limit": True}, "limit is True; it must be a number."),
        ({"epochs": 3}, "epochs is 3; it must be a list of whole numbers."),
        ({"epochs": [1, 2.5]}, r"epochs\[1\] is 2.5; it must be a whole number."),
        ({"inner": 3}, "inner is 3; it must be a table."),
        ({"inner": {"sizes": [1]}}, r"inner.sizes is \[1\]; it must be a list of 2 numbers."),
        ({"parts": [{}, {"share": "x"}]}, r"parts\[1\].share is 'x'; it must be a number."),
        ({"versions": {"torch": 2}}, "versions.torch is 2; it must be text."),
        ({"versions": []}, r"versions is \[\]; it must be a table."),
        # Ranges, of a dataclass within as well.
        ({"count": 0}, "count is 0; it must be 1 or more."),
        ({"limit": 0}, r"limit is 0.0; it must be in \(0, 1\]."),
        ({"inner": {"share": 1}}, r"inner.share is 1.0; it must be in \[0, 1\)."),
        ({"second": {"sizes": [0, 1]}}, r"second.sizes is \(0.0, 1.0\); it must be above 0."),
        ({"inner": {"sizes": [1, math.inf]}}, "inner.sizes is .*; it must be finite."),
        ({"inner": {"share": math.nan}}, "inner.share is nan; it must be finite."),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values, message):
    with pytest.raises(SettingError, match=f"^{message}$") as refusal:
        from_plain(Outer, {"name": "a", **values})
    assert isinstance(refusal.value, CcropError)
    assert isinstance(refusal.value, ValueError)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.5, 0.999), (-1e-9, 1, 2)),
        ("(0, 1]", (1e-9, 1), (0, 1.1)),
        ("[2, 5]", (2, 5), (1, 6)),
        ("(-1, inf)", (0, 1e300), (-1, -2)),
    ],
)
def test_the_ends_of_a_range_belong_to_it_as_it_says(interval, inside, outside):
    @dataclass
    class Number:
        value: float = ranged(0, interval)

    for value in inside:
        check_ranges(Number(value))
    for value in outside:
        with pytest.raises(SettingError, match=f"value is {value}; it must be"):
            check_ranges(Number(value))


def test_differences_name_each_value_that_differs_by_its_path():
    old = {"epochs": 5, "crop": {"alpha": 0.6, "rule": "paper"}, "second": None}
    new = {"epochs": 5, "crop": {"alpha": 0.1, "rule": "paper"}, "second": {"hue": 0.1}, "seed": 0}
    assert differences(old, new) == [
        "crop.alpha: 0.6 -> 0.1",
        "second.hue: None -> 0.1",
        "seed: None -> 0",
    ]
    assert differences(old, old) == []


def test_near_names_are_offered():
    assert did_you_mean("epoch", ["seed", "epochs"]) == " (did you mean epochs?)"
    assert did_you_mean("xyz", ["seed", "epochs"]) == ""
    known = ["resnet18", "resnet34", "vgg"]
    assert did_you_mean("resnet81", known, most=2) == " (did you mean resnet18 or resnet34?)"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@pytest.mark.slow
@given(json_values, st.booleans())
def test_json_that_all_understand_is_parsed_as_the_standard_library_does(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert repr(parse_json(text)) == repr(value)
    assert parse_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "an object has 'a' twice"),
        ('[{"a": {"b": 1, "b": 1}}]', "an object has 'b' twice"),
        ("[NaN]", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ('{"a": 1e999}', "1e999 is larger than"),
        (f"[-{'9' * 400}.5]", r"-999.* is larger than"),
        ("[" * 99_999, "nested too deeply"),
        ("1" * 5000, "digits"),
        ('["\\udc80"]', "surrogates"),
        ('["\udc80"]', "surrogates"),
        ('{"\\uD800": 1}', "surrogates"),
        ("{", "property name"),
        ("", "value"),
    ],
)
def test_json_that_readers_understand_in_different_ways_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_a_whole_number_that_no_float_holds_is_no_number():
    @dataclass(frozen=True)
    class Length:
        metres: float

    assert from_plain(Length, {"metres": 2**53 - 1}).metres == 2.0**53 - 1
    for number in (2**53, 10**400, -(10**400)):
        with pytest.raises(SettingError, match="must be a number"):
            from_plain(Length, {"metres": number})
