"""Schedules against the recorded ones of the paper's code, and against their equations."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from randomwalk import InputError
from randomwalk.denoisers import ddpm_table
from randomwalk.denoisers.adapters import make as make_adapter
from randomwalk.samplers import schedules
from score_sde import sdes

REFERENCE = Path(__file__).parents[1] / "reference"
DDPM: dict[str, Any] = {"beta_min": 1e-4, "beta_max": 0.02, "num_timesteps": 1000}
RANGE: dict[str, Any] = {"sigma_min": 0.01, "sigma_max": 50.0}
SIZES = (20, 100, 750, 1000)


def relative(actual: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(actual.numpy() / expected - 1).max())


def test_ddpm_table_matches_reference() -> None:
    with np.load(REFERENCE / "schedule_vp.npz") as recorded:
        assert relative(ddpm_table.ddpm_sigmas(**DDPM), recorded["ddpm_sigma"]) < 1e-12


@pytest.mark.parametrize("num_steps", SIZES)
@pytest.mark.parametrize(("name", "recorded_name"), [("pretrained", "denoiser"), ("linear",) * 2, ("sigmoid",) * 2])
def test_ddpm_schedules_match_reference(name: str, recorded_name: str, num_steps: int) -> None:
    with np.load(REFERENCE / "schedule_vp.npz") as recorded:
        sigmas, times = (recorded[f"{recorded_name}_n{num_steps}_{key}"] for key in ("sigma", "time"))
    made = schedules.make(name, num_steps, **DDPM)
    assert made.dtype == torch.float64
    assert relative(made.flip(0), sigmas) < 1e-12
    if name != "pretrained":  # the nearest point of the million, not merely a near one
        table = ddpm_table.ddpm_sigmas(**DDPM)
        u = torch.linspace(0, 1, num_steps, dtype=torch.float64)
        targets = schedules.SCHEDULES[name](u, table[0].item(), table[-1].item())
        assert np.abs(ddpm_table.snap(targets, table).flip(0).numpy() - times).max() < 1e-9


@pytest.mark.parametrize("num_steps", SIZES)
def test_geometric_matches_reference(num_steps: int) -> None:
    with np.load(REFERENCE / "schedule_ve.npz") as recorded:
        expected = recorded[f"n{num_steps}_discrete_sigmas"]
    assert relative(schedules.make("geometric", num_steps, sigma_min=0.01, sigma_max=348.0).flip(0), expected) < 1e-6


def test_snapping_finds_the_nearest_point_of_the_grid() -> None:
    table = ddpm_table.ddpm_sigmas(**DDPM)
    grid_time = torch.linspace(0, 999, 1_000_000, dtype=torch.float64)
    grid = ddpm_table.interpolate(grid_time, table)
    sigmas = table[0] * (table[-1] / table[0]) ** torch.rand(40, generator=torch.Generator().manual_seed(0)).double()
    sigmas = torch.cat([sigmas, table[[0, 1, 500, -1]]])
    nearest = torch.stack([(grid - sigma).abs().argmin() for sigma in sigmas])
    torch.testing.assert_close(ddpm_table.snap(sigmas, table), grid_time[nearest], rtol=0, atol=1e-9)


# Each written out again, from sigma_min = 0.01 and sigma_max = 50, at u = 1/4.
QUARTER = {
    "linear": 0.75 * 50 + 0.25 * 0.01,
    "geometric": 50 ** (3 / 4) * 0.01 ** (1 / 4),
    "karras": (0.75 * 50 ** (1 / 7) + 0.25 * 0.01 ** (1 / 7)) ** 7,
    "cosine": np.tan(0.75 * np.arctan(50) + 0.25 * np.arctan(0.01)),
    "sigmoid": 0.01 + 49.99 * (1 / (1 + np.exp(-10)) - 1 / (1 + np.exp(-2.5))) / (1 / (1 + np.exp(-10)) - 1 / 2),
}


@pytest.mark.parametrize("name", QUARTER)
def test_equation_of_each_schedule(name: str) -> None:
    sigmas = schedules.make(name, 5, **RANGE)
    assert sigmas[0].item() == pytest.approx(50, rel=1e-12)
    assert sigmas[1].item() == pytest.approx(QUARTER[name], rel=1e-12)
    assert sigmas[-1].item() == pytest.approx(0.01, rel=1e-12)


def test_even_times_of_sdes() -> None:
    """VE's time is the logarithm of sigma, EDM's is sigma; of VP ``ln(1 + sigma^2) = 0.1 t + 9.95 t^2``."""
    for name, same in (("ve", "geometric"), ("edm", "linear")):
        made = schedules.make("even_time", 7, **RANGE, sde=sdes.make(name))
        torch.testing.assert_close(made, schedules.make(same, 7, **RANGE), rtol=1e-12, atol=0)
    sigmas = schedules.make("even_time", 5, **RANGE, sde=sdes.make("vp"))
    end, start = ((-0.1 + (0.01 + 4 * 9.95 * np.log1p(s**2)) ** 0.5) / (2 * 9.95) for s in (0.01, 50))
    t = 0.75 * start + 0.25 * end
    assert sigmas[[0, -1]].tolist() == pytest.approx([50, 0.01], rel=1e-12)
    assert sigmas[1].item() == pytest.approx(np.sqrt(np.expm1(0.1 * t + 9.95 * t**2)), rel=1e-12)
    near = schedules.make("even_time", 1000, **DDPM, sde=sdes.make("vp"))
    assert relative(near, schedules.make("pretrained", 1000, **DDPM).numpy()) < 0.06  # DDPM's chain nears VP


def test_shape_settings_change_the_schedule() -> None:
    assert schedules.make("karras", 3, **RANGE, rho=1)[1].item() == pytest.approx((50 + 0.01) / 2)
    assert schedules.make("sigmoid", 3, **RANGE, t0=0.5)[1] > schedules.make("sigmoid", 3, **RANGE, t0=0.3)[1]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, DDPM) for name in schedules.SCHEDULES] + [(name, RANGE) for name in QUARTER],
    ids=lambda value: value if isinstance(value, str) else "ddpm" if value is DDPM else "range",
)
def test_decreasing_inside_the_range_and_quick(name: str, settings: dict[str, Any], num_steps: int) -> None:
    durations = []
    own = {"sde": sdes.make("sub_vp")} if name == "even_time" else {}
    for _ in range(5):
        start = time.perf_counter()
        sigmas = schedules.make(name, num_steps, **settings, **own)
        durations.append(time.perf_counter() - start)
    table = ddpm_table.ddpm_sigmas(**DDPM)
    low, high = (table[0], table[-1]) if settings is DDPM else (0.01, 50.0)
    assert sigmas.shape == (num_steps,) and sigmas.dtype == torch.float64
    assert (sigmas.diff() < 0).all() and sigmas.min() >= low and sigmas.max() <= high
    assert min(durations) < 0.01


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("quadratic", RANGE, "expected one of pretrained, sigmoid"),
        ("linear", {**RANGE, "rho": 3.0}, "unknown setting rho"),
        ("karras", {**RANGE, "rho": 0}, "rho=0; expected a positive number"),
        ("linear", {"sigma_min": 0.1}, "got sigma_min; allowed: sigma_min and sigma_max, or beta_min"),
        ("linear", {**RANGE, **DDPM}, "allowed: sigma_min and sigma_max, or beta_min"),
        ("linear", {}, "got no range of sigma"),
        ("linear", {"sigma_min": 2.0, "sigma_max": 1.0}, "expected sigma_min < sigma_max"),
        ("linear", {"sigma_min": "a", "sigma_max": 1.0}, "sigma_min='a'; expected a positive number"),
        ("linear", {"sigma_min": float("nan"), "sigma_max": 1.0}, "expected a positive number"),
        ("pretrained", RANGE, "use 'geometric'"),
        ("even_time", RANGE, "sde=None; expected the SDE"),
        ("even_time", {**RANGE, "sde": "vp"}, "sde='vp'; expected the SDE"),
        ("linear", {**RANGE, "sde": sdes.make("vp")}, "unknown setting sde"),
        ("pretrained", {**DDPM, "beta_max": 1.5}, "beta_max=1.5"),
        ("pretrained", {**DDPM, "num_timesteps": 10.5}, "num_timesteps=10.5"),
    ],
)
def test_bad_settings_are_named(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        schedules.make(name, 10, **settings)


@pytest.mark.parametrize("num_steps", [0, -1, 2.5])
def test_bad_number_of_steps_is_named(num_steps: Any) -> None:
    with pytest.raises(InputError, match="num_steps"):
        schedules.make("linear", num_steps, **RANGE)


@pytest.mark.parametrize(("sigma_min", "sigma_max"), [(1e-4, 1.0), (0.01, 90.0)])
def test_a_schedule_may_not_leave_the_range_of_the_denoiser_at_either_end(sigma_min: float, sigma_max: float) -> None:
    network = make_adapter("edm", torch.nn.Identity(), sigma_min=0.002, sigma_max=80.0)
    with pytest.raises(InputError, match=r"sampler\.schedule: sigma = .* outside the range"):
        schedules.for_denoiser(network, 10, "karras", sigma_min=sigma_min, sigma_max=sigma_max)
    assert float(schedules.for_denoiser(network, 10, "karras")[-1]) == pytest.approx(0.002)


def test_a_table_that_is_a_few_percent_off_is_another_one() -> None:
    network = make_adapter("vp", torch.nn.Identity())
    own = schedules.for_denoiser(network, 5, "pretrained")
    torch.testing.assert_close(schedules.for_denoiser(network, 5, "pretrained", **DDPM), own)
    with pytest.raises(InputError, match="not the noise table of this network"):
        schedules.for_denoiser(network, 5, "pretrained", **(DDPM | {"beta_max": 0.0201}))
