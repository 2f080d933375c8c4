"""The one exception that is meant for people rather than for programmers."""


class CcropError(Exception):
    """Something the user can put right: bad input, a damaged file, options that disagree.

    The message says what is wrong, the value, where it stands and what to do. The command
    line prints it without a traceback and exits with status 1.
    """
