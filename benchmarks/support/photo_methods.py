"""Methods that restore photographs: the walk and other samplers of ours, peers, and classical methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import RunError
from randomwalk.images import metrics
from randomwalk.operators import Measurement
from randomwalk.rng import ImageDraws
from support import photo_peers
from support.engine import Clock, Record, sample
from support.perceptual import lpips
from support.photo_baselines import CLASSICAL
from support.photo_problems import Problem

NETWORK_FACTS = ("weights", "precision")


@dataclass(frozen=True)
class Outcome:
    """A restored image ``[1, 3, H, W]`` and its cost; seconds are those of `Clock`."""

    x: Tensor
    evaluations: int
    vjps: int
    seconds: float


def restore(
    title: str, settings: Mapping[str, Any], problem: Problem, denoiser: Denoiser | None, draws: ImageDraws
) -> Outcome:
    """Restore by a method of `photo_baselines.CLASSICAL`, by a peer of `photo_peers`, or by our sampler of that name.

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
        if photo_peers.library_of(title) is not None:
            clock, seed = Clock(problem.y.device), int(draws.generators[0].integers(2**31))
            x, counter = photo_peers.restore(title, settings, problem, denoiser, seed)
            outcome = Outcome(x, counter.evaluations, counter.vjps, clock.seconds())
        else:
            given = Measurement(problem.operator, problem.noise, problem.y)
            x, cost = sample(title, settings, denoiser, given, 1, ImageDraws(draws.generators, problem.y.device))
            outcome = Outcome(x[:, 0], **cost)
    if not outcome.x.isfinite().all():
        raise RunError(f"{title}: the restored image is not finite")
    return outcome


def judge(outcome: Outcome, truth: Tensor, alexnet: Path | None) -> Record:
    """Quality and cost of a restored image; LPIPS if AlexNet's weights are given."""
    x = outcome.x.cpu()
    return {
        "psnr": float(metrics.psnr(x, truth)),
        "ssim": float(metrics.ssim(x, truth)),
        "lpips": None if alexnet is None else lpips(x, truth, alexnet),
        "evaluations": outcome.evaluations,
        "vjps": outcome.vjps,
        "seconds": outcome.seconds,
        "megapixels": truth.shape[-2] * truth.shape[-1] / 1e6,
    }


def facts_of(title: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a run that decide the result of a method: those of the network only if it has one."""
    return {key: value for key, value in facts.items() if title not in CLASSICAL or key not in NETWORK_FACTS}
