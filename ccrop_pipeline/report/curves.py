"""Curves by epoch as drawings: axes with round numbers, lines, and the points behind them."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 360.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 8.0, 8.0, 22.0
_MOST = 400  # points of a line: more than one a pixel is not seen


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: What people call it.
        points: Epoch and value of each, by epoch.
        reference: Whether it is what others are compared with, such as chance.
        path: Places of the points in the drawing, for the attribute `points` of a polyline.
    """

    name: str
    points: Points
    _: KW_ONLY
    reference: bool = False
    path: str = ""


@dataclass(frozen=True)
class Chart:
    """A drawing of lines by epoch, of `WIDTH` by `HEIGHT`.

    Attributes:
        title: What the values are.
        lines: At least one with a point.
        percent: Whether values are shares.
        across: Place and text of the ticks of the epochs.
        up: Place and text of the ticks of the values.
        marks: Places of the epochs after which boxes were computed.
        epochs: The first and the last epoch of the axis.
        frame: Left, top, right and bottom of what lines are drawn in.
    """

    title: str
    lines: tuple[Line, ...]
    percent: bool
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    marks: tuple[float, ...]
    epochs: tuple[float, float]
    frame: tuple[float, float, float, float] = (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)

    @property
    def summary(self) -> str:
        """What a reader of screens is told."""
        told = [
            f"{line.name} from {self.text(line.points[0][1])} to {self.text(line.points[-1][1])}"
            for line in self.lines
            if not line.reference
        ]
        return f"{self.title} by epoch: {', '.join(told)}"

    def text(self, value: float) -> str:
        """Return a value as people read it."""
        return f"{value:.1%}" if self.percent else f"{value:.4g}"


def chart(
    title: str,
    lines: Sequence[Line],
    epochs: int,
    *,
    marks: Sequence[float] = (),
    percent: bool = False,
    from_zero: bool = False,
) -> Chart | None:
    """Draw lines over the epochs of a run.

    Args:
        title: What the values are.
        lines: Those without points are left out.
        epochs: Of the whole run, trained or not.
        marks: Epochs after which boxes were computed.
        percent: Whether values are shares.
        from_zero: Whether the axis begins at 0.

    Returns:
        The drawing; None where no line but references has two points.
    """
    lines = [line for line in lines if line.points]
    if all(line.reference or len(line.points) < 2 for line in lines):
        return None
    values = [value for line in lines for _, value in line.points]
    ticks = round_ticks(min([0.0] * from_zero + values), max(values))
    first, last = 1.0, float(max(2, epochs))
    low, high = ticks[0], ticks[-1]

    def x(epoch: float) -> float:
        share = (max(epoch, first) - first) / (last - first)
        return round(_LEFT + share * (WIDTH - _RIGHT - _LEFT), 2)

    def y(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _BOTTOM - _TOP), 2)

    drawn = [
        Line(
            line.name,
            points := thinned(line.points),
            reference=line.reference,
            path=" ".join(f"{x(epoch):g},{y(value):g}" for epoch, value in points),
        )
        for line in lines
    ]
    whole = [
        tick for tick in round_ticks(first, last) if tick == int(tick) and first < tick <= last
    ]
    if not whole or whole[0] - first > (last - first) / 12:
        whole.insert(0, first)
    return Chart(
        title,
        tuple(drawn),
        percent,
        tuple((x(tick), f"{int(tick):,}") for tick in whole),
        tuple((y(tick), f"{100 * tick:g}%" if percent else f"{tick:g}") for tick in ticks),
        tuple(x(mark) for mark in marks),
        (first, last),
    )


def round_ticks(low: float, high: float) -> list[float]:
    """Return three to seven round numbers, evenly spaced, from at most `low` to at least `high`.

    Steps are 1, 2 or 5 times a power of 10.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # a line that never changes
        around = abs(high) / 10 or 1.0
        low, high = low - around, high + around
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
    digits = max(0, 1 - math.floor(math.log10(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, digits) for number in range(first, last + 1)]


def thinned(points: Points) -> Points:
    """Return a few hundred points of many, the least and the greatest of each stretch."""
    if len(points) <= _MOST:
        return points
    size = math.ceil(2 * len(points) / _MOST)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept
