"""`ccrop quickstart`."""

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from ccrop_pipeline.errors import ModelError, SettingError, counted, duration, few, reading, shown

from .model_options import expect_model
from .option_types import LocalPath
from .printing import note, note_command, print_command, print_json, print_line
from .train import epochs_trained

if TYPE_CHECKING:
    from ccrop_pipeline.models.availability import Availability

    from .proposal import Choice, Look, Step

_EACH = 1_000  # images that times are for where nobody knows how many there are
_MARK = "quickstart.json"


@click.command("quickstart")
@click.argument("source")
@click.option(
    "--model",
    metavar="MODEL",
    help="Take boxes from this: whatever `ccrop boxes compute --model` takes.  [default: an "
    "encoder trained on the images, or a pretrained one where they are few]",
)
@click.option(
    "--weights",
    metavar="FILE",
    help="With --model torchvision:NAME and timm:NAME: a file of weights.",
)
@click.option(
    "--run",
    "out",
    type=LocalPath(file_okay=False),
    metavar="FOLDER",
    help="Run the commands, with all that they make in FOLDER.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def quickstart(
    source: str, model: str | None, weights: str | None, out: Path | None, as_json: bool
) -> str | None:
    """Look at the images of SOURCE, and propose three commands for them, with the time of each.

    Times are measured on this machine: each command is tried on a few of the images in a
    temporary folder. Nothing else is written without --run, and nothing is overwritten with it;
    what was stopped goes on by the same command.

    \b
    Example:
      ccrop quickstart photos
    """
    if out and as_json:
        raise click.UsageError("--run and --json do not go together.")
    if model:
        expect_model(model, weights)
    elif weights:
        raise click.UsageError("--weights goes with --model.")
    given = {"source": source, "model": model, "weights": weights}
    if out and (begun := _begun(out, given)):
        return _run(begun)
    try:
        look, encoders, steps, missing = _proposal(source, model, weights, out)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Nothing was written.") from None
    if as_json:
        print_json(_as_record(look, encoders, steps))
        return None
    _show(look, encoders, steps, missing)
    if missing:
        return "without-model"
    if out is None:
        return None
    _begin(out, given, steps)
    return _run(steps)


def _proposal(
    source: str, model: str | None, weights: str | None, out: Path | None
) -> "tuple[Look, list[Availability], list[Step], str | None]":
    """Return images, encoders that were asked for, commands, and why these cannot run yet."""
    from .proposal import Choice, look_at, measure, propose

    look = look_at(source)
    encoders = _encoders() if look.too_few and not model else []
    choice = Choice(model, weights) if model else _best(encoders)
    missing = next((_missing(e) for e in encoders if choice and e.model == choice.model), None)
    if missing and out:
        raise ModelError(missing)
    steps = propose(look, choice, out or Path("first"))
    if not missing:
        note("trying each command on a few of the images ...")
        measure(look, steps, choice, look.images or _EACH)
    return look, encoders, steps, missing


def _missing(encoder: "Availability") -> str | None:
    """Say why the weights of a model cannot be had, and what to do; None if they can."""
    if not encoder.problem:
        return None
    model, url = encoder.model, str(encoder.url)
    file = urlsplit(url).path.rpartition("/")[2]
    return (
        f"the weights of {model} cannot be had: {encoder.problem}. Run this where there is a "
        f"network. Or fetch {url} on another machine, bring {file} here, and add --model {model} "
        f"--weights {file}. Or take another model that is here: --model MODEL --weights FILE."
    )


def _encoders() -> "list[Availability]":
    from ccrop_pipeline.models.availability import availability

    from .proposal import ENCODERS

    note("asking for encoders with pretrained weights ...")
    names = [name for name in ENCODERS if find_spec(name.partition(":")[0])]
    return availability(names)


def _best(encoders: "list[Availability]") -> "Choice | None":
    """Return an encoder that is here, else one that can be fetched, else the first of all."""
    from .proposal import Choice

    order = sorted(encoders, key=lambda each: (each.problem is not None, not each.cached))
    return Choice(order[0].model, is_here=order[0].cached) if order else None


def _show(
    look: "Look", encoders: "list[Availability]", steps: "list[Step]", missing: str | None
) -> None:
    from .proposal import FEW, LEAST

    for name, text in _facts(look, encoders):
        print_line(f"{name:11} {text}")
    if look.too_few:
        print_line()
        print_line(f"{look.too_few} So take boxes from an encoder that has seen more.")
    if missing:
        print_line()
        print_line(f"{missing[0].upper()}{missing[1:]}")
        print_line()
        print_line(
            "These will run once the weights are here (as a file: with --weights FILE behind the "
            "name of the model):"
        )
    for number, step in enumerate(steps, 1):
        print_line()
        print_line(f"{number}. {step.what}{_time_of(step, look)}:")
        print_command(step.line)
    print_line()
    if not any(step.words[0] == "train" for step in steps):
        print_line(f"Too few to train on: {counted(LEAST, 'image')} are the very least.")
        return
    if steps[-1].words[0] == "train":
        print_line(
            "The first ends with a verdict. If these boxes carry little or nothing of their "
            "images, train with random crops: in place of --boxes, --set boxes.kind=none."
        )
    if look.images and look.images < FEW:
        print_line(
            f"{counted(look.images, 'image')} are few to train on: expect no change that can be "
            "shown (lab/benchmarks.md). The page is a good place to stop."
        )
    if len(look.record["classes"] or ()) == 1:
        print_line("All images are of one class: kNN and probes tell nothing of what was learned.")


def _time_of(step: "Step", look: "Look") -> str:
    if step.seconds is None:
        return ""
    each = "" if look.images else f" for each {counted(_EACH, 'image')}"
    text = f", about {duration(max(1.0, step.seconds))}{each}"
    if step.epochs and step.epochs > 1:
        text += f" ({duration(max(1.0, step.seconds / step.epochs))} an epoch)"
    return text


def _facts(look: "Look", encoders: "list[Availability]") -> Iterator[tuple[str, str]]:
    """Yield what is known of images and machine, each with its name."""
    from .sources import parts_of

    if look.splits:
        yield "splits", ", ".join(look.splits.values())
    if look.no_test:
        yield "test", look.no_test
    unknown = f"{look.source} is read in order: only reading all tells how many there are"
    known = f"{look.source}: {'; '.join(parts_of(look.record))}"
    yield "images", unknown if look.images is None else known
    sides = sorted(look.sizes, key=lambda size: size[0] * size[1])
    least, typical, most = (" x ".join(map(str, sides[at])) for at in (0, len(sides) // 2, -1))
    looked = len(sides) + len(look.unreadable)
    others = f", from {least} to {most}" if least != most else ""
    yield "pixels", f"{typical}{others} ({counted(looked, 'image')} looked at)"
    if look.unreadable:
        shown = few(look.unreadable)
        yield "unreadable", f"{len(look.unreadable)} of {looked} looked at: {shown}"
    yield "disk", f"{shutil.disk_usage('.').free / 1e9:,.0f} GB free"
    gpus = ", ".join(_gpus()) or "no GPU"
    yield "machine", f"{counted(os.cpu_count() or 1, 'core')}, {gpus}"
    for encoder in encoders:
        yield "encoder", f"{encoder.model}: {_where(encoder)}"


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _where(encoder: "Availability") -> str:
    if encoder.problem or encoder.cached:
        return encoder.problem or "on this machine"
    return f"{encoder.megabytes:.0f} MB to download" if encoder.megabytes else "to be downloaded"


def _as_record(look: "Look", encoders: "list[Availability]", steps: "list[Step]") -> dict[str, Any]:
    names = (
        "source",
        "images",
        "record",
        "splits",
        "test",
        "no_test",
        "sizes",
        "unreadable",
        "too_few",
    )
    return {name: getattr(look, name) for name in names} | {
        "disk_free": shutil.disk_usage(".").free,
        "cores": os.cpu_count(),
        "gpus": _gpus(),
        "encoders": [asdict(encoder) for encoder in encoders],
        "commands": [asdict(step) for step in steps],
    }


def _begun(out: Path, given: dict[str, Any]) -> "list[Step]":
    """Return the commands that were begun in a folder, none where it is new or empty.

    Raises:
        CcropError: If it holds anything else.
    """
    from ccrop_pipeline.base.files import expect_free

    from .proposal import Step

    if not (out / _MARK).is_file():
        expect_free(out, "quickstart")
        return []
    record = _record_in(out / _MARK)
    before = asdict(record.given)
    if changes := _changes(before, given):
        words = ["ccrop", "quickstart", before["source"], "--run", str(out)]
        for name in ("model", "weights"):
            words += [f"--{name}", before[name]] if before[name] else []
        raise SettingError(
            f"{out} is of another quickstart: {'; '.join(changes)}. Choose another folder for "
            f"this one, or delete that. What was begun in it goes on by: {shlex.join(words)}"
        )
    return [Step(each.what, list(each.words)) for each in record.commands]


@dataclass(frozen=True)
class _Given:
    source: str
    model: str | None
    weights: str | None


@dataclass(frozen=True)
class _Command:
    what: str
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        begins = self.words[: 1 if self.words[:1] == ("train",) else 2]
        if begins not in _COMMANDS or len(self.words) < len(begins) + 2:
            raise SettingError(f"words are {shown(list(self.words))}; they are no command of it.")


@dataclass(frozen=True)
class _Record:
    given: _Given
    commands: tuple[_Command, ...]


_COMMANDS = (("boxes", "compute"), ("boxes", "report"), ("train",))


def _record_in(file: Path) -> _Record:
    from ccrop_pipeline.base.values import from_plain, parse_json

    with reading(file, "is no record of a quickstart", "Choose another folder."):
        try:
            return from_plain(_Record, parse_json(file.read_text("utf-8")), complete=True)
        except SettingError as error:
            raise ValueError(error) from error


def _changes(before: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """Return what differs between two quickstarts, for people."""
    was, now = (
        {"images": each["source"], "model": _model_of(each["model"], each["weights"])}
        for each in (before, given)
    )
    return [f"{name}: was {was[name]}, now {now[name]}" for name in was if was[name] != now[name]]


def _model_of(model: str | None, weights: str | None) -> str:
    return f"{model or 'chosen for you'}{f' with weights {weights}' if weights else ''}"


def _begin(out: Path, given: dict[str, Any], steps: "list[Step]") -> None:
    from ccrop_pipeline.base.files import written_aside

    out.mkdir(parents=True, exist_ok=True)
    with written_aside(out / _MARK) as aside:
        commands = [{"what": step.what, "words": step.words} for step in steps]
        aside.write_text(json.dumps({"given": given, "commands": commands}) + "\n", "utf-8")


def _run(steps: "list[Step]") -> str:
    """Run what is not done yet; training with boxes that carry nothing of their images is left."""
    from .main import cli

    for number, step in enumerate(steps, 1):
        is_done, state = _state(step.words)
        if state:
            note(f"{number}. {step.what}: {state}")
        if is_done:
            continue
        if "--boxes" in step.words and _leave_out(step.words):
            break
        note("")
        note_command("runs", step.line)
        cli.main(step.words, prog_name="ccrop", standalone_mode=False, obj="one of several")
    return "done"


def _state(words: list[str]) -> tuple[bool, str]:
    """Return whether a command was done before, and how far it came, if at all, for people."""
    from ccrop_pipeline.boxset import BoxSet
    from ccrop_pipeline.images import open_source
    from ccrop_pipeline.training import Run

    is_done, what = False, words[-1]
    if words[0] == "train":
        run = Run(Path(words[2]))
        if run.trained:
            epoch, epochs = epochs_trained(run), run.recipe().epochs
            if epoch < epochs:
                return False, f"goes on after epoch {epoch} of {epochs}"
            is_done, what = True, f"{run.folder}, {counted(epoch, 'epoch')}"
    elif words[1] == "report":
        is_done = Path(what).is_file()
    elif Path(words[3], "manifest.json").is_file():
        manifest = BoxSet.open(words[3]).manifest
        # Else the command runs, and tells that these boxes are of other images.
        is_done = manifest.provenance.source.fingerprint == open_source(words[2]).fingerprint()
        what = f"{words[3]}, {counted(manifest.rows, 'image')}"
    return is_done, f"done already ({what})" if is_done else ""


def _leave_out(words: list[str]) -> bool:
    """Tell whether to train with boxes is of no use, and say what is."""
    from ccrop_pipeline.boxset import BoxSet
    from ccrop_pipeline.report import audit

    at = words.index("--boxes")
    found = audit(BoxSet.open(words[at + 1]))
    if found.warning:
        note("")
        note(f"{found.verdict}: training with them is left out. Look at them first.")
        plain = [*words[:at], *words[at + 2 :], "--set", "boxes.kind=none"]
        note_command("with them all the same", shlex.join(["ccrop", *words]))
        note_command("with random crops", shlex.join(["ccrop", *plain]))
    return bool(found.warning)
