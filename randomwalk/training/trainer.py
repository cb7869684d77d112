"""Trainer of denoisers: weighted denoising error, on one or several processes, validated on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from randomwalk import distributed
from randomwalk.config import TrainConfig
from randomwalk.denoisers import low_rank
from randomwalk.denoisers.checkpoints import make_denoiser, save_denoiser
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.denoisers.networks import first_difference
from randomwalk.denoisers.precision import choose_precision
from randomwalk.denoisers.weight_files import read_config, read_difference, read_weights
from randomwalk.errors import InputError, RunError
from randomwalk.rng import Stream, generator, seed_torch
from randomwalk.runs import checkpoints
from randomwalk.runs import report as reports
from randomwalk.runs.checkpoints import MODEL
from randomwalk.runs.folder import RunFolder
from randomwalk.training import report
from randomwalk.training.loop import Loop
from randomwalk.training.objectives import make_loss
from randomwalk.training.optimizer import Descent
from randomwalk.training.progress import Progress
from randomwalk.training.sets import ImageSet, TrainingSet

VALIDATED = "validated.pt"
"""Checkpoint of the last good validation, to go back to."""
FALL = 3.0
"""dB that the mean PSNR may fall below its best; a network that has diverged falls by ten and more."""


def why_exact(config: TrainConfig) -> str:
    """Why a training should not compute in bf16 where the config leaves that open; empty if it may."""
    if config.network.name == "mlp":
        return "a network of points is small"
    return "" if config.objective.name == "denoising" else "the objective differentiates the network twice"


def build_denoiser(config: TrainConfig) -> NetworkDenoiser:
    """Make the untrained denoiser of a config; its weights are drawn from the seed.

    Raises:
        InputError: a validation level is not one of the denoiser's, or the initial weights do not fit.
    """
    seed_torch(torch.device("cpu"), config.seed, Stream.WEIGHTS)
    network = config.network.model_dump()
    if config.gradient_checkpointing:
        network["use_checkpoint"] = True
    made = make_denoiser(network, config.denoiser.model_dump())
    for sigma in config.validation_sigmas:
        if not made.sigma_min <= sigma <= made.sigma_max:
            raise InputError(
                f"validation_sigmas: found {sigma:g}; allowed: {made.sigma_min:.3g} to {made.sigma_max:.3g}, the noise "
                "levels of the denoiser"
            )
    if config.initial_weights is not None:
        made.network.load_state_dict(initial_state(config.initial_weights, made.network, config.initial_set))
    if config.low_rank is not None:
        check_base(config.initial_weights)
        low_rank.add_factors(made.network, config.low_rank.rank, config.low_rank.alpha)
    return made


def check_base(path: str | None) -> None:
    """Raise InputError unless a file has weights to which a difference can be: of train.py, whole."""
    assert path is not None
    if read_difference(path) is not None or read_config(path) is None:
        raise InputError(
            f"low_rank: {path} is not a file of train.py with whole weights, to which a difference could be; give "
            "another as initial_weights"
        )


def initial_state(path: str, network: nn.Module, weights: str = "ema") -> dict[str, Tensor]:
    """Weights in a file, for ``network``.

    Args:
        path: the file.
        network: whose weights they are.
        weights: which ones, see `state_dicts.choose`.

    Raises:
        InputError: they do not fit it.
    """
    file = read_weights(path, weights, "initial_set")
    for find in (file.example, file.state_for):
        state = find(network)
        if difference := first_difference(network, state):
            raise InputError(f"initial_weights: {path} does not fit the network of this config: {difference}")
    return state


class Trainer(Loop):
    """Training of a denoiser.

    Args:
        config: its settings.
        context: this process among the others; each takes an equal share of every batch.
        folder: of the run.
        data: what the denoiser learns, by default the images of the config.

    Attributes:
        config: with the settings filled in that depend on the data (``labels.auto``).

    Raises:
        InputError: settings that do not go together.
    """

    def __init__(
        self, config: TrainConfig, context: distributed.Context, folder: RunFolder, data: TrainingSet | None = None
    ) -> None:
        share = config.batch_size / (context.size * config.accumulate)
        if share != int(share):
            raise InputError(
                f"batch_size is {config.batch_size}: it must be a multiple of the processes ({context.size}) times "
                f"accumulate ({config.accumulate})"
            )
        self.context, self.micro_batch = context, int(share)
        self.data = ImageSet(config, context.is_main) if data is None else data
        self.config = config = self.data.config
        self.unit = self.data.unit
        self.denoiser = build_denoiser(config).to(context.device)
        self.denoiser.network.to(memory_format=torch.channels_last)
        self.precision, _ = choose_precision(config.precision, context.device, why_exact(config))
        self.denoiser.autocast_dtype = torch.bfloat16 if self.precision == "bf16" else None
        self.loss = make_loss(config.objective, self.denoiser)
        parameters = [p for p in self.denoiser.parameters() if p.requires_grad]
        self.descent = Descent(self.denoiser.network, parameters, config.optimizer, config.ema, config.batch_size)
        assert self.descent.ema is not None
        self.ema = self.descent.ema
        super().__init__(folder, context.device, [self.descent], context.is_main, context.size > 1)

    def description(self) -> str:
        """One line on the network, the data and the device."""
        parameters = sum(p.numel() for p in self.descent.parameters)
        return (
            f"{self.config.network.name} with {parameters:,} parameters, {self.data.description}, "
            f"on {self.device} x {self.context.size}, in {self.precision}"
        )

    # --- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        network = self.denoiser.network.state_dict()
        return {"seconds": self.seconds, "network": network, **self.descent.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.denoiser.network.load_state_dict(state["network"])
        steps = state["step"]
        self.descent.load_state(state, steps, self.images_of(state, steps, self.config.batch_size))
        self.seconds = state["seconds"]

    def export(self) -> None:
        config = self.config
        training = {
            "images_seen": self.images_seen,
            "minutes": round(self.seconds / 60, 1),
            "device": str(self.device),
            "processes": self.context.size,
            "config": config.model_dump(mode="json"),
        }
        dtype, averaged = getattr(torch, config.export_dtype), self.descent.averaged_state()
        if config.low_rank is not None:
            base = {"path": config.initial_weights, "weights": config.initial_set}
            low_rank.save(self.folder.file(MODEL), averaged, base, config.low_rank.alpha, training, dtype)
            return
        save_denoiser(
            self.folder.file(MODEL),
            {
                "network": config.network.model_dump(),
                "denoiser": config.denoiser.model_dump(),
                "training": training,
                "classes": self.data.classes,
            },
            averaged,
            self.denoiser.network.state_dict() if config.export_raw else None,
            dtype=dtype,
        )

    # --- one step ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Prepare the model for this process, and the examples from the present step on."""
        self.model: nn.Module = self.denoiser
        if self.config.compile:
            self.model = torch.compile(self.model)  # type: ignore[assignment]
        if self.context.size > 1:
            on_gpu = self.device.type == "cuda"
            self.model = DistributedDataParallel(
                self.model, device_ids=[self.device] if on_gpu else None, broadcast_buffers=False
            )
        self.examples = self.data.examples(self.context.rank, self.context.size, self.images_seen, self.micro_batch)

    def train_step(self) -> tuple[Tensor, Tensor]:
        """Take one optimizer step on the next batch.

        Returns:
            The mean loss over this process's share of the batch, and the norm of the gradient over all of it.
        """
        self.model.train()
        seed_torch(self.device, self.config.seed, Stream.DROPOUT, self.step, self.context.rank)
        return self.descent.step(self._losses(), self.done)

    def _losses(self) -> Iterator[Tensor]:
        """Mean loss of each part of this process's share of the batch, divided by the number of parts.

        The gradients of several processes are averaged with the last part.
        """
        for part in range(self.config.accumulate):
            x, u, noise, *label = (t.to(self.device, non_blocking=True) for t in self.examples.next())
            model = partial(self.model, label=label[0]) if label else self.model
            averaged = part == self.config.accumulate - 1 or self.context.size == 1
            with contextlib.nullcontext() if averaged else self.model.no_sync():  # type: ignore[operator]
                yield self.loss(model, x, u, noise, partial(self._normal, part)).mean() / self.config.accumulate

    def _normal(self, part: int, shape: tuple[int, ...]) -> Tensor:
        """Draws of Normal(0, 1), ``[b, *shape]``, for a part of this step's batch.

        They are rows of draws for the whole batch, so that they do not depend on how the batch is shared.
        """
        first = (self.context.rank * self.config.accumulate + part) * self.micro_batch
        draws = generator(self.config.seed, Stream.PROBES, self.step)
        batch = draws.standard_normal((self.config.batch_size, *shape), dtype=np.float32)
        return torch.from_numpy(batch[first : first + self.micro_batch]).to(self.device)

    # --- the run -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end, from wherever the run is.

        Raises:
            RunError: the loss is no longer finite, and the last checkpoint stays; or PSNR has fallen by more than
                `FALL`, and the checkpoint is that of the validation before.
        """
        distributed.init_process_group(self.context)
        self.begin()
        self.progress = Progress(self.folder, self.context)
        self.progress.restore(self.step, self.images_seen, self.seconds)
        super().run()
        self.progress.close()
        self.context.barrier()

    def place(self) -> tuple[int, int]:
        return min(self.images_seen, self.config.num_images), self.config.num_images

    def ask_all(self, is_asked: bool) -> bool:
        """Whether any process has been asked to end: all take the same steps."""
        if not self.is_shared:
            return is_asked
        asked = torch.tensor(is_asked, dtype=torch.int32)
        torch.distributed.all_reduce(asked)
        return bool(asked)

    def share_done(self) -> float:
        """Share of the training that is done, by images or, with ``max_minutes``, by time, whichever is more.

        The time is the main process's, so that all processes take the same steps.
        """
        share = super().share_done()
        if self.config.max_minutes is None:
            return share
        seconds = torch.tensor(self.seconds, dtype=torch.float64)
        if self.context.size > 1:
            seconds = seconds.float().to(self.device)  # some devices have no float64
            torch.distributed.broadcast(seconds, 0)
        return max(share, float(seconds) / (60 * self.config.max_minutes))

    def is_logged(self) -> bool:
        return self.step % self.config.log_every == 0 or self.images_seen >= self.config.num_images

    def log(self, loss: Tensor, norm: Tensor) -> None:
        self.progress.log(self.step, self.images_seen, loss, norm, self.descent.rate, self.seconds)

    def write_report(self, done: int | None = None, total: int = 0) -> None:
        page = report.page(self.folder, self.config, self.unit, done is None)
        page.progress = None if done is None else {"done": done, "total": total, "unit": self.unit}
        reports.write(self.folder, page)

    def is_saved(self) -> bool:
        return self._passed(self.config.checkpoint_images)

    def _passed(self, every: int) -> bool:
        """Whether the last step passed a multiple of ``every`` images."""
        return self.images_seen // every > (self.images_seen - self.config.batch_size) // every

    def report(self) -> None:
        """Validate if that is due; return to the last good validation, and stop, if the network has diverged.

        Its loss can stay finite all the while.
        """
        if not (self._passed(self.config.validate_images) or self.done >= 1):
            return
        self.validate()
        if not self.is_main:
            return
        if (fall := self.progress.fall()) <= FALL:
            checkpoints.write(self.folder, self.state(), VALIDATED)
            return
        fell = f"PSNR on the validation images is {fall:.1f} dB below its best"
        said = f"the network has diverged: at step {self.step} {fell}."
        if not checkpoints.settle(self.folder, VALIDATED):
            raise RunError(f"{said} No earlier state was kept: start again with a lower optimizer.learning_rate")
        checkpoints.read(self.folder, self.load_state, self.device, VALIDATED)
        self.save()
        lower = f"optimizer.learning_rate={self.config.optimizer.learning_rate / 2:g}"
        raise RunError(
            f"{said} {self.folder.path} is back at step {self.step}. Lower the learning rate: python train.py --resume "
            f"{self.folder.path} --set {lower}"
        )

    def validate(self) -> None:
        """Validate the averaged weights, on the main process."""
        if self.is_main:
            self.denoiser.eval()
            with self.ema.applied_to(self.denoiser.network), torch.inference_mode():
                self.progress.validated(self.step, self.images_seen, self.seconds, self.data.validate(self.denoiser))
        self.context.barrier()
