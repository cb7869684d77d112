"""The noise levels of a config: what its schedule leaves out, its denoiser and its sampler say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from randomwalk.config import SampleConfig
from randomwalk.config.samplers import PredictorCorrectorSettings
from randomwalk.denoisers.adapters import SDEDenoiser
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.samplers import schedules
from score_sde import sdes

_SAME_TABLE = 1e-3  # tables of DDPM and of the SDE that it approaches differ by a few percent


def make_schedule(config: SampleConfig, denoiser: Denoiser) -> Tensor:
    """Noise levels of a config; a range that it does not give is that of the denoiser.

    Raises:
        InputError: a level at which the denoiser cannot be used, even_time without an SDE, or pretrained with the
            noise table of another network.
    """
    settings = config.sampler.schedule.model_dump(exclude_none=True)
    if settings["name"] == "pretrained":
        return _own_levels(settings, denoiser)
    if "beta_min" not in settings:
        for key in ("sigma_min", "sigma_max"):
            settings.setdefault(key, getattr(denoiser, key))
    if settings["name"] == "even_time":
        settings["sde"] = _sde(config, denoiser)
    sigmas = schedules.make(**settings)
    try:
        for sigma in (float(sigmas[0]), float(sigmas[-1])):
            denoiser.check_sigma(sigma)
    except InputError as error:
        raise InputError(f"sampler.schedule: {error}") from error
    return sigmas


def _own_levels(settings: dict[str, Any], denoiser: Denoiser) -> Tensor:
    """Even steps in what the network is told of the noise level; a table in the config must be the network's."""
    own = denoiser.own_levels(torch.linspace(0, 1, settings["num_steps"], dtype=torch.float64))
    if "beta_min" in settings:
        written = schedules.make(**settings)
        if (written / own - 1).abs().max() > _SAME_TABLE:
            raise InputError(
                "sampler.schedule: beta_min, beta_max and num_timesteps are not the noise table of this network, which "
                f"knows sigma {float(own[-1]):.4g} to {float(own[0]):.4g}: remove the three keys, and the schedule "
                "pretrained takes the network's own levels"
            )
    return own


def _sde(config: SampleConfig, denoiser: Denoiser) -> sdes.SDE:
    """The SDE whose time the steps are made in: that of the sampler, or else that of the network."""
    if isinstance(config.sampler, PredictorCorrectorSettings):
        return sdes.make(**config.sampler.sde.model_dump())
    if isinstance(denoiser, SDEDenoiser) and denoiser.sde is not None:  # VPDenoiser is one
        return denoiser.sde
    raise InputError(
        "sampler.schedule: even_time is even in the time of an SDE, but neither the sampler nor the denoiser has one; "
        "expected the sampler predictor_corrector, a denoiser sde or vp (with the linear table), or another schedule: "
        "pretrained follows the table of any vp, geometric fits all"
    )
