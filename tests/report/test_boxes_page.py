"""The page of a box set, in a real Chromium, beside what the library computes."""

import io
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from browsing import boxes, choose, objects, press, run, shown, visit, wait
from ccrop_cli.main import cli
from click.testing import CliRunner
from made_boxes import SIZE, located, provenance, table
from PIL import Image

import ccrop_pipeline as ccrop
from ccrop_pipeline.boxset import EMPTY, UNREADABLE, iou
from ccrop_pipeline.compute.rethreshold import with_rule
from ccrop_pipeline.exchange import fixed_boxes
from ccrop_pipeline.images import Scenes, image_hash
from ccrop_pipeline.localize import BoxRule
from tests.given_rows import box_set_of

COUNT = 36
# As a key it is `</script><img ...>`, and as a class `<`.
HOSTILE = "script><img src=x onerror=document.title='broken out'>.png"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    scenes = Scenes(COUNT, size=40)
    for number, sample in enumerate(scenes.read(scenes.shards[0])):
        name = folder / ("<" if number % 3 else "dogs") / f"{number:02}.jpg"
        name.parent.mkdir(exist_ok=True)
        picture = Image.open(io.BytesIO(sample.image)).resize((40, 24 + number))
        picture.save(folder / "<" / HOSTILE if number == 1 else name)
    (folder / "dogs" / "torn.jpg").write_bytes(b"\xff\xd8\xff no more")
    return ccrop.open_source(folder)


def heatmaps(n):
    heat = np.random.default_rng(0).random((n, 5, 7)) ** 3
    heat /= heat.max(axis=(1, 2), keepdims=True)
    heat[3] = 0
    return heat.astype(np.float16)


def made(folder, source, rule):
    """A box set of these images, with one that is empty and one that cannot be read."""
    (shard,) = source.shards
    samples = list(source.read(shard))
    torn = [i for i, sample in enumerate(samples) if sample.key.endswith("torn.jpg")]
    rows = located([sample.key for sample in samples], heatmaps(len(samples)), rule, torn)
    rows = replace(
        rows, image_hash=np.array([image_hash(sample.image) for sample in samples], np.uint64)
    )
    return box_set_of(folder, rows, names=[shard], made_by=provenance(rule)), rows


RULES = (
    BoxRule(0.4),
    BoxRule(mass=0.5, margin=0.05),
    BoxRule(0.55, objects=3),
    BoxRule(0.1, mean_share=1.2, objects=2, min_size=0.1),
    BoxRule(0.15, mean_share=0.7, centre_weight=0.3),
    BoxRule(0.3, component="largest", margin=0.1),
    BoxRule(0.333, mean_share=0.5, component="largest", min_size=0.6),
)


@pytest.fixture
def page(browser, source, tmp_path):
    """A function that writes a page, opens it, and at the end expects a silent console."""

    def opened(rule=RULES[0], width=1200, name="set", **options):
        box_set, rows = made(tmp_path / name, source, rule)
        out = ccrop.report_boxes(box_set, source, tmp_path / "page.html", **options)
        visit(browser, out, width)
        return rows

    yield opened
    assert browser.get_log("browser") == []


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_slider_draws_the_boxes_that_the_library_computes(browser, page, rule):
    rows = page(rule)
    assert (boxes(browser) == rows.boxes).all()
    slide = "const s = document.getElementById('threshold'); s.value = arguments[0];"
    for step in (1, 37, 93, 140, 198, *([200] if rule.mass else [0])):
        browser.execute_script(slide + "s.dispatchEvent(new Event('input'))", step)
        cut = {"mass" if rule.mass else "threshold": step / 200}
        anew = with_rule(rows, replace(rule, **cut), map_name="sum", map_size=SIZE)
        expected = anew.boxes
        assert (boxes(browser) == expected).all()
        if rule.objects > 1:
            several = [anew.choices.of_row(row) for row in range(len(anew))]
            flat = [list(each.ravel()) if len(each) > 1 else [] for each in several]
            assert objects(browser) == flat
        mean = (expected[:, 2:] - expected[:, :2]).astype(float).prod(axis=1).mean()
        assert f"{100 * mean:.1f}% of {len(rows)} images" in run(
            browser, "document.getElementById('area-now').textContent"
        )
        more = f" + {rule.mean_share:g} of the image's mean heat" if rule.mean_share else ""
        label = run(browser, "document.getElementById('threshold-value').textContent")
        assert label == f"{step / 200:g}{more}"
    run(browser, "document.getElementById('as-stored').click()")
    assert (boxes(browser) == rows.boxes).all()


@pytest.mark.slow
def test_any_threshold_is_taken_without_rounding(browser, page):
    page()
    for threshold in (0.1, 0.305, 1 / 3, 2**-30, 0.7 + 2**-53):
        told = run(browser, "limitOf(arguments[0], 224)", threshold)
        numerator, denominator = threshold.as_integer_ratio()
        assert told == numerator * 4 * 224**2 * 2**24 // denominator / 2**24


@pytest.mark.slow
def test_filters_and_orders(browser, page, source):
    rows = page()
    areas = dict(zip(rows.keys, (rows.boxes[:, 2:] - rows.boxes[:, :2]).prod(axis=1), strict=True))
    assert shown(browser) == rows.keys
    choose(browser, "sort", "small")
    assert all(areas[a] <= areas[b] for a, b in pairwise(shown(browser)))
    choose(browser, "sort", "large")
    assert all(areas[a] >= areas[b] for a, b in pairwise(shown(browser)))
    choose(browser, "sort", "status")
    order = [UNREADABLE, EMPTY]
    assert shown(browser)[:2] == [rows.keys[rows.status.tolist().index(one)] for one in order]
    choose(browser, "by-label", "dogs")
    assert set(shown(browser)) == {key for key in rows.keys if key.startswith("dogs")}
    choose(browser, "by-status", "empty")
    assert len(shown(browser)) <= 1
    run(browser, "document.querySelector('[data-show=\"status=unreadable\"]').click()")
    assert shown(browser) == ["dogs/torn.jpg"]
    assert run(browser, "document.getElementById('count').textContent") == "1 of 37 images"


def press_finding(browser, title):
    """Press the button of a finding; return the keys of the images that are then shown."""
    script = """(title => [...document.querySelectorAll('.findings li')].find(
        li => li.textContent.includes(title)).querySelector('button').click())(arguments[0])"""
    run(browser, script, title)
    return shown(browser)


@pytest.mark.slow
def test_every_finding_leads_to_its_images(browser, source, tmp_path):
    """Boxes that are large and much alike, two of them of other bytes."""
    (shard,) = source.shards
    samples = list(source.read(shard))
    keys = [sample.key for sample in samples]
    hashes = np.array([image_hash(sample.image) for sample in samples], np.uint64)
    hashes[[2, 5]] += np.uint64(1)
    edges = 0.92 - 0.001 * np.arange(len(keys))
    rows = table(keys, [[0, 0, edge, edge] for edge in edges], hashes=hashes)
    box_set_of(tmp_path / "set", rows, names=[shard])
    visit(browser, ccrop.report_boxes(tmp_path / "set", source, tmp_path / "page.html"))
    without = (
        "[...document.querySelectorAll('.findings li')].filter(li => !li.querySelector('button'))"
    )
    assert run(browser, f"{without}.length") == 0
    assert press_finding(browser, "with other bytes") == [keys[2], keys[5]]
    by_median = sorted(keys, key=lambda key: abs(keys.index(key) - (len(keys) - 1) / 2))
    assert set(press_finding(browser, "carry nothing")[:3]) == set(by_median[:3])
    order = press_finding(browser, "show less than random crops")
    from ccrop_pipeline.views import ViewCutter
    from ccrop_pipeline.views.batch import hash_keys

    cutter, least = ViewCutter((ccrop.ViewGroup(2, 64),)), {}
    for item in run(browser, "items.filter(i => i.size).map(i => [i.key, i.size, i.box])"):
        key, (width, height), box = item
        windows = cutter.windows(
            hash_keys([key]), np.array([[width, height]]), np.array([box], np.float32), 0
        )
        shares = []
        for top, left, high, wide in windows[:, 0].tolist():
            across = min(box[2], (left + wide) / width) - max(box[0], left / width)
            down = min(box[3], (top + high) / height) - max(box[1], top / height)
            shares.append(max(across, 0) * max(down, 0) / (box[2] * box[3]))
        least[key] = min(shares)
    assert min(least.values()) < max(least.values())
    assert all(
        least[a] <= least[b] + 1e-9 for a, b in pairwise(key for key in order if key in least)
    )
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_all_of_it_works_by_the_keyboard(browser, page):
    from selenium.webdriver.common.keys import Keys

    rows = page()
    focused = "document.activeElement.dataset.key"
    run(browser, "document.querySelector('#gallery .card').focus()")
    press(browser, Keys.ARROW_RIGHT)
    assert run(browser, focused) == rows.keys[1]
    press(browser, Keys.ARROW_DOWN)
    assert run(browser, focused) == rows.keys[1 + run(browser, "columns()")]
    press(browser, Keys.ENTER)
    press(browser, Keys.ARROW_LEFT)
    name = rows.keys[run(browser, "columns()")]
    assert run(browser, "document.querySelector('dialog[open] b').textContent") == name
    press(browser, Keys.ESCAPE)
    assert run(browser, "document.querySelector('dialog[open]')") is None
    wait(browser, lambda driver: run(driver, focused) == name)  # told after it has closed
    heat = "getComputedStyle(document.querySelector('#gallery canvas.heat')).display"
    press(browser, "h")
    assert run(browser, heat) == "none"
    press(browser, "h")
    assert run(browser, heat) != "none"
    run(browser, "document.getElementById('threshold').focus()")
    press(browser, Keys.ARROW_RIGHT)
    assert run(browser, "document.getElementById('threshold-value').textContent") == "0.405"
    assert "--threshold 0.405" in run(browser, "document.getElementById('rethreshold').textContent")


@pytest.mark.slow
def test_names_from_data_are_text(browser, page, source):
    rows = page()
    assert f"</{HOSTILE}" in rows.keys
    assert run(browser, "document.title").startswith("Boxes in ")
    assert run(browser, "document.querySelector('#gallery b img')") is None
    assert "<" in run(browser, "[...document.getElementById('by-label').options].map(o => o.value)")


@pytest.mark.slow
def test_a_phone_scrolls_downwards_only(browser, page):
    page(width=390)
    assert run(browser, "document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_views_are_windows_of_the_picture(browser, page, source):
    from ccrop_pipeline.views import ViewCutter
    from ccrop_pipeline.views.batch import hash_keys

    rows = page()
    (item,) = run(
        browser,
        "items.filter(i => i.key === 'dogs/00.jpg').map(i => ({size: i.size, views: i.views}))",
    )
    cutter = ViewCutter((ccrop.ViewGroup(2, 64),))
    box = rows.boxes[[rows.keys.index("dogs/00.jpg")]]
    windows = cutter.windows(hash_keys(["dogs/00.jpg"]), np.array([item["size"]]), box, 0)
    assert item["views"] == windows[:, 0].tolist()


@pytest.mark.slow
def test_two_sets_are_compared_image_by_image(browser, page, source, tmp_path):
    other, others = made(tmp_path / "other", source, BoxRule(0.7))
    rows = page(against=other)
    choose(browser, "sort", "change")
    overlap = iou(rows.boxes.astype(float), others.boxes.astype(float))
    by_key = dict(zip(rows.keys, overlap, strict=True))
    assert all(by_key[a] <= by_key[b] for a, b in pairwise(shown(browser)))
    first = run(browser, "document.querySelector('#gallery .card figcaption span').textContent")
    assert f"IoU {overlap.min():.2f} with other" in first
    assert f"IoU of the boxes of an image is {overlap.mean():.3f}" in run(
        browser, "document.querySelector('.findings').textContent"
    )


@pytest.mark.slow
def test_boxes_of_a_run_are_sorted_by_what_moved_since_the_refresh_before(
    browser, page, source, tmp_path
):
    made(tmp_path / "boxes/epoch-0002", source, BoxRule(0.2))
    _, before = made(tmp_path / "boxes/epoch-0010", source, BoxRule(0.7))
    (tmp_path / "boxes/epoch-0011").mkdir()  # not complete
    rows = page(name="boxes/epoch-0100")
    choose(browser, "sort", "moved")
    overlap = iou(rows.boxes.astype(float), before.boxes.astype(float))
    by_key = dict(zip(rows.keys, overlap, strict=True))
    assert all(by_key[a] <= by_key[b] for a, b in pairwise(shown(browser)))
    first = run(browser, "document.querySelector('#gallery .card figcaption span').textContent")
    assert f"IoU {overlap.min():.2f} with epoch 10" in first


def test_a_set_of_other_images_is_none_to_compare_with(source, tmp_path):
    boxes, _ = made(tmp_path / "boxes", source, BoxRule(0.7))
    noise(tmp_path / "photos", 2)
    fixed_boxes(ccrop.open_source(tmp_path / "photos"), tmp_path / "others", "centre")
    with pytest.raises(
        ccrop.CcropError, match=r"none of these images of .*boxes: give as `against"
    ):
        ccrop.report_boxes(boxes, source, tmp_path / "page.html", against=tmp_path / "others")
    assert not (tmp_path / "page.html").exists()


def noise(folder, count):
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 200, 200, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:04}.png")


@pytest.mark.slow
def test_a_page_of_many_images_stays_small_and_says_what_it_shows(tmp_path):
    noise(tmp_path / "photos", 260)
    source = ccrop.open_source(tmp_path / "photos")
    (shard,) = source.shards
    keys = [sample.key for sample in source.read(shard)]
    edges = np.linspace(0.1, 0.9, len(keys))
    rows = table(keys, [[0, 0, edge, edge] for edge in edges])
    rows = replace(rows, heatmaps=np.zeros((len(keys), 28, 28), np.float16))
    box_set_of(tmp_path / "set", rows, names=[shard], made_by=provenance(BoxRule(0.2)))
    page = ccrop.report_boxes(tmp_path / "set", source, tmp_path / "page.html")
    assert page.stat().st_size < 5_000_000
    text = page.read_text("utf-8")
    told = re.search(r"(\d+) of 260 images, from 1 of its shards", text)
    assert 150 <= int(told[1]) == text.count('"key":') <= 200
    for key in (keys[0], keys[-1]):  # the smallest and the largest
        assert f'"{key}"' in text


def test_a_page_needs_no_network_and_repeats_itself(source, tmp_path):
    box_set, _ = made(tmp_path / "set", source, RULES[0])
    one, two = (ccrop.report_boxes(box_set, source, tmp_path / n).read_bytes() for n in "ab")
    assert one == two
    assert not re.search(rb"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", one)


def test_images_of_another_source_are_told(source, tmp_path):
    box_set, rows = made(tmp_path / "set", source, RULES[0])
    changed = replace(rows, image_hash=rows.image_hash + np.uint64(1), keys=[*rows.keys])
    changed.keys[0] = "not/there"
    box_set_of(tmp_path / "other", changed, names=source.shards, made_by=provenance(RULES[0]))
    text = ccrop.report_boxes(tmp_path / "other", source, tmp_path / "a.html").read_text("utf-8")
    assert "1 image of 37 not in the source" in text
    assert "36 images of 37 with other bytes" in text
    elsewhere = Scenes(3)
    two = f"{rows.keys[0]}, {rows.keys[1]}", ", ".join(elsewhere.index().keys[:2])
    told = f"its keys are like {two[0]}, and those there like {two[1]}\\. Give the source that"
    with pytest.raises(ccrop.CcropError, match=told):
        ccrop.report_boxes(box_set, elsewhere, tmp_path / "b.html")


def test_the_command_never_overwrites_unasked(source, tmp_path, monkeypatch):
    made(tmp_path / "set", source, RULES[0])
    monkeypatch.chdir(tmp_path)
    command = ["boxes", "report", "set", str(source.location)]
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert CliRunner().invoke(cli, command).exit_code == 0, "as after a kill in its last steps"
    (tmp_path / "set.html").write_text("mine")
    refused = CliRunner().invoke(cli, command)
    assert refused.exit_code == 1
    assert "--overwrite" in refused.output
    assert (tmp_path / "set.html").read_text() == "mine"
    assert CliRunner().invoke(cli, [*command, "--overwrite"]).exit_code == 0


def test_boxes_without_heatmaps_or_images_have_a_page(source, tmp_path):
    runner = CliRunner()
    done = runner.invoke(cli, ["boxes", "centre", str(source.location), str(tmp_path / "centre")])
    assert done.exit_code == 0
    page = ccrop.report_boxes(tmp_path / "centre", source, tmp_path / "centre.html")
    assert '"grid":null' in page.read_text("utf-8")
