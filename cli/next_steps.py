"""What people do after a command: a line on a terminal, none in logs and scripts."""

import shlex
import sys
from collections.abc import Mapping
from typing import Any

from .printing import note

# By command; {names} are its arguments, words in capitals are for the reader to fill in.
NEXT = {
    "data pack": "ccrop train {out} RUN --recipe photos-simclr-2core",
    "train": "ccrop report {run}",
    "report": "ccrop probe {run} SOURCE",
    "probe": "ccrop export {model} OUT",
    "boxes layers": "ccrop boxes compute SOURCE OUT --model {model}",
    "boxes fit-linear": "ccrop boxes compute {source} OUT --model {model} --map linear:{out}",
    "boxes compute": "ccrop boxes show {out} {source}",
    "boxes import": "ccrop boxes show {out} {source}",
    "boxes rethreshold": "ccrop boxes diff {boxes} {out}",
    "boxes info": "ccrop boxes audit {boxes}",
    "boxes audit": "ccrop boxes show {boxes} SOURCE",
    "boxes show": "ccrop train {source} RUN --recipe photos-simclr-2core --boxes {boxes}",
    "boxes validate": "ccrop train SOURCE RUN --recipe photos-simclr-2core --boxes {boxes}",
}


def say_next(command: str, given: Mapping[str, Any]) -> None:
    """Name the command that mostly follows, on a terminal.

    Args:
        command: Words of the command that is done.
        given: Its arguments and options.
    """
    quiet = given.get("as_json") or given.get("dry_run") or (given.get("world_size") or 1) > 1
    if command in NEXT and not quiet and sys.stderr is not None and sys.stderr.isatty():
        note(f"next: {next_of(command, given)}")


def next_of(command: str, given: Mapping[str, Any]) -> str:
    """Return the line that follows a command, ready for a shell."""
    return NEXT[command].format_map({name: shlex.quote(str(given[name])) for name in given})
