"""Methods that restore photographs: posterior samplers, plug-and-play by deepinv, and classical methods."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.errors import RunError
from randomwalk.images import metrics
from randomwalk.operators import Measurement
from randomwalk.operators.deepinv_adapter import to_deepinv
from randomwalk.rng import ImageDraws
from support.engine import Clock, Record, sample
from support.perceptual import lpips
from support.photo_baselines import CLASSICAL
from support.photo_problems import Problem

NETWORK_FACTS = ("weights", "precision")
PLUG_AND_PLAY = "plug-and-play (DPIR)"


@dataclass(frozen=True)
class Outcome:
    """A restored image ``[1, 3, H, W]`` and its cost; seconds are those of `Clock`."""

    x: Tensor
    evaluations: int
    vjps: int
    seconds: float


# --- deepinv ---------------------------------------------------------------------------------------------------------


def deepinv_missing() -> str | None:
    """Reason why plug-and-play cannot run; None if it can."""
    try:
        importlib.import_module("deepinv.optim")
    except ImportError as error:
        return f"plug-and-play is left out: pip install deepinv ({error})"
    return None


class UnitRange(torch.nn.Module):
    """A denoiser in deepinv's units: pixels and sigma on the scale of [0, 1]."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D(x, sigma), with sigma clipped to the network's range."""
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


# --- all methods -----------------------------------------------------------------------------------------------------


def restore(
    title: str, settings: Mapping[str, Any], problem: Problem, denoiser: Denoiser | None, draws: ImageDraws
) -> Outcome:
    """Restore by a method of `photo_baselines.CLASSICAL`, by `PLUG_AND_PLAY`, or by the sampler of that name.

    Args:
        settings: those of the method; for a sampler with those of its noise levels, `engine.SCHEDULE`.
        denoiser: may be None if the method is classical.
        draws: random numbers of the sampler.

    Raises:
        InputError: a setting that the method does not allow.
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
            given = Measurement(problem.operator, problem.noise, problem.y)
            x, cost = sample(title, settings, denoiser, given, 1, ImageDraws(draws.generators, problem.y.device))
            outcome = Outcome(x[:, 0], **cost)
    if not outcome.x.isfinite().all():
        raise RunError(f"{title}: the restored image is not finite")
    return outcome


def judge(outcome: Outcome, truth: Tensor, perceptual: bool) -> Record:
    """Quality and cost of a restored image."""
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
    """Facts of a run that decide the result of a method: those of the network only if it has one."""
    return {key: value for key, value in facts.items() if title not in CLASSICAL or key not in NETWORK_FACTS}
