"""The page of a run: its figures beside what they are made from, and the page in a Chromium."""

import io
import json
import re
import shlex
import shutil
from itertools import pairwise

import numpy as np
import pytest
from browsing import boxes, choose, press, run, shown, visit
from ccrop_cli.main import cli
from click.testing import CliRunner
from made_boxes import located, provenance
from PIL import Image

import ccrop_pipeline as ccrop
from ccrop_pipeline.boxset import BoxSet, iou
from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Scenes
from ccrop_pipeline.localize import BoxRule
from ccrop_pipeline.report.curves import Line, chart, round_ticks, thinned
from ccrop_pipeline.report.drift import drift
from ccrop_pipeline.report.run_findings import run_findings
from ccrop_pipeline.report.run_history import History, charts, stages, time_spent
from ccrop_pipeline.report.run_provenance import commands
from ccrop_pipeline.training import Metrics, Run
from tests.given_rows import box_set_of

RULES = {2: BoxRule(0.1), 4: BoxRule(0.4), 8: BoxRule(0.7)}
PLANNED = 10


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, sample in enumerate(Scenes(24, size=40).read("train-000000")):
        name = folder / ("cats" if number % 3 else "dogs") / f"{number:02}.jpg"
        name.parent.mkdir(exist_ok=True)
        Image.open(io.BytesIO(sample.image)).resize((40, 24 + number)).save(name)
    return ccrop.open_source(folder)


def train(epoch, boxes=None, **figures):
    own = {"loss": 5 - epoch / 4, "embedding_std": 0.9, "lr": 0.1, "seconds": 10.0}
    own |= {"images_per_s": 90.0, "data_wait": 0.25, "unreadable": 0}
    return {"stage": "train", "epoch": epoch, "boxes": boxes, **own, **figures}


def refresh(epoch, **figures):
    boxes = f"boxes/epoch-{epoch:04}"
    return {"stage": "refresh", "epoch": epoch, "boxes": boxes, "seconds": 3.0, **figures}


def start(epoch):
    where = {"device": "cpu", "processes": 1, "libraries": {"torch": "2"}}
    return {"stage": "start", "epoch": epoch, "boxes": None, "at": "now", "images": 24, **where}


def records():
    found = [start(0)]
    for epoch in range(1, PLANNED + 1):
        newest = max((at for at in RULES if at < epoch), default=None)
        probed = {"knn": 0.1 + epoch / 50, "knn_chance": 0.125, "knn_seconds": 2.0}
        found.append(
            train(
                epoch,
                newest and f"boxes/epoch-{newest:04}",
                **({} if epoch % 2 else probed),
            )
        )
        if epoch in RULES:
            found.append(refresh(epoch, mean_area=0.5, iou_with_previous=None))
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory, source):
    """A run that never trained, with the records and boxes of one that did."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    recipe = ccrop.load_recipe("photos-simclr-2core", [f"epochs={PLANNED}", "crop.alpha=0.3"])
    own = {"kind": source.kind, "fingerprint": source.fingerprint()}
    Run(folder).start({"recipe": recipe.to_dict(), "source": own}, str(source.location))
    metrics = Metrics(folder)
    for record in records():
        metrics.add(record)
    (shard,) = source.shards
    keys = [sample.key for sample in source.read(shard)]
    heat = (np.random.default_rng(0).random((len(keys), 5, 7)) ** 3).astype(np.float16)
    for epoch, rule in RULES.items():
        place, rows = folder / f"boxes/epoch-{epoch:04}", located(keys, heat, rule)
        box_set_of(place, rows, names=[shard], made_by=provenance(rule))
    return Run(folder)


@pytest.fixture
def page(trained, tmp_path):
    return ccrop.report_run(trained, tmp_path / "page.html")


def boxes_of(trained, epoch):
    ((_, table),) = BoxSet.open(trained.folder / f"boxes/epoch-{epoch:04}").tables()
    return table


def test_ticks_are_round_and_hold_what_is_between_them():
    random = np.random.default_rng(0)
    for _ in range(500):
        low = random.normal() * 10.0 ** random.integers(-6, 7)
        high = low + abs(random.normal()) * 10.0 ** random.integers(-6, 7)
        ticks = round_ticks(low, high)
        steps = np.diff(ticks)
        assert 3 <= len(ticks) <= 7
        assert ticks[0] <= low + 1e-6 * steps[0]
        assert ticks[-1] >= high - 1e-6 * steps[0]
        assert steps == pytest.approx(np.full(len(steps), steps[0]), rel=1e-3)
        mantissa = float(f"{steps[0]:e}".split("e")[0])
        assert min(abs(mantissa - size) for size in (1, 2, 5, 10)) < 1e-2
    assert round_ticks(3.0, 3.0)[0] < 3 < round_ticks(3.0, 3.0)[-1]


def test_points_lie_where_the_axes_say():
    values = [4.0, 1.0, 3.0, 2.5]
    drawn = chart("Loss", [Line("loss", [*zip(range(1, 5), values, strict=True)])], 7)
    places = np.array([[float(n) for n in p.split(",")] for p in drawn.lines[0].path.split()])
    left, top, right, bottom = drawn.frame
    assert places[:, 0] == pytest.approx(left + np.arange(4) * (right - left) / 6, abs=0.01)
    ys = {float(text): place for place, text in drawn.up}
    (low, at_low), (high, at_high) = min(ys.items()), max(ys.items())
    expected = at_low + (np.array(values) - low) / (high - low) * (at_high - at_low)
    assert places[:, 1] == pytest.approx(expected, abs=0.01)
    assert (at_low, at_high) == (bottom, top)
    assert chart("Accuracy", [Line("chance", [(1.0, 0.1)], reference=True)], 7) is None


def test_a_long_line_keeps_its_ends():
    values = np.random.default_rng(0).normal(size=5000).tolist()
    points = [*zip(range(1, 5001), values, strict=True)]
    few = thinned(points)
    assert len(few) <= 400
    assert {*few} <= {*points}
    assert [epoch for epoch, _ in few] == sorted(epoch for epoch, _ in few)
    ends = [min(value for _, value in each) for each in (points, few)]
    assert ends[0] == ends[1]


def test_time_and_stages_are_those_of_the_records():
    history = History.of([*records()[:9], refresh(99), train(99)], PLANNED)
    assert history.epochs == 6
    spent = {"waiting for views": 15.0, "steps": 45.0, "refreshes": 6.0, "probes": 6.0}
    assert time_spent(history) == spent
    assert [(s.kind, s.epochs, s.seconds) for s in stages(history)] == [
        ("random", (1, 2), 22.0),
        ("refresh", (2, 2), 3.0),
        ("boxes", (3, 4), 22.0),
        ("refresh", (4, 4), 3.0),
        ("boxes", (5, 6), 22.0),
        ("left", (7, 10), 44.0),
    ]


def test_every_figure_has_its_curve():
    more = {"rankme": 12.0, "rankme_limit": 128, "lidar": 3.5, "linear": 0.4, "why": "so"}
    drawn = charts(History.of([train(n, None, **more, knn=0.3) for n in (1, 2, 3)], 3))
    lines = {each.title: [line.name for line in each.lines] for each in drawn}
    assert lines["Accuracy of probes"] == ["kNN", "linear"]
    assert lines["Rank of embeddings (RankMe)"] == ["rank", "most possible"]
    assert lines["lidar"] == ["lidar"]
    assert {"Loss", "Learning rate", "Spread of embeddings", "Images a second"} < set(lines)


def history(epochs=9, starts=(0,), **changes):
    """Records of epochs whose figures change: a function of the epoch for each name."""
    epochs = range(1, epochs + 1)
    changed = [{name: figure(n) for name, figure in changes.items()} for n in epochs]
    trained = [train(n, None, **own) for n, own in zip(epochs, changed, strict=True)]
    return History.of([*map(start, starts), *trained], 9)


FINDINGS = {
    "The run is collapsing": {"verdict": lambda _: "collapsing", "why": lambda _: "so it is"},
    "Whether the run is learning is not yet clear": {"verdict": lambda _: "not yet clear"},
    "The loss does not fall any more": {"loss": lambda n: 3 + n},
    "The kNN accuracy is no better than chance": {
        "knn": lambda _: 0.1,
        "knn_chance": lambda _: 0.1,
    },
    "The kNN accuracy has fallen": {"knn": lambda n: 0.5 - n / 100},
    "The kNN accuracy is no better than before training": {
        "knn": lambda _: 0.6,
        "knn_start": lambda _: 0.6,
        "knn_queries": lambda _: 40,
    },
    "2 images could not be decoded": {"unreadable": lambda _: 2},
    "40% of the time was spent waiting for views": {"data_wait": lambda _: 0.4},
    "Resumed twice": {"starts": (0, 3, 6)},
    "5 of 9 epochs trained": {"epochs": 5},
}


@pytest.mark.parametrize("title", FINDINGS)
def test_what_is_grave_is_found_and_comes_first(title):
    found = run_findings(history(**FINDINGS[title]), None, None)
    assert title in [finding.title for finding in found]
    assert title not in [finding.title for finding in run_findings(history(), None, None)]
    levels = [("bad", "note", "good").index(finding.level) for finding in found]
    assert levels == sorted(levels)
    assert all(finding.text.endswith((".", "")) for finding in found)


def test_drift_agrees_with_a_loop_over_images(trained):
    sets = [BoxSet.open(trained.folder / f"boxes/epoch-{epoch:04}") for epoch in RULES]
    for before, after in pairwise(sets):
        told = drift(before, after)
        ((_, old),), ((_, new),) = before.tables(), after.tables()
        overlaps = [
            iou(a, b[None].astype(float))[0] for a, b in zip(old.boxes, new.boxes, strict=True)
        ]
        assert told.images == len(overlaps) == 24
        assert told.mean_iou == pytest.approx(sum(overlaps) / 24)
        assert told.moved == sum(each < 0.5 for each in overlaps) / 24
        assert (
            told.same == sum((a == b).all() for a, b in zip(old.boxes, new.boxes, strict=True)) / 24
        )


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("demo", []),
        ("photos-simclr-2core", ["epochs=7", "boxes.refresh_every=2", "boxes.threshold=0.3"]),
        ("byol", ["boxes.kind=none", "augment.blur_sigma=[0.1,1.0]"]),
    ],
)
def test_the_command_of_the_page_makes_the_same_recipe(tmp_path, name, changed):
    recipe = ccrop.load_recipe(name, changed)
    own = {"recipe": recipe.to_dict(), "source": {"kind": "tar", "fingerprint": "x"}}
    (tmp_path / "it's here").mkdir()
    (tmp_path / "it's here/0.png").touch()
    Run(tmp_path / "run").start(own, str(tmp_path / "it's here"))
    line = commands(Run(tmp_path / "run"), recipe, history(), [])[0]
    result = CliRunner().invoke(cli, [*shlex.split(line)[1:], "--dry-run", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["recipe"] == recipe.to_dict()


def test_a_page_needs_no_network_and_repeats_itself(trained, page, tmp_path):
    one, two = page.read_bytes(), ccrop.report_run(trained, tmp_path / "again").read_bytes()
    assert one == two
    assert not re.search(rb"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", one)


def test_a_run_whose_images_are_gone_has_a_page_that_says_so(trained, source, tmp_path):
    run_folder = tmp_path / "run"
    shutil.copytree(trained.folder, run_folder)
    started = json.loads((run_folder / "run.json").read_text())
    for place, why in (("pipe:cat x.tar", "could be anything"), (str(tmp_path / "gone"), "gone")):
        changed = {**started, "places": {"source": place}}
        (run_folder / "run.json").write_text(json.dumps(changed))
        text = ccrop.report_run(run_folder, tmp_path / "page", overwrite=True).read_text("utf-8")
        assert "The images of the run were not opened" in text
        assert why in text
        assert '"items"' not in text
    page = ccrop.report_run(run_folder, tmp_path / "page", source=source, overwrite=True)
    assert '"items"' in page.read_text("utf-8")
    with pytest.raises(CcropError, match="does not hold the images of"):
        ccrop.report_run(run_folder, tmp_path / "page", source=Scenes(3), overwrite=True)


def test_a_refresh_whose_boxes_are_gone_stays_with_what_was_recorded(trained, source, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/boxes/epoch-0004")
    text = ccrop.report_run(tmp_path / "run", tmp_path / "page", source=source).read_text("utf-8")
    assert "The boxes of 1 refresh are gone" in text
    row = re.search(r'<th scope="row">epoch 4</th>(.*?)</tr>', text, re.DOTALL)[1]
    assert "<td>50.0%</td>" in row
    assert "its boxes are gone" in row
    whole = ccrop.report_run(trained, tmp_path / "whole", source=source).read_text("utf-8")
    assert "are gone" not in whole
    shutil.rmtree(tmp_path / "run/boxes")
    text = ccrop.report_run(tmp_path / "run", tmp_path / "none", source=source).read_text("utf-8")
    assert "The boxes of 3 refreshes are gone" in text
    assert 'data-show="' not in text  # no button without images


def test_the_command_writes_a_page_of_a_run_and_never_overwrites_unasked(
    trained, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command = ["report", str(trained.folder)]
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert CliRunner().invoke(cli, command).exit_code == 0, "as after a kill in its last steps"
    (tmp_path / "first-run.html").write_text("mine")
    refused = CliRunner().invoke(cli, command)
    assert refused.exit_code == 1
    assert "--overwrite" in refused.output
    assert (tmp_path / "first-run.html").read_text() == "mine"
    nothing = CliRunner().invoke(cli, ["report", str(tmp_path), "page.html"])
    assert nothing.exit_code == 1
    assert "holds no run" in nothing.output


def test_records_of_any_kind_have_a_page(source, tmp_path):
    recipe = ccrop.load_recipe("demo", ["boxes.kind=none"])
    own = {"kind": source.kind, "fingerprint": "x"}
    Run(tmp_path / "run").start({"recipe": recipe.to_dict(), "source": own}, "pipe:x")
    assert (
        "Nothing is trained yet" in ccrop.report_run(tmp_path / "run", tmp_path / "a").read_text()
    )
    odd = [None, "x", [], {}, True, 10**400, -1, 1e308, 1e-320, float("nan")]
    for epoch, value in enumerate(odd, 1):
        figures = dict.fromkeys(train(1), value) | {"</script>": value, "knn": value}
        Metrics(tmp_path / "run").add(
            train(epoch) | figures | {"stage": "train", "epoch": epoch, "boxes": None}
        )
    for stage in ("start", "train", "refresh"):
        Metrics(tmp_path / "run").add({"stage": stage, "epoch": 3, "libraries": 3})
    Metrics(tmp_path / "run").add({"stage": "refresh", "epoch": 10**400, "boxes": None})
    text = ccrop.report_run(tmp_path / "run", tmp_path / "b").read_text()
    assert text.count("</script>") == 2


@pytest.mark.slow
def test_the_page_shows_the_figures_and_the_boxes_of_every_refresh(browser, page, trained):
    from selenium.webdriver.common.keys import Keys

    visit(browser, page)
    told = (
        "[...document.querySelectorAll('.chart')].map(c => c.querySelector('output').textContent)"
    )
    run(browser, "document.querySelector('.chart svg').focus()")
    for _ in range(3):
        press(browser, Keys.ARROW_RIGHT)
    titles = run(
        browser,
        "[...document.querySelectorAll('.chart figcaption')].map(c => c.firstChild.data.trim())",
    )
    by_title = dict(zip(titles, run(browser, told), strict=True))
    assert by_title["Loss"] == "epoch 3: 4.25"
    assert by_title["Learning rate"] == "epoch 3: 0.1"
    run(browser, "read(8)")
    values = run(
        browser,
        "[...document.querySelectorAll('.chart')][1].querySelector('.key output').textContent",
    )
    assert values == "26.0%"
    slide = "const s = document.getElementById('refresh'); s.value = arguments[0];"
    for number, epoch in enumerate(RULES):
        browser.execute_script(slide + "s.dispatchEvent(new Event('input'))", number)
        assert (boxes(browser) == boxes_of(trained, epoch).boxes).all()
        name = run(browser, "document.getElementById('refresh-name').textContent")
        assert name == f"epoch {epoch}"
    run(browser, "enlarge(items[5])")
    press(browser, ",")
    assert run(browser, "items[5].now") == boxes_of(trained, 4).boxes[5].tolist()
    told = run(browser, "document.querySelector('dialog figcaption').textContent")
    assert " with epoch 2" in told
    press(browser, ".")
    press(browser, Keys.ESCAPE)
    choose(browser, "sort", "moved")
    before, after = (boxes_of(trained, epoch) for epoch in (4, 8))
    overlap = iou(after.boxes.astype(float), before.boxes.astype(float))
    by_key = dict(zip(after.keys, overlap, strict=True))
    assert all(by_key[a] <= by_key[b] for a, b in pairwise(shown(browser)))
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_a_phone_scrolls_downwards_only(browser, page):
    visit(browser, page, width=390)
    assert run(browser, "document.documentElement.scrollWidth") == 390
    assert browser.get_log("browser") == []
