"""What boxes, suppression and refreshes are each worth.

python -m benchmarks.evidence run --study scenes --seeds 0 1 2 --out DIR
python -m benchmarks.evidence page DIR/evidence.jsonl
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.evidence.arms import SEEDS, STUDIES
from ccrop_pipeline.errors import CcropError

if TYPE_CHECKING:
    from ccrop_pipeline.images import Source

SCENES_EACH = 4000  # of training and of test


def main() -> None:
    """Read the command line."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    commands = options.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="train what is missing")
    runs.add_argument("--study", required=True, choices=list(STUDIES))
    runs.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    runs.add_argument("--arms", nargs="+", help="names of arms; all if left out")
    runs.add_argument("--out", type=Path, required=True, help="folder of results and runs")
    runs.add_argument(
        "--images",
        type=Path,
        required=True,
        help="folder of CIFAR-10 as Parquet, of Tiny-ImageNet as tars, or where scenes are drawn",
    )
    runs.add_argument("--device", default="cpu", help="auto is the GPU where there is one")
    runs.add_argument(
        "--seconds", type=float, default=math.inf, help="begin no arm that would take longer"
    )
    page = commands.add_parser("page", help="write lab/evidence.md from the committed results")
    page.add_argument(
        "new", type=Path, nargs="*", help="files of results that are added to those first"
    )
    chosen = options.parse_args()
    try:
        if chosen.command == "run":
            left = run(
                chosen.study,
                chosen.seeds,
                chosen.out,
                chosen.images,
                arms=chosen.arms,
                device=chosen.device,
                seconds=chosen.seconds,
            )
            if left:
                print(f"{len(left)} runs are left: the same command again goes on", flush=True)
        else:
            from benchmarks.evidence.page import write

            write(chosen.new)
    except CcropError as error:
        raise SystemExit(str(error)) from None


def run(
    name: str,
    seeds: Sequence[int],
    out: Path,
    images: Path,
    *,
    arms: Sequence[str] | None = None,
    device: str = "cpu",
    seconds: float = math.inf,
) -> list[tuple[int, str]]:
    """Train what is missing of a study, or of some of its arms; return what is left."""
    from benchmarks.evidence.runs import Series, train_missing
    from ccrop_pipeline.localize import open_device

    study = STUDIES[name]
    unknown = set(arms or ()) - set(study.arms)
    if unknown:
        raise CcropError(f"{name} has no arm {sorted(unknown)}; there are: {', '.join(study.arms)}")
    parts, place = _sources(name, images, out), open_device(device)
    series = [Series(name, study, *parts, out, seed, place) for seed in seeds]
    return train_missing(series, arms or study.arms, seconds)


def _sources(name: str, images: Path, out: Path) -> "tuple[Source, Source, Source | None]":
    """Images to train on, of the test and held out; what is drawn or chosen is written once."""
    from benchmarks.evidence.small_objects import with_small_objects
    from ccrop_pipeline.images import Scenes, open_source, pack

    study = STUDIES[name]
    if name == "scenes":
        for split in ("train", "test"):
            if not (images / f"scenes-{split}").exists():
                scenes = Scenes(SCENES_EACH, split=split)
                pack(scenes, images / f"scenes-{split}", prefix=split, max_images=1000)
        return open_source(images / "scenes-train"), open_source(images / "scenes-test"), None
    parts = [study.train, study.test, *([study.held] if study.held else [])]
    train, test, *held = (open_source(str(images / pattern)) for pattern in parts)
    if study.largest is not None:
        train, test, *held = (
            with_small_objects(part, out / f"images-{name}" / f"{split}.tar", study.largest)
            for split, part in zip(("train", "test", "held"), (train, test, *held), strict=False)
        )
    return train, test, held[0] if held else None


if __name__ == "__main__":
    main()
