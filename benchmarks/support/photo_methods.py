"""What photographs are restored by: posterior samplers, plug-and-play by the library deepinv, and classical methods."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from randomwalk import samplers
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.errors import RunError
from randomwalk.images import metrics
from randomwalk.operators import Measurement
from randomwalk.operators.deepinv_adapter import to_deepinv
from randomwalk.rng import ImageDraws
from randomwalk.samplers import schedules
from support.perceptual import lpips
from support.photo_baselines import CLASSICAL
from support.photo_problems import Problem
from support.records import Record

NETWORK_FACTS = ("weights", "precision")
PLUG_AND_PLAY = "plug-and-play (DPIR)"
SCHEDULE = ("schedule", "num_steps", "sigma_min", "sigma_max")
"""Settings of a sampler that are its schedule's; the others are the sampler's own."""


@dataclass(frozen=True)
class Outcome:
    """A restored image ``[1, 3, H, W]`` and what it took.

    Attributes:
        seconds: of the processor, or by the clock on a GPU.
    """

    x: Tensor
    evaluations: int
    vjps: int
    seconds: float


class Clock:
    """Seconds since it was made: of the processor, which other programs do not lengthen, or by the clock on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = self._now()

    def seconds(self) -> float:
        """Since the start."""
        return self._now() - self.start

    def _now(self) -> float:
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def sampled(problem: Problem, denoiser: Denoiser, settings: Mapping[str, Any], draws: ImageDraws) -> Outcome:
    """One sample by a posterior sampler.

    Args:
        settings: ``name``, those of `SCHEDULE`, and the sampler's own.

    Raises:
        InputError: a setting that the sampler, the operator or the network can't do with.
        RunError: the state is not finite.
    """
    own = {key: value for key, value in settings.items() if key not in SCHEDULE}
    name, *levels = (settings[key] for key in SCHEDULE)
    sigmas = schedules.make(name, levels[0], sigma_min=levels[1], sigma_max=levels[2])
    for sigma in (float(sigmas[0]), float(sigmas[-1])):
        denoiser.check_sigma(sigma)
    sampler = samplers.make(**own)
    counter, clock = CountingDenoiser(denoiser), Clock(problem.y.device)
    draws = ImageDraws(draws.generators, problem.y.device)
    x = sampler.sample(counter, sigmas, Measurement(problem.operator, problem.noise, problem.y), draws=draws)
    return Outcome(x, counter.evaluations, counter.vjps, clock.seconds())


# --- deepinv ---------------------------------------------------------------------------------------------------------


def deepinv_missing() -> str | None:
    """Why plug-and-play can't be done; None if it can."""
    try:
        importlib.import_module("deepinv.optim")
    except ImportError as error:
        return f"plug-and-play is left out: pip install deepinv ({error})"
    return None


class UnitRange(torch.nn.Module):
    """A denoiser as deepinv takes it: pixels and sigma on the scale of [0, 1]."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D(x, sigma), sigma brought into the network's range."""
        level = min(max(2 * float(sigma), self.denoiser.sigma_min), self.denoiser.sigma_max)
        found: Tensor = (self.denoiser(2 * x - 1, level) + 1) / 2
        return found


def plug_and_play(
    problem: Problem, denoiser: Denoiser, first_level: float, iterations: int, strength: float = 0.23
) -> Outcome:
    """DPIR (Zhang et al. 2021, arXiv 2008.13751): half-quadratic splitting with our denoiser, run by deepinv.

    deepinv's own settings are 49, 8 and 0.23, from ``A^T y``; the levels fall geometrically to that of the noise.

    Args:
        first_level: noise level of the first denoising, of 255.
        iterations: evaluations of the denoiser.
        strength: weight of the prior, the paper's lambda.
    """
    optim = importlib.import_module("deepinv.optim")
    counter, clock = CountingDenoiser(denoiser), Clock(problem.y.device)
    eta = problem.noise.std / 2
    levels = torch.logspace(math.log10(first_level / 255), math.log10(eta), iterations)
    steps = (levels / max(0.01, eta)) ** 2 / strength
    method = optim.HQS(
        prior=optim.prior.PnP(UnitRange(counter)),
        data_fidelity=optim.data_fidelity.L2(),
        stepsize=steps.tolist(),
        sigma_denoiser=levels.tolist(),
        max_iter=iterations,
        early_stop=False,
    )
    # x = 2 u - 1, hence A u = (A x + A 1) / 2.
    ones = torch.ones_like(problem.truth)
    with torch.no_grad():
        u = method((problem.y + problem.operator(ones)) / 2, to_deepinv(problem.operator))
    return Outcome(2 * u - 1, counter.evaluations, counter.vjps, clock.seconds())


# --- any method ------------------------------------------------------------------------------------------------------


def restore(
    title: str, settings: Mapping[str, Any], problem: Problem, denoiser: Denoiser | None, draws: ImageDraws
) -> Outcome:
    """Restore by a method of `photo_baselines.CLASSICAL`, by `PLUG_AND_PLAY`, or else by the sampler of that name.

    Args:
        denoiser: None if the method is classical.
        draws: of the sampler.

    Raises:
        InputError: a setting that the method can't do with.
        RunError: the result is not finite.
    """
    if title in CLASSICAL:
        clock = Clock(torch.device("cpu"))
        outcome = Outcome(CLASSICAL[title](problem, **settings), 0, 0, clock.seconds())
    else:
        assert denoiser is not None
        if title == PLUG_AND_PLAY:
            outcome = plug_and_play(problem, denoiser, **settings)
        else:
            outcome = sampled(problem, denoiser, {"name": title, **settings}, draws)
    if not outcome.x.isfinite().all():
        raise RunError(f"{title}: the restored image is not finite")
    return outcome


def judge(outcome: Outcome, truth: Tensor, perceptual: bool) -> Record:
    """Qualities and costs of a restored image."""
    x = outcome.x.cpu()
    return {
        "psnr": float(metrics.psnr(x, truth)),
        "ssim": float(metrics.ssim(x, truth)),
        "lpips": lpips(x, truth) if perceptual else None,
        "evaluations": outcome.evaluations,
        "vjps": outcome.vjps,
        "seconds": outcome.seconds,
    }


def facts_of(title: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the facts of a run that decide what a method makes: not the network's, if it has none."""
    return {key: value for key, value in facts.items() if title not in CLASSICAL or key not in NETWORK_FACTS}
