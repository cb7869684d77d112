"""Progress bars and notes on the standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

UNWATCHED = 30.0
"""Seconds between two lines of a bar that goes to a file or a pipe."""


class _Lines:
    """A stream on which each state of a bar is a line of its own: in a file, a bar that is drawn over itself is one
    line without end."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        if line := text.strip():
            self.stream.write(f"{line}\n")

    def flush(self) -> None:
        self.stream.flush()


def bar_interval() -> float:
    """Seconds between two states of a bar: short on a terminal, long where nobody watches."""
    return 0.1 if sys.stderr.isatty() else UNWATCHED


def progress_bar(iterable: Iterable[Any] | None = None, **settings: Any) -> tqdm[Any]:
    """A progress bar on the error stream; where that is no terminal, a line every `UNWATCHED` seconds at most.

    Args:
        iterable: what to go through, if it is known.
        settings: of tqdm.
    """
    interval = bar_interval()
    stream: Any = sys.stderr if sys.stderr.isatty() else _Lines(sys.stderr)
    # The longest time is set too, else a thread of tqdm draws the bar every 10 seconds.
    return tqdm(
        iterable, file=stream, mininterval=interval, maxinterval=max(interval, 10.0), dynamic_ncols=True, **settings
    )


_open = 0
"""Bars of `bar` that are being shown."""


@contextlib.contextmanager
def bar(
    total: int, label: str, unit: str = "steps", initial: int = 0, shown: bool = True
) -> Iterator[Callable[..., None]]:
    """A progress bar, drawn at once.

    ``with bar(...) as tick``, and then ``tick(n)`` or ``tick()`` after n units of work or one, ``tick(n, note)`` with a
    few words at the end of the bar, ``tick(n, label="...")`` with other words before it. A bar inside another one is
    not shown: the two would overwrite each other.

    Args:
        total: units of work, of which ``initial`` are done.
        label: what is being done.
        shown: False for the processes that are not the main one.
    """
    global _open
    hidden = not shown or _open > 0
    drawn = progress_bar(total=total, initial=initial, desc=label, unit=unit, smoothing=0.05, disable=hidden)

    def tick(n: int = 1, note: str = "", label: str = "") -> None:
        if hidden:
            return
        if label:
            drawn.set_description(label, refresh=False)
        if note:
            drawn.set_postfix_str(note, refresh=False)
        drawn.update(n)

    _open += not hidden
    try:
        with drawn:
            yield tick
    finally:
        _open -= not hidden


def show_notes(notes: Iterable[str]) -> None:
    """Print notes, one line each."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
