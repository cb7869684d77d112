"""Names, settings and paths as a user writes them, looked up."""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from randomwalk.errors import InputError

T = TypeVar("T")


def find(kind: str, table: Mapping[str, T], name: str) -> T:
    """The entry of the table called ``name``.

    Raises:
        InputError: there is none; ``kind`` says of what.
    """
    if name not in table:
        raise InputError(f"{kind} {name!r}: unknown; expected one of {', '.join(table)}")
    return table[name]


def check_settings(what: str, made: Callable[..., Any], settings: Iterable[str], given: Iterable[str] = ()) -> None:
    """See that a class or function takes all the settings.

    Args:
        what: kind and name, for the message.
        made: the class or function.
        settings: names of those in question.
        given: parameters that are no settings: the caller supplies them.

    Raises:
        InputError: it does not take one of them.
    """
    allowed = [key for key in inspect.signature(made).parameters if key not in given]
    if unknown := sorted(set(settings) - set(allowed)):
        raise InputError(f"{what}: unknown setting {', '.join(unknown)}; allowed: {', '.join(allowed) or 'none'}")


def near(path: Path) -> str:
    """A pointer to what has almost the name of a path that is not there; empty if nothing has."""
    there = path.parent
    try:
        names = [entry.name for entry in islice(os.scandir(there), 10_000)] if there.is_dir() else []
    except OSError:
        return ""
    if not there.is_dir():
        return f"; there is no folder {there} (relative paths start in {Path.cwd()})"
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {there / close[0]}?" if close else ""


_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def expand(path: str | Path) -> str:
    """The path with ``~``, ``~user``, ``$NAME`` and ``${NAME}`` replaced.

    Raises:
        InputError: there is no such variable or user.
    """
    text = str(path)

    def value(match: re.Match[str]) -> str:
        name = match[1] if match[2] is None else match[2]
        if not os.environ.get(name):
            raise InputError(f"found {text!r}, but the environment variable {name or '${}'} is not set")
        return os.environ[name]

    replaced = _VARIABLE.sub(value, text)
    if not replaced.startswith("~"):
        return replaced
    user, slash, rest = replaced.partition("/")
    try:
        return f"{Path(user).expanduser()}{slash}{rest}"
    except RuntimeError as error:
        if not slash:  # a file called ~name
            return replaced
        raise InputError(f"found {text!r}, but there is no home folder of {user}") from error
