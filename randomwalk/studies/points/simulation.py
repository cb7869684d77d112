"""SDEs forward in time: mean and standard deviation, in closed form and simulated."""

from __future__ import annotations

import numpy as np
import torch

from randomwalk.denoisers.adapters import EDMDenoiser, SDEDenoiser
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.rng import Stream, torch_generator
from randomwalk.studies.points.figures import SDECurves
from score_sde.sdes import EDM, SDE

NAMES = {
    "OU": "Ornstein-Uhlenbeck",
    "VP": "VP",
    "SubVP": "sub-VP",
    "VE": "VE",
    "PowerVE": "power VE, g = base^t",
    "EDM": "EDM",
}


def sde_of(denoiser: Denoiser) -> SDE | None:
    """SDE whose time the network is conditioned on; None if there is none."""
    if isinstance(denoiser, SDEDenoiser):
        return denoiser.sde
    return EDM(denoiser.sigma_max) if isinstance(denoiser, EDMDenoiser) else None


def euler_maruyama(
    sde: SDE, start: float, num_paths: int, num_steps: int, keep: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Paths of ``dz = f dt + g dw`` from ``z_0 = a(0) start + s(0) n``, by ``z <- z + f dt + g sqrt(dt) n``.

    Args:
        sde: f, g, a and s.
        start: the data, one number.
        num_paths: number of paths.
        num_steps: equal steps from 0 to T.
        keep: number of steps between two states that are kept.
        seed: of the draws.

    Returns:
        The times ``[K]`` and the states ``[K, num_paths]``.
    """
    draws = torch_generator(seed, Stream.POINTS_PATHS)
    step = sde.T / num_steps

    def normal() -> torch.Tensor:
        return torch.randn(num_paths, 1, generator=draws, dtype=torch.float64)

    z = float(sde.mean_coefficient(0.0)) * start + float(sde.std(0.0)) * normal()
    times, states = [0.0], [z]
    for k in range(num_steps):
        t = k * step
        z = z + sde.drift(z, t) * step + float(sde.diffusion(t)) * step**0.5 * normal()
        if (k + 1) % keep == 0:
            times.append((k + 1) * step)
            states.append(z)
    return np.array(times), torch.stack(states)[..., 0].numpy()


def sde_curves(sde: SDE, start: float = 1.0, num_paths: int = 4000, num_steps: int = 1000, seed: int = 0) -> SDECurves:
    """Mean and standard deviation of z_t from the data ``start``, in closed form and simulated at 13 times."""
    t = torch.linspace(0, sde.T, 401, dtype=torch.float64)
    times, states = euler_maruyama(sde, start, num_paths, num_steps, num_steps // 12, seed)
    std = sde.std(t)
    return SDECurves(
        NAMES[type(sde).__name__], t.numpy(), (start * sde.mean_coefficient(t)).numpy(), std.numpy(),
        times, states.mean(1), states.std(1, ddof=1), num_paths, wide=bool(std[-1] > 10),
    )  # fmt: skip
