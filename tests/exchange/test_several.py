import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrop_pipeline.exchange import Several

# Multiples of an eighth: areas are exact, and equal ones are frequent.
_side = st.lists(st.integers(0, 8), min_size=2, max_size=2, unique=True).map(sorted)
_box = st.tuples(_side, _side).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))
_boxes = st.lists(_box, min_size=1, max_size=6)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


@given(_boxes, st.integers(1, 7), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_rules_agree_with_loops(boxes, keep, scores):
    def applied(text):
        given = np.array(scores[: len(boxes)], np.float64)
        chosen = Several(text).apply(np.array(boxes, np.float32) / 8, given)
        assert chosen.dtype == np.float32
        return [tuple(int(8 * edge) for edge in box) for box in chosen.tolist()]

    left, top, right, bottom = zip(*boxes, strict=True)
    assert applied("union") == [(min(left), min(top), max(right), max(bottom))]
    order = sorted(range(len(boxes)), key=lambda i: (-area(boxes[i]), i))
    assert applied("largest") == [boxes[order[0]]]
    assert applied(f"keep:{keep}") == [boxes[i] for i in order[:keep]]
    best = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    assert applied(f"top:{keep}") == [boxes[i] for i in best[:keep]]


@pytest.mark.parametrize(
    "text", ["", "Union", "keep", "keep:", "keep:0", "keep:-1", "keep:2.5", "top", "top:0"]
)
def test_other_rules_are_refused(text):
    with pytest.raises(ValueError, match="union, largest, keep:K or top:K"):
        Several(text)


def test_keep_and_top_keep_choices():
    kept = {t: Several(t).keeps_choices for t in ("union", "largest", "keep:1", "top:1")}
    assert kept == {"union": False, "largest": False, "keep:1": True, "top:1": True}
