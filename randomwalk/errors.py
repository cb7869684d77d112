"""The two ways in which a command ends without its result."""

from __future__ import annotations


class InputError(Exception):
    """What the user gave cannot be used. The message names the file and the key, and says what to do.

    Scripts print it as one line, without a traceback, and exit with status 2.
    """


class RunError(Exception):
    """The run failed although its input was accepted (a NaN, a lost process). Exit status 1."""


class Terminated(BaseException):
    """The process was told to end (SIGTERM)."""
