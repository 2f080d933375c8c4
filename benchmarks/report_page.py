"""Size of the page of a box set, seconds to write it, and to open it in a headless Chromium.

    python -m benchmarks.report_page --boxes 1000000
    python -m benchmarks.report_page --page runs/first-run.html

Makes up a box set with heatmaps of 7 x 7 cells over generated scenes, or takes a page that is
there; opens the page once to warm up and then ROUNDS times, and prints a JSON line: `open_s` is the
median time until the load event, `opens_s` are all. Needs chromium, its driver and selenium.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ccrop_pipeline import report_boxes
from ccrop_pipeline.boxset import (
    FULL_BOX,
    BoxTable,
    EncoderInfo,
    LocalizerInfo,
    Provenance,
    SourceInfo,
    write_manifest,
    write_shard,
)
from ccrop_pipeline.compute.rethreshold import with_rule
from ccrop_pipeline.images import Scenes
from ccrop_pipeline.images.keys import numbered_shards
from ccrop_pipeline.localize import BoxRule

_SIDE, _THRESHOLD = 64, 0.4
_FLAGS = "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run"


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=1_000_000)
    parser.add_argument("--page", type=Path, help="Open this page and make up nothing.")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured: dict[str, Any] = {}
        page = args.page
        if page is None:
            source = Scenes(args.boxes, size=_SIDE)
            make_up(Path(folder, "boxes"), source)
            started = time.perf_counter()
            page = report_boxes(Path(folder, "boxes"), source, Path(folder, "page.html"))
            measured |= {"boxes": args.boxes, "write_s": round(time.perf_counter() - started, 1)}
        measured["bytes"] = page.stat().st_size
        opens = opened(page.resolve(), args.rounds)
    measured |= {"open_s": statistics.median(opens), "opens_s": opens}
    print(json.dumps(measured | {"load": round(os.getloadavg()[0], 1)}))


def make_up(folder: Path, source: Scenes) -> None:
    """Write boxes drawn from random heatmaps, the same each time."""
    rule = BoxRule(_THRESHOLD)
    localizer = LocalizerInfo("sum", _THRESHOLD, None, "all", 0, 0, "bilinear", _SIDE, "none")
    made_by = Provenance(
        EncoderInfo("made up", "layer", "0" * 64, 1), localizer, SourceInfo("scenes", "made up")
    )
    keys = iter(source.index().keys)
    for number, (shard, places) in enumerate(numbered_shards(source.split, source.count).items()):
        wanted = len(places)
        heat = np.random.default_rng(number).random((wanted, 7, 7)) ** 3
        rows = BoxTable(
            keys=[next(keys) for _ in range(wanted)],
            boxes=np.tile(np.float32(FULL_BOX), (wanted, 1)),
            sizes=np.full((wanted, 2), _SIDE, np.uint32),
            orientation=np.ones(wanted, np.uint8),
            status=np.zeros(wanted, np.uint8),
            image_hash=np.zeros(wanted, np.uint64),
            heatmaps=(heat / heat.max(axis=(1, 2), keepdims=True)).astype(np.float16),
        )
        drawn = with_rule(rows, rule, map_name="sum", map_size=_SIDE)
        write_shard(folder, shard, drawn, made_by)
    write_manifest(folder, list(source.shards), made_by)


def opened(page: Path, rounds: int) -> list[float]:
    """Return the seconds until the load event of each opening but the first."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chrome") or ""
    for flag in _FLAGS.split():
        options.add_argument(flag)
    read = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
    found = []
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        driver.set_window_size(1200, 900)
        for _ in range(rounds + 1):
            driver.get("about:blank")
            driver.get(page.as_uri())
            found.append(round(driver.execute_script(read) / 1000, 3))
    return found[1:]


if __name__ == "__main__":
    main()
