"""What is found out before a run begins: whether everything that its config names goes together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from randomwalk.errors import InputError
from randomwalk.operators import Measurement, Operator

if TYPE_CHECKING:
    from randomwalk.sampling.task import Task


def try_out(task: Task) -> None:
    """Raise InputError unless classes, operator, noise, sampler, image sizes and memory go together."""
    task.denoiser_of(range(len(task.labels or [0])))
    measurement = trial_measurement(task)
    task.sampler.check(measurement)
    if measurement is not None and task.sampler.uses_spectral:
        with torch.no_grad():
            operator = measurement.operator
            operator.spectral(torch.ones_like, torch.zeros((1, *operator.image_shape), device=task.device))
    task.sampler.check_levels(task.denoiser, task.sigmas)
    task.plan()
    known = [units for units in task.batches() if task.sizes is None or task.sizes[units[0].image] is not None]
    for units in sorted(known, key=lambda units: -len(units) * math.prod(task.shape_of(units[0].image))):
        task.tiling_of(units)  # the one that takes most first, so that the message is of that
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


def trial_measurement(task: Task) -> Measurement | None:
    """An exact measurement of a black image, to try settings with; None in an unconditional run.

    Raises:
        InputError: see `trial_operator`.
    """
    if task.noise is None:
        return None
    operator = trial_operator(task)
    with torch.no_grad():
        return Measurement(operator, task.noise, operator(torch.zeros((1, *operator.image_shape), device=task.device)))


def trial_operator(task: Task) -> Operator:
    """The operator to try settings with: that of the largest image that one can be made for.

    Raises:
        InputError: there is no such image; says why for the largest.
    """
    areas = [math.prod(size) if size else 0 for size in task.sizes or ()]
    failed: list[InputError] = []
    for image in sorted((i for i, area in enumerate(areas) if area), key=lambda i: -areas[i]) or [0]:
        try:
            return task.make_operator([image])[0]
        except InputError as error:
            failed.append(error)
    raise failed[0]
