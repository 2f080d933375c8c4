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
