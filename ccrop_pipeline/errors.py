"""Errors that are meant for people rather than for programmers.

Catch `CcropError` for everything that a user can put right; its leaves say what it is about.
"""


class CcropError(Exception):
    """Something the user can put right: bad input, a damaged file, options that disagree.

    The message says what is wrong, the value, where it is and what to do. The command line prints
    it without a traceback and exits with status 1.
    """


class SettingError(CcropError, ValueError):
    """A setting that is unknown, of a wrong kind or out of its range, or two that disagree."""


class SourceError(CcropError):
    """Images that cannot be found, opened or read, or that have no key of their own."""


class BoxSetError(CcropError):
    """A box set that is damaged, incomplete or of other images, or in the way of another."""


class ModelError(CcropError):
    """A model or checkpoint that cannot be opened, or that lacks what is asked of it."""
