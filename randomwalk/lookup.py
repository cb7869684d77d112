"""Things that are chosen by name and made from settings, as a YAML file has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
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
