"""What `benchmarks/house.py` counts, on code whose figures are known."""

import importlib
import sys
import threading

import pytest

from benchmarks import house

ROOM = """\
import threading

def announce(function):
    function()
    return function

@announce
def at_import():
    pass

class Room:
    def door(self):
        return [self.key() for _ in range(2)]

    def key(self):
        class Lock:
            pass
        return Lock

def work():
    thread = threading.Thread(target=Room().door)
    thread.start()
    thread.join()

def aside():
    return (lambda: 0)()
"""


@pytest.mark.parametrize(
    ("within", "entered"),
    [
        ("work", {"work", "Room.door", "Room.key"}),
        (None, {"work", "Room.door", "Room.key", "aside", "aside.<locals>.<lambda>"}),
    ],
)
def test_a_trace_has_the_calls_of_all_threads_and_none_of_an_import(
    within, entered, tmp_path, monkeypatch
):
    folder = tmp_path / "ccrop_pipeline"
    folder.mkdir()
    (folder / "room.py").write_text(ROOM)
    monkeypatch.syspath_prepend(folder)
    trace = house.Trace(within)
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        room = importlib.import_module("room")
        room.aside()
        room.work()
        room.aside()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        sys.modules.pop("room", None)
    assert trace.entered == {("ccrop_pipeline/room.py", name) for name in entered}


def test_lines_and_bodies_are_counted_without_docstrings(tmp_path, monkeypatch):
    monkeypatch.setattr(house, "ROOT", tmp_path)
    for folder, lines in (("a", 10), ("b", 20), ("c", 60)):
        room = tmp_path / "ccrop_pipeline" / folder
        room.mkdir(parents=True)
        (room / "__init__.py").write_text("")
        text = f'def {folder}():\n    """Say\n\n    it."""\n' + "    pass\n" * (lines - 4)
        (room / ("room.py" if folder < "c" else "hall.py")).write_text(text)
    figures = house.structure()
    assert (figures["package files"], figures["of them under 60 lines"]) == (6, 5)
    assert (figures["lines"], figures["lines of a file, median"]) == (90, 5)
    assert figures["lines of a file, 90th percentile"] == 40  # of 0 0 0 10 20 60: half-way
    assert (figures["functions"], figures["longest function"]) == (3, 56)
    assert figures["body lines of a function, median"] == 16
    assert figures["body lines of a function, 90th percentile"] == pytest.approx(48)  # 16, 56: .8
    assert figures["basenames that stand twice or more"] == 1
