import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.exchange import Annotations
from ccrop_pipeline.exchange.joining import join, refuse_no_match
from ccrop_pipeline.images import tar_key

_parts = st.lists(
    st.sampled_from(["a", "b", "é", "e\u0301", ".", "/", "\\", ".jpg"]), min_size=1, max_size=5
)
_names = st.lists(_parts.map("".join), unique=True, max_size=8)


@pytest.mark.parametrize(
    ("names", "keys", "expected"),
    [
        (["a.jpg", "b.jpg"], ["b.jpg", "c.jpg"], {"b.jpg": "b.jpg"}),
        (["n1/a.jpg", "n2/a.jpg"], ["n1/a", "n2/a"], {"n1/a": "n1/a.jpg", "n2/a": "n2/a.jpg"}),
        (["a"], ["a.jpeg"], {"a.jpeg": "a"}),
        (["x/a.v2.jpg"], ["x/a_v2"], {"x/a_v2": "x/a.v2.jpg"}),
        (["train/a.jpg"], ["photos/a.jpg"], {"photos/a.jpg": "train/a.jpg"}),
        (["train/a.jpg"], ["photos/a"], {"photos/a": "train/a.jpg"}),
        (["a.jpg"], ["x/a.jpg", "x/a.png"], {"x/a.jpg": "a.jpg"}),
        (["p/x/a.jpg", "p/y/a.jpg"], ["x/a", "y/a"], {"x/a": "p/x/a.jpg", "y/a": "p/y/a.jpg"}),
        (["p/x/a.jpg"], ["x/a.jpg", "a.jpg"], {"x/a.jpg": "p/x/a.jpg"}),
        (["p/x/a.jpg", "q/x/a.jpg"], ["x/a.jpg"], {}),
        (["p/y/x/a.jpg"], ["x/a.jpg", "y/x/a.jpg"], {}),
        # Which image is meant cannot be told.
        (["a.jpg"], ["x/a", "y/a"], {}),
        (["x/a.jpg", "y/a.jpg"], ["a"], {}),
        # A key that is known may still make another ambiguous.
        (["a", "z/b"], ["a", "x/a", "b"], {"a": "a", "b": "z/b"}),
        # A name belongs to one key.
        (["x/a.jpg"], ["x/a", "y/a.jpg"], {"x/a": "x/a.jpg"}),
        ([], ["a"], {}),
        # From Windows, from macOS, and from `find .`.
        (["C:\\x\\a.jpg", "C:\\y\\a.jpg"], ["x/a.jpg"], {"x/a.jpg": "C:\\x\\a.jpg"}),
        (["x/e\u0301.jpg"], ["x/\u00e9.jpg"], {"x/\u00e9.jpg": "x/e\u0301.jpg"}),
        (["./a.jpg", "./x/a.jpg"], ["a.jpg", "x/a"], {"a.jpg": "./a.jpg", "x/a": "./x/a.jpg"}),
    ],
)
def test_names_belong_to_keys(names, keys, expected):
    assert join(names, keys) == expected


def plain(name: str) -> str:
    name = "".join("/" if letter == "\\" else letter for letter in name)
    return unicodedata.normalize("NFD", name[2:] if name[:2] == "./" else name)


def packed(name: str) -> str:
    name = plain(name)
    return tar_key(name) if name.split("/")[-1] else name


def last(name: str) -> str:
    return plain(name).split("/")[-1]


def alike(form: Callable[[str], str]) -> Callable[[str, str], bool]:
    return lambda name, key: form(name) == form(key)


def ends(name: str, key: str) -> bool:
    """Whether a name is a key below a folder; the key has a folder itself."""
    return "/" in packed(key) and packed(name).endswith("/" + packed(key))


RULES = [alike(packed), ends, alike(last), alike(lambda name: packed(last(name)))]


@given(_names, _names)
def test_join_agrees_with_the_definition(names, keys):
    found = {key: key for key in keys if key in names}
    for belongs in RULES:
        for key in keys:
            meant = [name for name in names if belongs(name, key)]
            rivals = [other for other in keys for name in meant[:1] if belongs(name, other)]
            unused = key not in found and meant and meant[0] not in found.values()
            if len(meant) == 1 and rivals == [key] and unused:
                found[key] = meant[0]
    assert join(names, keys) == found


def test_the_error_shows_names_of_both_sides():
    with pytest.raises(CcropError, match=r"none of the 1 annotated.*2 of photos.*'x'.*'a', 'b'"):
        refuse_no_match(Annotations("coco", ["x"], {}.__getitem__, ""), ["a", "b"], "photos")
