"""Samplers, looked up by name.

A sampler turns noise levels into a result: ``sampler.sample(denoiser, x, sigmas, likelihood)``. Those here are
settings of one random walk, :func:`randomwalk.template.walk`; ``sampler.plan(sigmas, likelihood)`` shows them.
"""

from __future__ import annotations

from typing import Any

from randomwalk import lookup
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

__all__ = ["SAMPLERS", "Plan", "WalkSampler", "make"]

SAMPLERS: dict[str, type[WalkSampler]] = {
    "random_walk": RandomWalk,
    "annealed_langevin": AnnealedLangevin,
    "ve_reverse_diffusion": VEReverseDiffusion,
    "ddpm_small": DDPMSmall,
    "ddpm_large": DDPMLarge,
    "ddim": DDIM,
    "probability_flow": ProbabilityFlow,
}


def make(name: str, **settings: Any) -> WalkSampler:
    """The sampler called ``name``, with the settings of its class.

    Raises:
        InputError: an unknown name or setting, or an impossible value.
    """
    made = lookup.find("sampler", SAMPLERS, name)
    lookup.check_settings(f"sampler {name!r}", made, settings)
    return made(**settings)
