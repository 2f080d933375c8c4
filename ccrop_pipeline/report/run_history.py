"""What a run has recorded, as curves, as a line of stages, and as the time that each part took."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ccrop_pipeline.report.curves import Chart, Line, Points, chart

Record = Mapping[str, Any]

# What is no curve: the epoch itself, settings of a probe, and what another curve holds.
_NO_CURVES = {
    "epoch", "seconds", "unreadable",
    "knn_k", "knn_temperature", "knn_bank", "knn_queries", "knn_input_size", "knn_start",
    "knn_seconds",
}  # fmt: skip
_GREATEST = 1e30


@dataclass(frozen=True)
class Stage:
    """A stretch of a run.

    Attributes:
        kind: `random` or `boxes` for training by random crops or by boxes, `refresh`, or `left`
            for what is not trained yet.
        epochs: First and last epoch, counted from 1; both the epoch before it for a refresh.
        boxes: The box set that is used, or made.
        seconds: Time that it took, or is likely to take; None where it was not measured.
    """

    kind: str
    epochs: tuple[int, int]
    boxes: str | None
    seconds: float | None

    @property
    def text(self) -> str:
        """What it is, in a few words."""
        first, last = self.epochs
        span = f"epoch {first}" if first == last else f"epochs {first} to {last}"
        return {
            "random": f"{span}: random crops",
            "boxes": f"{span}: boxes from {self.boxes}",
            "refresh": f"after epoch {first}: new boxes, {self.boxes}",
            "left": f"{span}: not trained yet",
        }[self.kind]


@dataclass(frozen=True)
class History:
    """The records of a run.

    Attributes:
        train: Those of epochs.
        refresh: Those of box sets.
        starts: Those of each time that training began.
        planned: Epochs of the whole run.
    """

    train: Sequence[Record]
    refresh: Sequence[Record]
    starts: Sequence[Record]
    planned: int

    @classmethod
    def of(cls, records: Iterable[Record], planned: int) -> "History":
        """Return the records by their kind, without those of epochs that the run has not."""
        within = [
            {**record, "boxes": record.get("boxes")}
            for record in records
            if 0 <= record["epoch"] <= planned
        ]
        train, refresh, starts = (
            [record for record in within if record["stage"] == stage]
            for stage in ("train", "refresh", "start")
        )
        return cls(train, refresh, starts, planned)

    @property
    def epochs(self) -> int:
        """Epochs trained so far."""
        return int(self.train[-1]["epoch"]) if self.train else 0

    def points(self, name: str, records: Iterable[Record] | None = None) -> Points:
        """Return epoch and value of a figure, where it is a number."""
        records = self.train if records is None else records
        found = ((record["epoch"], number(record, name)) for record in records)
        return [(epoch, value) for epoch, value in found if value is not None]

    def last(self, name: str) -> float | None:
        """Return the newest value of a figure of the epochs."""
        points = self.points(name)
        return points[-1][1] if points else None


def number(record: Record, name: str) -> float | None:
    """Return a figure of a record; None where it has none, or one that cannot be drawn."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _GREATEST else None  # not a number is not, either


def stages(history: History) -> list[Stage]:
    """Return the stretches of a run in order, from its records."""
    found: list[Stage] = []
    made = [*history.refresh]
    for boxes, group in groupby(history.train, key=lambda record: record["boxes"]):
        records = [*group]
        first, last = int(records[0]["epoch"]), int(records[-1]["epoch"])
        found += [_refresh(record) for record in made if record["epoch"] < first]
        made = [record for record in made if record["epoch"] >= first]
        kind = "boxes" if boxes else "random"
        found.append(Stage(kind, (first, last), boxes, _seconds(records, "seconds", "knn_seconds")))
    found += map(_refresh, made)
    if history.epochs < history.planned:
        spent = _seconds(history.train, "seconds", "knn_seconds")
        left = history.planned - history.epochs
        likely = spent / len(history.train) * left if spent else None
        found.append(Stage("left", (history.epochs + 1, history.planned), None, likely))
    return found


def _refresh(record: Record) -> Stage:
    epoch = int(record["epoch"])
    return Stage("refresh", (epoch, epoch), record["boxes"], number(record, "seconds"))


def _seconds(records: Iterable[Record], *names: str) -> float | None:
    found = [number(record, name) for record in records for name in names]
    return sum(each for each in found if each is not None) or None


def time_spent(history: History) -> dict[str, float]:
    """Return seconds by what they were spent on, without what took none or was not measured."""
    waits = (
        (number(record, "seconds") or 0) * (number(record, "data_wait") or 0)
        for record in history.train
    )
    waited = sum(waits)
    spent = {
        "waiting for views": waited,
        "steps": (_seconds(history.train, "seconds") or 0) - waited,
        "refreshes": _seconds(history.refresh, "seconds") or 0,
        "probes": _seconds(history.train, "knn_seconds") or 0,
    }
    return {name: seconds for name, seconds in spent.items() if seconds > 0}


@dataclass(frozen=True)
class _Plan:
    """What a chart shows: figures of records by what they are called, and how they are drawn."""

    title: str
    lines: Mapping[str, str]
    references: Mapping[str, str] = field(default_factory=dict)
    level: tuple[str, float] | None = None  # a reference that is the same in all epochs
    percent: bool = False
    from_zero: bool = True
    refresh: bool = False  # whether records are those of refreshes


def charts(history: History) -> list[Chart]:
    """Draw every figure that the records have, those that say most first."""
    from ccrop_pipeline.training.collapse import LOW_SPREAD

    names = {name: None for record in history.train for name in record}
    curves = [name for name in names if name not in _NO_CURVES and history.points(name)]
    probes = {"knn": "kNN"} | {name: name for name in curves if name.startswith("linear")}
    rank, limit = {"rankme": "rank"}, {"rankme_limit": "most possible"}
    boxes = {"mean_area": "mean area", "share_full": "whole image", "share_empty": "empty"}
    first = [
        _Plan("Loss", {"loss": "loss"}, from_zero=False),
        _Plan("Accuracy of probes", probes, {"knn_chance": "chance"}, percent=True),
        _Plan("Spread of embeddings", {"embedding_std": "spread"}, level=("collapse", LOW_SPREAD)),
        _Plan("Rank of embeddings (RankMe)", rank, limit),
    ]
    last = [
        _Plan("Learning rate", {"lr": "learning rate"}),
        _Plan("Boxes of refreshes", boxes, percent=True, refresh=True),
        _Plan("IoU with the boxes before", {"iou_with_previous": "mean IoU"}, refresh=True),
        _Plan("Images a second", {"images_per_s": "images/s"}),
        _Plan("Waiting for views", {"data_wait": "share of the time"}, percent=True),
    ]
    of_epochs = [plan for plan in (*first, *last) if not plan.refresh]
    known = {name for plan in of_epochs for name in (*plan.lines, *plan.references)}
    others = [_Plan(name, {name: name}, from_zero=False) for name in curves if name not in known]
    drawn = (_drawn(plan, history) for plan in (*first, *others, *last))
    return [each for each in drawn if each is not None]


def _drawn(plan: _Plan, history: History) -> Chart | None:
    records = history.refresh if plan.refresh else history.train
    lines = [
        Line(called, history.points(name, records), reference=name in plan.references)
        for name, called in (*plan.lines.items(), *plan.references.items())
    ]
    if plan.level:
        called, value = plan.level
        ends = [(1.0, value), (float(history.planned), value)]
        lines.append(Line(called, ends, reference=True))
    return chart(
        plan.title,
        lines,
        history.planned,
        marks=[record["epoch"] for record in history.refresh],
        percent=plan.percent,
        from_zero=plan.from_zero,
    )
