"""Training methods, each a loss and a sampler: score embedding, and DDPM for comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randomwalk import samplers
from randomwalk.config.score_embedding import DDPMMethod, EmbeddedSampling, EmbeddingMethod
from randomwalk.denoisers.adapters import ScoreDenoiser, VPDenoiser
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.denoisers.guidance import guided
from randomwalk.rng import ImageDraws
from randomwalk.studies.score_embedding import sampling
from randomwalk.studies.score_embedding.embedding import displacements
from randomwalk.studies.score_embedding.objective import draw_levels, score_matching_loss, stratified_times
from randomwalk.studies.score_embedding.solvers import level_times
from score_sde import sdes

FRAMES = 5
"""Number of states of a trajectory that are kept."""


@dataclass(frozen=True)
class Made:
    """Samples.

    Attributes:
        images: ``[B, C, H, W]``, pixels in [0, 1] but not clipped.
        frames: states of the trajectories, ``[F, B, C, H, W]``.
        evaluations: of the network.
    """

    images: Tensor
    frames: Tensor
    evaluations: int


class Method:
    """Base of the methods.

    Args:
        images: u ``[n, C, H, W]`` in [0, 1], on the device of the network.
        batch_size: examples in a step.
    """

    def __init__(self, images: Tensor, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size

    def image_of(self, step: int) -> int:
        """Index of the image of a step's batch, or -1 if the batch has several."""
        return -1

    def loss(self, denoiser: NetworkDenoiser, step: int, draws: np.random.Generator) -> Tensor:
        """Loss of each example of a step, ``[B]``."""
        raise NotImplementedError

    def sample(
        self, denoiser: NetworkDenoiser, images: Sequence[int], draws: Sequence[np.random.Generator],
        settings: EmbeddedSampling,
    ) -> Made:  # fmt: skip
        """Draw samples.

        Args:
            denoiser: the trained network.
            images: for each sample, the index of the image that it should be.
            draws: random numbers for each sample.
            settings: of the sampling.
        """
        raise NotImplementedError

    def _labels(self, denoiser: NetworkDenoiser, images: Tensor) -> Tensor | None:
        """Indices of the images, if the network is conditioned on them."""
        return images if denoiser.num_classes is not None else None

    def _normal(self, draws: np.random.Generator, size: int) -> Tensor:
        shape = (size, *self.images.shape[1:])
        return torch.from_numpy(draws.standard_normal(shape, dtype=np.float32)).to(self.images.device)


class ScoreEmbedding(Method):
    """Denoising score matching on images that are moved along a field.

    Args:
        images, batch_size: see `Method`.
        settings: of the method.
        field: F, ``[N, n, C, H, W]``; None for no movement.
    """

    def __init__(self, images: Tensor, batch_size: int, settings: EmbeddingMethod, field: Tensor | None) -> None:
        super().__init__(images, batch_size)
        self.settings, self.field = settings, field
        self.sde = sdes.make("power_ve", base=settings.base)
        self.moved: Tensor | None = None
        if field is not None and settings.batches == "mixed":
            self.moved = displacements(field, self.sde.diffusion(level_times(settings.num_levels, settings.eps)))

    def image_of(self, step: int) -> int:
        return step % len(self.images) if self.settings.batches == "by_image" else -1

    def examples(self, step: int, draws: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a batch: moved images u^n, their times t (float64), and the indices of the images.

        Either one image at N times, one in each part of [eps, 1], moved along all levels up to its own, at the batch's
        times; or random images, at the levels in turn, moved at the times of the levels.
        """
        settings, device = self.settings, self.images.device
        n = settings.num_levels
        rounds = math.ceil(self.batch_size / n)
        places = draw_levels(self.batch_size, n, torch.from_numpy(draws.random(rounds * n)))
        uniform = torch.from_numpy(draws.random((rounds, n)))
        times = stratified_times(torch.arange(n), uniform, n, settings.eps, settings.times)
        level, t = (places % n).to(device), times.flatten()[places]
        if settings.batches == "mixed":
            chosen = torch.from_numpy(draws.integers(len(self.images), size=self.batch_size)).to(device)
            moved = self.images[chosen] if self.moved is None else self.images[chosen] + self.moved[level, chosen]
            return moved, t, chosen
        image = step % len(self.images)
        u = self.images[image].expand(self.batch_size, -1, -1, -1)
        if self.field is not None:
            stacks = [displacements(self.field[:, image], self.sde.diffusion(row)) for row in times]
            u = u + torch.cat(stacks)[places.to(device)]
        return u, t, torch.full((self.batch_size,), image, device=device)

    def loss(self, denoiser: NetworkDenoiser, step: int, draws: np.random.Generator) -> Tensor:
        u, t, image = self.examples(step, draws)
        z = self._normal(draws, self.batch_size)
        noisy = u + sdes.broadcast(self.sde.std(t), u) * z
        assert isinstance(denoiser, ScoreDenoiser)
        score = denoiser.network_score(noisy, t.to(u), self._labels(denoiser, image))
        return score_matching_loss(score, z, t, self.sde)

    def sample(
        self, denoiser: NetworkDenoiser, images: Sequence[int], draws: Sequence[np.random.Generator],
        settings: EmbeddedSampling,
    ) -> Made:  # fmt: skip
        assert isinstance(denoiser, ScoreDenoiser)
        chosen = torch.tensor(images, device=self.images.device)
        labels = self._labels(denoiser, chosen)
        noise = ImageDraws(draws, self.images.device).normal(self.images.shape[1:])
        start = sampling.start(settings.start, noise, self.sde, self.images[chosen], settings.truth_weight)
        made = sampling.flow(
            lambda u, t: denoiser.network_score(u, t, labels), start, self.sde, t_end=self.settings.eps,
            rtol=settings.tolerance, atol=settings.tolerance, tweedie=settings.tweedie, num_frames=FRAMES,
        )  # fmt: skip
        return Made(made.images, made.frames, made.evaluations)


class DDPM(Method):
    """Prediction of epsilon at uniform timesteps, with a fresh image for each example.

    Args:
        images, batch_size: see `Method`.
        settings: of the method.
    """

    def __init__(self, images: Tensor, batch_size: int, settings: DDPMMethod) -> None:
        super().__init__(images, batch_size)
        self.settings = settings

    def loss(self, denoiser: NetworkDenoiser, step: int, draws: np.random.Generator) -> Tensor:
        assert isinstance(denoiser, VPDenoiser)
        device = self.images.device
        chosen = torch.from_numpy(draws.integers(len(self.images), size=self.batch_size)).to(device)
        timestep = torch.from_numpy(draws.integers(self.settings.num_timesteps, size=self.batch_size))
        sigma = denoiser.table[timestep].to(self.images)
        noise, x = self._normal(draws, self.batch_size), 2 * self.images[chosen] - 1
        noisy = x + sdes.broadcast(sigma, x) * noise
        predicted = denoiser.predict(noisy, sigma, self._labels(denoiser, chosen))
        return (predicted - noise).square().flatten(1).mean(1)

    def levels(self, denoiser: VPDenoiser) -> list[float]:
        """Noise levels of the sampling, descending: the whole table, or some levels of it with the highest."""
        last = self.settings.num_timesteps - 1
        count = self.settings.num_steps or last + 1
        places = np.linspace(last, 0, count).round().astype(int)
        return [float(denoiser.table[place]) for place in places]

    def sample(
        self, denoiser: NetworkDenoiser, images: Sequence[int], draws: Sequence[np.random.Generator],
        settings: EmbeddedSampling,
    ) -> Made:  # fmt: skip
        """Draw samples, from N(0, I) in the coordinates ``z = sqrt(alpha_bar) x`` or a mixture with the truth."""
        assert isinstance(denoiser, VPDenoiser)
        levels, rows = self.levels(denoiser), ImageDraws(draws, self.images.device)
        z = rows.normal(self.images.shape[1:])
        if settings.start == "truth":
            truth = 2 * self.images[torch.tensor(images, device=z.device)] - 1
            z = (1 - settings.truth_weight) * z + settings.truth_weight * truth
        start = math.sqrt(1 + levels[0] ** 2) * z
        frames: list[Tensor] = [z]
        wanted = set(np.linspace(0, len(levels) - 1, FRAMES).round().astype(int).tolist()[1:])

        def keep(k: int, x: Tensor, sigma: float) -> None:
            if k in wanted:
                below = levels[k + 1] if k + 1 < len(levels) else 0.0
                frames.append(x / math.sqrt(1 + below**2))

        sampler = samplers.make({"ddpm": "ddpm_small", "ddim": "ddim"}[self.settings.sampler])
        conditional = guided(denoiser, images if denoiser.num_classes is not None else None)
        x = sampler.sample(conditional, levels, start=start, draws=rows, callback=keep)
        return Made((x + 1) / 2, (torch.stack(frames) + 1) / 2, len(levels))


def denoiser_settings(method: EmbeddingMethod | DDPMMethod) -> dict[str, Any]:
    """Name and settings of the denoiser adapter of a method."""
    if isinstance(method, DDPMMethod):
        return {"name": "vp", **{k: getattr(method, k) for k in ("beta_min", "beta_max", "num_timesteps")}}
    sde = {"name": "power_ve", "base": method.base}
    return {"name": "score", "sde": sde, "time_scale": method.time_scale, "eps": method.eps}


def make_method(
    settings: EmbeddingMethod | DDPMMethod, images: Tensor, batch_size: int, field: Tensor | None
) -> Method:
    """Make the method that the settings name."""
    if isinstance(settings, DDPMMethod):
        return DDPM(images, batch_size, settings)
    return ScoreEmbedding(images, batch_size, settings, field)
