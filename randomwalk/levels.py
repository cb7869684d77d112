"""The noise levels of a config: what its schedule leaves out, its denoiser and its sampler say."""

from __future__ import annotations

import torch
from torch import Tensor

from randomwalk import schedules
from randomwalk.config import PredictorCorrectorSettings, SampleConfig
from randomwalk.denoisers import Denoiser, SDEDenoiser, VPDenoiser
from randomwalk.errors import InputError
from score_sde import sdes


def make_schedule(config: SampleConfig, denoiser: Denoiser) -> Tensor:
    """Noise levels of a config; a range that it does not give is that of the denoiser.

    Raises:
        InputError: a level at which the denoiser cannot be used, or even_time without an SDE.
    """
    settings = config.sampler.schedule.model_dump(exclude_none=True)
    no_range = not {"beta_min", "sigma_min", "sigma_max"} & settings.keys()
    if no_range and settings["name"] == "pretrained" and isinstance(denoiser, VPDenoiser):
        u = torch.linspace(0, 1, settings["num_steps"], dtype=torch.float64)
        return schedules.pretrained(u, denoiser.table.cpu())
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
