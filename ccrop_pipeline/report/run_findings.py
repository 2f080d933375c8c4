"""What is worth knowing of a run, the gravest first."""

from collections.abc import Iterator, Sequence

from ccrop_pipeline.errors import counted
from ccrop_pipeline.report.audit import Audit
from ccrop_pipeline.report.drift import Drift
from ccrop_pipeline.report.rendering import Finding, gravest_first, sentence, verdict_finding
from ccrop_pipeline.report.run_history import History, Record, number, time_spent

_FEW = 6  # epochs: of fewer it is not said where the loss goes
_STILL = 0.95  # mean IoU of boxes that a refresh has hardly moved
_FALLEN = 0.03  # of accuracy, from its best
_CHANCE = 1.1  # times chance: no better than that
_LONG = 0.3  # share of the time


def run_findings(history: History, judged: Audit | None, last: Drift | None) -> list[Finding]:
    """Return what is worth knowing of a run, the gravest first.

    Args:
        history: Its records.
        judged: The audit of its newest boxes.
        last: How far the last refresh moved them.
    """
    if not history.train:
        text = "No epoch is complete yet. The same command goes on."
        return [Finding("note", "Nothing is trained yet", text)]
    found = [*_verdict(history), *_loss(history), *_accuracy(history)]
    if judged is not None:
        found.append(verdict_finding(judged, "the newest boxes"))
    if last is not None and last.mean_iou >= _STILL:
        found.append(
            Finding(
                "note",
                "The last refresh hardly moved the boxes",
                f"The two boxes of an image have a mean IoU of {last.mean_iou:.2f}. Fewer "
                "refreshes would do.",
                "sort=moved",
            )
        )
    return gravest_first([*found, *_course(history)])


def _verdict(history: History) -> Iterator[Finding]:
    """Yield the verdict of the last epoch."""
    verdict, why = (str(history.train[-1].get(name, "")) for name in ("verdict", "why"))
    if verdict:
        level, title = {
            "learning": ("good", "The run is learning"),
            "collapsing": ("bad", "The run is collapsing"),
            "not learning": ("bad", "The run is not learning"),
        }.get(verdict, ("note", f"Whether the run is learning is {verdict}"))
        yield Finding(level, title, f"{sentence(why)}.")


def _loss(history: History) -> Iterator[Finding]:
    """Yield whether the loss falls: the last third of the epochs beside the third before."""
    losses = [value for _, value in history.points("loss")]
    if len(losses) < _FEW:
        return
    third = len(losses) // 3
    before, now = losses[-2 * third : -third], losses[-third:]
    means = sum(before) / third, sum(now) / third
    told = f"its mean is {means[0]:.4g} over the third of the epochs before the last"
    if means[1] >= means[0]:
        yield Finding(
            "note",
            "The loss does not fall any more",
            f"{sentence(told)}, and {means[1]:.4g} over the last. Has the accuracy of a "
            "probe come to an end as well, training is done, or the learning rate does not fit.",
        )
    else:
        text = (
            f"From {losses[0]:.4g} to {losses[-1]:.4g}; {told}, and {means[1]:.4g} over the last."
        )
        yield Finding("good", "The loss falls", text)


def _accuracy(history: History) -> Iterator[Finding]:
    """Yield what the kNN probe says."""
    points = history.points("knn")
    if not points:
        return
    (epoch, now), (best_at, best) = points[-1], max(points, key=lambda point: point[1])
    chance = history.last("knn_chance")
    if chance is not None and now <= _CHANCE * chance:
        yield Finding(
            "bad",
            "The kNN accuracy is no better than chance",
            f"{now:.1%} after epoch {epoch:g}, where answering with the most frequent class gives "
            f"{chance:.1%}. If more epochs do not change it, begin another run with a lower "
            "learning rate (`optimizer.lr`).",
        )
    elif best - now > _FALLEN:
        text = f"{best:.1%} after epoch {best_at:g}, {now:.1%} after epoch {epoch:g}."
        yield Finding("note", "The kNN accuracy has fallen", text)
    elif (start := history.last("knn_start")) is not None and now <= start:
        asked = history.last("knn_queries")
        text = (
            f"{now:.1%} of {asked:,g} images after epoch {epoch:g}, and {start:.1%} before the "
            "first: training has not made the weights that it began with better at this. Freeze "
            "more of them (`freeze`), lower the learning rate (`optimizer.lr`), or go on with "
            "those weights as they are."
        )
        yield Finding("note", "The kNN accuracy is no better than before training", text)
    else:
        beside = "" if chance is None else f"; the most frequent class alone gives {chance:.1%}"
        text = (
            f"After epoch {epoch:g}, with {points[0][1]:.1%} after epoch {points[0][0]:g}{beside}."
        )
        yield Finding("good", f"kNN accuracy {now:.1%}", text)


def _course(history: History) -> Iterator[Finding]:
    """Yield how the run went: unreadable images, its end, its starts, what it waited for."""
    if grey := number(history.train[-1], "unreadable"):
        yield Finding(
            "note",
            f"{counted(int(grey), 'image')} could not be decoded",
            "They were shown as grey in the last epoch; `unreadable.txt` of the run names them.",
        )
    if history.epochs < history.planned:
        yield Finding(
            "note",
            f"{history.epochs} of {counted(history.planned, 'epoch')} trained",
            "Unless it is still at work, it was stopped: the same command goes on from there.",
        )
    spent = time_spent(history)
    share = spent.get("waiting for views", 0) / (sum(spent.values()) or 1)
    if share > _LONG:
        yield Finding(
            "note",
            f"{share:.0%} of the time was spent waiting for views",
            "More loader processes (`workers`) or smaller images would help.",
        )
    if resumed := history.starts[1:]:
        yield Finding("note", f"Resumed {_times(len(resumed))}", _resumed(resumed))


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def _resumed(starts: Sequence[Record]) -> str:
    epochs = [f"{record['epoch']}" for record in starts[-5:]]
    more = "..., " if len(starts) > len(epochs) else ""
    return f"After epoch {more}{', '.join(epochs)}: what was computed before was kept."
