"""Training and refreshes, killed again and again, for hours: `python -m benchmarks.soak`.

One run goes undisturbed. Others, of the same settings, are killed every 8 to 60 seconds until they
end, and must end with the very same weights, boxes and metrics, and leave nothing behind. The same
command goes on with what is in the folder, as long as it is told to.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ccrop_pipeline.base.files import sha256_of, written_aside
from ccrop_pipeline.images import Scenes, pack
from ccrop_pipeline.localize import state_sha256
from ccrop_pipeline.training import Run, load_checkpoint

SHORTEST, LONGEST = 8.0, 60.0  # seconds from a start to its kill
SETTINGS = (
    "image_size=32",
    "eval_size=0",
    "epochs=24",
    "batch_size=32",
    "boxes.refresh_at=[]",
    "boxes.refresh_epochs=[2, 6, 10, 14, 18, 22]",
    "probe.every=6",
)


_PYTHONS = "pymp-*"


@dataclass
class Seen:
    """What was seen so far, kept in `soak.json`."""

    seconds: float = 0.0
    starts: int = 0
    kills: int = 0
    runs: int = 0
    different: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    python_folders: int = 0  # those of multiprocessing, which nobody removes after SIGKILL
    most_mb: list[float] = field(default_factory=list)  # of each start
    most_descriptors: list[int] = field(default_factory=list)
    undisturbed: dict[str, float] = field(default_factory=dict)


class Soak:
    """A soak in a folder.

    Args:
        folder: Where everything lies; what is there is gone on with.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "soak.json"
        self.seen = Seen(**json.loads(self.file.read_text())) if self.file.is_file() else Seen()
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        if not (folder / "data").is_dir():
            pack(Scenes(256, size=48), folder / "data", max_images=64)

    def last(self, minutes: float) -> None:
        """Kill and resume runs until so many minutes are over, in all sittings together."""
        undisturbed = self.folder / "undisturbed"
        if not self.seen.undisturbed:
            self.seen.undisturbed = self._watch(undisturbed, None)
        expected = results(undisturbed)
        while self.seen.seconds < 60 * minutes:
            run, begun = self.folder / f"run-{self.seen.runs:04d}", time.monotonic()
            # A draw of its own for each start, whatever was killed in between.
            draw = random.Random(self.seen.starts)
            found = self._watch(run, draw.uniform(SHORTEST, LONGEST))
            self.seen.starts += 1
            self.seen.most_mb.append(found["most MB"])
            self.seen.most_descriptors.append(int(found["most descriptors"]))
            self.seen.seconds += time.monotonic() - begun
            if found["ended"]:
                self._compare(run, expected)
            else:
                self.seen.kills += 1
            self.save()

    def _compare(self, run: Path, expected: dict[str, Any]) -> None:
        found = results(run)
        self.seen.different += [
            f"{run.name}: {name}" for name in expected if found[name] != expected[name]
        ]
        self.seen.leftovers += leftovers(run, self.folder / "tmp")
        self.seen.python_folders = len(list((self.folder / "tmp").glob(_PYTHONS)))
        self.seen.runs += 1

    def _watch(self, run: Path, seconds: float | None) -> dict[str, float]:
        """Train until the end or the kill; return what the process took."""
        command = [sys.executable, "-c", "from ccrop_cli.main import cli; cli()", "train"]
        command += [str(self.folder / "data"), str(run), "--recipe", "demo", "--workers", "2"]
        command += ["--resident-gb", "0", "--device", "cpu"]
        command += [part for setting in SETTINGS for part in ("--set", setting)]
        environment = {**os.environ, "TMPDIR": str(self.folder / "tmp"), "OMP_NUM_THREADS": "1"}
        begun, taken = time.monotonic(), []
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                command, env=environment, start_new_session=True, stdout=said, stderr=said
            )
            try:
                while process.poll() is None and (seconds or 1e9) > time.monotonic() - begun:
                    taken.append(_taken(process.pid))
                    time.sleep(0.5)
            finally:  # its time is over, or ours
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            if process.returncode not in (0, -signal.SIGKILL):
                said.seek(0)
                self.seen.refused.append(said.read()[-1000:].decode(errors="replace"))
                self.save()
                raise SystemExit(f"{run} failed: {self.seen.refused[-1]}")
        memory, descriptors = zip(*taken, strict=True)
        quarter = len(taken) // 4
        return {
            "ended": float(process.returncode == 0),
            "seconds": round(time.monotonic() - begun, 1),
            "most MB": max(memory),
            "MB in the second quarter": max(memory[quarter : 2 * quarter + 1]),
            "MB in the last quarter": max(memory[-quarter - 1 :]),
            "most descriptors": max(descriptors),
            "descriptors in the last quarter": max(descriptors[-quarter - 1 :]),
        }

    def save(self) -> None:
        """Write what was seen, and the table of it."""
        with written_aside(self.file, replace=True) as aside:
            aside.write_text(json.dumps(asdict(self.seen), indent=1) + "\n", "utf-8")
        with written_aside(self.folder / "soak.md", replace=True) as aside:
            aside.write_text(table(self.seen), "utf-8")


def results(run: Path) -> dict[str, Any]:
    """Return everything that kills must not change."""
    checkpoint, times = load_checkpoint(run), ("seconds", "images_per_s", "data_wait")
    boxes = sorted(path for path in (run / "boxes").rglob("*.parquet"))
    return {
        "weights": state_sha256(checkpoint.method),
        "momentum": [
            state_sha256({"buffer": state["momentum_buffer"]})
            for state in checkpoint.optimizer["state"].values()
        ],
        "boxes": {str(path.relative_to(run)): sha256_of(path) for path in boxes},
        "metrics": [
            {name: value for name, value in record.items() if name not in times}
            for record in Run(run).metrics()
        ],
    }


def leftovers(run: Path, temporary: Path) -> list[str]:
    """Return what should not be there once a run has ended."""
    left = [path for path in temporary.iterdir() if not path.match(_PYTHONS)]
    return [str(path) for path in (*run.rglob(".*"), *left)]


def _taken(process: int) -> tuple[float, int]:
    """Return resident memory in MB and open descriptors of a process; zeros once it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        memory = status.partition("VmRSS:")[2].split()[:1] or ["0"]
        return int(memory[0]) / 1024, len(list(Path(f"/proc/{process}/fd").iterdir()))
    except OSError:
        return 0.0, 0


def table(seen: Seen) -> str:
    """Return the figures as a table in Markdown."""
    half = len(seen.most_mb) // 2
    calm = seen.undisturbed
    rows = {
        "minutes": f"{seen.seconds / 60:.0f}",
        "runs that ended": f"{seen.runs}",
        "starts, of which killed after 8 to 60 s": f"{seen.starts}, {seen.kills}",
        "results other than undisturbed (weights, optimizer, boxes, metrics)": (
            f"{len(seen.different)}"
        ),
        "files left behind, in runs and in the temporary folder": f"{len(seen.leftovers)}",
        "folders of Python's multiprocessing that SIGKILL leaves (`pymp-*`)": (
            f"{seen.python_folders}"
        ),
        "starts that ended in an error": f"{len(seen.refused)}",
        "most memory of a start, first and second half of them, MB": (
            f"{max(seen.most_mb[:half], default=0):.0f}, {max(seen.most_mb[half:], default=0):.0f}"
        ),
        "most descriptors of a start": f"{max(seen.most_descriptors, default=0)}",
        "undisturbed: memory in its second and its last quarter, MB": (
            f"{calm['MB in the second quarter']:.0f}, {calm['MB in the last quarter']:.0f}"
        ),
        "undisturbed: descriptors at most, in its last quarter": (
            f"{calm['most descriptors']:.0f}, {calm['descriptors in the last quarter']:.0f}"
        ),
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| `python -m benchmarks.soak` | |", "|---|---|", *lines]) + "\n"


def main() -> None:
    """Soak for a time and print the table; exit status 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="in all sittings together")
    parser.add_argument("--folder", type=Path, default=Path("build/soak"))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    soak = Soak(given.folder.resolve())
    soak.last(given.minutes)
    print((soak.folder / "soak.md").read_text(), end="")
    if soak.seen.different or soak.seen.leftovers or soak.seen.refused:
        raise SystemExit(f"something was wrong: see {soak.file}")


if __name__ == "__main__":
    main()
