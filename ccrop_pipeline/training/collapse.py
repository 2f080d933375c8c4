"""Whether a run learns or collapses: the rank of its embeddings, and a verdict an epoch."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ccrop_pipeline.errors import counted
from ccrop_pipeline.recipes import Recipe

# The last rows of an epoch that the rank is of: fewer where they are long, so that their singular
# values take a fraction of a second, and their copies 64 MB.
_ROWS, _LONG_ROWS, _NUMBERS = 2048, 1024, 2**24
_EPSILON: Final = 1e-7  # of the paper, for float32


def rankme(embeddings: Tensor) -> float:
    """Return the effective rank of embeddings: the exponential of the entropy of their spectrum.

    With p_k = s_k / sum(s) + epsilon of the singular values s, it is exp(-sum(p_k log p_k)), as in
    equation 1 of RankMe (Garrido et al., ICML 2023, arXiv:2210.02885), whose epsilon is 1e-7. It
    is 1 where all rows are multiples of one, and the length of a row where they fill all
    dimensions evenly.

    Args:
        embeddings: (N, dim), neither centred nor normalised.

    Returns:
        A number from 1 to min(N, dim); NaN where an embedding is not finite.
    """
    rows = embeddings.detach().double()
    gram = rows.T @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.T
    if not gram.isfinite().all():
        return float("nan")
    # Squares of the singular values, a thousand times quicker than a decomposition of the rows.
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    p = singular / singular.sum().clamp(min=torch.finfo(gram.dtype).tiny) + _EPSILON
    return float((-(p * p.log()).sum()).exp())


class NewestRows:
    """The last rows of embeddings, a few thousand at most, on their device.

    Args:
        share: Of all rows of a batch, those that are given here: 1 / processes.
    """

    def __init__(self, share: float = 1.0) -> None:
        self._share = share
        self._parts: deque[Tensor] = deque()

    def add(self, embeddings: Tensor) -> None:
        """Take in (B, dim) embeddings, and forget the oldest."""
        dim = embeddings.shape[1]
        rows = min(_ROWS if dim <= _LONG_ROWS else _LONG_ROWS, _NUMBERS // dim)
        most = max(1, int(rows * self._share))
        # A copy: what is given may be a part of something larger.
        self._parts.append(embeddings.detach()[:most].clone())
        while sum(map(len, self._parts)) > most:
            self._parts.popleft()

    def all(self) -> Tensor:
        """Return them, (N, dim)."""
        return torch.cat([*self._parts])


# Thresholds; docs/training.md has the runs that they were set by. A run collapses whose embeddings
# have had a rank or a spread below these in two epochs, and is not clear below twice as much.
_RANK, LOW_SPREAD = 5.0, 0.05
_OF_DINO = 0.5  # of these, for DINO: its outputs spread late
_OF_LIMIT = 1 / 8  # of the greatest rank there can be, where that is less than _RANK
_CHANCE, _MOVED = 0.99, 0.01  # of the loss of chance; of the loss of the first epoch
# A run does not learn whose loss has been above this times that of chance for so many epochs.
_ABOVE, _EPOCHS = 1.02, 3
_LOST = 3  # epochs in a row that do not learn, after which a run is given up

_ADVICE = {
    "simclr": "lower method.temperature",
    "mocov1": "lower method.temperature",
    "mocov2": "lower method.temperature",
    "mocov3": "lower method.temperature",
    "byol": "raise method.encoder_momentum",
    "simsiam": "set method.fixed_predictor_rate=true",
    "dino": "lower method.teacher_temperature",
    "barlowtwins": "raise method.off_diagonal_weight",
    "vicreg": "raise method.variance_weight",
    "lejepa": "raise method.gaussian_weight",
}

LEARNING, COLLAPSING, UNCLEAR = "learning", "collapsing", "not yet clear"
NOT_LEARNING = "not learning"


class Verdict(NamedTuple):
    """How a run goes.

    Attributes:
        verdict: "learning", "collapsing", "not learning" or "not yet clear".
        why: Why, and what to do, for people.
    """

    verdict: str
    why: str


def judge(records: Sequence[Mapping[str, Any]], recipe: Recipe) -> Verdict:
    """Tell how a run goes by its epochs so far.

    Args:
        records: Of its epochs, at least one, the newest last; see docs/training.md.
        recipe: Recipe of the run.
    """
    first, newest = records[0], records[-1]
    ends = len(records) >= recipe.epochs
    factor = _OF_DINO if recipe.method.name == "dino" else 1.0
    if low := _low(newest, factor):
        if len(records) > 1 and _low(records[-2], factor):
            advice = f"lower optimizer.lr, or {_ADVICE[recipe.method.name]}"
            return Verdict(COLLAPSING, f"{low}, for two epochs: {advice}, in another run")
        more = "" if ends else "; a second such epoch would be a collapse"
        return Verdict(UNCLEAR, low + more)
    if bad := _no_better_than_chance(records, recipe):
        return bad
    if low := _low(newest, 2 * factor):
        return Verdict(UNCLEAR, low)
    if len(records) == 1:
        return Verdict(UNCLEAR, "one epoch tells little")
    chance = chance_loss(recipe)
    if chance is not None and newest["loss"] >= _CHANCE * chance:
        lower = (
            "lower optimizer.lr, in another run" if ends else "if it stays so, lower optimizer.lr"
        )
        advice = f"; {lower}" if len(records) > 2 else ""
        return Verdict(UNCLEAR, _beside(newest, chance) + advice)
    if abs(newest["loss"] - first["loss"]) < _MOVED * abs(first["loss"]):
        return Verdict(UNCLEAR, f"the loss has not moved from {first['loss']:.4g}")
    return Verdict(LEARNING, f"embeddings fill {_rank(newest)}")


def _no_better_than_chance(records: Sequence[Mapping[str, Any]], recipe: Recipe) -> Verdict | None:
    """Judge a run whose loss is above that of chance, or whose features are worth no more."""
    chance, latest = chance_loss(recipe) or math.inf, records[-_EPOCHS:]
    if len(latest) == _EPOCHS and all(record["loss"] > _ABOVE * chance for record in latest):
        why = f"{_beside(latest[-1], chance)}, for {counted(_EPOCHS, 'epoch')}"
        return Verdict(NOT_LEARNING, f"{why}: lower optimizer.lr, in another run")
    probed = [record for record in records if "knn_chance" in record][-2:]
    low = [record["knn"] <= record["knn_chance"] for record in probed]
    if not low or not low[-1]:
        return None
    knn = "the kNN accuracy, {knn:.1%}, is no better than chance, {knn_chance:.1%}"
    told = knn.format_map(probed[-1])
    if low == [True, True]:
        advice = "lower optimizer.lr, in another run; if that changes nothing, check the labels"
        return Verdict(NOT_LEARNING, f"{told}, for two probes: {advice}")
    if probed[-1] is records[-1]:
        ends = len(records) >= recipe.epochs
        when = "if the next probe says so too, lower optimizer.lr"
        when = "begin another run, with more epochs or a lower optimizer.lr" if ends else when
        return Verdict(UNCLEAR, f"{told}; {when}")
    return None


def given_up(records: Sequence[Mapping[str, Any]]) -> str | None:
    """Tell what is wrong with a run that is not worth going on with, by the verdicts of its epochs.

    Args:
        records: Of its epochs, at least one, the newest last, with their verdicts.

    Returns:
        "collapses", or "does not learn" after three epochs in a row that do not; else None.
    """
    verdicts = [record.get("verdict") for record in records[-_LOST:]]
    if verdicts[-1] == COLLAPSING:
        return "collapses"
    return "does not learn" if verdicts == [NOT_LEARNING] * _LOST else None


def _beside(record: Mapping[str, Any], chance: float) -> str:
    return f"the loss, {record['loss']:.3g}, is no better than that of chance, {chance:.3g}"


def chance_loss(recipe: Recipe) -> float | None:
    """Return the loss of a method that can tell no image from another; None: its loss does not say.

    It is the cross entropy of equal similarities, over as many as the loss compares.
    """
    settings: Any = recipe.method
    images = recipe.batch_size // recipe.accumulate
    match settings.name:
        case "simclr":
            return math.log(2 * images - 1)
        case "mocov1" | "mocov2":
            return math.log(settings.queue_size + 1)
        case "mocov3":  # two directions, each 2 tau times the cross entropy
            return float(4 * settings.temperature * math.log(images))
        case "dino":
            return math.log(settings.projection_dim)
    return None


def _low(record: Mapping[str, Any], factor: float) -> str:
    """Return what is too low in an epoch; "" where nothing is."""
    spread, rank = record["embedding_std"], record.get("rankme")
    if spread < factor * LOW_SPREAD:
        return f"embeddings of all images are alike (spread {spread:.3f} of 1)"
    if rank is not None and rank < factor * min(_RANK, _OF_LIMIT * record["rankme_limit"]):
        return f"embeddings fill only {_rank(record)}"
    return ""


def _rank(record: Mapping[str, Any]) -> str:
    return f"{record['rankme']:.3g} of {record['rankme_limit']} dimensions"
