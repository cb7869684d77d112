"""Paths as people write them: ``~`` and ``$VARIABLE`` stand for what a shell would put there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from randomwalk.errors import InputError

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
