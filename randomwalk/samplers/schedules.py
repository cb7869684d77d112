"""Noise levels: decreasing sequences of sigma, looked up by name.

Every schedule is a function of ``u``, evenly spaced from 0 (noisy) to 1 (clean), and of a range of sigma.
The range is given in one of two ways, and the result is in its units:

* ``sigma_min, sigma_max``;
* ``beta_min, beta_max, num_timesteps``: the noise table of a DDPM network, see :func:`ddpm_sigmas`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from randomwalk import lookup
from randomwalk.denoisers.adapters import SDEDenoiser
from randomwalk.denoisers.ddpm_table import ddpm_sigmas, interpolate, pretrained, snap
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from score_sde.sdes import SDE

_RANGE = ("sigma_min", "sigma_max")
_TABLE = ("beta_min", "beta_max", "num_timesteps")
_SAME_TABLE = 1e-3  # tables of DDPM and of the SDE that it approximates differ by a few percent


def linear(u: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    """Uniform steps in sigma: ``sigma = (1 - u) sigma_max + u sigma_min``."""
    return (1 - u) * sigma_max + u * sigma_min


def sigmoid(u: Tensor, sigma_min: float, sigma_max: float, t0: float = 0.3) -> Tensor:
    """``sigma = sigma_min + h(u) (sigma_max - sigma_min)``, ``h = (S(3/t0) - S(3u/t0)) / (S(3/t0) - S(0))``.

    ``S`` is the logistic function; the smaller ``t0``, the more levels at low noise.
    Source: the code of Park et al. 2025, doi 10.1109/MSP.2025.3590608.
    """
    end = torch.tensor(3 / t0, dtype=u.dtype).sigmoid()
    h = (end - torch.sigmoid(3 / t0 * u)) / (end - 0.5)
    return sigma_min + h * (sigma_max - sigma_min)


def cosine(u: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    """Uniform steps in the angle: ``sigma = tan(phi)``, ``phi = (1 - u) atan(sigma_max) + u atan(sigma_min)``.

    Source: Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17, where ``alpha_bar = cos(phi)**2``.
    """
    return torch.tan((1 - u) * math.atan(sigma_max) + u * math.atan(sigma_min))


def geometric(u: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    """Uniform steps in log sigma: ``sigma = sigma_max (sigma_min / sigma_max)**u``.

    Source: Song and Ermon 2019, arXiv 1907.05600, section 4.2.
    """
    return sigma_max * (sigma_min / sigma_max) ** u


def karras(u: Tensor, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Uniform steps in ``sigma**(1/rho)``: ``((1 - u) sigma_max**(1/rho) + u sigma_min**(1/rho))**rho``.

    Source: Karras et al. 2022, arXiv 2206.00364, eq. 5.
    """
    return ((1 - u) * sigma_max ** (1 / rho) + u * sigma_min ** (1 / rho)) ** rho


def even_time(u: Tensor, sigma_min: float, sigma_max: float, sde: SDE) -> Tensor:
    """Uniform steps in the time of an SDE, from where its noise level is sigma_max to where it is sigma_min.

    Source: the samplers of Song et al. 2021, arXiv 2011.13456.
    """
    start, end = sde.time(sigma_max), sde.time(sigma_min)
    return sde.sigma((1 - u) * start + u * end)


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "pretrained": pretrained,
    "sigmoid": sigmoid,
    "linear": linear,
    "cosine": cosine,
    "geometric": geometric,
    "karras": karras,
    "even_time": even_time,
}
_SNAPPED = ("sigmoid", "linear")


def make(name: str, num_steps: int, **settings: Any) -> Tensor:
    """Noise levels of the schedule ``name``.

    Args:
        name: one of ``SCHEDULES``.
        num_steps: number of levels.
        settings: the range (``sigma_min, sigma_max`` or ``beta_min, beta_max, num_timesteps``) and the shape
            (``t0`` of sigmoid, ``rho`` of karras; ``sde`` of even_time, which cannot be left out). With a DDPM table,
            ``sigmoid`` and ``linear`` take the nearest of a million interpolated levels as the paper's code does; this
            moves sigma by up to 2e-4 relative.

    Returns:
        ``[num_steps]`` float64, decreasing, the last one above 0, in the units of the range.

    Raises:
        InputError: an unknown name or setting, a missing one, or an impossible value.
    """
    schedule = lookup.find("schedule", SCHEDULES, name)
    if not isinstance(num_steps, int) or num_steps < 1:
        raise InputError(f"schedule {name!r}: num_steps={num_steps!r}; expected a positive integer")
    span, shape = _check_settings(name, settings)
    u = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    table = ddpm_sigmas(**span) if "num_timesteps" in span else None
    if schedule is pretrained:
        if table is None:
            raise InputError(
                f"schedule 'pretrained' follows a network's noise table and needs {', '.join(_TABLE)}; "
                "with sigma_min and sigma_max use 'geometric'"
            )
        return pretrained(u, table)
    low, high = (table[0].item(), table[-1].item()) if table is not None else span.values()
    sigmas = schedule(u, low, high, **shape).clamp(low, high)  # rounding must not leave the network's range
    if table is not None and name in _SNAPPED:
        sigmas = interpolate(snap(sigmas, table), table)
    return sigmas


def for_denoiser(
    denoiser: Denoiser, num_steps: int = 20, name: str = "karras", *, sde: SDE | None = None, **settings: Any
) -> Tensor:
    """Noise levels at which this denoiser can be used; a range that is not given is the denoiser's.

    The default is the schedule of Karras et al. 2022, which was tuned for tens of steps.

    Args:
        denoiser: gives the range, and the levels of the schedule ``pretrained``: uniform steps in the noise level as
            its network is given it.
        num_steps: number of levels.
        name: one of ``SCHEDULES``.
        sde: whose time ``even_time`` is uniform in; that of the denoiser if None.
        settings: as those of :func:`make`.

    Returns:
        As :func:`make`.

    Raises:
        InputError: as :func:`make`; and for a level at which the denoiser cannot be used, ``even_time`` without an SDE,
            or ``pretrained`` with the noise table of another network.
    """
    if name == "pretrained":
        own = denoiser.own_levels(torch.linspace(0, 1, num_steps, dtype=torch.float64))
        if settings and (make(name, num_steps, **settings) / own - 1).abs().max() > _SAME_TABLE:
            raise InputError(
                "sampler.schedule: beta_min, beta_max and num_timesteps are not the noise table of this network, which "
                f"knows sigma {float(own[-1]):.4g} to {float(own[0]):.4g}: remove the three keys, and the schedule "
                "pretrained takes the network's own levels"
            )
        return own
    if "beta_min" not in settings:
        settings = {"sigma_min": denoiser.sigma_min, "sigma_max": denoiser.sigma_max, **settings}
    if name == "even_time":
        if sde is None and isinstance(denoiser, SDEDenoiser):  # VPDenoiser is one
            sde = denoiser.sde
        settings["sde"] = sde
        if sde is None:
            raise InputError(
                "sampler.schedule: even_time is uniform in the time of an SDE, but neither the sampler nor the "
                "denoiser has one; expected the sampler predictor_corrector, a denoiser sde or vp (with the linear "
                "table), or another schedule: pretrained follows the table of any vp, geometric fits all"
            )
    sigmas = make(name, num_steps, **settings)
    try:
        for sigma in (float(sigmas[0]), float(sigmas[-1])):
            denoiser.check_sigma(sigma)
    except InputError as error:
        raise InputError(f"sampler.schedule: {error}") from error
    return sigmas


def _check_settings(name: str, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split settings into the range, in the order of its definition, and the shape of the schedule."""
    shapes = list(inspect.signature(SCHEDULES[name]).parameters)[3:]  # after u, sigma_min and sigma_max
    allowed = f"allowed: {' and '.join(_RANGE)}, or {', '.join(_TABLE)}" + "".join(f"; and {s}" for s in shapes)
    if unknown := sorted(set(settings) - {*_RANGE, *_TABLE, *shapes}):
        raise InputError(f"schedule {name!r}: unknown setting {', '.join(unknown)}; {allowed}")
    keys = tuple(key for key in (*_RANGE, *_TABLE) if key in settings)
    if keys not in (_RANGE, _TABLE):
        raise InputError(f"schedule {name!r}: got {', '.join(keys) or 'no range of sigma'}; {allowed}")
    if "sde" in shapes and not isinstance(settings.get("sde"), SDE):
        raise InputError(f"schedule {name!r}: sde={settings.get('sde')!r}; expected the SDE whose time is used")
    for key, value in settings.items():
        if key == "sde":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise InputError(f"schedule {name!r}: {key}={value!r}; expected a positive number")
    if keys == _RANGE and not settings["sigma_min"] < settings["sigma_max"]:
        raise InputError(f"schedule {name!r}: expected sigma_min < sigma_max, got {settings}")
    return {key: settings[key] for key in keys}, {key: settings[key] for key in shapes if key in settings}
