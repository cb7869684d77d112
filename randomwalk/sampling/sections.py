"""Sections of a sampling config as arguments of what they describe."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from randomwalk import samplers
from randomwalk.config import SampleConfig
from randomwalk.errors import InputError
from randomwalk.images.sources import ImageSource
from randomwalk.samplers import posterior
from randomwalk.samplers.posterior import PosteriorSampler


def make_sampler(config: SampleConfig, sigmas: Tensor) -> samplers.Sampler | PosteriorSampler:
    """The sampler of a config: of the posterior if there is a measurement, else of the prior.

    Raises:
        InputError: an impossible setting.
    """
    settings = settings_of(config.sampler, without={"schedule"})
    if config.measurement is None:
        return samplers.make(**settings)
    if config.sampler.name == "random_walk":
        settings |= {"start_mean": config.start.mean, "start_std": config.start.std}
    return posterior.make(sigmas=sigmas, **settings)


def needs_gradient(sampler: samplers.Sampler | PosteriorSampler) -> bool:
    """Whether it takes products with the Jacobian of the denoiser."""
    return isinstance(sampler, PosteriorSampler) and sampler.needs.gradient


def settings_of(section: Any, without: set[str] | None = None) -> dict[str, Any]:
    """A section of the config as keyword arguments; what was left out keeps the default of the called."""
    found: dict[str, Any] = section.model_dump(exclude_none=True, exclude=without)
    return found


def described(section: Any, own: bool) -> dict[str, Any] | None:
    """What the config says of the network; beside a file that describes itself only what was written, not defaults."""
    return None if section is None else section.model_dump(exclude_none=True, exclude_unset=own)


def names_of(config: SampleConfig, source: ImageSource | None) -> list[str]:
    """Names of the images of a run; empty ones for images that are made from nothing.

    Raises:
        InputError: more are asked for than there are.
    """
    if source is None or config.data is None:
        return [""] * (config.num_images or 0)
    if (config.data.num_images or 0) > len(source):
        raise InputError(f"data.num_images: {config.data.num_images} asked for, but {source.where} has {len(source)}")
    return source.names[: config.data.num_images]
