"""How text reaches a terminal: results on stdout, all else on stderr, nothing that it would obey.

Names of files, keys and rules come from data that others made. All text is printed from here, or
by `progress.say` where there may be a live line, and both escape it.
"""

import io
import json
import os
import re
import shlex
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import click

from ccrop_pipeline.errors import printable

_results: ContextVar[TextIO | None] = ContextVar("_results", default=None)


def results() -> TextIO:
    """Return the stream of results: stdout, whatever libraries find in its place."""
    return _results.get() or sys.stdout


def print_line(text: object = "") -> None:
    """Print a line of the result on stdout, wrapped by word on a terminal."""
    _print(text, results())


def print_as_is(text: object) -> None:
    """Print a line of the result that is to be copied or read by a program, and never wrapped."""
    _print(text, results(), wrap=False)


def print_json(value: object) -> None:
    """Print the result as JSON on stdout; an object with what is known of the sources read."""
    from .sources import records

    if isinstance(value, dict) and (sources := records()):
        value = value | {"sources": sources}
    print_as_is(json.dumps(value))


def note(text: object) -> None:
    """Print a line for people on stderr, wrapped by word on a terminal."""
    _print(text, sys.stderr)


def note_command(label: str, line: str) -> None:
    """Print a command on stderr to be copied into a shell, continued by a backslash.

    Args:
        label: What stands before it.
        line: The command, quoted for a shell.
    """
    _print_command(f"{label}:", line, sys.stderr)


def print_command(line: str) -> None:
    """Print a command as a line of the result, to be copied as by `note_command`."""
    _print_command("  ", line, results(), indent="     ")


def _print_command(label: str, line: str, stream: TextIO | None, indent: str = " ") -> None:
    words, lines = [shlex.quote(word) for word in shlex.split(line)], [label]
    width = columns() if stream is not None and stream.isatty() else None
    for number, word in enumerate(words):
        room = 0 if number == len(words) - 1 else len(" \\")
        if number and width and len(lines[-1]) + 1 + len(word) + room > width:
            lines[-1] += " \\"
            lines.append(f"{indent}{word}")
        else:
            lines[-1] += f" {word}"
    for each in lines:
        _print(each, stream, wrap=False)


def note_page(page: Path) -> None:
    """Say on stderr how to look at a page."""
    _print(f"a browser opens it: {page.absolute().as_uri()}", sys.stderr, wrap=False)


def warn(text: object) -> None:
    """Print a warning on stderr, wrapped by word and yellow on a terminal."""
    _print(f"Warning: {text}", sys.stderr, colour="yellow")


def columns() -> int:
    """Return how wide the terminal is: 80 where there is none."""
    return shutil.get_terminal_size().columns


def wrapped(text: str, width: int, *, taken: int = 0) -> str:
    """Wrap text between words; words that are longer, such as paths, stay whole.

    What follows a name and two spaces, as in a table, stays beside the name where it has room.

    Args:
        text: One line.
        width: Columns of the terminal.
        taken: Columns of the first line that are taken.
    """
    name = _NAME.match(text)
    indent = len(text) - len(text.lstrip()) + 2
    if name and name.end() <= width // 3:
        indent = name.end()
    lines = textwrap.wrap(
        " " * taken + text,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)[taken:]


_NAME = re.compile(r" *[^ ]+(?: [^ ]+)? {2,}")  # of one or two words


def _print(
    text: object, stream: TextIO | None, *, wrap: bool = True, colour: str | None = None
) -> None:
    if stream is not None:  # closed from the start, as by `>&-`
        shown = printable(text)
        if wrap and stream.isatty():
            shown = wrapped(shown, columns())
        if colour and _coloured(stream):
            shown = click.style(shown, fg=colour)
        print(shown, file=stream, flush=True)


@contextmanager
def results_alone_on_stdout() -> Iterator[None]:
    """Send to stderr what libraries print, such as downloads, and their warnings in one line.

    Those of Pillow are left out.
    """
    token = _results.set(results())  # of the outer one, where one command runs another
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.showwarning = _warning
            # Of images, which it does not name; what cannot be decoded is counted and named by us.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        _results.reset(token)


def _warning(message: Warning | str, *_where: Any, **_more: Any) -> None:
    warn(message)


def escape_what_streams_cannot_encode() -> None:
    """Let no character end a command, whatever the encoding of the terminal or the pipe."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def escaped_messages() -> Iterator[None]:
    """Escape the message of an error that click is to print."""
    try:
        yield
    except click.ClickException as error:
        # A message may have lines; what comes from data cannot pass for the next message.
        lines = [printable(line) for line in error.message.split("\n")]
        if sys.stderr is not None and sys.stderr.isatty():
            lines = [wrapped(line, columns(), taken=len("Error: ")) for line in lines]
            if _coloured(sys.stderr):
                error.show = partial(_show_in_colour, error)  # type: ignore[method-assign]
        error.message = "\n  ".join(lines)  # type: ignore[misc]
        raise


def _show_in_colour(error: click.ClickException, file: Any = None) -> None:
    text = io.StringIO()
    type(error).show(error, text)
    red = click.style("Error:", fg="red")
    shown = re.sub("^Error:", lambda _: red, text.getvalue(), count=1, flags=re.MULTILINE)
    print(shown, end="", file=file or sys.stderr)


def _coloured(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR")  # https://no-color.org
