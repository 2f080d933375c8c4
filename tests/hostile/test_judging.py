"""How the verdicts on hostile inputs come about."""

import time

import judging
import pytest


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(judging, "WAITING", 0.1)
    monkeypatch.setattr(judging, "SECONDS", 0.5)


def _work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.usefixtures("short")
def test_what_waits_or_works_too_long_hangs_and_what_is_slow_does_not():
    assert judging.judged(lambda: time.sleep(5), []) == "hang"
    assert judging.judged(lambda: _work(5), []) == "hang"
    # Longer than it may wait, as on a crowded machine, and less work than it may do.
    assert judging.judged(lambda: _work(0.3), []) == "taken"


def test_a_page_gets_the_rows_of_a_room_in_the_place_of_its_old_ones(tmp_path):
    page = tmp_path / "page.md"
    head = "| `hostile_….py` | damaged | inputs | taken | refused | faults |\n|---|---|\n"
    page.write_text(
        "text\n<!-- of make hostile -->\n9 inputs, 0 faults; some day, 0.\n\n"
        f"{head}| runs | a | 4 | 1 | 3 | 0 |\n| texts | b | 5 | 5 | 0 | 0 |\n"
        "<!-- end of it -->\nmore\n"
    )
    judging.write_rows(page, "runs", ["| a | 10 | 3 | 6 | 1 |", "| c | 1000 | 0 | 0 | 0 |"])
    judging.write_rows(page, "weights", ["| d | 2 | 2 | 0 | 0 |"])
    text = page.read_text()
    assert "1,017 inputs, 1 faults; " in text
    rows = "| runs | a | 10 | 3 | 6 | 1 |\n| runs | c | 1000 | 0 | 0 | 0 |\n"
    rows += "| texts | b | 5 | 5 | 0 | 0 |\n| weights | d | 2 | 2 | 0 | 0 |\n"
    assert f"\n\n{head}{rows}<!-- end of it -->\nmore\n" in text
    assert text.startswith("text\n<!-- of make hostile -->\n")
