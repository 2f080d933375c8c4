"""Size and layout of the package, what a run enters, what a start costs: before and after a change.

    python -m benchmarks.house [SECTION ...] [--json FILE] [--repeats 5]
    python -m benchmarks.house --compare BEFORE.json AFTER.json

Run it from the root of a checkout: that checkout is measured, whatever is installed. The package is
driven through its command line alone, so that one program measures trees with different insides.
Sections, all of them by default:

    structure  files, lines and functions of `ccrop_pipeline`
    entered    its files and functions that are entered while boxes are computed and in training
    starts     CPU seconds and loaded modules of imports and commands, each in a fresh process
    reads      how often the files of a finished box set are opened for reading; needs `strace`
    face       public names of `import ccrop_pipeline`

Prints a Markdown table; `--json` also writes the figures, with the names behind them. `entered`
counts the calls that a profile function sees in all threads, without those made while a module is
being imported. `reads` counts system calls, since pyarrow opens files outside Python.
"""

import argparse
import ast
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from types import CodeType, FrameType
from typing import Any

ROOT = Path.cwd()
PACKAGES = ("ccrop_pipeline", "ccrop_cli")
HEAVY = ("torch", "lightly", "lightning_fabric", "timm", "webdataset", "scipy")
SIDE = 32  # pixels, of generated images
MODEL = ("--weights", "random", "--input-size", "32", "--device", "cpu")
RECIPE = ("--recipe", "cifar10-simclr-2core", "--device", "cpu")
SETTINGS = ("epochs=2", "batch_size=8", "boxes.refresh_at=[0.5]", "probe.every=0")
SETTINGS += ("optimizer.lr_warmup_epochs=0",)
Figures = dict[str, Any]
Function = tuple[str, str]  # file, qualified name


def structure() -> Figures:
    """Count files, lines and functions of the package, and basenames but `__init__.py`."""
    texts = {path: path.read_text() for path in sorted((ROOT / PACKAGES[0]).rglob("*.py"))}
    lines = [len(text.splitlines()) for text in texts.values()]
    bodies = [body for path, text in texts.items() for body in _bodies(path, text)]
    lengths = [length for length, _ in bodies]
    tenths = [quantiles(values, n=10, method="inclusive") for values in (lines, lengths)]
    names = Counter(path.name for path in texts if path.name != "__init__.py")
    twice = {name: count for name, count in sorted(names.items()) if count > 1}
    return {
        "package files": len(lines),
        "of them under 60 lines": sum(count < 60 for count in lines),
        "lines": sum(lines),
        "lines of a file, median": median(lines),
        "lines of a file, 90th percentile": tenths[0][-1],
        "longest file": max(lines),
        "functions": len(bodies),
        "body lines of a function, median": median(lengths),
        "body lines of a function, 90th percentile": tenths[1][-1],
        "longest function": max(lengths),
        "basenames that stand twice or more": len(twice),
        "names": {"longest functions": sorted(bodies)[-5:], "basenames": twice},
    }


def _bodies(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Give the lines of each function from its first statement after the docstring to its end."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[ast.get_docstring(node) is not None :]
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            yield length, f"{path.relative_to(ROOT)}:{node.name}"


class Trace:
    """A profile function that keeps what is entered: in all, and before each optimizer step.

    Args:
        within: Count only while the function of this name runs; None: always.
    """

    def __init__(self, within: str | None) -> None:
        self.within, self.running = within, within is None
        self.entered: set[Function] = set()
        self.steps: list[set[Function]] = []
        self._since: set[Function] = set()
        self._thread = threading.local()
        self._known: dict[CodeType, Function | None] = {}

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """Take an event of the interpreter."""
        code, importing = frame.f_code, getattr(self._thread, "importing", 0)
        if event not in ("call", "return"):
            return
        if code.co_name == "<module>":
            self._thread.importing = importing + (1 if event == "call" else -1)
            return
        if code not in self._known:
            self._known[code] = _function_of(code)
        function = self._known[code]
        if function is None or importing:
            return
        if function[1] == self.within:
            self.running = event == "call"
        if self.running and event == "call":
            self.entered.add(function)
            self._since.add(function)

    def step(self, *_: object) -> None:
        """Take an optimizer step."""
        done, self._since = self._since, set()
        self.steps.append(done)


def _function_of(code: CodeType) -> Function | None:
    """Name a function; None for code of others, class bodies and comprehensions."""
    parts = Path(code.co_filename).parts
    package = next((name for name in PACKAGES if name in parts), None)
    unnamed = code.co_name.startswith("<") and code.co_name != "<lambda>"
    if package is None or unnamed or not code.co_flags & inspect.CO_NEWLOCALS:
        return None
    return "/".join(parts[parts.index(package) :]), code.co_qualname


def traced(arguments: list[str], within: str | None) -> dict[str, list[Function]]:
    """Run a command in this process under a trace; give what all of it and what a batch enters."""
    from ccrop_cli.main import cli
    from torch.optim.optimizer import register_optimizer_step_post_hook

    trace = Trace(within)
    register_optimizer_step_post_hook(trace.step)
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        cli(arguments, standalone_mode=False)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    # All of the last epoch, since loaders work ahead, but its first, which follows other work.
    batches = trace.steps[len(trace.steps) // 2 + 1 :]
    return {"whole": sorted(trace.entered), "batch": sorted(set().union(*batches))}


def entered() -> Figures:
    """Trace a computation of boxes, a batch and a run."""
    figures: Figures = {"names": {}}
    with workplace() as (source, place):
        compute, again = _compute(source, place / "a"), _compute(source, place / "b")
        train, from_files = _train(source, place / "c"), _train(source, place / "d")
        whole, batch = "two epochs and a refresh, whole command", "a batch in training, images"
        for command, within, parts in (
            (compute, "compute_boxes", {"whole": "bytes to box row, inside compute_boxes"}),
            (again, None, {"whole": "boxes compute, whole command"}),
            (train, None, {"whole": whole, "batch": f"{batch} resident"}),
            ([*from_files, "--resident-gb", "0"], None, {"batch": f"{batch} from files"}),
        ):
            code = f"from benchmarks.house import traced; report = traced({command}, {within!r})"
            found = _child(code, place)
            for part, name in parts.items():
                assert found[part], f"nothing was entered: {name}"
                for package, kind in zip(PACKAGES, ("", "command line, "), strict=True):
                    mine = [file for file, _ in found[part] if file.startswith(package)]
                    figures[f"{name}: {kind}files"] = len({*mine})
                    figures[f"{name}: {kind}functions"] = len(mine)
                figures["names"][name] = [":".join(function) for function in found[part]]
    return figures


_FIRST_FORWARD = """import time, torch
def note(*_): first or first.append(time.process_time())
torch.nn.modules.module.register_module_forward_pre_hook(note)
"""
_STARTED = f"""
import resource, sys
seconds = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])  # user and system
loaded = [name for name in {HEAVY} if name in sys.modules]
report = dict(seconds=seconds, modules=len(sys.modules), loaded=loaded, first=first)
"""


def starts(repeats: int) -> Figures:
    """Measure fresh processes in turns, after one round that is not counted."""
    rounds = []
    with workplace(shards=1, images=4) as (source, place):
        layers = ["boxes", "layers", "torchvision:resnet18", *MODEL]
        for number in range(repeats + 1):
            compute = _compute(source, place / str(number), "timm:resnet18")
            codes = {"python alone": ""}
            for module in ("", ".boxset", ".compute"):
                codes[f"import ccrop_pipeline{module}"] = f"import ccrop_pipeline{module}"
            codes["ccrop --help"] = _command(["--help"])
            codes["ccrop boxes layers torchvision:resnet18"] = _command(layers)
            codes["ccrop boxes compute --model timm:resnet18"] = _FIRST_FORWARD + _command(compute)
            codes = {name: f"first = []\n{code}{_STARTED}" for name, code in codes.items()}
            rounds.append({name: _child(code, place) for name, code in codes.items()})
    figures: Figures = {"seconds": {}}
    for name, last in rounds[-1].items():
        seconds = figures["seconds"][name] = [one[name]["seconds"] for one in rounds[1:]]
        figures[f"{name}: CPU s"] = round(median(seconds), 2)
        if last["first"]:
            until = median(one[name]["first"][0] for one in rounds[1:])
            figures[f"{name}: CPU s until the first forward pass"] = round(until, 2)
        figures[f"{name}: modules"] = last["modules"]
        figures[f"{name}: loads"] = ", ".join(last["loaded"]) or "none of the heavy ones"
    return figures


def reads() -> Figures:
    """Count how often the files of a box set are opened for reading once they are there."""
    if shutil.which("strace") is None:
        return {"not measured": "strace is not installed"}
    figures: Figures = {"names": {}}
    with workplace() as (source, place):
        boxes, run = place / "boxes", place / "run"
        for name, command, folder in (
            ("boxes compute", _compute(source, boxes), boxes),
            ("a run with one refresh", _train(source, run), run / "boxes"),
        ):
            opened = _opened(command, place, folder)
            shards = [n for path, n in opened.items() if path.endswith(".parquet")]
            figures[f"{name}: opens of a box shard, most"] = max(shards, default=0)
            figures[f"{name}: opens of manifest.json"] = sum(opened.values()) - sum(shards)
            figures["names"][name] = opened
    return figures


def _opened(command: list[str], place: Path, folder: Path) -> dict[str, int]:
    """Count how often a command opens each visible shard and manifest below a folder to read."""
    log = Path(tempfile.mkdtemp(dir=place))
    # A file for each thread: in a common one, their lines are torn apart.
    tracing = ["strace", "-ff", "-y", "-qq", "-e", "trace=openat,open", "-o", str(log / "of")]
    _child(_command(command) + "report = None", place, tracing)
    call = re.compile(rf"O_RDONLY.* = \d+<{re.escape(str(folder))}/(.+)>$")
    lines = (line for path in log.iterdir() for line in path.read_text("latin-1").splitlines())
    opened = Counter(found[1] for line in lines if (found := call.search(line)))
    wanted = re.compile(r"(?!\.|.*/\.).*(\.parquet|manifest\.json)")  # not under a hidden name
    return {path: number for path, number in sorted(opened.items()) if wanted.fullmatch(path)}


def face() -> Figures:
    """Count the names that a person finds in the package."""
    code = "import ccrop_pipeline as p; report = [dir(p), sorted(getattr(p, '__all__', []))]"
    with workplace() as (_, place):
        found, listed = _child(code, place)
    public = [name for name in found if not name.startswith("_")]
    return {"dir(ccrop_pipeline)": len(public), "__all__": len(listed), "names": public}


def _compute(source: Path, out: Path, model: str = "torchvision:resnet18") -> list[str]:
    return ["boxes", "compute", str(source), str(out), "--model", model, *MODEL]


def _train(source: Path, run: Path) -> list[str]:
    settings = (f"--set={setting}" for setting in SETTINGS)
    return ["train", str(source), str(run), *RECIPE, *settings]


def _command(arguments: list[str]) -> str:
    return f"from ccrop_cli.main import cli\ncli({arguments}, standalone_mode=False)\n"


@contextmanager
def workplace(shards: int = 2, images: int = 32) -> Iterator[tuple[Path, Path]]:
    """Give a source of labelled tar shards, so many images each, and a folder for results."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="house-") as folder:
        source, place = Path(folder, "source"), Path(folder, "place")
        source.mkdir()
        place.mkdir()
        (place / "ccrop_cli").symlink_to(ROOT / "cli")
        for number in range(shards * images):
            file = io.BytesIO()
            pixels = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            Image.fromarray(pixels).save(file, "JPEG")
            with tarfile.open(source / f"train-{number // images:06d}.tar", "a") as tar:
                for ending, content in ("jpg", file.getvalue()), ("cls", b"0"):
                    member = tarfile.TarInfo(f"{number:06d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        yield source, place


def _child(code: str, place: Path, before: list[str] | None = None) -> Any:
    """Run code in a fresh process of this checkout and return what it calls `report`."""
    answer = place / "answer.json"
    code += f"\nimport json\nopen({str(answer)!r}, 'w').write(json.dumps(report))\n"
    here = dict.fromkeys(("PYTHONPATH", "HOME", "TMPDIR"), str(place))  # caches go there
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **here}
    command = [*(before or []), sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"this failed:\n{code}\n{done.stderr[-3000:]}")
    return json.loads(answer.read_text())


def table(results: Mapping[str, Mapping[str, Figures]]) -> str:
    """Lay out several results as one Markdown table, a column each."""
    lines = [f"| | {' | '.join(results)} |", "|---|" + "---|" * len(results)]
    for section in dict.fromkeys(name for result in results.values() for name in result):
        lines.append(f"| **{section}** |" + " |" * len(results))
        found = [result.get(section, {}) for result in results.values()]
        for row in dict.fromkeys(row for figures in found for row in figures):
            if row not in ("names", "seconds"):
                cells = (str(figures.get(row, "")) for figures in found)
                lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure and print."""
    sections: dict[str, Callable[[], Figures]] = {"structure": structure, "entered": entered}
    sections |= {"starts": lambda: starts(chosen.repeats), "reads": reads, "face": face}
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("section", nargs="*", help=f"of {', '.join(sections)}")
    parser.add_argument("--json", type=Path, help="file for figures and names as JSON")
    parser.add_argument("--repeats", type=int, default=5, help="processes a start")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="FILE", help="print two files")
    chosen = parser.parse_args()
    if unknown := {*chosen.section} - {*sections}:
        parser.error(f"there is no section {', '.join(sorted(unknown))}")
    if chosen.compare:
        results = {path.stem: json.loads(path.read_text()) for path in chosen.compare}
    else:
        result = {name: sections[name]() for name in chosen.section or sections}
        results = {ROOT.name: result}
        if chosen.json:
            chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
