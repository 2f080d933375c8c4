"""How long commands would take: each is tried on a few of the images, in a folder that goes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccrop_pipeline.base import Observer, StageSeconds, StepReport

from .time_left import TimeLeft
from .train import recipe_and_plan

if TYPE_CHECKING:
    import torch

    from ccrop_pipeline.images import Sample
    from ccrop_pipeline.localize import Encoder
    from ccrop_pipeline.recipes import Stage
    from ccrop_pipeline.training import PretrainedEncoder

_BATCHES, _STEPS = 3, 5  # of boxes and of training; the first is not counted
# Images of a batch: on a CPU an image takes about as long in a batch of any size.
_ON_CPU, _ON_GPU = 16, 128
_SHOWN = 200  # images on a page, see `report_boxes`


@dataclass
class Trial:
    """Trials on some of the images that commands are to read.

    Args:
        folder: An empty folder for all that is made.
        samples: Images that can be read, one or more.
        images: How many images there are in all.
        chosen_by: How many of them a box rule sets itself by.
        device: Where models run.
    """

    folder: Path
    samples: "list[Sample]"
    images: int
    chosen_by: int
    device: "torch.device"
    _written: int = field(default=0, init=False)

    def boxes(self, encoder: "Encoder") -> float:
        """Return the seconds of `ccrop boxes compute` with an encoder."""
        from ccrop_pipeline.compute import compute_boxes
        from ccrop_pipeline.localize import BoxRule, Localizer, choose_map
        from ccrop_pipeline.localize.rule_choice import WINDOWS

        watch = _BoxWatch()
        batch_size = _ON_CPU if self.device.type == "cpu" else _ON_GPU
        compute_boxes(
            self._source(_BATCHES * batch_size),
            Localizer(encoder, choose_map(encoder), BoxRule(threshold=0.5)),
            self.folder / "boxes",
            batch_size=batch_size,
            observer=watch,
        )
        return watch.start + watch.rate * (self.images + self.chosen_by * (1 + WINDOWS))

    def report(self) -> float:
        """Return the seconds of `ccrop boxes report` on the boxes that were computed."""
        from ccrop_pipeline.report import report_boxes

        started = time.perf_counter()
        report_boxes(self.folder / "boxes", self._source(), self.folder / "boxes.html")
        seconds = time.perf_counter() - started
        return seconds * min(self.images, _SHOWN) / min(self._written, _SHOWN)

    def train(
        self, given: Mapping[str, Any], init: "PretrainedEncoder | None"
    ) -> tuple[float, int]:
        """Return the seconds of `ccrop train`, and its epochs.

        Args:
            given: Its options.
            init: Weights to begin with, None for random ones.
        """
        from ccrop_pipeline.training import train

        names = ("method", "recipe", "overrides", "refresh_every", "boxes")
        own = {name: given[name] for name in names}
        own |= {"init": init if given["init"] else None, "say": lambda _line: None}
        recipe, plan = recipe_and_plan(**own)
        batch_size = _ON_CPU if self.device.type == "cpu" else recipe.batch_size
        short = ("epochs=1", f"batch_size={batch_size}", "probe.every=0", "optimizer.lr=0.001")
        own["overrides"] += short
        watch = _StepWatch(plan, self.images // batch_size)
        source = self._source(_STEPS * batch_size)
        train(
            source,
            self.folder / "run",
            recipe=recipe_and_plan(**own)[0],
            boxes=self.folder / "boxes" if own["boxes"] else None,
            missing="full",
            init=own["init"],
            device=self.device,
            resident_gb=4.0 * min(1.0, self._written / self.images),
            observer=watch,
        )
        return watch.seconds, recipe.epochs

    def _source(self, least: int = 0) -> Path:
        """Return a folder with at least so many images, the same ones again where they are few."""
        from ccrop_pipeline.images.decode import extension_by_content

        place = self.folder / "images"
        place.mkdir(exist_ok=True)
        for number in range(self._written, least):
            image = self.samples[number % len(self.samples)].image
            name = f"{number:05}.{extension_by_content(image) or 'jpg'}"
            (place / name).write_bytes(image)
            self._written = number + 1
        return place


class _BoxWatch(Observer):
    """Clocks boxes: `start`, seconds of the first batch, and `rate`, seconds an image after it."""

    def __init__(self) -> None:
        self._begun = self._first = time.perf_counter()
        self._done, self.start, self.rate = -1, 0.0, 0.0

    def images_done(
        self, images: int, _shard: str = "", _stages: StageSeconds | None = None
    ) -> None:
        """Look at the clock."""
        now = time.perf_counter()
        if self._done < 0:
            self._first, self._done, self.start = now, 0, now - self._begun
        else:
            self._done += images
            self.rate = (now - self._first) / self._done


class _StepWatch(Observer):
    """Clocks steps: `seconds` that a whole run takes by them."""

    def __init__(self, plan: "list[Stage]", steps: int) -> None:
        self._time, self._steps, self.seconds = TimeLeft(plan), max(_STEPS, steps), 0.0

    def step(self, report: StepReport) -> None:
        """Look at the clock."""
        left = self._time.in_epoch(0, report.step, self._steps)
        if left:
            self.seconds = left.seconds / (1 - left.share)
