"""Samplers of the posterior ``p(x | y)``, looked up by name; one file each, with its equations and its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.posterior.daps import DAPS
from randomwalk.posterior.ddnm_plus import DDNMPlus
from randomwalk.posterior.ddrm import DDRM
from randomwalk.posterior.diffpir import DiffPIR
from randomwalk.posterior.dps import DPS
from randomwalk.posterior.mmps import MMPS
from randomwalk.posterior.pigdm import PiGDM
from randomwalk.posterior.random_walk import RandomWalk
from randomwalk.posterior.sampler import Needs, PosteriorSampler, Problem
from randomwalk.posterior.split_gibbs import SplitGibbs
from randomwalk.posterior.tds import TDS
from randomwalk.posterior.tweedie_smc import TweedieSMC

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
    if name not in POSTERIOR_SAMPLERS:
        raise InputError(f"posterior sampler {name!r}: unknown; expected one of {', '.join(POSTERIOR_SAMPLERS)}")
    allowed = [field.name for field in fields(POSTERIOR_SAMPLERS[name]) if field.name != "sigmas"]
    if unknown := sorted(set(settings) - set(allowed)):
        raise InputError(
            f"sampler {name!r}: unknown setting {', '.join(unknown)}; allowed: {', '.join(allowed) or 'none'}"
        )
    return POSTERIOR_SAMPLERS[name](sigmas=sigmas, **settings)
