"""Samplers of the prior and of the posterior, looked up by name.

All are called alike: ``make(name, **settings).sample(denoiser, sigmas, measurement)``. Those of the prior take no
measurement, `RandomWalk` goes with and without one, the others need one; ``sampler.needs`` says so. A sampler is one
class: `Sampler.step`, or `Sampler.run` where the loop is its own. The settings are declared in
`randomwalk.config.samplers`, from which the classes inherit.
"""

from __future__ import annotations

from typing import Any

from randomwalk import lookup
from randomwalk.config.samplers import SamplerBase
from randomwalk.samplers.dpm_solver import DPMSolver2M, DPMSolver3M, UniPC
from randomwalk.samplers.heun import Heun
from randomwalk.samplers.ode import ODE
from randomwalk.samplers.posterior.daps import DAPS
from randomwalk.samplers.posterior.ddnm_plus import DDNMPlus
from randomwalk.samplers.posterior.ddrm import DDRM
from randomwalk.samplers.posterior.diffpir import DiffPIR
from randomwalk.samplers.posterior.dps import DPS
from randomwalk.samplers.posterior.mmps import MMPS
from randomwalk.samplers.posterior.pigdm import PiGDM
from randomwalk.samplers.posterior.posterior_mean import PosteriorMean
from randomwalk.samplers.posterior.split_gibbs import SplitGibbs
from randomwalk.samplers.posterior.tds import TDS
from randomwalk.samplers.posterior.tweedie_smc import TweedieSMC
from randomwalk.samplers.predictor_corrector import PredictorCorrector
from randomwalk.samplers.sampler import Needs, Problem, Sampler
from randomwalk.samplers.walk import Plan
from randomwalk.samplers.walks import (
    DDIM,
    AnnealedLangevin,
    DDPMLarge,
    DDPMSmall,
    ProbabilityFlow,
    RandomWalk,
    VEReverseDiffusion,
    WalkSampler,
)

__all__ = [
    "DAPS",
    "DDIM",
    "DDRM",
    "DPS",
    "MMPS",
    "ODE",
    "SAMPLERS",
    "TDS",
    "AnnealedLangevin",
    "DDNMPlus",
    "DDPMLarge",
    "DDPMSmall",
    "DPMSolver2M",
    "DPMSolver3M",
    "DiffPIR",
    "Heun",
    "Needs",
    "PiGDM",
    "Plan",
    "PosteriorMean",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Problem",
    "RandomWalk",
    "Sampler",
    "SplitGibbs",
    "TweedieSMC",
    "UniPC",
    "VEReverseDiffusion",
    "WalkSampler",
    "from_settings",
    "make",
]

SAMPLERS: dict[str, type[Sampler]] = {
    "random_walk": RandomWalk,
    # of the prior
    "annealed_langevin": AnnealedLangevin,
    "ve_reverse_diffusion": VEReverseDiffusion,
    "ddpm_small": DDPMSmall,
    "ddpm_large": DDPMLarge,
    "ddim": DDIM,
    "probability_flow": ProbabilityFlow,
    "heun": Heun,
    "dpmpp_2m": DPMSolver2M,
    "dpmpp_3m": DPMSolver3M,
    "unipc": UniPC,
    "ode": ODE,
    "predictor_corrector": PredictorCorrector,
    # of the posterior
    "posterior_mean": PosteriorMean,
    "dps": DPS,
    "pigdm": PiGDM,
    "ddrm": DDRM,
    "ddnm_plus": DDNMPlus,
    "diffpir": DiffPIR,
    "daps": DAPS,
    "split_gibbs": SplitGibbs,
    "mmps": MMPS,
    "tds": TDS,
    "tweedie_smc": TweedieSMC,
}


def make(name: str, **settings: Any) -> Sampler:
    """The sampler called ``name``, with the settings of its class.

    Raises:
        InputError: an unknown name or setting, or an impossible value.
    """
    return lookup.find("sampler", SAMPLERS, name)(**settings)


def from_settings(settings: SamplerBase) -> Sampler:
    """The sampler of a section of YAML."""
    return make(**settings.model_dump())
