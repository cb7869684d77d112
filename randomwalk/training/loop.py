"""The loop of every training: steps, log, checkpoints, progress bar and end.

All random numbers are functions of the seed and of the step or the position of the example, so that a checkpoint needs
no generator states: the step number says where the run is. A resumed run therefore takes the same steps as an
uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from randomwalk.errors import InputError, RunError
from randomwalk.progress import bar
from randomwalk.run_folder import RunFolder
from randomwalk.training.optimizer import Descent

CHECKPOINT, MODEL = "checkpoint.pt", "model.safetensors"


class Loop:
    """Base of the trainings. A subclass defines the step, the state, and what is reported and when.

    Args:
        folder: of the run.
        device: where the networks are.
        descents: of the networks.
        total_steps: optimizer steps of the whole training.
        is_main: whether this process writes and shows the bar.

    Attributes:
        seconds: of training, those before an interruption included.
        done: share of the training that is done.
        logs: rows of CSV files by name; a resumed run keeps those up to its checkpoint.
        label, unit, unit_per_step: of the progress bar.
    """

    label, unit, unit_per_step = "training", "steps", 1

    def __init__(
        self, folder: RunFolder, device: torch.device, descents: Sequence[Descent], total_steps: int,
        is_main: bool = True,
    ) -> None:  # fmt: skip
        self.folder, self.device, self.descents, self.is_main = folder, device, descents, is_main
        self.total_steps = total_steps
        self.seconds = self.done = 0.0
        self.logs: dict[str, list[dict[str, Any]]] = {}

    @property
    def step(self) -> int:
        """Number of optimizer steps taken."""
        return sum(descent.steps for descent in self.descents)

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

    def save(self) -> None:
        """Write the checkpoint, the weights and the logs, each file whole or not at all."""
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

    def share_done(self) -> float:
        """Share of the training that is done; it ends at 1."""
        return self.step / self.total_steps

    def is_kept(self, row: dict[str, Any]) -> bool:
        """Whether a row of a log is from before the checkpoint."""
        return int(row["step"]) <= self.step

    # --- the run -------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Load the folder's checkpoint and the logs up to it, if there is a checkpoint yet.

        Raises:
            InputError: the checkpoint is damaged, or of another config.
        """
        self.folder.read_torch(CHECKPOINT, self.device, self.load_state)
        for name in self.logs:
            try:
                self.logs[name] = [row for row in self.folder.read_csv(name) if self.is_kept(row)]
            except (KeyError, ValueError, TypeError) as error:
                raise InputError(f"{self.folder.file(name)}: is damaged ({error!r}); remove it to go on") from error

    def run(self) -> None:
        """Train to the end, from wherever the run is.

        Raises:
            RunError: the loss or its gradient is not finite; the last checkpoint stays.
        """
        total, before = (steps * self.unit_per_step for steps in (self.total_steps, self.step))
        with bar(total, self.label, self.unit, before, self.is_main) as tick:
            self.done = self.share_done()
            while self.done < 1:
                tick(0, label=self.label)
                started, note = time.perf_counter(), ""
                loss, norm = self.train_step()
                if is_logged := self.is_logged():
                    self._check(loss, norm)  # waits for the device, so that the time below includes its work
                self.seconds += time.perf_counter() - started
                self.done = self.share_done()
                if is_logged or self.done >= 1:
                    self.log(loss, norm)
                    note = f"loss {float(loss):.4g}"
                tick(self.unit_per_step, note)
                self.report()
                if self.is_saved() or self.done >= 1:
                    self._check(loss, norm)
                    if self.is_main:
                        self.save()

    def _check(self, loss: Tensor, norm: Tensor) -> None:
        if torch.isfinite(loss) and torch.isfinite(norm):
            return
        raise RunError(
            f"the loss or its gradient is not finite at step {self.step} (loss {float(loss)}, norm {float(norm)}); "
            f"{self.folder.state_of(CHECKPOINT)}. Lower optimizer.learning_rate"
        )
