"""Hostile files of runs, by seed; counted by verdict.

The long run: `python tests/hostile/hostile_runs.py 400`.
"""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from damaging import changed, dumped, garbled, written
from judging import WrongError, counted, judged, main

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Metrics, Run

RECIPE = load_recipe("demo", ["image_size=24", "eval_size=48"])


def _run(rng: Random, folder: Path) -> Path:
    value: Any = {
        "recipe": RECIPE.to_dict(), "source": {"kind": "tar", "fingerprint": "ab"}, "boxes": None,
        "missing_boxes": "error", "weights": None, "places": {"source": "a.tar"}, "id": "c0ffee",
    }  # fmt: skip
    for _ in range(rng.randrange(3)):
        value = changed(rng, value)
    return _as_json(rng, folder / "run.json", [value], indent=1)


def _metrics(rng: Random, folder: Path) -> Path:
    records: list[Any] = [
        {"stage": stage, "epoch": epoch, "boxes": None, "loss": 1.5, "seconds": 2, "lr": 0.1}
        for epoch in range(1, 4) for stage in ("train", "refresh")
    ]  # fmt: skip
    for _ in range(rng.randrange(3)):
        records = changed(rng, records)
    return _as_json(rng, folder / "metrics.jsonl", records if isinstance(records, list) else [])


def _as_json(rng: Random, path: Path, values: list[Any], indent: int | None = None) -> Path:
    ascii_only = rng.random() < 0.5
    lines = [dumped(value, ensure_ascii=ascii_only, indent=indent) for value in values]
    data = b"".join(line + b"\n" for line in lines)
    return written(path, garbled(rng, data) if rng.random() < 0.5 else data)


def _read_run(path: Path) -> None:
    run = Run(path.parent)
    with suppress(CcropError):
        run.start({"recipe": RECIPE.to_dict(), "source": {"kind": "tar", "fingerprint": "ab"}})
    _ = run.id, run.started(), run.source(), run.source_fingerprint()
    if run.recipe().to_dict() != run.started()["recipe"]:
        raise WrongError("another recipe")


def _read_metrics(path: Path) -> None:
    before = path.read_bytes()
    records = Metrics(path.parent).records()
    lines = before.split(b"\n")[:-1]
    if [json.loads(line) for line in lines] != records:
        raise WrongError("other records")
    with suppress(CcropError):
        Run(path.parent).last_record("loss")
    Metrics(path.parent).truncate_after(2)
    kept = [record for record in records if record["epoch"] <= 2]
    if Metrics(path.parent).records() != kept:
        raise WrongError("other records when cut")


KINDS: dict[str, tuple[Callable[[Random, Path], Path], Callable[[Path], None]]] = {
    "run.json": (_run, _read_run),
    "metrics.jsonl": (_metrics, _read_metrics),
}


def verdict(kind: str, seed: int, folder: Path) -> str:
    """`taken`, `refused` by a message that names the file; else what went wrong."""
    make, read = KINDS[kind]
    path = make(Random(f"{kind} {seed}"), folder / "made")
    return judged(lambda: read(path), [path.name])


def verdicts(kind: str, seeds: range) -> Counter[str]:
    """Count the verdicts of a kind; each input has a folder of its own."""
    return counted(kind, seeds, verdict)


if __name__ == "__main__":
    main(KINDS, verdicts)
