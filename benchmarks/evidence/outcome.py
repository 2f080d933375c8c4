"""What came out of a training, as it is committed."""

import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ccrop_pipeline
from benchmarks.evidence.boxes import statistics
from benchmarks.evidence.measure import (
    LINEAR_PENALTY,
    features,
    knn,
    linear,
    size_quarters,
    some,
)
from benchmarks.evidence.windows import window_statistics
from ccrop_pipeline.images import Source
from ccrop_pipeline.localize import Encoder
from ccrop_pipeline.probes import Features
from ccrop_pipeline.recipes import Recipe
from ccrop_pipeline.training import load_checkpoint

PROBES = "probes.jsonl"
CURVE_BANK, CURVE_QUERIES = 2000, 1000


@dataclass(frozen=True)
class Trained:
    """A training that is done.

    Attributes:
        study: Name of the study.
        arm: Name of the arm.
        seed: Of weights, order, windows and colours.
        train: Images trained on.
        test: Images of the test.
        held: Images for the choice among arms, if there is one.
        device: Where features are computed.
        folder: Of the run.
        warm: Folder of the warm-up that it went on from, if it did.
        boxes: Box set that it was given, if it was.
        refreshed_once: Whether that set comes from the refresh after the warm-up.
    """

    study: str
    arm: str
    seed: int
    train: Source
    test: Source
    held: Source | None
    device: torch.device
    folder: Path
    warm: Path | None
    boxes: Path | None
    refreshed_once: bool


def outcome(done: Trained) -> dict[str, Any]:
    """Measure a training, and gathers all that its result depends on."""
    checkpoint = load_checkpoint(done.folder)
    recipe, encoder = checkpoint.recipe, checkpoint.encoder(done.device)
    bank, queries = features(done.train, encoder), features(done.test, encoder)
    quarters = size_quarters(done.test)
    parts = [queries, *(some(queries, rows) for _, rows in quarters)]
    nearest = [knn(bank, part, recipe.probe) for part in parts]
    fitted = linear(bank, *parts, device=done.device)
    before = [done.warm] if done.warm else []
    records = [record for run in [*before, done.folder] for record in _metrics(run, "train")]
    refreshes = _metrics(done.folder, "refresh")
    if done.warm and done.refreshed_once:
        refreshes = _metrics(done.warm, "refresh")
    sets = [done.boxes] if done.boxes else sorted((done.folder / "boxes").glob("epoch-*"))
    return {
        "study": done.study,
        "arm": done.arm,
        "seed": done.seed,
        "train": {"images": len(bank.labels), "source": Path(done.train.location).name},
        "test": {"images": len(queries.labels), "source": Path(done.test.location).name},
        "epochs": recipe.epochs,
        "images": recipe.epochs * (len(bank.labels) // recipe.batch_size) * recipe.batch_size,
        "knn": nearest[0],
        "knn_settings": {
            "k": recipe.probe.neighbours(len(bank.labels)),
            "temperature": recipe.probe.temperature,
        },
        "linear": fitted[0],
        "linear_penalty": LINEAR_PENALTY,
        "by_size": [
            {"largest": largest, "images": len(rows), "knn": near, "linear": fit}
            for (largest, rows), near, fit in zip(quarters, nearest[1:], fitted[1:], strict=True)
        ],
        "held": _held(done.held, bank, encoder, recipe) if done.held else None,
        "curve": [
            {name: record[name] for name in ("epoch", "loss", "lr", "seconds")}
            for record in records
        ],
        "probes": [
            *(line for run in [*before, done.folder] for line in _lines(run / PROBES)),
            {
                "epoch": recipe.epochs,
                "knn": knn(
                    some(bank, slice(CURVE_BANK)),
                    some(queries, slice(CURVE_QUERIES)),
                    recipe.probe,
                ),
            },
        ],
        "probes_on": {"bank": CURVE_BANK, "queries": CURVE_QUERIES},
        "boxes": [statistics(folder, done.train) for folder in sets],
        "windows": window_statistics(sets[-1] if sets else None, done.train, recipe.crop),
        "train_seconds": round(sum(record["seconds"] for record in records), 1),
        "refresh_seconds": [round(record["seconds"], 2) for record in refreshes],
        "recipe": recipe.to_dict(),
        "code": _commit(),
        "machine": _machine(done.device),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def _held(held: Source, bank: Features, encoder: Encoder, recipe: Recipe) -> dict[str, Any]:
    asked = features(held, encoder)
    accuracy = knn(bank, asked, recipe.probe)
    return {"images": len(asked.labels), "source": Path(held.location).name, "knn": accuracy}


def _metrics(run: Path, stage: str) -> list[dict[str, Any]]:
    return [record for record in _lines(run / "metrics.jsonl") if record["stage"] == stage]


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _commit() -> str:
    """Return the commit that the running code is of."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    folder = Path(ccrop_pipeline.__file__).parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _machine(device: torch.device) -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        **gpu,
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
