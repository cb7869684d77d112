"""Loading of a sampling task, and the checks before it runs."""

from __future__ import annotations

import math

import torch

from randomwalk import samplers
from randomwalk.config import SampleConfig
from randomwalk.config.networks import Weights
from randomwalk.config.noise import NoiseInUnits
from randomwalk.config.sampling import SampleData
from randomwalk.denoisers.checkpoints import load_prior, read_config
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.denoisers.precision import choose_precision, pays_to_compile
from randomwalk.errors import InputError
from randomwalk.images.array_source import ArraySource, open_arrays
from randomwalk.images.sources import ImageSource, open_images
from randomwalk.sampling import measuring
from randomwalk.sampling.memory import make_budget
from randomwalk.sampling.sizes import image_shape, own_sizes, with_image_size
from randomwalk.sampling.task import Task
from randomwalk.sampling.task_images import TaskImages

MOST_SAMPLES = 1_000_000
"""Most samples of a run, all of which are in the lists of its batches."""


def load_task(config: SampleConfig, device: torch.device) -> Task:
    """Load and check everything that a config names.

    Raises:
        InputError: a file is missing or does not fit, or settings contradict each other.
    """
    if config.measurement is None and config.num_samples > 1:
        raise InputError("num_samples: is for measurements; an unconditional run makes num_images images")
    config = with_range(config)
    source = None if config.data is None else open_source(config.data, config.measured_arrays)
    source = source.without_masks() if source is not None and config.masks_beside else source
    source = source.of_page(config.data.page) if source is not None and config.data is not None else None
    sampler = samplers.from_settings(config.sampler)
    described = read_config(config.network.path) if config.network.name == "file" else None
    told = "" if config.network.architecture is None else config.network.architecture.name
    name = told if described is None else str(described["network"]["name"])
    precision, why = choose_precision(config.precision, device, why_exact(sampler, name))
    denoiser = load_prior(config.network, device, precision, config.compile is True)
    config = with_image_size(config, denoiser)
    camera = None
    if config.network.camera_path is not None and config.measurement is not None and config.measurement.tells_cameras:
        other = config.network.model_copy(update={"path": config.network.camera_path})
        camera = load_prior(other, device, precision, config.compile is True)
        check_alike(denoiser, camera, config.network)
    try:
        sigmas = sampler.levels(denoiser)
    except InputError as error:
        raise InputError(f"{error} (network.path: {config.network.path})") from error
    if source is None or config.data is None:
        names = [""] * (config.num_images or 0)
    elif (config.data.num_images or 0) > len(source):
        asked, path = config.data.num_images, config.data.path
        raise InputError(f"data.num_images: {asked} asked for, but {path} has {len(source)}")
    else:
        names = source.names[: config.data.num_images]
    if len(names) * config.num_samples > MOST_SAMPLES:
        raise InputError(
            f"num_samples: {config.num_samples} of each of {len(names)} images are asked for; allowed: at most "
            f"{MOST_SAMPLES:,} samples in a run"
        )
    sizes = None if source is None else own_sizes(config, denoiser, source, len(names))
    images = TaskImages(config, image_shape(config, denoiser, sizes), source, names, sizes)
    if sizes is not None and source is not None and denoiser.channels != 1:
        images.greys = [size is not None and measuring.stays_grey(config, source, i) for i, size in enumerate(sizes)]
    budget = make_budget(config, denoiser, device, sampler.needs)
    task = Task(config, device, denoiser, sampler, sigmas, images, budget, camera, (precision, why))
    if config.compile == "auto" and sizes is None and pays_to_compile(device, len(task.batches()) * task.num_steps):
        for each in [denoiser] if camera is None else [denoiser, camera]:
            each.network = torch.compile(each.network)  # type: ignore[assignment]
    check_task(task)
    return task


def check_alike(denoiser: NetworkDenoiser, camera: NetworkDenoiser, network: Weights) -> None:
    """Raise InputError unless the denoiser for the noise of cameras takes what the other one takes."""
    for key in ("channels", "image_size", "any_size", "num_classes", "sigma_min", "sigma_max"):
        found, expected = getattr(camera, key), getattr(denoiser, key)
        if found != expected:
            raise InputError(
                f"network.camera_path: {network.camera_path} has {key} {found}; expected {expected}, as {network.path}"
            )


def open_source(data: SampleData, measured: bool = False) -> ImageSource:
    """Open the pictures of a task, or with ``data.range`` its arrays.

    Args:
        data: settings.
        measured: see `SampleConfig.measured_arrays`.

    Raises:
        InputError: there are none.
    """
    if data.range is None:
        return open_images(data.path)
    source = open_arrays(data.path, data.dataset, data.axis, measured)
    if data.range != "auto":
        source.range = (data.range[0], data.range[1])
    return source


def with_range(config: SampleConfig) -> SampleConfig:
    """The config with ``data.range: auto`` replaced by what the arrays have, and a note that says so.

    Raises:
        InputError: the arrays cannot be read, or have no range.
    """
    if config.data is None or config.data.range != "auto":
        return config
    source = open_source(config.data, config.measured_arrays)
    assert isinstance(source, ArraySource)
    if config.masks_beside:
        source = source.without_masks()
    low, high = source.extent()
    found = config.model_copy(deep=True)
    assert found.data is not None
    found.data.range = [low, high]
    if found.measurement is not None and isinstance(found.measurement.noise, NoiseInUnits):
        found.measurement.noise.pixel_range = [low, high]
    found._notes = (*config.notes, f"data.range: auto found [{low:.9g}, {high:.9g}], which become -1 and 1")
    return found


def why_exact(sampler: samplers.Sampler, network: str) -> str:
    """Why the rounding of bf16 would change the results, as measured with the bundled networks; empty if it does not.

    PSNR of bf16 less that of fp32, dB: -0.04 (one image -0.9) with mmps, whose conjugate gradients amplify it; at most
    0.015 with the samplers that do not differentiate the network.

    Args:
        sampler: of the run.
        network: name of the architecture.
    """
    if network == "mlp":
        return "a network of points is small, and its results are read to several digits"
    if sampler.needs.gradient:
        return "the sampler differentiates the network"
    if isinstance(sampler, samplers.ODE):
        return "the solver holds a tolerance below the rounding of bf16"
    return ""


def check_task(task: Task) -> None:
    """Raise InputError unless classes, operator, noise, sampler, image sizes and memory fit together."""
    task.denoiser_of(range(len(task.labels or [0])))
    measurement = task.trial_measurement()
    task.sampler.check(measurement)
    if measurement is not None and task.sampler.uses_spectral:
        with torch.no_grad():
            operator = measurement.operator
            operator.spectral(torch.ones_like, torch.zeros((1, *operator.image_shape), device=task.device))
    task.sampler.check_levels(task.denoiser, task.sigmas)
    task.plan()
    readable = [
        ids for ids in task.batches() if task.images.sizes is None or task.images.sizes[ids[0].image] is not None
    ]
    for ids in sorted(readable, key=lambda ids: -len(ids) * math.prod(task.images.shape_of(ids[0].image))):
        task.tiling_of(ids)  # the largest first, so that the message is about it
    trained_on = [task.denoiser.image_size] * 2
    if task.config.image_size not in (None, trained_on) and not task.denoiser.any_size:
        x = torch.zeros((1, *task.images.shape), device=task.device)
        try:
            with torch.inference_mode():
                task.denoiser_of([0])(x, float(task.sigmas[0]))
        except RuntimeError as error:
            raise InputError(
                f"image_size: {task.config.image_size} does not go through the network, which was trained on "
                f"{task.denoiser.image_size} ({error})"
            ) from error
