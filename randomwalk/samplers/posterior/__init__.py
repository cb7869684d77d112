"""Samplers of the posterior ``p(x | y)``, looked up by name; one file each, with its equations and its source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from randomwalk import lookup
from randomwalk.samplers.posterior.daps import DAPS
from randomwalk.samplers.posterior.ddnm_plus import DDNMPlus
from randomwalk.samplers.posterior.ddrm import DDRM
from randomwalk.samplers.posterior.diffpir import DiffPIR
from randomwalk.samplers.posterior.dps import DPS
from randomwalk.samplers.posterior.mmps import MMPS
from randomwalk.samplers.posterior.pigdm import PiGDM
from randomwalk.samplers.posterior.random_walk import RandomWalk
from randomwalk.samplers.posterior.sampler import Needs, PosteriorSampler, Problem
from randomwalk.samplers.posterior.split_gibbs import SplitGibbs
from randomwalk.samplers.posterior.tds import TDS
from randomwalk.samplers.posterior.tweedie_smc import TweedieSMC

__all__ = ["POSTERIOR_SAMPLERS", "Needs", "PosteriorSampler", "Problem", "make"]

POSTERIOR_SAMPLERS: dict[str, type[PosteriorSampler]] = {
    "random_walk": RandomWalk,
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


def make(name: str, sigmas: Sequence[float] | Tensor, **settings: Any) -> PosteriorSampler:
    """The posterior sampler called ``name`` on these noise levels, with the settings of its class.

    Raises:
        InputError: an unknown name or setting, or an impossible value.
    """
    made = lookup.find("posterior sampler", POSTERIOR_SAMPLERS, name)
    lookup.check_settings(f"sampler {name!r}", made, settings, given=["sigmas"])
    return made(sigmas=sigmas, **settings)
