"""Errors with which a command ends."""

from __future__ import annotations


class InputError(Exception):
    """The user's input cannot be used. The message names the file and the key, and says what to do.

    Scripts print the message without a traceback and exit with status 2.
    """


class RunError(Exception):
    """The run failed although its input was accepted (a NaN, a lost process); exit status 1."""


class Terminated(BaseException):
    """The process was told to end (SIGTERM)."""
