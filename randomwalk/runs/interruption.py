"""Interruption of a training between two steps, so that nothing of it is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from randomwalk.errors import Terminated

_ENDS: dict[int, type[BaseException]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
_TOGETHER = 1.0
"""Seconds within which signals to one of several processes are the same one: their launcher repeats it."""


class Interruption:
    """Request to end, from Ctrl-C or SIGTERM, which the work looks at when it suits it.

    Attributes:
        asked: what the work should raise when it has ended; None if it may go on.
    """

    def __init__(self) -> None:
        self.asked: type[BaseException] | None = None


@contextlib.contextmanager
def held(is_shared: bool = False) -> Iterator[Interruption]:
    """Note the first Ctrl-C or SIGTERM during the block instead of raising it. The second one ends at once.

    Signals only reach the main thread of a program; in another one the block runs as it is.

    Args:
        is_shared: whether other processes do the same work, whose launcher passes signals on.
    """
    found = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    first = 0.0

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if found.asked is None:
            found.asked, first = _ENDS[number], time.monotonic()
            # A print could be in the middle of another one.
            with contextlib.suppress(OSError):
                os.write(2, b"\nending after this step with a checkpoint; again to end at once\n")
        elif not is_shared or time.monotonic() - first > _TOGETHER:
            raise _ENDS[number]

    previous = {number: signal.signal(number, note) for number in _ENDS}
    try:
        yield found
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
