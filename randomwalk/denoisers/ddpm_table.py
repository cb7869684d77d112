"""Noise tables of variance-preserving networks: the noise level at each timestep of their training.

A network sees the index t of a level of its table, so the wrong table gives it the wrong noise level. Tables are noise
levels here, ``sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t)``, ascending, ``[T]`` float64. They are evaluated as
``expm1(-sum log(1 - beta))``, so that no digits cancel where ``alpha_bar`` is close to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from randomwalk.config.networks import VP_TABLES
from randomwalk.denoisers.state_dicts import flatten
from randomwalk.errors import InputError
from randomwalk.images.arrays import read_array

Table = str | Mapping[str, Any]
"""The name of a table, or ``{"alphas_cumprod": numbers or file}``, or ``{"betas": numbers or file}``."""
_OFFSET, _LARGEST_BETA = 0.008, 0.999  # of the cosine table, as published
_GRID = 1_000_000  # points at which the paper's code tabulates sigma over time


# --- tables ----------------------------------------------------------------------------------------------------------


def vp_sigmas(table: Table, beta_min: float | None, beta_max: float | None, num_timesteps: int | None) -> Tensor:
    """Noise levels ``[T]`` of a table.

    Args:
        table: linear, ``beta`` evenly spaced from beta_min to beta_max (Ho et al. 2020, arXiv 2006.11239);
            scaled_linear, ``sqrt(beta)`` evenly spaced (Rombach et al. 2022, arXiv 2112.10752); cosine, ``alpha_bar``
            a squared cosine of time (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17, beta at most 0.999); or the
            numbers themselves.
        beta_min, beta_max: of linear and scaled_linear.
        num_timesteps: T of a named table.

    Raises:
        InputError: numbers that are no table.
    """
    if not isinstance(table, str):
        return given_sigmas(table)
    assert num_timesteps is not None
    if table == "cosine":
        time = torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((time + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2
        return _sigmas_of((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=_LARGEST_BETA))
    assert beta_min is not None and beta_max is not None
    if table == "linear":
        return ddpm_sigmas(beta_min, beta_max, num_timesteps)
    low, high = math.sqrt(beta_min), math.sqrt(beta_max)
    return _sigmas_of(torch.linspace(low, high, num_timesteps, dtype=torch.float64) ** 2)


def ddpm_sigmas(beta_min: float, beta_max: float, num_timesteps: int) -> Tensor:
    """Noise levels of a DDPM with ``T = num_timesteps`` evenly spaced ``beta_i``.

    Source: Ho et al. 2020, arXiv 2006.11239, section 4 (with 1e-4, 0.02 and 1000).
    """
    if not 0 < beta_min <= beta_max < 1:
        raise InputError(f"beta_min={beta_min}, beta_max={beta_max}: expected 0 < beta_min <= beta_max < 1")
    if num_timesteps != int(num_timesteps) or num_timesteps < 2:
        raise InputError(f"num_timesteps={num_timesteps}: expected an integer of at least 2")
    return _sigmas_of(torch.linspace(beta_min, beta_max, int(num_timesteps), dtype=torch.float64))


def _sigmas_of(betas: Tensor) -> Tensor:
    return torch.expm1(-torch.log1p(-betas).cumsum(0)).sqrt()


def with_numbers(denoiser: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a denoiser, with the numbers of a table that is in a file; the keys of a named table come first."""
    table = denoiser.get("table")
    if table is None:
        return dict(denoiser)
    if isinstance(table, str):
        first = ("table", *VP_TABLES.get(table, ()))
        return {key: denoiser[key] for key in first if key in denoiser} | dict(denoiser)
    kind, values = _only_entry(table)
    return {**denoiser, "table": {kind: _numbers(kind, values, _where(kind, values)).tolist()}}


def _only_entry(table: Mapping[str, Any]) -> tuple[str, Any]:
    return next((key, value) for key, value in table.items() if value is not None)


def given_sigmas(table: Mapping[str, Any], owner: str = "denoiser vp: table") -> Tensor:
    """Noise levels ``[T]`` of numbers, ``{"alphas_cumprod": numbers or file}`` or ``{"betas": numbers or file}``.

    Raises:
        InputError: numbers that are no table; the message begins with ``owner``.
    """
    kind, values = _only_entry(table)
    what = _where(kind, values, owner)
    numbers = _numbers(kind, values, what)
    if kind == "alphas_cumprod" and numbers[-1] == 0:
        raise InputError(
            f"{what}: ends with 0, a level of pure noise, at which the prediction of the noise does not determine the "
            "image; leave out that entry"
        )
    if not ((numbers > 0) & (numbers < 1)).all():
        raise InputError(f"{what}: has entries outside 0 to 1 (from {numbers.min():g} to {numbers.max():g})")
    rising = bool((numbers.diff() > 0).all())
    if kind == "betas":
        if numbers[0] > numbers[-1]:
            raise InputError(f"{what}: falls from {numbers[0]:g} to {numbers[-1]:g}; are these alphas_cumprod?")
        return _sigmas_of(numbers)
    if rising or not (numbers.diff() < 0).all():
        hint = "; are these betas?" if rising else ""
        raise InputError(f"{what}: expected numbers that fall from the first, near 1, to the last{hint}")
    return ((1 - numbers) / numbers).sqrt()


def _numbers(kind: str, values: Any, where: str) -> Tensor:
    """Numbers of a list or a file, float64 ``[T]``."""
    if isinstance(values, str):
        values = _entry(_read(where, Path(values)), kind, where)
    try:
        numbers = torch.as_tensor(values, dtype=torch.float64).detach().cpu().to_dense()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{where}: is not a list of numbers ({error})") from error
    if numbers.ndim != 1 or len(numbers) < 2 or not numbers.isfinite().all():
        raise InputError(f"{where}: has shape {list(numbers.shape)}; expected a list of at least two finite numbers")
    return numbers


def _entry(content: Any, kind: str, where: str) -> Any:
    """The table of that name in a training checkpoint, where the process keeps it as a buffer; or the content."""
    if not isinstance(content, Mapping):
        return content
    found = [value for name, value in flatten(content).items() if name.rpartition(".")[2] == kind]
    if not found or any(not torch.equal(found[0], other) for other in found):
        raise InputError(f"{where} has {len(found) or 'no'} tables called {kind}; expected one")
    return found[0]


def _where(kind: str, values: Any, owner: str = "denoiser vp: table") -> str:
    return f"{owner}.{kind}" + (f": {values}" if isinstance(values, str) else "")


def _read(where: str, path: Path) -> Any:
    if path.suffix == ".npy":
        return read_array(path, where)
    try:
        if path.suffix in (".pt", ".pth", ".ckpt"):
            return torch.load(path, map_location="cpu", weights_only=True)
        if path.suffix == ".safetensors":
            return load_file(path)
        return np.loadtxt(path, delimiter="," if "," in path.read_text(encoding="utf-8") else None).reshape(-1)
    except Exception as error:  # a damaged file can raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{where} cannot be read as numbers ({reason[:300]})") from error


# --- times of a table ------------------------------------------------------------------------------------------------


def interpolate(time: Tensor, table: Tensor) -> Tensor:
    """Value of ``table`` at fractional indices ``time``, linear between neighbours and constant outside."""
    left = time.floor().long().clamp(0, len(table) - 2)
    return torch.lerp(table[left], table[left + 1], (time - left).clamp(0, 1))


def pretrained(u: Tensor, table: Tensor) -> Tensor:
    """Even steps in the network's own time: ``sigma = table(t)``, ``t = (T - 1)(1 - u)``."""
    return interpolate((len(table) - 1) * (1 - u), table)


def snap(sigmas: Tensor, table: Tensor) -> Tensor:
    """Times at which ``interpolate(time, table)`` is nearest to each sigma, among a million even times.

    The paper's code searches the whole grid ``linspace(0, T - 1, 1_000_000)``. Here bisection finds the exact time of
    sigma in the table, and only its two neighbours on the grid are compared.
    """
    left = (torch.searchsorted(table, sigmas) - 1).clamp(0, len(table) - 2)
    exact = left + (sigmas - table[left]) / (table[left + 1] - table[left])
    spacing = (len(table) - 1) / (_GRID - 1)
    index = (exact / spacing).floor().clamp(0, _GRID - 2)
    below, above = index * spacing, (index + 1) * spacing
    nearer = (interpolate(below, table) - sigmas).abs() <= (interpolate(above, table) - sigmas).abs()
    return torch.where(nearer, below, above)
