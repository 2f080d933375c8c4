"""How long a run still takes, and how that is shown: with a clock that only the test moves."""

import io
from itertools import pairwise

import pytest
from ccrop_cli import compute_progress, progress, train_progress
from ccrop_cli.compute_progress import ComputeProgress
from ccrop_cli.time_left import Outlook, TimeLeft
from ccrop_cli.train_progress import TrainProgress
from rich.cells import cell_len
from rich.console import Console

from ccrop_pipeline.base import StageSeconds, StepReport
from ccrop_pipeline.errors import duration
from ccrop_pipeline.recipes import RefreshStage, TrainStage

EPOCHS, STEPS = 10, 25
PLAN = [
    TrainStage(0, 4, None),
    RefreshStage(4, "boxes/a"),
    TrainStage(4, 8, "boxes/a"),
    RefreshStage(8, "boxes/b"),
    TrainStage(8, EPOCHS, "boxes/b"),
]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def remaining(step_seconds, probe, refresh, start=0):
    """Times of a run step by step from an epoch on, and what comes after each: the slow way."""
    events = []
    for epoch in range(start, EPOCHS):
        if epoch in (4, 8) and epoch > start:
            events += [("refresh", epoch, share / 10, refresh / 10) for share in range(1, 11)]
        events += [("step", epoch, step, step_seconds) for step in range(1, STEPS + 1)]
        events.append(("epoch", epoch + 1, None, probe))
    seconds = [event[3] for event in events]
    return [(event, sum(seconds[place + 1 :])) for place, event in enumerate(events)]


@pytest.mark.parametrize("probe", [0.0, 10.0])
@pytest.mark.parametrize("start", [0, 5])
def test_the_time_left_is_what_the_rest_takes(start, probe):
    clock = Clock()
    left = TimeLeft(PLAN, clock)
    clock.now = 1000.0
    left.begin()
    seen = set()
    for (kind, number, place, seconds), rest in remaining(2.0, probe, 70.0, start):
        clock.now += seconds
        if kind == "step":
            found = left.in_epoch(number, place, STEPS)
        elif kind == "epoch":
            left.epoch_done()
            found = left.after_epoch(number)
        else:
            found = left.in_refresh(number, place)
            if place == 1:
                left.refreshed(70.0)
                left.begin()
        # Exact once an epoch with its probe is known, and either a refresh is, or none is to come.
        measured = number > start + 1 and (number > 4 or start == 5)
        if kind == "refresh" or not measured or (start == 5 and number <= 8):
            continue
        # Within an epoch its probe, which comes last, is taken to be spread over the steps.
        off = probe if kind == "step" else 0
        assert found.seconds == pytest.approx(rest, abs=off + 1e-6), (kind, number, place)
        seen.add(kind)
    assert seen == {"step", "epoch"}


def test_before_anything_is_known_the_first_step_counts_for_nothing():
    clock = Clock()
    left = TimeLeft(PLAN, clock)
    clock.now = 300.0  # workers start, a compiler runs
    assert left.in_epoch(0, 1, STEPS) is None
    clock.now += 2.0
    # Ten epochs of 50 s less two steps, and two refreshes of a sixth of an epoch.
    assert left.in_epoch(0, 2, STEPS).seconds == pytest.approx(10 * 50 - 4 + 2 * 50 / 6)


def test_the_share_rises_to_the_whole():
    clock = Clock()
    left = TimeLeft(PLAN, clock)
    shares = []
    for (kind, number, place, seconds), _ in remaining(2.0, 0.0, 50.0):
        clock.now += seconds
        if kind == "step" and (found := left.in_epoch(number, place, STEPS)):
            shares.append(found.share)
        elif kind == "epoch":
            left.epoch_done()
        elif kind == "refresh" and place == 1:
            left.refreshed(50.0)
            left.begin()
    # Another cost of a refresh moves it once, when the first one is measured.
    assert sum(later < earlier for earlier, later in pairwise(shares)) <= 1
    assert shares[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3540, "59 min"), (3599, "1 h 00 min"),
        (12_000, "3 h 20 min"), (35_969, "9 h 59 min"), (36_000, "10 h"), (126_000, "35 h"),
        (3 * 86_400, "3 days"),
    ],
)  # fmt: skip
def test_times_are_said_as_people_do(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def log(monkeypatch):
    """What is printed where there is no terminal."""
    out = io.StringIO()
    for module in (progress, train_progress):
        monkeypatch.setattr(module, "console", Console(file=out, width=1000))
    return out


def record(epoch):
    figures = {"loss": 1.0, "lr": 0.1, "images_per_s": 5.0, "data_wait": 0.0, "unreadable": 0}
    return {"epoch": epoch, "verdict": "learning", "why": "embeddings fill 9 of 9", **figures}


def run(shown, clock, step_seconds, epochs):
    for epoch in epochs:
        began = clock.now
        shown.stage({"stage": "train", "text": "training", "boxes": None})
        for step in range(1, STEPS + 1):
            clock.now += step_seconds
            shown.step(StepReport(epoch, step, STEPS, 5 * step, clock.now - began, 0.0))
        shown.epoch_done(record(epoch + 1))


def test_a_long_run_is_said_to_be_one_once_it_is_measured(log):
    clock = Clock()
    shown = TrainProgress(PLAN, machine="this CPU", clock=clock)
    run(shown, clock, 400.0, [0])
    lines = log.getvalue().splitlines()
    promised = [line for line in lines if "about" in line]
    # Two steps of 25 are done: 248 of 400 s, and two refreshes of a sixth of 10,000 s.
    assert promised == ["10 epochs and 2 refreshes, about 28 h on this CPU"]
    assert lines.index(promised[0]) < 3
    # Every few minutes a line; with the epoch's own the time left.
    assert "epoch 1/10  step 3/25, 0 images/s, data wait 0%  28 h left" in lines
    assert lines[-2].endswith("26 h left")
    assert lines[-1] == "  learning: embeddings fill 9 of 9"


def test_quick_steps_are_measured_twenty_times_and_a_short_run_says_nothing(log):
    clock = Clock()
    shown = TrainProgress(PLAN, clock=clock)
    run(shown, clock, 0.01, range(EPOCHS))
    assert "about" not in log.getvalue()
    assert "step" not in log.getvalue()
    shown = TrainProgress(PLAN, clock=clock)
    run(shown, clock, 2.0, [0])
    assert log.getvalue().count("about") == 1
    assert log.getvalue().splitlines()[-2].endswith("8 min left")


def test_a_run_that_goes_on_says_from_where_and_counts_what_is_left(log):
    clock = Clock()
    shown = TrainProgress(PLAN, machine="4 GPUs", clock=clock)
    run(shown, clock, 400.0, [5, 6])
    said = log.getvalue()
    assert said.count("goes on after epoch 5 of 10") == 1
    assert said.count("5 epochs and 1 refresh, about 14 h on 4 GPUs") == 1
    assert shown.trained
    assert not TrainProgress(PLAN).trained


def line_at(width, shown, monkeypatch):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(progress, "console", console)
    tasks = shown._bar.make_tasks_table(shown._bar.tasks)
    console.print(tasks)
    (line,) = out.getvalue().splitlines()
    assert cell_len(line) <= width
    return line.rstrip()


@pytest.mark.parametrize("width", [40, 80])
def test_the_first_step_is_waited_for_in_sight(width, monkeypatch):
    clock = Clock()
    shown = TrainProgress(PLAN, clock=clock)
    shown.stage({"stage": "train", "text": "training", "boxes": None})
    line = line_at(width, shown, monkeypatch)
    assert line.startswith("training ")
    assert line.endswith("waiting for the first step")
    shown.step(StepReport(0, 1, STEPS, 5, 9.0, 0.0))
    line = line_at(width, shown, monkeypatch)
    assert line.startswith("epoch 1/10 ")
    assert "1/25" in line
    assert "waiting" not in line


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_live_line_fits_and_keeps_what_matters(width, monkeypatch):
    clock = Clock()
    shown = TrainProgress(PLAN, clock=clock)
    clock.now = 4e5
    for step in range(1, 21):
        clock.now += 1000.0
        shown.step(StepReport(2, step, STEPS, step, 10.0, 1.0))
    line = line_at(width, shown, monkeypatch)
    assert "27%  52 h left" in line or width == 20
    assert line.startswith("epoch 3/10 " if width > 20 else "ep")
    assert ("data wait 10%" in line) == (width >= 80)
    assert ("━" in line) == (width > 20)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_line_of_boxes_fits_as_well(width, monkeypatch):
    shown = ComputeProgress(10_000)
    shown.begun(12, 0)
    shown.images_done(1000, "train-000001", StageSeconds(1, 2, 3, 4))
    line = line_at(width, shown, monkeypatch)
    assert line.startswith("boxes  ")
    assert "1,000/10,000" in line
    assert ("shard 1/12 train-000001" in line) == (width > 40)
    assert ("write" in line) == (width == 200)


def test_how_long_many_images_take_is_said_once_it_is_measured():
    clock = Clock()
    outlook = Outlook(clock)
    said = []
    for batch in range(60):  # 100 images a second, after a first batch that says nothing
        clock.now += 1.0 if batch else 500.0
        said.append(outlook.after(100 * (batch + 1), 1_200_000))
    # 1,100 images are done after ten seconds: 1,198,900 are left.
    assert [(at, line) for at, line in enumerate(said) if line] == [
        (10, "about 3 h 20 min left for the rest of 1.2 million images")
    ]
    quick, unknown = Outlook(clock), Outlook(clock)
    for batch in range(60):
        clock.now += 1.0
        assert quick.after(100 * batch, 12_000) is None
        assert unknown.after(100 * batch, None) is None
    assert Outlook(clock).after(0, 12_400) is None


@pytest.mark.parametrize("width", [40, 80])
def test_boxes_of_several_shards_are_guessed_and_begin_anew(width, log, monkeypatch):
    monkeypatch.setattr(compute_progress, "console", Console(file=log, width=width))
    monkeypatch.setattr(compute_progress, "_QUIET_SECONDS", 0.0)
    shown = ComputeProgress(None)
    for _ in range(2):  # as for each checkpoint that a follower computes boxes from
        shown.begun(4, 0)
        shown.images_done(500, "a")
        shown.shard_written("a", 500)
        shown.images_done(500, "b")
        assert shown._done == 1000
        assert len(shown._bar.tasks) == 1
    lines = [line for line in log.getvalue().splitlines() if line.startswith("1,000 images")]
    assert len(lines) == 2
    assert all(line.endswith("s left") for line in lines)
