"""The loop of every training: steps, log, checkpoints, progress bar and end.

All random numbers are functions of the seed and of the step or the position of the example, so that a checkpoint needs
no generator states: the numbers of steps and examples say where the run is. A resumed run therefore takes the same
steps as an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from randomwalk.errors import RunError
from randomwalk.progress import bar
from randomwalk.runs import checkpoints, interruption
from randomwalk.runs.checkpoints import CHECKPOINT
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.report import Live
from randomwalk.training.optimizer import Descent


class Loop:
    """Base of the trainings. A subclass defines the step, the state, and what is reported and when.

    Args:
        folder: of the run.
        device: where the networks are.
        descents: of the networks.
        is_main: whether this process writes and shows the bar.
        is_shared: whether other processes take part.

    Attributes:
        seconds: of training, those before an interruption included.
        done: share of the training that is done.
        logs: rows of CSV files by name; a resumed run keeps those up to its checkpoint.
        needed: columns of them that are read again.
        label, unit: of the progress bar.
    """

    label, unit = "training", "steps"

    def __init__(
        self, folder: RunFolder, device: torch.device, descents: Sequence[Descent], is_main: bool = True,
        is_shared: bool = False,
    ) -> None:  # fmt: skip
        self.folder, self.device, self.descents = folder, device, descents
        self.is_main, self.is_shared = is_main, is_shared
        self.seconds = self.done = 0.0
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self.needed: dict[str, Sequence[str]] = {}

    @property
    def step(self) -> int:
        """Number of optimizer steps taken."""
        return sum(descent.steps for descent in self.descents)

    @property
    def images_seen(self) -> int:
        """Number of examples trained on."""
        return sum(descent.images for descent in self.descents)

    # --- defined by a training -----------------------------------------------------------------------------------

    def train_step(self) -> tuple[Tensor, Tensor]:
        """Take one optimizer step; returns the loss and the norm of its gradient."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        raise NotImplementedError

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a saved `state`."""
        raise NotImplementedError

    def images_of(self, state: dict[str, Any], steps: int, batch_size: int) -> int:
        """Number of examples of a saved state; once there were steps alone, of the batch size at the beginning."""
        if "images" in state:
            return int(state["images"])
        return steps * int(self.folder.first_value("batch_size", batch_size))

    def export(self) -> None:
        """Write the weights and the logs, each file whole or not at all."""
        raise NotImplementedError

    def is_saved(self) -> bool:
        """Whether a checkpoint is due after the last step; one is always written at the end."""
        raise NotImplementedError

    def is_logged(self) -> bool:
        """Whether the last step is logged; the last of all is in any case."""
        return True

    def log(self, loss: Tensor, norm: Tensor) -> None:
        """Log the last step."""
        raise NotImplementedError

    def report(self) -> None:
        """Validate, or measure, after the last step if that is due."""

    def write_report(self, done: int | None = None, total: int = 0) -> None:
        """Write report.html: of the finished training, or of one in progress with so many units of the bar done."""

    def place(self) -> tuple[int, int]:
        """Units of the progress bar that are done, and of the whole training."""
        raise NotImplementedError

    def share_done(self) -> float:
        """Share of the training that is done; it ends at 1."""
        done, total = self.place()
        return done / total

    def ask_all(self, is_asked: bool) -> bool:
        """Whether any process has been asked to end."""
        return is_asked

    def is_kept(self, row: dict[str, Any]) -> bool:
        """Whether a row of a log is from before the checkpoint."""
        return int(row["step"]) <= self.step

    # --- the run -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the weights, the logs and last the checkpoint.

        A run that is killed in between goes on from the checkpoint before, and makes the same files again.
        """
        self.export()
        checkpoints.write(self.folder, self.state())

    def resume(self) -> None:
        """Load the folder's checkpoint and the logs up to it, if there is a checkpoint yet.

        Raises:
            InputError: the checkpoint is damaged, or of another config.
        """
        checkpoints.read(self.folder, self.load_state, self.device)
        for name in self.logs:
            self.logs[name] = self.folder.read_log(name, self.is_kept, self.needed.get(name, ()))

    def run(self) -> None:
        """Train to the end, from wherever the run is.

        Ctrl-C and SIGTERM end the training after a step, with a checkpoint; a second one ends it at once.

        Raises:
            RunError: the loss or its gradient is not finite; the last checkpoint stays.
            KeyboardInterrupt, Terminated: it was asked to end.
        """
        self.done = self.share_done()
        if self.done >= 1 and self.is_main and self.folder.has(CHECKPOINT):
            self.export()  # the weights may be missing or damaged
        before, total = self.place()
        live = Live(self.write_report)
        with (
            bar(total, self.label, self.unit, before, self.is_main) as tick,
            interruption.held(self.is_shared) as interrupted,
        ):
            while self.done < 1:
                tick(0, label=self.label)
                started, note, before = time.perf_counter(), "", self.place()[0]
                loss, norm = self.train_step()
                if is_logged := self.is_logged():
                    self._check(loss, norm)  # waits for the device, so that the time below includes its work
                self.seconds += time.perf_counter() - started
                self.done = self.share_done()
                if is_logged or self.done >= 1:
                    self.log(loss, norm)
                    note = f"loss {float(loss):.4g}"
                tick(self.place()[0] - before, note)
                if self.is_main:
                    live.tick(*self.place())
                self.report()
                is_asked = self.ask_all(interrupted.asked is not None)
                if is_asked or self.is_saved() or self.done >= 1:
                    self._check(loss, norm)
                    if self.is_main:
                        self.save()
                if is_asked:
                    raise (interrupted.asked or KeyboardInterrupt)(
                        f"the checkpoint covers all {self.place()[0]:,} {self.unit} so far, so nothing is lost"
                    )

    def _check(self, loss: Tensor, norm: Tensor) -> None:
        if torch.isfinite(loss) and torch.isfinite(norm):
            return
        raise RunError(
            f"the loss or its gradient is not finite at step {self.step} (loss {float(loss)}, norm {float(norm)}); "
            f"{self.folder.state_of(CHECKPOINT)}. Lower optimizer.learning_rate"
        )
