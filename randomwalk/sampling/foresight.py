"""Notes for the user before a run: on its schedule, tiles, crops and coupled samples."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from randomwalk import samplers
from randomwalk.config.noise import GaussianNoiseSettings, LaplaceNoiseSettings
from randomwalk.config.operators import blurs_of
from randomwalk.config.samplers import ScheduleSettings
from randomwalk.denoisers.tiling import Tiling
from randomwalk.errors import InputError
from randomwalk.images.array_source import ArraySource
from randomwalk.images.kinds import left_out_notes
from randomwalk.operators import Operator
from randomwalk.operators.noise import PoissonNoise
from randomwalk.rng import Stream, torch_generator
from randomwalk.samplers.remainder import COARSE, NOISE_LIMIT, Remainder, noise_of_walk, remainder
from randomwalk.sampling import intervals
from randomwalk.sampling.sizes import scale_factor
from randomwalk.sampling.task import Task

_NAMES = ("geometric", "sigmoid", "karras")
_FACTORS = (2, 4, 8)
_ONLY_NOISE = 0.5  # the standard deviation of images
_LOWEST_STD = 1e-3  # stands for the noise of an exact measurement, where it is compared with the prior's


def notes_of(task: Task) -> list[str]:
    """Notes on a task before it starts, one line each."""
    source, arrays = task.images.source, isinstance(task.images.source, ArraySource)
    left_out = [] if source is None else left_out_notes(source.where, source.left_out, arrays)
    precision, why = task.precision
    return [
        *left_out,
        *_page_notes(task),
        *_operator_notes(task),
        *_unit_notes(task),
        *_photon_notes(task),
        *_coupling_notes(task),
        *_crop_notes(task),
        *_tiling_notes(task),
        *schedule_notes(task),
        *_interval_notes(task),
        *([f"precision: {precision}, since {why}"] if why else []),
    ]


def _operator_notes(task: Task) -> list[str]:
    """Notes on how the operator was made, such as on the file of a blur kernel."""
    return [] if task.config.measurement is None else list(task.measurements.trial_operator().notes)


def _interval_notes(task: Task) -> list[str]:
    """Whether the intervals were calibrated for this run; an InputError if the file is none."""
    path = task.config.intervals
    return [] if path is None else intervals.notes(intervals.read(Path(path)), task.config)


def image_notes(task: Task, image: int) -> list[str]:
    """Notes on the measurement of an image, one line each."""
    if task.config.measurement is None:
        return []
    found, name = [], task.images.names[image]
    noise = task.measurements.estimated_noise.get(image)
    kept = ", and left in the known pixels (keep_known)" if task.config.measurement.keeps_known else ""
    if isinstance(noise, PoissonNoise):
        read = f" and read noise of {127.5 * noise.read_std:.2g} of 255" if noise.read_std > 0 else ""
        found.append(f"{name}: estimated {noise.peak:.3g} photons at white{read}{kept}")
    elif noise is not None and isinstance(task.images.source, ArraySource):
        low, high = task.images.source.range
        found.append(f"{name}: noise estimated as {noise.std * (high - low) / 2:.3g} in its units{kept}")
    elif noise is not None:
        found.append(f"{name}: noise estimated as {_of_255(noise.std)} of 255{kept}{_prior_note(task, image)}")
    return [*found, *task.measurements.mask_notes.get(image, ())]


def _prior_note(task: Task, image: int) -> str:
    """End of the note on a picture's noise: the weights that its noise led to; empty if there is no choice."""
    network = task.config.network
    if task.camera is None or network.camera_path is None:
        return ""
    if image in task.measurements.of_cameras:
        return f"; it is that of a camera (not white), so {Path(network.camera_path).name} was taken"
    return f"; it is white, or too little is known of it, so {Path(network.path).name} was taken"


def _page_notes(task: Task) -> list[str]:
    """One note on files with several pages, if the config does not say which to take."""
    if task.images.source is None or task.config.data is None or "page" in task.config.data.model_fields_set:
        return []
    counts = {name: task.images.source.num_pages(i) for i, name in enumerate(task.images.names)}
    several = [name for name, count in counts.items() if count > 1]
    if not several:
        return []
    others = {1: "", 2: "; so does another file"}.get(len(several), f"; so do {len(several) - 1} other files")
    pages = f"{several[0]} has {counts[several[0]]} pages, of which the first is taken"
    return [f"{pages}{others}: data.page (restore: --page) takes another, data.page: all takes each"]


def _of_255(std: float) -> str:
    """A standard deviation in units of 1/255, with two digits where it is small."""
    value = 127.5 * std
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


def _unit_notes(task: Task) -> list[str]:
    """One note if the standard deviation of the noise looks like a number in another unit."""
    noise = None if task.config.measurement is None else task.config.measurement.noise
    if not isinstance(noise, GaussianNoiseSettings | LaplaceNoiseSettings) or not isinstance(noise.std, float):
        return []
    if isinstance(task.images.source, ArraySource):  # of any unit
        return []
    std, (low, high) = noise.std, noise.pixel_range
    width = high - low
    shown = f"measurement.noise.std: {std:g} on [{low:g}, {high:g}]"
    if width > 100 and std < width / 1000:
        return [f"{shown} is less than the rounding of an image; if it is meant on [0, 1], write {std * width:g}"]
    if width <= 2 and std > width:
        meant = f"{std / 255 * width:.3g}"
        return [f"{shown} is more than the range from black to white; if it is meant on [0, 255], write {meant}"]
    return []


def _photon_notes(task: Task) -> list[str]:
    """One note if the sampler takes photons for Gaussian noise."""
    measurement = task.config.measurement
    if measurement is None or task.measurements.knows_noise:
        return []
    if task.measurements.noise.name == "beer_lambert":
        return [
            f"sampler {task.config.sampler.name} treats the noise of the projections as Gaussian, with the variance "
            "that the photons of each ray say (weighted least squares)"
        ]
    which = "the variance around each pixel" if blurs_of(measurement.operator) else "their mean variance"
    return [
        f"sampler {task.config.sampler.name} treats photon noise as Gaussian with {which}; for denoising "
        "alone, posterior_mean uses its exact distribution"
    ]


def _coupling_notes(task: Task) -> list[str]:
    """Notes on samples that depend on each other."""
    name, count, size = task.config.sampler.name, task.config.num_samples, task.config.batch_size
    found = []
    if task.sampler.coupled_images and not task.sampler.batch_of_one and size > 1:
        found.append(f"{name} couples the images of a batch: each depends on the others")
    if task.sampler.coupled_samples and count == 1:
        found.append(f"{name} is a particle method: with num_samples: 1 it is far from the posterior; raise it")
    if task.sampler.coupled_samples and count > size:
        found.append(
            f"{name} draws the {count} samples of an image jointly: a batch has {count} rows, although batch_size is "
            f"{size}"
        )
    return found


def _crop_notes(task: Task) -> list[str]:
    """One note if images are cropped to a multiple of super_resolution's factor."""
    factor = scale_factor(task.config)
    sizes = [] if task.config.given else zip(task.images.names, task.images.sizes or [], strict=False)
    cropped = [(name, size) for name, size in sizes if size and any(side % factor for side in size)]
    if not cropped:
        return []
    name, size = cropped[0]
    was, kept = ("{}x{}".format(*sides) for sides in (size, task.images.sizing(size, name)))
    return [
        f"{name} is cropped from {was} to {kept} pixels, at the right and the bottom, to a multiple of the factor "
        f"{factor}{_and_others(len(cropped) - 1)}"
    ]


def _tiling_notes(task: Task) -> list[str]:
    """One note if the network does not take all images whole."""
    tiled: dict[str, tuple[Tiling, str]] = {}
    for ids in task.batches():
        tiling = task.tiling_of(ids)
        if task.budget is None or tiling is None:
            continue
        shape = task.images.shape_of(ids[0].image)
        if not tiling.is_whole(*shape[1:]):
            found = tiling, task.budget.reason(shape, len(ids))
            tiled |= {task.images.names[one.image] or f"image {one.image}": found for one in ids}
    if not tiled:
        return []
    name, (tiling, reason) = next(iter(tiled.items()))
    return [
        f"{name} is denoised in tiles of up to {tiling.height}x{tiling.width} pixels that overlap by {tiling.overlap}, "
        f"{reason}{_and_others(len(tiled) - 1)}"
    ]


def _and_others(count: int) -> str:
    """End of a note on one image that also applies to ``count`` others."""
    return {0: "", 1: "; so is another image"}.get(count, f"; so are {count} other images")


# --- the schedule ------------------------------------------------------------------------------------------------


def schedule_notes(task: Task) -> list[str]:
    """One note if the sampler would leave visible noise or wrong details along the schedule of a task."""
    found = forecast(task, task.sigmas)
    if found is None or found.good:
        return []
    schedule, lowest = task.config.sampler.schedule, task.sigmas[-2:].tolist()
    if found.noise > _ONLY_NOISE:
        wrong = "leaves nothing but noise"
    elif found.noise > NOISE_LIMIT:
        wrong = f"leaves noise of about {127.5 * found.noise:.0f} of 255 in the images"
    else:
        side = "high" if found.detail > 0 else "low"
        wrong = f"makes the contrast of details {100 * abs(found.detail):.0f}% too {side}"
    too_high = found.noise > NOISE_LIMIT and lowest[-1] > NOISE_LIMIT / 2
    why = "too high" if too_high else "too few or too far apart for these steps"
    return [
        f"sampler.schedule: {schedule.name} with num_steps {schedule.num_steps} {wrong}; its lowest levels, "
        f"{' and '.join(f'{sigma:.3g}' for sigma in lowest)}, are {why}: {_remedy(task)}"
    ]


def forecast(task: Task, sigmas: Tensor) -> Remainder | None:
    """Noise and error of details that a task's sampler leaves along these levels; None if they cannot be predicted."""
    if task.config.measurement is None:
        return remainder(task.sampler, sigmas, task.config.start.std, task.denoiser.response)
    plan = task.plan(sigmas)
    if plan is None or not _has_unseen(task, task.measurements.trial_operator()):
        return None
    start = float(sigmas[0]) if task.config.start.std is None else task.config.start.std
    # Details are not judged: a cold walk blurs them on purpose, on its way to the posterior mean.
    return Remainder(noise_of_walk(plan, start, task.denoiser.response), 0.0)


def _has_unseen(task: Task, operator: Operator) -> bool:
    """Whether the measurement constrains some directions less than the prior on details does."""
    if not operator.has_spectral:
        return True
    weakest = (max(task.measurements.noise.stable_std, _LOWEST_STD) / COARSE) ** 2
    x = torch.randn((1, *operator.image_shape), generator=torch_generator(0, Stream.UNSEEN)).to(task.device)
    unseen = operator.spectral(lambda eigenvalues: (eigenvalues < weakest).to(x), x)
    return bool(unseen.square().sum() > 1e-3 * x.square().sum())


def _remedy(task: Task) -> str:
    """Smallest change of the schedule that helps, found by trying."""
    schedule = task.config.sampler.schedule
    names: list[dict[str, object]] = [{"name": name} for name in _NAMES if name != schedule.name]
    steps: list[dict[str, object]] = [{"num_steps": factor * schedule.num_steps} for factor in _FACTORS]
    lower: list[dict[str, object]] = [{"sigma_min": NOISE_LIMIT / 2}] if task.sigmas[-1] > NOISE_LIMIT / 2 else []
    both: list[dict[str, object]] = [{**names[0], **more} for more in steps]
    for change in [*lower, *names, *steps, *both]:
        config = task.config.model_copy(deep=True)
        shape = {"t0", "rho"} if "name" in change else set()
        try:
            config.sampler.schedule = ScheduleSettings(**(schedule.model_dump(exclude=shape) | change))
            found = forecast(task, samplers.from_settings(config.sampler).levels(task.denoiser))
        except (InputError, ValueError):  # this network or range does not allow the schedule
            continue
        if found is not None and found.good:
            return "--set " + " ".join(f"sampler.schedule.{key}={value}" for key, value in change.items()) + " helps"
    return "take longer steps, or choose another sampler"
