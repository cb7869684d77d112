"""Look-up of names, settings and paths as a user writes them."""

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
    """Entry ``name`` of a table.

    Args:
        kind: kind of the entries, for the message.
        table: entries by name.
        name: name of the entry.

    Raises:
        InputError: there is no such entry.
    """
    if name not in table:
        raise InputError(f"{kind} {name!r}: unknown; expected one of {', '.join(table)}")
    return table[name]


def check_settings(what: str, made: Callable[..., Any], settings: Iterable[str], given: Iterable[str] = ()) -> None:
    """Check that a class or function accepts all settings.

    Args:
        what: its kind and name, for the message.
        made: the class or function.
        settings: names of the settings.
        given: parameters that are not settings, because the caller supplies them.

    Raises:
        InputError: it does not accept one of them.
    """
    allowed = [key for key in inspect.signature(made).parameters if key not in given]
    if unknown := sorted(set(settings) - set(allowed)):
        raise InputError(f"{what}: unknown setting {', '.join(unknown)}; allowed: {', '.join(allowed) or 'none'}")


def near(path: Path) -> str:
    """Hint at a file with almost the name of a missing path; empty if there is none."""
    folder = path.parent
    try:
        names = [entry.name for entry in islice(os.scandir(folder), 10_000)] if folder.is_dir() else []
    except OSError:
        return ""
    if not folder.is_dir():
        return f"; there is no folder {folder} (relative paths start in {Path.cwd()})"
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {folder / close[0]}?" if close else ""


_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def expand(path: str | Path) -> str:
    """Replace ``~``, ``~user``, ``$NAME`` and ``${NAME}`` in a path.

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
