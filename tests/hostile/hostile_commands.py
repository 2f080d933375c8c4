"""Commands on damaged runs and checkpoints, by seed; counted by verdict.

The long run: `python tests/hostile/hostile_commands.py 1000`.
"""

import atexit
import os
import shutil
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import torch
from ccrop_cli.main import cli
from click.testing import CliRunner
from damaging import changed, garbled, written
from hostile_weights import odd_tensor, sealed
from judging import WrongError, counted, judged, main

from ccrop_pipeline.errors import CcropError
from ccrop_pipeline.images import Scenes, pack

SETTINGS = ("image_size=32", "epochs=3", "batch_size=8", "boxes.refresh_epochs=[1,2]")
TRAIN = ("--recipe", "demo", *(f"--set={each}" for each in SETTINGS), "--device=cpu")
COMMANDS: dict[str, tuple[str, ...]] = {
    "train, resumed": ("train", "{inputs}/tars", "{run}", *TRAIN),
    "train --load": ("train", "{inputs}/tars", "{out}/new", *TRAIN, "--load={model}"),
    "probe": ("probe", "{model}", "{inputs}/tars", "--k=3", "--device=cpu"),
    "export": ("export", "{model}", "{out}/a.safetensors"),
    "boxes compute": (
        *("boxes", "compute", "{inputs}/tars", "{out}/boxes", "--model={model}", "--device=cpu"),
    ),
    "boxes layers": ("boxes", "layers", "{model}", "--device=cpu"),
}


def ccrop(arguments: tuple[str, ...]) -> Any:
    return CliRunner().invoke(cli, [*arguments], prog_name="ccrop")


@cache
def inputs() -> Path:
    """Make a source, a run that has ended and one that has its last epoch to go."""
    folder = Path(mkdtemp(prefix="ccrop-hostile-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    pack(Scenes(20, size=32), folder / "tars")
    done = ccrop(("train", str(folder / "tars"), str(folder / "whole"), *TRAIN))
    assert done.exit_code == 0, done.output
    shutil.copytree(folder / "whole", folder / "run")
    shutil.copy(folder / "run/checkpoints/epoch-0002.pt", folder / "run/checkpoint.pt")
    return folder


@cache
def content() -> dict[str, Any]:
    return state(inputs() / "run/checkpoint.pt")


def state(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


# What is damaged


def _its_bytes(rng: Random, file: Path) -> None:
    data = bytearray(file.read_bytes())
    if rng.random() < 0.5:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    else:
        data = bytearray(garbled(rng, bytes(data)))
    written(file, bytes(data))


def _its_values(rng: Random, file: Path) -> None:
    value: Any = dict(content())
    for _ in range(rng.choice([1, 1, 2])):
        part = rng.choice(["method", "optimizer", "optimizer", "epoch", "recipe"])
        if part == "method" and rng.random() < 0.7:
            weight = rng.choice([*content()[part]])
            value[part] = {**content()[part], weight: odd_tensor(rng)}
        elif part == "optimizer" and rng.random() < 0.5:
            value[part] = _other_momentum(rng)
        elif part == "epoch":
            value[part] = rng.choice([-1, 0, 1, 3, 4, 10**30])
        else:
            value[part] = changed(rng, value[part])
    written(file, sealed(value))


def _other_momentum(rng: Random) -> Any:
    optimizer = dict(content()["optimizer"])
    number = rng.choice([*optimizer["state"], 10**6])
    momentum = rng.choice(["momentum_buffer", "step", ""])
    held = rng.choice([{momentum: odd_tensor(rng)}, odd_tensor(rng), {}])
    return {**optimizer, "state": {**optimizer["state"], number: held}}


def _no_file(rng: Random, file: Path) -> None:
    file.unlink()
    match rng.randrange(6):
        case 0:
            os.mkfifo(file)
        case 1:
            file.mkdir()
        case 2:
            file.symlink_to(rng.choice(["nowhere", file.name, "/dev/zero", "/dev/null"]))
        case 3:
            written(file, b"")
        case 4:
            pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n"
            written(file, rng.choice([pointer, b"<!doctype html><html>"]))


def _beside(rng: Random, file: Path) -> None:
    """Damage what lies beside the checkpoint, or the one before."""
    names = ["run.json", "metrics.jsonl", "checkpoints/epoch-0002.pt"]
    names += ["boxes/epoch-0002/manifest.json", "boxes/epoch-0002/data/data-000000.parquet"]
    other = file.parent / rng.choice(names)
    rng.choice([_its_bytes, _no_file])(rng, other)


# Judging


def _use(kind: str, run: Path, out: Path, *, only_bytes: bool, model: Path) -> None:
    """Run the command; where it succeeds, it has the result of a run that was not damaged."""
    before = {path: _bytes_of(path) for path in run.rglob("*")}
    places = {"inputs": inputs(), "run": run, "out": out, "model": model}
    done = ccrop(tuple(part.format(**places) for part in COMMANDS[kind]))
    text = done.output
    if done.exit_code == 0:
        if only_bytes and kind.startswith("train, "):
            _expect_the_same(run / "checkpoint.pt", inputs() / "whole/checkpoint.pt")
        return
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code not in (1, 2) or text.count("Error: ") != 1:
        raise WrongError(f"status {done.exit_code}: {text[-200:]}")
    after = {path: _bytes_of(path) for path in run.rglob("*") if not path.name.startswith(".")}
    lost = [path.name for path in before.keys() - after.keys()]
    if lost:
        raise WrongError(f"lost {lost}: {text[-200:]}")
    if any(out.rglob("*.safetensors")):
        raise WrongError("something was exported all the same")
    raise CcropError(" ".join(text[text.rfind("Error: ") :].split()))


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _expect_the_same(found: Path, expected: Path) -> None:
    one, other = state(found)["method"], state(expected)["method"]
    if not all(torch.equal(one[name], value) for name, value in other.items()):
        raise WrongError("other weights than without damage")


DAMAGE = (_its_bytes, _its_values, _its_values, _no_file, _beside)
KINDS = COMMANDS


def verdict(kind: str, seed: int, folder: Path) -> str:
    """`taken`, `refused` by a message that names a file of the run; else what went wrong."""
    rng = Random(f"{kind} {seed}")
    run, out = folder / "damaged", folder / "out"
    shutil.copytree(inputs() / "run", run)
    out.mkdir()
    damage = rng.choice(DAMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        damage(rng, run / "checkpoint.pt")
    model = run if rng.random() < 0.5 else run / "checkpoint.pt"
    only_bytes = damage is not _its_values
    names = [str(run)]
    return judged(lambda: _use(kind, run, out, only_bytes=only_bytes, model=model), names)


def verdicts(kind: str, seeds: range) -> Counter[str]:
    """Count the verdicts of a kind; each input has a folder of its own."""
    return counted(kind, seeds, verdict)


if __name__ == "__main__":
    main(KINDS, verdicts)
