"""What is seen of a run while it runs: the bar, and the frames of the animations."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from randomwalk.denoisers.probe import Probe
from randomwalk.distributed import Context

REFRESH = 0.25
"""Seconds between two looks at the state; each waits for a GPU."""
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


def to_bytes(x: Tensor) -> np.ndarray:
    """``[B, C, H, W]`` in [-1, 1] -> uint8 ``[B, H, W]`` or ``[B, H, W, 3]``: clipped and rounded, never stretched."""
    pixels = ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


class Progress:
    """Progress bar over the steps of all batches of all processes; only rank 0 shows it.

    Args:
        context: this process among the others.
        total: steps of all batches that are still to do.
    """

    def __init__(self, context: Context, total: int) -> None:
        self.context = context
        self._last_look = self._last_tile = 0.0
        self._state = ""
        self._done_before = 0
        self.truth: Tensor | None = None
        self._bar = progress_bar(
            total=total,
            disable=not context.is_main or total == 0,
            smoothing=0.05,
            bar_format="{percentage:3.0f}%|{bar}| {n}/{total} steps [{elapsed}<{remaining}{postfix}]",
        )

    def start_batch(self, truth: Tensor | None) -> None:
        """Say which images the following steps restore; None if they are not known."""
        self.truth = truth
        self._done_before = self.context.work_done

    def watch(self, k: int, x: Tensor, sigma: float, probe: Probe) -> None:
        """Count step k; now and then look at sigma, at the denoised images, and at the other processes."""
        self.context.work_done = self._done_before + k + 1
        now = time.monotonic()
        if now - self._last_look < REFRESH:
            return
        self._last_look = now
        self.context.check()
        postfix = f"sigma {sigma:.3g}"
        if self.truth is not None and self.context.is_main:
            error = (probe.denoised().clamp(-1, 1) - self.truth).square().mean().item()
            postfix += f", PSNR {10 * math.log10(4 / max(error, 1e-12)):.1f} dB"
        self._state = postfix
        self._bar.set_postfix_str(postfix, refresh=False)
        self.refresh()

    def tile(self, done: int, total: int) -> None:
        """Show how far an evaluation over tiles is: of large images, a step takes long."""
        now = time.monotonic()
        if now - self._last_tile < max(REFRESH, bar_interval()):
            return
        self._last_tile = now
        self.context.check()
        state = f"{self._state}, " if self._state else ""
        self._bar.set_postfix_str(f"{state}tile {done} of {total}")

    def skip(self, steps: int) -> None:
        """Count the steps of a batch that has nothing to do."""
        self.context.work_done += steps
        self.refresh()

    def refresh(self) -> None:
        """Show what all processes have done."""
        if not self._bar.disable:
            done = self.context.work_done + self.context.work_of_others()
            self._bar.update(max(0, min(done, self._bar.total) - self._bar.n))

    def say(self, message: str) -> None:
        """Print a line without breaking the bar."""
        tqdm.write(message, file=sys.stderr)

    def finish(self) -> None:
        """Take the bar to its end: all processes are known to be done, even if their last report is still to come."""
        if not self._bar.disable:
            self._bar.update(self._bar.total - self._bar.n)

    def close(self) -> None:
        """Leave the bar where it is."""
        self._bar.close()


@dataclass
class Snapshot:
    """The first samples of a batch after step k, as uint8 images: the walk, and what the network made of it."""

    k: int
    sigma: float
    walk: np.ndarray
    denoised: np.ndarray


class Recorder:
    """Keeps evenly spaced snapshots of some rows of a batch.

    The walk is shown as ``x / sqrt(1 + sigma^2)``, as a VP network sees it: x itself would be far outside the range
    of a picture until the end, where the two are the same.

    Args:
        rows: of the batch.
        num_steps: of the walk.
        count: how many snapshots; the last step is one of them.
    """

    def __init__(self, rows: Sequence[int], num_steps: int, count: int) -> None:
        self.rows = list(rows)
        self.num_steps = num_steps
        self.snapshots: list[Snapshot] = []
        self._steps = {round(k) for k in np.linspace(num_steps - 1, 0, count)} if rows else set()

    def watch(self, k: int, x: Tensor, sigma: float, probe: Probe) -> None:
        """Take a snapshot if one is due."""
        if k in self._steps:
            walk = to_bytes(x[self.rows] / math.sqrt(1 + sigma**2))
            self.snapshots.append(Snapshot(k, sigma, walk, to_bytes(probe.denoised()[self.rows])))
