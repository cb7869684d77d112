"""What can be said of the pictures before they are made: whether noise will be left in them, and what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from randomwalk.config.samplers import ScheduleSettings
from randomwalk.errors import InputError
from randomwalk.operators import Operator
from randomwalk.samplers.remainder import COARSE, NOISE_LIMIT, Remainder, noise_of_walk, remainder
from randomwalk.sampling.levels import make_schedule
from randomwalk.sampling.trial import trial_operator

if TYPE_CHECKING:
    from randomwalk.sampling.task import Task

_NAMES = ("geometric", "sigmoid", "karras")
_FACTORS = (2, 4, 8)
_NOTHING_ELSE = 0.5  # the standard deviation of pictures
_LOWEST_STD = 1e-3  # of measurements without noise, where it is compared with the prior's


def schedule_notes(task: Task) -> list[str]:
    """One line if the sampler of a task leaves noise that shows, or spoils details, along its schedule; else none."""
    found = forecast(task, task.sigmas)
    if found is None or found.good:
        return []
    schedule, lowest = task.config.sampler.schedule, task.sigmas[-2:].tolist()
    if found.noise > _NOTHING_ELSE:
        wrong = "leaves nothing but noise"
    elif found.noise > NOISE_LIMIT:
        wrong = f"leaves noise of about {127.5 * found.noise:.0f} of 255 in the pictures"
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
    """What the sampler of a task leaves along these levels; None where that is not known."""
    if task.noise is None:
        return remainder(task.sampler, sigmas, task.config.start.std, task.denoiser.response)
    plan = task.plan(sigmas)
    if plan is None or not _has_unseen(task, trial_operator(task)):
        return None
    start = float(sigmas[0]) if task.config.start.std is None else task.config.start.std
    # Details are left out on purpose where the walk is cold: it goes to the middle of the posterior.
    return Remainder(noise_of_walk(plan, start, task.denoiser.response), 0.0)


def _has_unseen(task: Task, operator: Operator) -> bool:
    """Whether there are directions of which the measurement says less than that their contrast is small."""
    if not operator.has_spectral:
        return True
    assert task.noise is not None
    weakest = (max(task.noise.stable_std, _LOWEST_STD) / COARSE) ** 2
    x = torch.randn((1, *operator.image_shape), generator=torch.Generator().manual_seed(0)).to(task.device)
    unseen = operator.spectral(lambda eigenvalues: (eigenvalues < weakest).to(x), x)
    return bool(unseen.square().sum() > 1e-3 * x.square().sum())


def _remedy(task: Task) -> str:
    """The least change of the schedule that helps, found by trying."""
    schedule = task.config.sampler.schedule
    names: list[dict[str, object]] = [{"name": name} for name in _NAMES if name != schedule.name]
    steps: list[dict[str, object]] = [{"num_steps": factor * schedule.num_steps} for factor in _FACTORS]
    lower: list[dict[str, object]] = [{"sigma_min": NOISE_LIMIT / 2}] if task.sigmas[-1] > NOISE_LIMIT / 2 else []
    both: list[dict[str, object]] = [{**names[0], **more} for more in steps]
    for change in [*lower, *names, *steps, *both]:
        if _helps(task, change):
            return "--set " + " ".join(f"sampler.schedule.{key}={value}" for key, value in change.items()) + " helps"
    return "take longer steps, or another sampler"


def _helps(task: Task, change: dict[str, object]) -> bool:
    """Whether the sampler leaves nothing along the schedule with this change."""
    shape = {"t0", "rho"} if "name" in change else set()
    config = task.config.model_copy(deep=True)
    try:
        config.sampler.schedule = ScheduleSettings(**(config.sampler.schedule.model_dump(exclude=shape) | change))
        found = forecast(task, make_schedule(config, task.denoiser))
    except (InputError, ValueError):  # a schedule that this network or this range does not have
        return False
    return found is not None and found.good
