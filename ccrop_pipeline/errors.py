"""Errors that are meant for people rather than for programmers."""


class CcropError(Exception):
    """Something the user can put right: bad input, a damaged file, options that disagree.

    The message says what is wrong, the value, where it is and what to do. The command line prints
    it without a traceback and exits with status 1.
    """


class SettingError(CcropError, ValueError):
    """A setting that is unknown, of a wrong kind or out of its range, or two that disagree."""
