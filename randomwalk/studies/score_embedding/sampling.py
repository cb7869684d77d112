"""Samples from a score by the probability flow of the SDE: its starts and its integration.

Source: Song et al. 2021, arXiv 2011.13456, section 4.3; the starts are those of Na, Gao and Wan 2024, arXiv 2404.06661,
and of its public code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import RunError
from randomwalk.samplers.integrate import integrate
from score_sde.devices import exact
from score_sde.sdes import SDE, broadcast

STARTS = ("normal", "prior", "truth")


@dataclass(frozen=True)
class Way:
    """Trajectory from T to the end time: samples ``[B, C, H, W]``, states from start to end ``[F, B, C, H, W]``, and
    the number of evaluations of the score."""

    images: Tensor
    frames: Tensor
    evaluations: int


def start(kind: str, noise: Tensor, sde: SDE, truth: Tensor | None = None, weight: float = 0.6) -> Tensor:
    """Start of the flow at t = T from standard normal draws n ``[B, C, H, W]``:

    * ``prior``: ``std(T) n``, the distribution at T if the data are small compared with std(T).
    * ``normal``: n, as published. Too little noise for the flow: what is left of it at the end is less, too.
    * ``truth``: ``(1 - w) g(T) n + w u``, the published "conditional" start, where g(T) is the base. **It contains the
      image u that is to be found**: a sample from it says nothing about what the network could make by itself.

    Args:
        kind: ``prior``, ``normal`` or ``truth``.
        noise: n.
        sde: for std and g.
        truth: u, in the units of the score, for ``truth``.
        weight: w.

    Raises:
        ValueError: another kind, or ``truth`` without the images.
    """
    if kind == "normal":
        return noise.clone()
    if kind == "prior":
        return sde.sample_prior(noise)
    if kind != "truth":
        raise ValueError(f"start {kind!r} is unknown; known are {', '.join(STARTS)}")
    if truth is None:
        raise ValueError("start 'truth' needs the true images")
    return (1 - weight) * float(sde.diffusion(sde.T)) * noise + weight * truth.to(noise)


def score_of(denoiser: Denoiser, sde: SDE) -> Callable[[Tensor, Tensor], Tensor]:
    """``score(u, t)`` of [0, 1] pixels from any denoiser, such as `EmpiricalDenoiser`: with a and s the SDE's
    coefficients at t, and x = 2 u / a - 1 the state as the denoiser knows it, ``2 score(x, 2 s / a) / a``."""

    def score(u: Tensor, t: Tensor) -> Tensor:
        level = sde.level(t)
        return 2 * denoiser.score(2 * u / broadcast(level.a, u) - 1, 2 * level.sigma) / broadcast(level.a, u)

    return score


@torch.no_grad()
def flow(
    score: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    sde: SDE,
    *,
    t_end: float = 1e-3,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    tweedie: bool = True,
    num_frames: int = 2,
) -> Way:
    """Follow ``du/dt = f(u, t) - g(t)^2 score(u, t) / 2`` from T to ``t_end`` by Dormand and Prince's method (RK45).

    At ``t_end`` the state still has the noise of that time. For one image u0 and its exact score of a VE SDE,

        u(t) = u0 + std(t) / std(T) (u(T) - u0)

    and the last step ``(u + std^2 score) / a`` (Tweedie's formula) takes away what is left: then it is u0.

    The state is in float64; the score sees it in the type of ``start``. A step is taken if for each image the root mean
    square over its pixels of ``error / (atol + rtol |u|)`` is at most 1: an image's tolerance does not depend on those
    beside it. The steps do: they are as many as the hardest of them needs.

    Args:
        score: ``score(u, t)``, t ``[B]``, of the type of u.
        start: u at T, ``[B, C, H, W]``.
        sde: f, g and std.
        t_end: the last time.
        rtol, atol: the tolerance, relative and absolute (published: 1e-3 both).
        tweedie: whether to do the last step (published: not).
        num_frames: states to keep, at evenly spaced times, 2 or more; between steps they are interpolated.

    Raises:
        RunError: no step meets the tolerance, or the score is not finite.
        ValueError: ``t_end`` is not between 0 and T, or fewer than 2 frames.
    """
    if not 0 < t_end < sde.T or num_frames < 2:
        found = f"t_end={t_end}, num_frames={num_frames}"
        raise ValueError(f"{found}: expected a time between 0 and {sde.T:g}, and 2 or more")
    evaluations = 0

    def asked(u: Tensor, t: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return exact(score(u.to(start), t.to(start).expand(len(u))))

    down = sde.probability_flow(asked)
    gone = torch.linspace(0, sde.T - t_end, num_frames, dtype=torch.float64)  # T - t
    states = integrate(
        lambda s, u: -down.drift(u, (sde.T - s).clamp_min(t_end)),
        exact(start), gone, f"flow from t = {sde.T:g} to {t_end:g}", method="dopri5", rtol=rtol, atol=atol,
    )  # fmt: skip
    if tweedie:
        level = sde.level(t_end)
        u = states[-1]
        denoised = (u + broadcast(level.s**2, u) * asked(u, level.t)) / broadcast(level.a, u)
        states = torch.cat([states[:-1], denoised[None]])
    if not torch.isfinite(states).all():
        raise RunError(f"the flow from t = {sde.T:g} to {t_end:g} met numbers that are not finite: check the network")
    frames = states.to(start)
    return Way(frames[-1], frames, evaluations)
