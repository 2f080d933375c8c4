"""`ccrop demo`."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .option_types import LocalPath
from .printing import note_page, print_line, results

if TYPE_CHECKING:
    from ccrop_pipeline.images import Source
    from ccrop_pipeline.recipes import Recipe
    from ccrop_pipeline.report import Quality


# lab/benchmarks.md, "The demo"
_ONE_SEED = "one run tells little: four such\nruns gained 2, 5, 15 and 20 points"


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does.

    Args:
        train: Scenes to train on.
        test: Scenes to probe on.
        overrides: Settings of the demo recipe to change.
    """

    train: int = 2000
    test: int = 1000
    overrides: tuple[str, ...] = ()


@dataclass
class DemoResult:
    """What the demo measured.

    Attributes:
        seconds: By stage, in the order they ran.
        knn: Accuracy of each run by its name.
        boxes: Path of the newest box set.
        quality: Fit of those boxes to the true ones.
    """

    boxes: Path
    quality: "Quality"
    seconds: dict[str, float] = field(default_factory=dict)
    knn: dict[str, float] = field(default_factory=dict)


@click.command("demo")
@click.argument("out", type=LocalPath(), default=Path("demo"))
def demo(out: Path) -> None:
    """Run the whole pipeline on generated images, in the folder OUT (default: demo).

    Trains twice for the same number of epochs, once with boxes and once with random crops only.
    A few minutes on two cores. A demo that was stopped is resumed by the same command. OUT must be
    new, empty, or of an earlier demo.

    \b
    Example:
      ccrop demo
    """
    from ccrop_pipeline.base.lock import only_writer

    with only_writer(out):
        result = run_demo(out, DemoSize())
    _print_tables(result)
    print_line()
    print_line(f"contact sheet  {out / 'contact_sheet.png'}")
    print_line(f"page of boxes  {out / 'boxes.html'}")
    print_line(f"page of run    {out / 'run.html'}")
    print_line(f"run            {out / 'run'}")
    print_line(f"box set        {result.boxes}")
    note_page(out / "boxes.html")


def run_demo(out: Path, size: DemoSize) -> DemoResult:
    """Make scenes, train with boxes and without, and draw the contact sheet and the pages."""
    from ccrop_pipeline.base.files import written_aside
    from ccrop_pipeline.boxset import BoxSet
    from ccrop_pipeline.recipes import RefreshStage, load_recipe, make_plan
    from ccrop_pipeline.report import box_quality, contact_sheet, report_boxes, report_run

    _claim(out)
    seconds: dict[str, float] = {}
    with _clock(seconds, "make images"):
        train = _scenes(out / "data" / "train", size.train)
        test = _scenes(out / "data" / "test", size.test)
    recipe = load_recipe("demo", size.overrides)
    random_only = load_recipe("demo", [*size.overrides, "boxes.kind=none"])
    knn = {
        "boxes": _train(train, test, out / "run", recipe, seconds),
        "random crops": _train(train, test, out / "run-random", random_only, seconds),
    }
    refreshes = [stage for stage in make_plan(recipe) if isinstance(stage, RefreshStage)]
    boxes = out / "run" / refreshes[-1].boxes
    box_set = BoxSet.open(boxes)
    with written_aside(out / "contact_sheet.png", replace=True) as aside:
        contact_sheet(box_set, train, recipe.crop).save(aside, "PNG")
    report_boxes(box_set, train, out / "boxes.html", crop=recipe.crop, overwrite=True)
    report_run(out / "run", out / "run.html", source=train, overwrite=True)
    return DemoResult(boxes, box_quality(box_set, train)["scenes"], seconds, knn)


# Written first: what is beside it is of a demo.
_MARK = "demo.json"


def _claim(out: Path) -> None:
    from ccrop_pipeline.base.files import expect_free, remove_leftovers, written_aside

    out.mkdir(parents=True, exist_ok=True)
    if (out / _MARK).is_file():
        remove_leftovers(out)
        return
    expect_free(out, "demo")
    with written_aside(out / _MARK) as aside:
        aside.write_text('{"made by": "ccrop demo"}\n', "utf-8")


def _scenes(folder: Path, count: int) -> "Source":
    from ccrop_pipeline.images import Scenes, open_source, pack

    pack(Scenes(count, split=folder.name), folder, prefix=folder.name, max_images=1000)
    return open_source(folder)


def _train(
    train: "Source", test: "Source", run: Path, recipe: "Recipe", seconds: dict[str, float]
) -> float:
    from ccrop_pipeline.recipes import make_plan
    from ccrop_pipeline.training import Inputs, Machine, Trainer

    from .train_progress import StageClock

    progress = StageClock(make_plan(recipe), run.name, seconds)
    machine = Machine(threads=os.cpu_count() or 1)
    trainer = Trainer(Inputs(train, test_source=test), run, recipe, machine, progress)
    with progress:
        trainer.train()
    return float(trainer.run.last_record("knn")["knn"])


@contextmanager
def _clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def _print_tables(result: DemoResult) -> None:
    from rich.console import Console
    from rich.table import Table

    quality = result.quality
    boxes = Table(f"boxes of {quality.images:,} images", "IoU with the true box at least 0.5")
    boxes.add_row("found", f"{quality.found:.1%}")
    boxes.add_row("whole image", f"{quality.whole_image:.1%}")
    boxes.add_row("central 70 %", f"{quality.centre:.1%}")
    runs = Table("training, same epochs, one seed", "kNN accuracy", caption=_ONE_SEED)
    for name, accuracy in result.knn.items():
        runs.add_row(name, f"{accuracy:.1%}")
    times = Table("stage", "seconds")
    for name, taken in result.seconds.items():
        times.add_row(name, f"{taken:.1f}")
    times.add_row("total", f"{sum(result.seconds.values()):.1f}", style="bold")
    console = Console(file=results(), markup=False, emoji=False)
    for table in (boxes, runs, times):
        console.print(table)
