"""Look up names, settings, paths and optional libraries as a user gives them."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from randomwalk.errors import InputError

T = TypeVar("T")

_PACKAGE = Path(__file__).resolve().parent
HOME = _PACKAGE / "_bundled" if (_PACKAGE / "_bundled").is_dir() else _PACKAGE.parent
"""Folder of the bundled files: the checkout, or `randomwalk/_bundled`, into which a wheel puts them."""
BUNDLED = ("configs", "data", "pretrained_models")
"""Folders of files that come with the program."""


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
        raise InputError(f"{kind} {reprlib.repr(name)}: unknown; expected one of {', '.join(table)}")
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
        return f"; there is no folder {folder} (relative paths are taken from {Path.cwd()})"
    if path.is_symlink():
        return f"; it is a link to {path.readlink()}"
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {folder / close[0]}?" if close else ""


def printable(name: str) -> str:
    """Show a file's name on one line: control characters and bytes that are not UTF-8 are written as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def shortened(name: str, most: int) -> str:
    """Beginning of a file's name that takes at most ``most`` bytes."""
    while len(name.encode(errors="replace")) > most:
        name = name[:-1]
    return name


def find_file(path: str | Path) -> str:
    """Path of a file or folder: as given if it exists, else that of the bundled one with the same name.

    ``pretrained_models/photo.safetensors`` is found from any folder and in any installation. A path that is
    neither in the current folder nor bundled is returned unchanged.
    """
    parts = Path(path).parts
    if len(parts) > 1 and parts[0] in BUNDLED and ".." not in parts and not os.path.lexists(path):
        bundled = HOME.joinpath(*parts)
        if bundled.exists():
            return str(bundled)
    return str(path)


def program(name: str) -> str:
    """Command that starts `sample` or `train`: the script in a checkout, the command of an installed wheel."""
    return f"python {name}.py" if (HOME / f"{name}.py").is_file() else f"randomwalk {name}"


def optional_library(module: str, extra: str, purpose: str) -> Any:
    """Import a library that only some tasks need.

    Args:
        module: name to import.
        extra: extra of this package that installs it.
        purpose: what needs it, for the message.

    Raises:
        InputError: the library is not installed or does not load.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
        package = {"ot": "POT"}.get(module, module.partition(".")[0])
        raise InputError(
            f"{purpose} needs {package}, which cannot be imported ({error}): pip install {package}, or install "
            f"randomwalk with its extra [{extra}]"
        ) from error


_VARIABLE = re.compile(r"\$(?:\$|\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def expand(path: str | Path) -> str:
    """Replace ``~``, ``~user``, ``$NAME`` and ``${NAME}`` in a path; ``$$`` stands for ``$``.

    A file that exists under the very name with its ``$`` is meant as it is.

    Raises:
        InputError: there is no such variable or user.
    """
    text = str(path)

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name = match[1] if match[2] is None else match[2]
        if not os.environ.get(name):
            raise InputError(f"found {text!r}, but the environment variable {name or '${}'} is not set")
        return os.environ[name]

    named = "$" in text and not text.startswith("~") and os.path.lexists(text)
    replaced = text if named else _VARIABLE.sub(value, text)
    if not replaced.startswith("~"):
        return replaced
    user, slash, rest = replaced.partition("/")
    try:
        return f"{Path(user).expanduser()}{slash}{rest}"
    except RuntimeError as error:
        if not slash:  # a file called ~name
            return replaced
        raise InputError(f"found {text!r}, but there is no home folder of {user}") from error
