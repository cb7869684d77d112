"""The training of few images: density, field, optimizer steps, measurements on the way; all of it on the clock.

All that is random is a function of (seed, step), so that a resumed run takes the steps of an uninterrupted one. Only
where the clock decides (measurements every few seconds, a limit of time) do two runs differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randomwalk.config.score_embedding import EmbeddingMethod, ScoreEmbeddingConfig
from randomwalk.denoisers.checkpoints import make_denoiser, save_denoiser
from randomwalk.errors import RunError
from randomwalk.progress import bar
from randomwalk.rng import generator, seed_dropout
from randomwalk.run_folder import RunFolder, write_csv
from randomwalk.studies.score_embedding import density, measures
from randomwalk.studies.score_embedding.clock import COUNTED, Clock
from randomwalk.studies.score_embedding.embedding import field_of, random_like
from randomwalk.studies.score_embedding.images import load_images
from randomwalk.studies.score_embedding.methods import Made, denoiser_settings, make_method
from randomwalk.studies.score_embedding.solution import Solution
from randomwalk.studies.score_embedding.solvers import level_times, solve
from randomwalk.training.ema import EMA
from randomwalk.training.optimizer import learning_rate, make_optimizer
from score_sde import sdes

CHECKPOINT, MODEL = "checkpoint.pt", "model.safetensors"
_INITIAL, _BATCH, _DROPOUT, _SAMPLE, _DENSITY = range(5)  # what a stream (seed, this, ...) is for
LOG = ("step", "epoch", "image", "loss", "learning_rate", "seconds")
PROFILE = ("step", "epoch", "seconds", "image", "sample", "mse", "psnr", "ssim", "evaluations")
MOST_IMAGES = 8
"""Of which samples are made and measured."""


class Trainer:
    """One training.

    Args:
        config: its settings.
        device: where the network is.
        folder: where everything is written.
    """

    def __init__(self, config: ScoreEmbeddingConfig, device: torch.device, folder: RunFolder) -> None:
        self.config, self.device, self.folder = config, device, folder
        images, self.names = load_images(config.data)
        self.images = images.to(device)
        torch.manual_seed(int(generator(config.seed, _INITIAL).integers(2**31)))
        self.denoiser = make_denoiser(config.network.model_dump(), denoiser_settings(config.method)).to(device)
        self.denoiser.network.to(memory_format=torch.channels_last)
        if config.precision == "bf16":
            self.denoiser.autocast_dtype = torch.bfloat16
        self.parameters = list(self.denoiser.parameters())
        self.optimizer = make_optimizer(config.optimizer, self.parameters)
        ema = config.ema
        self.ema = None if ema is None else EMA(self.denoiser.network, ema.half_life_images, ema.warmup_ratio)
        self.clock = Clock(device)
        self.step = 0
        self.rows: dict[str, list[dict[str, Any]]] = {"log.csv": [], "profile.csv": []}

    # --- before the training -------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Compute the field, and write it and the images, unless an earlier part of the run has done so."""
        self.folder.write_array("images.npy", self.images.cpu().numpy())
        self.method = make_method(self.config.method, self.images, self.config.batch_size, self._field())

    def _field(self) -> Tensor | None:
        """What is embedded, ``[N, n, C, H, W]`` float32; None if nothing is."""
        method = self.config.method
        if not isinstance(method, EmbeddingMethod) or method.embedding == "none":
            return None
        if self.step and self.folder.has("scores.npy"):
            score = torch.from_numpy(np.load(self.folder.file("scores.npy"), allow_pickle=False)).to(self.device)
        else:
            solution = self._solve(method)
            score = solution.score.float()
            self._save_solution(solution)
        with self.clock.stage("solve"):
            field = field_of(score.to(self.device), method.component)
            return random_like(field, self.config.seed) if method.embedding == "random" else field

    def _solve(self, method: EmbeddingMethod) -> Solution:
        settings = method.density.model_dump(exclude={"name"})
        if method.density.name == "position_kde":
            settings["generator"] = generator(self.config.seed, _DENSITY)
        with bar(2, "before training", "parts") as tick:
            tick(0, "density")
            with self.clock.stage("density"):
                m0 = density.make(method.density.name, self.images.double(), **settings)
            tick(1, f"solver {method.solver.name}")
            with self.clock.stage("solve"):
                sde = sdes.make("power_ve", base=method.base)
                solution = solve(method.solver, m0, level_times(method.num_levels, method.eps), sde)
            tick(1, "done")
        if not torch.isfinite(solution.score).all():
            raise RunError(f"solver {method.solver.name}: the field is not finite; choose another density or solver")
        return solution

    def _save_solution(self, solution: Solution) -> None:
        self.folder.write_array("times.npy", solution.times.cpu().numpy())
        self.folder.write_array("scores.npy", solution.score.float().cpu().numpy())
        rows = [
            {"iteration": k + 1, "image": image, "residual": f"{value:.6g}"}
            for k, residuals in enumerate(solution.residuals)
            for image, value in enumerate(residuals)
        ]
        if rows:
            write_csv(self.folder, "convergence.csv", ("iteration", "image", "residual"), rows)

    # --- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "step": self.step,
            "seconds": dict(self.clock.seconds),
            "network": self.denoiser.network.state_dict(),
            "ema": None if self.ema is None else self.ema.average,
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved `state`."""
        self.step = state["step"]
        self.clock.seconds.update(state["seconds"])
        self.denoiser.network.load_state_dict(state["network"])
        for name, value in (state["ema"] or {}).items():
            assert self.ema is not None
            self.ema.average[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])

    def resume(self) -> None:
        """Load the folder's checkpoint, if there is one yet, and the logs up to it.

        Raises:
            InputError: it is damaged, or of another config.
        """
        self.folder.read_torch(CHECKPOINT, self.device, self.load_state)
        for name in self.rows:
            self.rows[name] = [row for row in self.folder.read_csv(name) if int(row["step"]) <= self.step]

    def save(self) -> None:
        """Write the weights, the logs and, last, the checkpoint, each whole or not at all."""
        config, network = self.config, self.denoiser.network
        training = {
            "steps": self.step, "minutes": round(self.clock.total / 60, 2), "config": config.model_dump(mode="json")
        }  # fmt: skip
        parts = {"network": config.network.model_dump(), "denoiser": denoiser_settings(config.method)}
        weights = network.state_dict() if self.ema is None else self.ema.state_dict_of(network)
        save_denoiser(self.folder.file(MODEL), {**parts, "training": training}, weights)
        write_csv(self.folder, "log.csv", LOG, self.rows["log.csv"])
        if self.config.profile.enabled:
            write_csv(self.folder, "profile.csv", PROFILE, self.rows["profile.csv"])
        self.save_timings()
        self.folder.write_torch(CHECKPOINT, self.state())

    def save_timings(self) -> None:
        """Write timings.csv: the stages that count, their sum, and the others."""
        seconds = self.clock.seconds
        stages = {stage: seconds[stage] for stage in COUNTED} | {"total": self.clock.total}
        stages |= {stage: seconds[stage] for stage in seconds if stage not in COUNTED}
        rows = [{"stage": stage, "seconds": f"{value:.4f}"} for stage, value in stages.items()]
        write_csv(self.folder, "timings.csv", ("stage", "seconds"), rows)

    # --- one step ------------------------------------------------------------------------------------------------

    def epoch(self, step: int) -> float:
        """Passes over the images after so many steps: an image has a step of its own, or a batch is a pass."""
        return step / len(self.images) if self.method.image_of(0) >= 0 else float(step)

    def train_step(self) -> Tensor:
        """One optimizer step; the mean loss."""
        config = self.config
        seed_dropout(self.device, config.seed, _DROPOUT, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.method.loss(self.denoiser, self.step, generator(config.seed, _BATCH, self.step)).mean()
        loss.backward()
        if config.optimizer.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, config.optimizer.gradient_clip)
        self.optimizer.step()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.denoiser.network, config.batch_size, self.step * config.batch_size)
        return loss.detach()

    def learning_rate(self, step: int) -> float:
        """Of a step."""
        return learning_rate(self.config.optimizer, step, self.config.num_steps, self.config.batch_size)

    # --- the run -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end, or go on from where the run is.

        Raises:
            RunError: the loss is no longer finite; the last checkpoint stays.
        """
        with bar(self.config.num_steps, "training", initial=self.step) as tick:
            while not self._ended():
                self._advance(tick)
                if self._ended() or self.step % self.config.checkpoint_steps == 0:
                    self.save()

    def _ended(self) -> bool:
        """Whether the steps, the time, or the patience (`stop_at`) are over."""
        limit = self.config.time_limit
        return self.step >= self.config.num_steps or (limit is not None and self.clock.total >= limit) or self._stops()

    def _advance(self, tick: Callable[..., None]) -> None:
        """One step, its line in the log, and the measurement that is due after it."""
        before = self.clock.seconds["training"]
        image = self.method.image_of(self.step)
        self.denoiser.train()
        with self.clock.stage("training"):
            loss = float(self.train_step())
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is not finite after step {self.step} ({loss}); "
                f"{self.folder.state_of(CHECKPOINT)}. Lower optimizer.learning_rate"
            )
        self.rows["log.csv"].append({
            "step": self.step, "epoch": f"{self.epoch(self.step):g}", "image": image, "loss": f"{loss:.6g}",
            "learning_rate": f"{self.learning_rate(self.step - 1):.6g}", "seconds": f"{self.clock.total:.4f}",
        })  # fmt: skip
        tick(1, f"loss {loss:.4g}")
        if self.config.profile.enabled and (self._due(before) or self._ended()):
            self.measure()

    def _due(self, before: float) -> bool:
        """Whether it is time for a measurement, after the step that began at ``before`` seconds of training."""
        profile = self.config.profile
        if profile.every_steps is not None:
            return self.step % profile.every_steps == 0
        every = profile.every_seconds or 5.0
        return self.clock.seconds["training"] // every > before // every

    def measure(self) -> None:
        """Make the samples, and add how good they are to the profile."""
        with self.clock.stage("profiling"):
            _, rows = self.samples()
        moment = {"step": self.step, "epoch": f"{self.epoch(self.step):g}", "seconds": f"{self.clock.total:.4f}"}
        self.rows["profile.csv"] += [moment | row for row in rows]

    def _stops(self) -> bool:
        """Whether the samples have been good enough for long enough."""
        profile = self.config.profile
        if profile.stop_at is None:
            return False
        seconds, values = measures.curve(self.rows["profile.csv"], "seconds", "ssim")
        return measures.sustained_crossing(seconds, values, profile.stop_at, profile.hold) is not None

    # --- samples -------------------------------------------------------------------------------------------------

    def samples(self) -> tuple[Made, list[dict[str, Any]]]:
        """Samples by the present weights (averaged ones if an average is kept), the same starts each time.

        Returns:
            What was made, image by image and sample by sample, and a row of measurements for each.
        """
        settings, network = self.config.sampling, self.denoiser.network
        count = min(len(self.images), MOST_IMAGES)
        pairs = [(image, sample) for image in range(count) for sample in range(settings.num_samples)]
        draws = [generator(self.config.seed, _SAMPLE, *pair) for pair in pairs]
        raw = None
        if self.ema is not None:
            raw = {name: p.detach().clone() for name, p in network.state_dict().items()}
            network.load_state_dict(self.ema.state_dict_of(network))
        self.denoiser.eval()
        with torch.no_grad():
            made = self.method.sample(self.denoiser, [image for image, _ in pairs], draws, settings)
        if raw is not None:
            network.load_state_dict(raw)
        found = self._measured(made.images, [image for image, _ in pairs])
        cells = [
            {"image": image, "sample": sample, **row, "evaluations": made.evaluations}
            for (image, sample), row in zip(pairs, found, strict=True)
        ]
        return made, cells

    def _measured(self, u: Tensor, wanted: list[int]) -> list[dict[str, str]]:
        """MSE, PSNR and SSIM of clipped samples: to the image that they were to be, or, of a network that was told
        nothing, to the nearest one."""
        u = u.float()
        if not torch.isfinite(u).all():
            raise RunError(f"the samples after step {self.step} are not finite. Lower optimizer.learning_rate")
        u = measures.stretch(u) if self.config.sampling.minmax else u.clamp(0, 1)
        told = self.denoiser.num_classes is not None or self.config.sampling.start == "truth"
        nearest = torch.cdist(u.flatten(1), self.images.flatten(1)).argmin(1)
        truth = self.images[torch.tensor(wanted, device=u.device) if told else nearest]
        columns = {"mse": measures.mse(u, truth), "psnr": measures.psnr(u, truth), "ssim": measures.ssim(u, truth)}
        return [{name: f"{float(v[row]):.6g}" for name, v in columns.items()} for row in range(len(u))]
