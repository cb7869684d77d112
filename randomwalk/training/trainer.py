"""The training loop: batches in, optimizer steps, averages, checkpoints and reports out.

Everything that is random is a function of (seed, position of the example), so that a checkpoint needs no generator
states: the step number says where the run is. A resumed run therefore takes the steps that an uninterrupted one takes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from randomwalk import distributed
from randomwalk.config import TrainConfig
from randomwalk.denoisers.checkpoints import make_denoiser, save_denoiser, with_averages
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.denoisers.networks import first_difference
from randomwalk.denoisers.weight_files import read_weights
from randomwalk.errors import InputError, RunError
from randomwalk.progress import bar
from randomwalk.rng import generator, seed_dropout
from randomwalk.run_folder import RunFolder
from randomwalk.training.ema import EMA
from randomwalk.training.objectives import make_loss
from randomwalk.training.optimizer import learning_rate, make_optimizer
from randomwalk.training.progress import Progress
from randomwalk.training.sets import ExampleStream, ImageSet, OpenSet

CHECKPOINT = "checkpoint.pt"
VALIDATED = "validated.pt"
"""The checkpoint of the last validation, to go back to."""
FALL = 3.0
"""dB that the validation's mean PSNR may fall below its best; a network that has come apart falls by ten and more."""
MODEL = "model.safetensors"


def build_denoiser(config: TrainConfig) -> NetworkDenoiser:
    """The untrained denoiser of a config, its weights drawn from the seed."""
    torch.manual_seed(int(generator(config.seed, 0).integers(2**31)))
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
        made.network.load_state_dict(initial_state(config.initial_weights, made.network))
    return made


def initial_state(path: str, network: nn.Module) -> dict[str, Tensor]:
    """The averaged weights in a file, if they are those of ``network``.

    Raises:
        InputError: they are not.
    """
    file = read_weights(path)
    if difference := first_difference(network, file.state):
        raise InputError(f"initial_weights: {path} does not fit the network of this config: {difference}")
    return with_averages(file, network, file.state)


class Trainer:
    """One training run.

    Args:
        config: its settings; those that depend on the data (``labels.auto``) are filled in.
        context: which process this is, of how many; each takes an equal share of every batch.
        folder: where the main process writes.
        open_set: opener of the training set.

    Raises:
        InputError: settings that do not go together.
    """

    def __init__(
        self, config: TrainConfig, context: distributed.Context, folder: RunFolder, open_set: OpenSet = ImageSet
    ) -> None:
        share = config.batch_size / (context.size * config.accumulate)
        if share != int(share):
            raise InputError(
                f"batch_size is {config.batch_size}: it must be a multiple of the processes ({context.size}) times "
                f"accumulate ({config.accumulate})"
            )
        self.context, self.folder = context, folder
        self.micro_batch = int(share)
        self.data = open_set(config, context.is_main)
        self.config = config = self.data.config
        self.denoiser = build_denoiser(config).to(context.device)
        self.denoiser.network.to(memory_format=torch.channels_last)
        if config.precision == "bf16":
            self.denoiser.autocast_dtype = torch.bfloat16
        self.loss = make_loss(config.objective, self.denoiser)
        self.parameters = [p for p in self.denoiser.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(config.optimizer, self.parameters)
        self.ema = EMA(self.denoiser.network, config.ema.half_life_images, config.ema.warmup_ratio)
        self.step, self.seconds = 0, 0.0
        self.done, self.rate = 0.0, 0.0
        self.total_steps = math.ceil(config.num_images / config.batch_size)

    def description(self) -> str:
        """One line that says what is trained on what."""
        parameters = sum(p.numel() for p in self.parameters)
        return (
            f"{self.config.network.name} with {parameters:,} parameters, {self.data.description}, "
            f"on {self.context.device} x {self.context.size}"
        )

    # --- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "network": self.denoiser.network.state_dict(),
            "ema": self.ema.average,
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved `state`."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.denoiser.network.load_state_dict(state["network"])
        for name, value in state["ema"].items():
            self.ema.average[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])

    def resume(self) -> None:
        """Load the folder's checkpoint, if there is one yet."""
        self.folder.read_torch(CHECKPOINT, self.context.device, self.load_state)

    def save(self) -> None:
        """Write the checkpoint and the weights file, each whole or not at all."""
        if not self.context.is_main:
            return
        self.folder.write_torch(CHECKPOINT, self.state())
        config, network = self.config, self.denoiser.network
        training = {
            "images_seen": self.step * config.batch_size,
            "minutes": round(self.seconds / 60, 1),
            "device": str(self.context.device),
            "processes": self.context.size,
            "config": config.model_dump(mode="json"),
        }
        save_denoiser(
            self.folder.file(MODEL),
            {
                "network": config.network.model_dump(),
                "denoiser": config.denoiser.model_dump(),
                "training": training,
                "classes": self.data.classes,
            },
            self.ema.state_dict_of(network),
            network.state_dict() if config.export_raw else None,
            dtype=getattr(torch, config.export_dtype),
        )

    # --- one step ------------------------------------------------------------------------------------------------

    def share_done(self) -> float:
        """Share of the training that lies behind, by images or, with ``max_minutes``, by time, whichever is more.

        The time is that of the main process, which tells the others, so that all take the same steps.
        """
        share = self.step / self.total_steps
        if self.config.max_minutes is None:
            return share
        seconds = torch.tensor(self.seconds, dtype=torch.float64)
        if self.context.size > 1:
            seconds = seconds.float().to(self.context.device)  # some devices have no float64
            torch.distributed.broadcast(seconds, 0)
        return max(share, float(seconds) / (60 * self.config.max_minutes))

    def _normal(self, part: int, shape: tuple[int, ...]) -> Tensor:
        """Normal(0, 1) ``[b, *shape]`` for a part of this step's batch: rows of draws for the whole batch, so that
        they depend on the seed, the step and the place in the batch, not on how the batch is shared."""
        first = (self.context.rank * self.config.accumulate + part) * self.micro_batch
        draws = generator(self.config.seed, 10, self.step)
        batch = draws.standard_normal((self.config.batch_size, *shape), dtype=np.float32)
        return torch.from_numpy(batch[first : first + self.micro_batch]).to(self.context.device)

    def train_step(self, model: nn.Module, examples: ExampleStream) -> tuple[Tensor, Tensor]:
        """One optimizer step on the next batch; the mean loss over this process's share and the gradient's norm."""
        seed_dropout(self.context.device, self.config.seed, 4, self.step, self.context.rank)
        config = self.config
        self.rate = learning_rate(config.optimizer, self.step, self.total_steps, config.batch_size, self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.context.device)
        for part in range(self.config.accumulate):
            x, u, noise, *label = (t.to(self.context.device, non_blocking=True) for t in examples.next())
            told = partial(model, label=label[0]) if label else model
            last = part == self.config.accumulate - 1
            wait = contextlib.nullcontext() if last or self.context.size == 1 else model.no_sync()  # type: ignore
            with wait:
                loss = self.loss(told, x, u, noise, partial(self._normal, part)).mean() / self.config.accumulate
                loss.backward()
            total += loss.detach()
        limit = self.config.optimizer.gradient_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        self.optimizer.step()
        self.step += 1
        self.ema.update(self.denoiser.network, self.config.batch_size, self.step * self.config.batch_size)
        return total, norm

    # --- the run -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end, or go on from where the run is.

        Raises:
            RunError: the loss is no longer finite, and the last checkpoint stays; or PSNR has fallen by more than
                `FALL`, and the checkpoint is that of the validation before.
        """
        distributed.init_process_group(self.context)
        model: nn.Module = self.denoiser
        if self.config.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        if self.context.size > 1:
            on_gpu = self.context.device.type == "cuda"
            model = DistributedDataParallel(
                model, device_ids=[self.context.device] if on_gpu else None, broadcast_buffers=False
            )
        examples = self.data.examples(self.context.rank, self.context.size, self.step, self.micro_batch)
        progress = Progress(self.folder, self.config, self.context)
        progress.restore(self.step, self.seconds)
        total, seen = (steps * self.config.batch_size for steps in (self.total_steps, self.step))
        with bar(total, "training", self.data.unit, seen, self.context.is_main) as tick:
            self.done = self.share_done()
            while self.done < 1:
                self._advance(model, examples, progress, tick)
        progress.close()
        self.context.barrier()

    def _advance(
        self, model: nn.Module, examples: ExampleStream, progress: Progress, tick: Callable[..., None]
    ) -> None:
        """One step and what is due after it."""
        config = self.config
        started = time.perf_counter()
        model.train()
        loss, norm = self.train_step(model, examples)
        to_log = (self.step % config.log_every) == 0 or self.step == self.total_steps
        if to_log:
            self._check(loss, norm)  # waits for the device, so that the seconds are those of its work
        self.seconds += time.perf_counter() - started
        self.done = self.share_done()
        end, note = self.done >= 1, ""
        if to_log or end:
            progress.log(self.step, loss, norm, self.rate, self.seconds)
            note = f"loss {float(loss):.4f}"
        tick(config.batch_size, note)
        if self._due(config.validate_images) or end:
            self.validate(progress)
            self._check_validation(progress)
        if self._due(config.checkpoint_images) or end:
            self._check(loss, norm)
            self.save()

    def _check(self, loss: Tensor, norm: Tensor) -> None:
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise RunError(
                f"the loss or its gradient is not finite at step {self.step} (loss {float(loss)}, norm {float(norm)}); "
                f"{self.folder.state_of(CHECKPOINT)}. Lower optimizer.learning_rate"
            )

    def _check_validation(self, progress: Progress) -> None:
        """Keep what is good, or go back to it and stop: a network can come apart while its loss stays finite."""
        if not self.context.is_main:
            return
        if (fall := progress.fall()) <= FALL:
            self.folder.write_torch(VALIDATED, self.state())
            return
        step = self.step
        self.folder.read_torch(VALIDATED, self.context.device, self.load_state)
        self.save()
        raise RunError(
            f"the network has come apart: at step {step} PSNR on the validation images is {fall:.1f} dB below its "
            f"best. {self.folder.path} is back at step {self.step}. Lower the learning rate: python train.py --resume "
            f"{self.folder.path} --set optimizer.learning_rate={self.config.optimizer.learning_rate / 2:g}"
        )

    def _due(self, every: int) -> bool:
        """Whether the last step passed a multiple of ``every`` images."""
        seen = self.step * self.config.batch_size
        return seen // every > (seen - self.config.batch_size) // every

    def validate(self, progress: Progress) -> None:
        """How good the averaged weights are, on the main process."""
        if self.context.is_main:
            network = self.denoiser.network
            raw = {name: p.detach().clone() for name, p in network.named_parameters()}
            network.load_state_dict(self.ema.state_dict_of(network))
            self.denoiser.eval()
            with torch.inference_mode():
                progress.validated(self.step, self.seconds, self.data.validate(self.denoiser))
            with torch.no_grad():
                for name, p in network.named_parameters():
                    p.copy_(raw[name])
        self.context.barrier()
