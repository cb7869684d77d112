"""Loading of a sampling task, and the checks before it runs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from randomwalk import samplers
from randomwalk.config import PredictorCorrectorSettings, SampleConfig
from randomwalk.denoisers.adapters import SDEDenoiser
from randomwalk.denoisers.checkpoints import load_denoiser, read_config
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.images.sources import open_images
from randomwalk.samplers import posterior, schedules
from randomwalk.samplers.posterior import PosteriorSampler
from randomwalk.samplers.posterior.random_walk import RandomWalk
from randomwalk.sampling import measuring
from randomwalk.sampling.memory import make_budget
from randomwalk.sampling.sizes import image_shape, own_sizes
from randomwalk.sampling.task import Task
from score_sde import sdes

_SAME_TABLE = 1e-3  # tables of DDPM and of the SDE that it approaches differ by a few percent


def load_task(config: SampleConfig, device: torch.device) -> Task:
    """Load and check everything that a config names.

    Raises:
        InputError: a file is missing or does not fit, or settings contradict each other.
    """
    if config.measurement is None and config.num_samples > 1:
        raise InputError("num_samples: is for measurements; an unconditional run makes num_images images")
    # Where the file describes its network, only settings that were written in the config count, not their defaults.
    written_only = read_config(config.network.path) is not None
    source = None if config.data is None else open_images(config.data.path)
    source = source.without_masks() if source is not None and config.masks_beside else source
    network, adapter = (
        None if section is None else section.model_dump(exclude_none=True, exclude_unset=written_only)
        for section in (config.network.architecture, config.network.denoiser)
    )
    denoiser = load_denoiser(
        config.network.path,
        network=network,
        denoiser=adapter,
        weights=config.network.weights,
        device=device,
        precision=config.precision,
        compile=config.compile,
    )
    sigmas = make_schedule(config, denoiser)
    if source is None or config.data is None:
        names = [""] * (config.num_images or 0)
    elif (config.data.num_images or 0) > len(source):
        raise InputError(f"data.num_images: {config.data.num_images} asked for, but {source.where} has {len(source)}")
    else:
        names = source.names[: config.data.num_images]
    sizes = None if source is None else own_sizes(config, denoiser, source, len(names))
    shape = image_shape(config, denoiser, sizes)
    task = Task(config, device, denoiser, make_sampler(config, sigmas), sigmas, shape, source, names, sizes)
    if sizes is not None and source is not None and denoiser.channels != 1:
        task.greys = [size is not None and measuring.stays_grey(config, source, i) for i, size in enumerate(sizes)]
    gradient = isinstance(task.sampler, PosteriorSampler) and task.sampler.needs.gradient
    task.budget = make_budget(config, denoiser, device, gradient)
    check_task(task)
    return task


def check_task(task: Task) -> None:
    """Raise InputError unless classes, operator, noise, sampler, image sizes and memory fit together."""
    task.denoiser_of(range(len(task.labels or [0])))
    if isinstance(task.sampler, PosteriorSampler):
        assert task.noise is not None
        operator = task.trial_operator()
        x = torch.zeros((1, *operator.image_shape), device=task.device)
        task.sampler.check(operator, task.noise)
        with torch.no_grad():
            operator(x)
            if task.sampler.needs.spectral or (isinstance(task.sampler, RandomWalk) and task.sampler.preconditioned):
                operator.spectral(torch.ones_like, x)
    else:
        task.sampler.check(task.denoiser, task.sigmas)
    task.plan()
    readable = [ids for ids in task.batches() if task.sizes is None or task.sizes[ids[0].image] is not None]
    for ids in sorted(readable, key=lambda ids: -len(ids) * math.prod(task.shape_of(ids[0].image))):
        task.tiling_of(ids)  # the largest first, so that the message is about it
    trained_on = [task.denoiser.image_size] * 2
    if task.config.image_size not in (None, trained_on) and not task.denoiser.any_size:
        x = torch.zeros((1, *task.image_shape), device=task.device)
        try:
            with torch.inference_mode():
                task.denoiser_of([0])(x, float(task.sigmas[0]))
        except RuntimeError as error:
            raise InputError(
                f"image_size: {task.config.image_size} does not go through the network, which was trained on "
                f"{task.denoiser.image_size} ({error})"
            ) from error


def make_sampler(config: SampleConfig, sigmas: Tensor) -> samplers.Sampler | PosteriorSampler:
    """Sampler of a config: of the posterior if there is a measurement, else of the prior.

    Raises:
        InputError: an impossible setting.
    """
    settings = config.sampler.model_dump(exclude_none=True, exclude={"schedule"})
    if config.measurement is None:
        return samplers.make(**settings)
    if config.sampler.name == "random_walk":
        settings |= {"start_mean": config.start.mean, "start_std": config.start.std}
    return posterior.make(sigmas=sigmas, **settings)


def make_schedule(config: SampleConfig, denoiser: Denoiser) -> Tensor:
    """Noise levels of a config, decreasing; a range that the config leaves out is that of the denoiser.

    Raises:
        InputError: a level is outside the denoiser's range, even_time has no SDE, or the noise table of pretrained is
            not the network's.
    """
    settings = config.sampler.schedule.model_dump(exclude_none=True)
    if settings["name"] == "pretrained":
        return _own_levels(settings, denoiser)
    if "beta_min" not in settings:
        for key in ("sigma_min", "sigma_max"):
            settings.setdefault(key, getattr(denoiser, key))
    if settings["name"] == "even_time":
        if isinstance(config.sampler, PredictorCorrectorSettings):
            settings["sde"] = sdes.make(**config.sampler.sde.model_dump())
        elif isinstance(denoiser, SDEDenoiser) and denoiser.sde is not None:  # VPDenoiser is one
            settings["sde"] = denoiser.sde
        else:
            raise InputError(
                "sampler.schedule: even_time has equal steps in the time of an SDE, but neither the sampler nor the "
                "denoiser has one; expected the sampler predictor_corrector, a denoiser sde or vp (with the linear "
                "table), or another schedule: pretrained follows the table of any vp, geometric fits all"
            )
    sigmas = schedules.make(**settings)
    try:
        for sigma in (float(sigmas[0]), float(sigmas[-1])):
            denoiser.check_sigma(sigma)
    except InputError as error:
        raise InputError(f"sampler.schedule: {error}") from error
    return sigmas


def _own_levels(settings: dict[str, Any], denoiser: Denoiser) -> Tensor:
    """Equal steps in the network's own time; a table in the config must be the network's."""
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
