"""What is found out before a run begins: whether everything that its config names goes together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from randomwalk.errors import InputError
from randomwalk.posterior import PosteriorSampler
from randomwalk.posterior.random_walk import RandomWalk

if TYPE_CHECKING:
    from randomwalk.task import Task


def try_out(task: Task) -> None:
    """Raise InputError unless classes, operator, noise, sampler, image sizes and memory go together."""
    task.denoiser_of(range(len(task.labels or [0])))
    if isinstance(task.sampler, PosteriorSampler):
        assert task.noise is not None
        operator, _ = task.make_operator([task.largest])
        x = torch.zeros((1, *operator.image_shape), device=task.device)
        task.sampler.check(operator, task.noise)
        with torch.no_grad():
            operator(x)
            if task.sampler.needs.spectral or (isinstance(task.sampler, RandomWalk) and task.sampler.preconditioned):
                operator.spectral(torch.ones_like, x)
    else:
        task.sampler.check(task.denoiser, task.sigmas)
    task.plan()
    for units in task.batches():
        task.tiling_of(units)
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
