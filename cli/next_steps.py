"""What people do after a command: a line on a terminal, none in logs and scripts."""

import shlex
import sys
from collections.abc import Mapping
from typing import Any

from .printing import note_command

_TRAIN = "RUN --recipe photos-simclr-2core"
_BATCH = 64  # of that recipe
# By command, and by its form after a colon; {names} are its arguments, words in capitals are for
# the reader to fill in.
NEXT = {
    "quickstart": "ccrop quickstart {source} --run FOLDER",
    "quickstart:without-model": "ccrop quickstart {source} --model MODEL",
    "quickstart:done": "ccrop boxes audit {out}/boxes",
    "demo": f"ccrop train IMAGES {_TRAIN}",
    "data pack": f"ccrop train {{out}} {_TRAIN}",
    "recipes": f"ccrop train IMAGES {_TRAIN}",
    "recipes:one": "ccrop train IMAGES RUN --recipe {name}",
    "train": "ccrop report {run}",
    "report": "ccrop probe {run} {source}",
    "probe": "ccrop export {model} OUT",
    "export": "ccrop embed {run} IMAGES OUT",
    "embed": (
        "python -c 'import pandas, sys; print(pandas.read_parquet(sys.argv[1]))' {out}/embeddings"
    ),
    "boxes layers": "ccrop boxes compute SOURCE OUT --model {model}",
    "boxes fit-linear": "ccrop boxes compute {source} OUT --model {model} --map linear:{out}",
    "boxes compute": "ccrop boxes show {out} {source}",
    "boxes import": "ccrop boxes show {out} {source}",
    "boxes centre": f"ccrop train {{source}} {_TRAIN} --boxes {{out}}",
    "boxes full": f"ccrop train {{source}} {_TRAIN} --boxes {{out}}",
    "boxes rethreshold": "ccrop boxes diff {boxes} {out}",
    "boxes info": "ccrop boxes audit {boxes}",
    "boxes audit": "ccrop boxes show {boxes} SOURCE",
    "boxes audit:good": f"ccrop train SOURCE {_TRAIN} --boxes {{boxes}}",
    "boxes diff": "ccrop boxes report {after} SOURCE --against {before}",
    "boxes follow": "ccrop report {run}",
    # Which says whether training on them is what comes next.
    "boxes report": "ccrop boxes audit {boxes}",
    "boxes show": "ccrop boxes audit {boxes}",
    "boxes validate": f"ccrop train SOURCE {_TRAIN} --boxes {{boxes}}",
    # What people correct by hand comes back.
    "boxes export:parquet": "ccrop boxes info {out}",
    "boxes export:webdataset": "ccrop boxes info {out}",
    "boxes export:croissant": "ccrop boxes info {boxes}",
    **{
        f"boxes export:{form}": f"ccrop boxes import SOURCE OUT --{form} {{out}}"
        for form in ("coco", "cvat", "fiftyone", "open-images", "yolo")
    },
    "boxes export:label-studio": "ccrop boxes import SOURCE OUT --label-studio EXPORT.json",
    "boxes export:hf": (
        "python -c 'import datasets, sys; "
        'print(datasets.load_dataset("imagefolder", data_dir=sys.argv[1]))\' {out}'
    ),
}


def say_next(command: str, given: Mapping[str, Any], images: int | None = None) -> None:
    """Name the command that mostly follows, on a terminal.

    Args:
        command: Words of the command that is done.
        given: Its arguments and options.
        images: Number of images that it read; None: not known.
    """
    quiet = given.get("as_json") or (given.get("world_size") or 1) > 1
    if not quiet and sys.stderr is not None and sys.stderr.isatty():
        note_command("next", next_of(command, given, images))


def next_of(command: str, given: Mapping[str, Any], images: int | None = None) -> str:
    """Return the line that follows a command, ready for a shell."""
    if given.get("dry_run"):
        return _without_dry_run()
    variant = f"{command}:{'one' if given.get('name') else given.get('form')}"
    line = NEXT.get(variant, NEXT.get(command, "")).format_map(
        {name: shlex.quote(str(given[name])) for name in given}
    )
    if _TRAIN in line and images is not None and 2 <= images < _BATCH:
        line += f" --set batch_size={1 << images.bit_length() - 1}"
    return line


def _without_dry_run() -> str:
    """Return the command that is running, without that option."""
    return shlex.join(["ccrop", *(word for word in sys.argv[1:] if word != "--dry-run")])
