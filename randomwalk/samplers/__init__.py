"""Samplers, looked up by name.

A sampler turns noise levels into a result: ``sampler.sample(denoiser, x, sigmas, likelihood)``. Most of those here are
settings of one random walk, :func:`randomwalk.samplers.walk.walk`; ``sampler.plan(sigmas, likelihood)`` shows them. The
others are solvers of the probability flow.
"""

from __future__ import annotations

from typing import Any

from randomwalk import lookup
from randomwalk.samplers.dpm_solver import DPMSolver2M, DPMSolver3M
from randomwalk.samplers.heun import Heun
from randomwalk.samplers.ode import ODE
from randomwalk.samplers.predictor_corrector import PredictorCorrector
from randomwalk.samplers.sampler import Sampler
from randomwalk.samplers.walks import (
    DDIM,
    AnnealedLangevin,
    DDPMLarge,
    DDPMSmall,
    Plan,
    ProbabilityFlow,
    RandomWalk,
    VEReverseDiffusion,
    WalkSampler,
)

__all__ = ["ODE", "SAMPLERS", "WALKS", "Plan", "Sampler", "WalkSampler", "make"]

SAMPLERS: dict[str, type[Sampler]] = {
    "random_walk": RandomWalk,
    "annealed_langevin": AnnealedLangevin,
    "ve_reverse_diffusion": VEReverseDiffusion,
    "ddpm_small": DDPMSmall,
    "ddpm_large": DDPMLarge,
    "ddim": DDIM,
    "probability_flow": ProbabilityFlow,
    "heun": Heun,
    "dpmpp_2m": DPMSolver2M,
    "dpmpp_3m": DPMSolver3M,
    "ode": ODE,
    "predictor_corrector": PredictorCorrector,
}
WALKS: dict[str, type[WalkSampler]] = {n: c for n, c in SAMPLERS.items() if issubclass(c, WalkSampler)}
"""Those that are settings of the walk."""


def make(name: str, **settings: Any) -> Sampler:
    """The sampler called ``name``, with the settings of its class.

    Raises:
        InputError: an unknown name or setting, or an impossible value.
    """
    made = lookup.find("sampler", SAMPLERS, name)
    lookup.check_settings(f"sampler {name!r}", made, settings)
    return made(**settings)
