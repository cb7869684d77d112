"""The objective of a training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from randomwalk.config.base import WHOLE, Positive, Settings
from randomwalk.config.networks import DenoiserSettings

EXACT_UP_TO = 32
"""Most entries of an image for which the divergence in a loss may be exact, with a backward pass for each."""


class LogNormalLevels(Settings):
    """ln sigma ~ Normal(mean, std^2) (EDM)."""

    name: Literal["log_normal"]
    mean: Annotated[float, Field(ge=-25, le=20)] = -1.2
    std: Annotated[float, Field(gt=0, le=10)] = 1.2


class LogitNormalLevels(Settings):
    """logit t ~ Normal(mean, std^2) for the time t of flow matching: log_normal, since sigma = t / (1 - t)."""

    name: Literal["logit_normal"]
    mean: Annotated[float, Field(ge=-25, le=20)] = 0.0
    std: Annotated[float, Field(gt=0, le=10)] = 1.0


class LogUniformLevels(Settings):
    """ln sigma ~ Uniform on the range of the denoiser (VE); importance sampling for the likelihood weight."""

    name: Literal["log_uniform"]


class EvenTimeLevels(Settings):
    """sigma at a uniform time of the denoiser, or at a uniform index of its table (denoisers sde, vp and flow)."""

    name: Literal["even_time"]


class UniformTimestepLevels(Settings):
    """sigma of a table at a uniform timestep (DDPM): even_time of a discrete denoiser."""

    name: Literal["uniform_timestep"]


LevelSettings = Annotated[
    LogNormalLevels | LogitNormalLevels | LogUniformLevels | EvenTimeLevels | UniformTimestepLevels,
    Field(discriminator="name"),
]


class Objective(Settings):
    """E[w(sigma) ||X - D(X + sigma N, sigma)||^2], as it is or in a form without X.

    The distribution of sigma and the weight are the denoiser's own by default.
    """

    name: Literal["denoising", "implicit_score_matching", "sliced_score_matching"] = "denoising"
    """The square; tr J + ||s||^2 / 2 of the score s and its Jacobian J; or e^T J e + (e^T s)^2 / 2, e random."""
    levels: LevelSettings | None = None
    """Distribution of sigma."""
    weight: Literal["inverse_variance", "edm", "uniform", "snr_clipped", "v", "flow", "likelihood"] | None = None
    """w: sigma^-2 (squared error of epsilon), EDM's, 1 (of x0), min(sigma^-2, gamma), sigma^-2 + 1 (of v),
    (1 + 1 / sigma)^2 (of flow's velocity), or g^2."""
    gamma: Positive = 5.0
    """The cap of snr_clipped (Hang et al. 2023, arXiv 2303.09556)."""
    divergence: Literal["exact", "hutchinson"] | None = None
    """Trace of J in implicit_score_matching; exact for points and hutchinson for images by default."""
    probes: Literal["rademacher", "gaussian"] | None = None
    """Random vectors of hutchinson and of sliced_score_matching; rademacher by default."""
    num_probes: Annotated[int, Field(ge=1, le=1000), WHOLE] | None = None
    """Random vectors per image; 1 by default."""

    @model_validator(mode="after")
    def _only_its_own_settings(self) -> Objective:
        if self.divergence is not None and self.name != "implicit_score_matching":
            raise ValueError(f"divergence: is for implicit_score_matching, but name is {self.name}; remove it")
        for key in ("probes", "num_probes"):
            if getattr(self, key) is None:
                continue
            if self.name == "denoising":
                raise ValueError(f"{key}: is for implicit and sliced score matching, but name is denoising; remove it")
            if self.divergence == "exact":
                raise ValueError(f"{key}: an exact divergence needs none; remove it, or set divergence: hutchinson")
        return self


def check_objective(objective: Objective, denoiser: DenoiserSettings, size: int, once: dict[str, bool]) -> None:
    """Refuse an objective that does not fit the rest of the training.

    Args:
        objective, denoiser: sections of the training.
        size: entries of an image.
        once: settings with which a network can be differentiated only once, and whether they are on.

    Raises:
        ValueError: ``key: what is wrong``.
    """
    levels = None if objective.levels is None else objective.levels.name
    if levels in ("even_time", "uniform_timestep") and denoiser.name not in ("vp", "sde", "flow"):
        raise ValueError(
            f"objective.levels.name: found {levels}; a {denoiser.name} denoiser has no timesteps, "
            "allowed: log_uniform, log_normal"
        )
    if levels == "uniform_timestep" and (denoiser.name == "flow" or getattr(denoiser, "time", "") == "continuous"):
        raise ValueError(
            "objective.levels.name: found uniform_timestep; the time of this denoiser is continuous, "
            "allowed: even_time, log_uniform, log_normal, logit_normal"
        )
    if objective.divergence == "exact" and size > EXACT_UP_TO:
        raise ValueError(
            f"objective.divergence: found exact, a backward pass for each of the {size} entries of an image; allowed: "
            f"hutchinson (exact for at most {EXACT_UP_TO} entries)"
        )
    for key, on in once.items():
        if on and objective.name != "denoising":
            raise ValueError(f"{key}: found true; allowed: false, since {objective.name} differentiates twice")
