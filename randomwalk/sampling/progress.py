"""Progress bar of a sampling run, and snapshots for its animations."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import mse_loss
from tqdm import tqdm

from randomwalk.denoisers.wrappers import Probe
from randomwalk.distributed import Context
from randomwalk.images.tensors import to_bytes
from randomwalk.progress import bar_interval, progress_bar

REFRESH = 0.25
"""Seconds between two updates of the state, each of which waits for the GPU."""


class Progress:
    """Progress bar over the steps of all batches of all processes; only rank 0 shows it.

    Args:
        context: of this process.
        total: number of steps in all remaining batches.

    Attributes:
        follow: gets the number of steps that all processes have done.
    """

    follow: Callable[[int], object] | None = None

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
        """Set the true images of the next batch; None if they are not known."""
        self.truth = truth
        self._done_before = self.context.work_done

    def watch(self, k: int, x: Tensor, sigma: float, probe: Probe) -> None:
        """Count step k, and at intervals show sigma, the PSNR of the denoised images and the other processes' steps."""
        self.context.work_done = self._done_before + k + 1
        now = time.monotonic()
        if now - self._last_look < REFRESH:
            return
        self._last_look = now
        self.context.check()
        postfix = f"sigma {sigma:.3g}"
        if self.truth is not None and self.context.is_main:
            error = mse_loss(probe.denoised().clamp(-1, 1), self.truth).item()
            postfix += f", PSNR {10 * math.log10(4 / max(error, 1e-12)):.1f} dB"
        self._state = postfix
        self._bar.set_postfix_str(postfix, refresh=False)
        self.refresh()

    def tile(self, done: int, total: int) -> None:
        """Show the progress of a tiled evaluation, since steps on large images are slow."""
        now = time.monotonic()
        if now - self._last_tile < max(REFRESH, bar_interval()):
            return
        self._last_tile = now
        self.context.check()
        state = f"{self._state}, " if self._state else ""
        self._bar.set_postfix_str(f"{state}tile {done} of {total}")

    def skip(self, steps: int) -> None:
        """Count the steps of a batch without readable images."""
        self.context.work_done += steps
        self.refresh()

    def refresh(self) -> None:
        """Show the steps of all processes."""
        if not self._bar.disable:
            done = self.context.work_done + self.context.work_of_others()
            self._bar.update(max(0, min(done, self._bar.total) - self._bar.n))
            if self.follow is not None:
                self.follow(self._bar.n)

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        tqdm.write(message, file=sys.stderr)

    def finish(self) -> None:
        """Move the bar to its end when all processes are done, even if their last reports are still on the way."""
        if not self._bar.disable:
            self._bar.update(self._bar.total - self._bar.n)

    def close(self) -> None:
        """Close the bar where it is."""
        self._bar.close()


@dataclass
class Snapshot:
    """Recorded samples of a batch after step k, as uint8 images: the state, and its denoised version."""

    k: int
    sigma: float
    walk: np.ndarray
    denoised: np.ndarray


class Recorder:
    """Recorder of evenly spaced snapshots of some rows of a batch.

    The state is shown as ``x / sqrt(1 + sigma^2)``, the input of a VP network: x itself is far outside the range of
    images until the end, where the two agree.

    Args:
        rows: of the batch.
        num_steps: of the sampler.
        count: number of snapshots; the last step is one of them.
    """

    def __init__(self, rows: Sequence[int], num_steps: int, count: int) -> None:
        self.rows = list(rows)
        self.num_steps = num_steps
        self.snapshots: list[Snapshot] = []
        self._steps = {round(k) for k in np.linspace(num_steps - 1, 0, count)} if rows else set()

    def watch(self, k: int, x: Tensor, sigma: float, probe: Probe) -> None:
        """Take a snapshot if one is due."""
        if k in self._steps:
            walk = to_bytes(self._shown(x) / math.sqrt(1 + sigma**2))
            self.snapshots.append(Snapshot(k, sigma, walk, to_bytes(self._shown(probe.denoised()))))

    def _shown(self, x: Tensor) -> Tensor:
        return x if len(self.rows) == len(x) else x[self.rows]  # no copy of a whole batch
