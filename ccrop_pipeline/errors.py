"""Errors that are meant for people rather than for programmers.

Catch `CcropError` for everything that a user can put right; its leaves say what it is about.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EMFILE
from pathlib import Path

# Control characters (a terminal obeys ESC, CSI and OSC), lone surrogates, which cannot be encoded,
# line and paragraph separators, and what turns the direction of writing (CVE-2021-42574).
_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MOST = 200  # characters of anything that comes from a file, or from a library about it
_MOST_OF_ALL = 1_500  # characters of a message
_END = 500  # of these, with what to do
# For what a parser runs into where, say, a list is found in place of a table.
_OTHER_SHAPE = "a value in it is not of the kind that belongs there"


class CcropError(Exception):
    """Something the user can put right: bad input, a damaged file, options that disagree.

    The message says what is wrong, the value, where it is and what to do. The command line prints
    it without a traceback and exits with status 1.
    """

    def __str__(self) -> str:
        """Return the message; the middle of a very long one, which only data make, is left out."""
        text = str(self.args[0]) if len(self.args) == 1 else super().__str__()
        if len(text) <= _MOST_OF_ALL:
            return text
        return f"{text[: _MOST_OF_ALL - _END - 5]} ... {text[-_END:]}"


class SettingError(CcropError, ValueError):
    """A setting that is unknown, of a wrong kind or out of its range, or two that disagree."""


class SourceError(CcropError):
    """Images that cannot be found, opened or read, or that have no key of their own."""


class BoxSetError(CcropError):
    """A box set that is damaged, incomplete or of other images, or in the way of another."""


class ModelError(CcropError):
    """A model or checkpoint that cannot be opened, or that lacks what is asked of it."""


@contextmanager
def reading(
    path: str | Path, problem: str, needed: str, kind: type[CcropError] = CcropError
) -> Iterator[None]:
    """Turn whatever a damaged file makes a parser raise into an error that names the file.

    Args:
        path: The file.
        problem: What it then is, such as `is no COCO detection file`.
        needed: What it should be, in a sentence.
        kind: The error to raise.
    """
    try:
        yield
    except CcropError:
        raise
    # A parser raises nearly anything: KeyError, OverflowError, struct.error, TokenError, ...
    except Exception as error:
        is_shape = isinstance(error, AttributeError | IndexError | TypeError)
        why = stand_in(path) or (_OTHER_SHAPE if is_shape else cause(error))
        raise kind(f"{path} {problem} ({why}). {needed}".rstrip()) from error


def stand_in(path: str | Path) -> str | None:
    """Say what lies in the place of a file that was never fetched; None where nothing of the kind.

    The first is specified at https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except (OSError, ValueError):
        return None
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "it is a git-lfs pointer, which stands for the file: fetch it with `git lfs pull`"
    if re.match(rb"(<\?xml[^>]*>\s*)?<(!doctype html|html)", head):
        return "it is HTML, a page that was saved in place of the file: download it again"
    return None


def cause(error: BaseException) -> str:
    """Say in a few words what an error of Python or of a library is about."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, KeyError):
        return f"{shown(error.args[0]) if error.args else 'something'} is missing"
    if isinstance(error, OSError) and error.strerror:
        more = "; raise their limit with `ulimit -n`" if error.errno == EMFILE else ""
        return error.strerror[0].lower() + error.strerror[1:] + more
    if type(error).__name__ == "UnidentifiedImageError":  # Pillow's; its message is a path
        return "it is no such image"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shortened(lines[0].rstrip("."))


def shown(value: object) -> str:
    """Return a value as messages show it: `repr`, of any number and length."""
    try:
        return shortened(repr(value))
    except ValueError:  # whole numbers of more digits than Python turns into text
        return "a number of thousands of digits"


def few(names: Iterable[str], most: int = 3) -> str:
    """Return the first names, none of them very long, and how many there are if more."""
    every = list(names)
    more = f", ... ({len(every)} in all)" if len(every) > most else ""
    return ", ".join(map(shortened, every[:most])) + more


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one: "1 box", "2,000 boxes"."""
    ending = "es" if noun.endswith(("s", "x", "ch", "sh")) and noun != "epoch" else "s"
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def duration(seconds: float) -> str:
    """Return a time as people say it: `40 s`, `12 min`, `3 h 20 min`, `35 h`, `4 days`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 600:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours} h" if hours < 72 else f"{hours / 24:.0f} days"


def shortened(text: str) -> str:
    """Return a text, cut where it is too long for a message."""
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


def printable(text: object) -> str:
    """Return text as one line, with what a terminal would obey as an escape such as `\\u001b`."""
    return _OBEYED.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}", str(text))
