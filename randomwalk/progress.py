"""Progress bars and notes on the standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

UNWATCHED = 30.0
"""Seconds between two lines of a bar that is written to a file or a pipe."""


class _Lines:
    """Stream that writes each state of a bar as a line of its own, for files and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        if line := text.strip():
            self.stream.write(f"{line}\n")

    def flush(self) -> None:
        self.stream.flush()


def bar_interval() -> float:
    """Seconds between two states of a bar: short on a terminal, long elsewhere."""
    return 0.1 if sys.stderr.isatty() else UNWATCHED


def progress_bar(iterable: Iterable[Any] | None = None, **settings: Any) -> tqdm[Any]:
    """Make a progress bar on the error stream; if that is not a terminal, one line every `UNWATCHED` seconds at most.

    Args:
        iterable: iterable whose progress is shown, if any.
        settings: settings of tqdm.
    """
    interval = bar_interval()
    stream: Any = sys.stderr if sys.stderr.isatty() else _Lines(sys.stderr)
    # Without maxinterval, a thread of tqdm would draw the bar every 10 seconds.
    return tqdm(
        iterable, file=stream, mininterval=interval, maxinterval=max(interval, 10.0), dynamic_ncols=True, **settings
    )


_open = 0
"""Number of bars made by `bar` that are shown now."""


@contextlib.contextmanager
def bar(
    total: int, label: str, unit: str = "steps", initial: int = 0, shown: bool = True
) -> Iterator[Callable[..., None]]:
    """Show a progress bar around a block of work: ``with bar(...) as tick``.

    ``tick(n)`` reports n more units of work (1 by default), ``tick(n, note)`` adds a note at the end of the bar, and
    ``tick(n, label="...")`` changes its label. A bar inside another one is not shown, since they would overwrite each
    other.

    Args:
        total: units of work.
        label: name of the work.
        unit: plural of the unit.
        initial: units that are done already.
        shown: False for processes other than the main one.
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
        print(labelled(note), file=sys.stderr)


def labelled(note: str) -> str:
    """A note as it is printed; one that begins with "warning: " stays as it is."""
    return note if note.startswith("warning: ") else f"note: {note}"


@contextlib.contextmanager
def opening(what: str, shown: bool = True) -> Iterator[None]:
    """Show what a program does before its work begins, and the seconds that it takes, on a terminal.

    A thread counts the seconds, since libraries load in one piece; there is nothing yet by which to tell what remains.

    Args:
        what: the program does.
        shown: False for processes other than the main one.
    """
    if not (shown and sys.stderr.isatty()):
        yield
        return
    drawn = progress_bar(total=1, desc=what, leave=False, bar_format="  0%|{bar}| {desc} [{elapsed}<?]")
    done = threading.Event()

    def count() -> None:
        while not done.wait(0.5):
            drawn.refresh()

    counter = threading.Thread(target=count, daemon=True)
    counter.start()
    try:
        yield
    finally:
        done.set()
        counter.join()
        drawn.close()
