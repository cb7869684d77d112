"""Training of few images: density, field, optimizer steps, and measurements on the way, all of them timed.

All random numbers are functions of (seed, step), so that a resumed run takes the steps of an uninterrupted one. Two
runs differ only where the clock decides: measurements every few seconds, and a time limit.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from randomwalk.config.score_embedding import EmbeddingMethod, ScoreEmbeddingConfig
from randomwalk.denoisers.checkpoints import make_denoiser, save_denoiser
from randomwalk.denoisers.precision import choose_precision
from randomwalk.errors import InputError, RunError
from randomwalk.images.arrays import read_array
from randomwalk.progress import bar
from randomwalk.rng import Stream, generator, seed_torch
from randomwalk.runs.checkpoints import MODEL
from randomwalk.runs.folder import RunFolder, write_csv
from randomwalk.studies.score_embedding import density, measures
from randomwalk.studies.score_embedding.clock import COUNTED, Clock
from randomwalk.studies.score_embedding.embedding import field_of, random_like
from randomwalk.studies.score_embedding.images import load_images
from randomwalk.studies.score_embedding.methods import Made, denoiser_settings, make_method
from randomwalk.studies.score_embedding.solution import Solution
from randomwalk.studies.score_embedding.solvers import level_times, solve
from randomwalk.training.loop import Loop
from randomwalk.training.optimizer import Descent
from score_sde import sdes

LOG = ("step", "epoch", "image", "loss", "learning_rate", "seconds")
PROFILE = ("step", "epoch", "seconds", "image", "sample", "mse", "psnr", "ssim", "evaluations")
MOST_IMAGES = 8
"""Largest number of images whose samples are made and measured."""


class Trainer(Loop):
    """Training of a network on few images.

    Args:
        config: its settings.
        device: where the network is.
        folder: of the run.
    """

    def __init__(self, config: ScoreEmbeddingConfig, device: torch.device, folder: RunFolder) -> None:
        self.config = config
        images, self.names = load_images(config.data)
        self.images = images.to(device)
        seed_torch(torch.device("cpu"), config.seed, Stream.EMBEDDING_WEIGHTS)
        self.denoiser = make_denoiser(config.network.model_dump(), denoiser_settings(config.method)).to(device)
        self.denoiser.network.to(memory_format=torch.channels_last)
        if choose_precision(config.precision, device)[0] == "bf16":
            self.denoiser.autocast_dtype = torch.bfloat16
        self.descent = Descent(
            self.denoiser.network, self.denoiser.parameters(), config.optimizer, config.ema, config.batch_size
        )
        super().__init__(folder, device, [self.descent])
        self.clock = Clock(device)
        self.logs = {"log.csv": [], "profile.csv": []}
        self.needed = {"profile.csv": PROFILE}

    # --- before the training -------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Write the images, and compute and write the field unless an earlier part of the run has done so."""
        self.folder.write_array("images.npy", self.images.cpu().numpy())
        self.method = make_method(self.config.method, self.images, self.config.batch_size, self._field())

    def _field(self) -> Tensor | None:
        """Field to embed, ``[N, n, C, H, W]`` float32; None if nothing is embedded."""
        method = self.config.method
        if not isinstance(method, EmbeddingMethod) or method.embedding == "none":
            return None
        if self.step and self.folder.has("scores.npy"):
            path = self.folder.file("scores.npy")
            found = read_array(path, str(path))
            count, channels, height, width = self.images.shape
            expected = (len(level_times(method.num_levels, method.eps)), count, channels, 2, height, width)
            if found.shape != expected:
                raise InputError(
                    f"{path}: has shape {found.shape}; expected {expected}; it is made again if you remove it"
                )
            score = torch.from_numpy(found).float().to(self.device)
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
            settings["generator"] = generator(self.config.seed, Stream.EMBEDDING_DENSITY)
        with bar(2, "before training", "parts") as tick:
            tick(0, "density")
            with self.clock.stage("density"):
                m0 = density.make(method.density.name, self.images, **settings)
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
        network, seconds = self.denoiser.network.state_dict(), dict(self.clock.seconds)
        return {"seconds": seconds, "network": network, **self.descent.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.clock.seconds.update(state["seconds"])
        self.denoiser.network.load_state_dict(state["network"])
        steps = state["step"]
        self.descent.load_state(state, steps, self.images_of(state, steps, self.config.batch_size))

    def export(self) -> None:
        config = self.config
        training = {
            "steps": self.step, "minutes": round(self.clock.total / 60, 2), "config": config.model_dump(mode="json")
        }  # fmt: skip
        parts = {"network": config.network.model_dump(), "denoiser": denoiser_settings(config.method)}
        save_denoiser(self.folder.file(MODEL), {**parts, "training": training}, self.descent.averaged_state())
        write_csv(self.folder, "log.csv", LOG, self.logs["log.csv"])
        if self.config.profile.enabled:
            write_csv(self.folder, "profile.csv", PROFILE, self.logs["profile.csv"])
        self.save_timings()

    def save_timings(self) -> None:
        """Write timings.csv: the counted stages, their sum, and the others."""
        seconds = self.clock.seconds
        stages = {stage: seconds[stage] for stage in COUNTED} | {"total": self.clock.total}
        stages |= {stage: seconds[stage] for stage in seconds if stage not in COUNTED}
        rows = [{"stage": stage, "seconds": f"{value:.4f}"} for stage, value in stages.items()]
        write_csv(self.folder, "timings.csv", ("stage", "seconds"), rows)

    # --- one step ------------------------------------------------------------------------------------------------

    def epoch(self, step: int) -> float:
        """Number of passes over the images after ``step`` steps; a batch of several images is a pass."""
        return step / len(self.images) if self.method.image_of(0) >= 0 else float(step)

    def train_step(self) -> tuple[Tensor, Tensor]:
        """Take one timed optimizer step; returns the mean loss and the norm of its gradient."""
        self.denoiser.train()
        self._before = self.clock.seconds["training"]
        with self.clock.stage("training"):
            seed_torch(self.device, self.config.seed, Stream.EMBEDDING_DROPOUT, self.step)
            draws = generator(self.config.seed, Stream.EMBEDDING_BATCH, self.step)
            losses = [self.method.loss(self.denoiser, self.step, draws).mean()]
            return self.descent.step(losses, self.step / self.config.num_steps)

    # --- the run -------------------------------------------------------------------------------------------------

    def place(self) -> tuple[int, int]:
        return self.step, self.config.num_steps

    def share_done(self) -> float:
        """Share of the training that is done, by steps or by time; 1 once the samples are good enough (`stop_at`)."""
        limit = self.config.time_limit
        share = max(super().share_done(), 0.0 if limit is None else self.clock.total / limit)
        return 1.0 if self._stops() else share

    def is_saved(self) -> bool:
        return self.step % self.config.checkpoint_steps == 0

    def log(self, loss: Tensor, norm: Tensor) -> None:
        self.logs["log.csv"].append({
            "step": self.step, "epoch": f"{self.epoch(self.step):g}", "image": self.method.image_of(self.step - 1),
            "loss": f"{float(loss):.6g}", "learning_rate": f"{self.descent.rate:.6g}",
            "seconds": f"{self.clock.total:.4f}",
        })  # fmt: skip

    def report(self) -> None:
        """Measure samples if that is due, which can end the training."""
        profile = self.config.profile
        if not profile.enabled:
            return
        if profile.every_steps is not None:
            due = self.step % profile.every_steps == 0
        else:
            every = profile.every_seconds or 5.0
            due = self.clock.seconds["training"] // every > self._before // every
        if due or self.done >= 1:
            self.measure()
            self.done = self.share_done()

    def measure(self) -> None:
        """Make the samples, and add their measurements to the profile."""
        with self.clock.stage("profiling"):
            _, rows = self.samples()
        moment = {"step": self.step, "epoch": f"{self.epoch(self.step):g}", "seconds": f"{self.clock.total:.4f}"}
        self.logs["profile.csv"] += [moment | row for row in rows]

    def _stops(self) -> bool:
        """Whether the samples have been good enough for long enough (`stop_at`, `hold`)."""
        profile = self.config.profile
        if profile.stop_at is None:
            return False
        seconds, values = measures.curve(self.logs["profile.csv"], "seconds", "ssim")
        return measures.sustained_crossing(seconds, values, profile.stop_at, profile.hold) is not None

    # --- samples -------------------------------------------------------------------------------------------------

    def samples(self) -> tuple[Made, list[dict[str, Any]]]:
        """Make samples with the present weights, averaged if an average is kept, always from the same noise.

        Returns:
            The samples, image by image, and a row of measurements for each.
        """
        settings, ema = self.config.sampling, self.descent.ema
        count = min(len(self.images), MOST_IMAGES)
        pairs = [(image, sample) for image in range(count) for sample in range(settings.num_samples)]
        draws = [generator(self.config.seed, Stream.EMBEDDING_SAMPLES, *pair) for pair in pairs]
        self.denoiser.eval()
        averaged = contextlib.nullcontext() if ema is None else ema.applied_to(self.denoiser.network)
        with averaged, torch.no_grad():
            made = self.method.sample(self.denoiser, [image for image, _ in pairs], draws, settings)
        found = self._measured(made.images, [image for image, _ in pairs])
        cells = [
            {"image": image, "sample": sample, **row, "evaluations": made.evaluations}
            for (image, sample), row in zip(pairs, found, strict=True)
        ]
        return made, cells

    def _measured(self, u: Tensor, wanted: list[int]) -> list[dict[str, str]]:
        """MSE, PSNR and SSIM of clipped samples to the images that they stand for.

        A network without classes is not asked for an image; its samples are compared with the nearest one.
        """
        u = u.float()
        if not torch.isfinite(u).all():
            raise RunError(f"the samples after step {self.step} are not finite. Lower optimizer.learning_rate")
        u = measures.stretch(u) if self.config.sampling.minmax else u.clamp(0, 1)
        conditioned = self.denoiser.num_classes is not None or self.config.sampling.start == "truth"
        nearest = torch.cdist(u.flatten(1), self.images.flatten(1)).argmin(1)
        truth = self.images[torch.tensor(wanted, device=u.device) if conditioned else nearest]
        columns = {"mse": measures.mse(u, truth), "psnr": measures.psnr(u, truth), "ssim": measures.ssim(u, truth)}
        return [{name: f"{float(v[row]):.6g}" for name, v in columns.items()} for row in range(len(u))]
