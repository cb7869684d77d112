"""The noise levels of a config."""

from __future__ import annotations

from torch import Tensor

from randomwalk import samplers
from randomwalk.config import SampleConfig
from randomwalk.denoisers.denoiser import Denoiser


def make_schedule(config: SampleConfig, denoiser: Denoiser) -> Tensor:
    """Noise levels of a config; a range that it does not give is that of the denoiser.

    Raises:
        InputError: see `randomwalk.samplers.schedules.for_denoiser`.
    """
    return samplers.from_settings(config.sampler).levels(denoiser)
