"""Each walk against its textbook update, written out here in the textbook's own coordinates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from randomwalk import Denoiser, GaussianNoise, InputError, Measurement, operators, samplers
from randomwalk.denoisers import ddpm_table
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.rng import StepNoise
from randomwalk.samplers import schedules
from randomwalk.samplers.walk import PreconditionedStep

WALKS = [
    name
    for name, made in samplers.SAMPLERS.items()
    if issubclass(made, samplers.WalkSampler) and made.needs.measurement != "required"
]
"""Walks that sample the prior; those of the posterior alone have tests of their own."""
REQUIRED: dict[str, dict[str, Any]] = {"random_walk": {"step_scale": 0.7}}
STEPS = 12
NOISE = torch.randn((100, 2, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.randn((2, 3, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
VE_SIGMAS = schedules.make("geometric", STEPS, sigma_min=0.02, sigma_max=20.0)
DDPM_BETAS = torch.linspace(1e-3, 0.5, STEPS, dtype=torch.float64)
DDPM_SIGMAS = ddpm_table.ddpm_sigmas(1e-3, 0.5, STEPS).flip(0)


def epsilon(z: Tensor, alpha_bar: float) -> Tensor:
    """Some epsilon network: nothing about the updates needs it to be exact."""
    return torch.sin(2 * z) + alpha_bar * z


def score(x: Tensor, sigma: float) -> Tensor:
    alpha_bar = 1 / (1 + sigma**2)
    return -epsilon(math.sqrt(alpha_bar) * x, alpha_bar) / sigma


class AnyDenoiser(Denoiser):
    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        assert not isinstance(sigma, Tensor)
        return x + sigma**2 * score(x, sigma)


def draw(k: int, x: Tensor) -> Tensor:
    return NOISE[k]


def ddpm(variance: str, x: Tensor) -> Tensor:
    """Algorithm 2 of Ho et al. 2020, for t = T .. 1, with ``sigma_t^2`` = beta_t or beta-tilde_t."""
    alpha = 1 - DDPM_BETAS
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), alpha.cumprod(0)])  # alpha_bar[t], t = 0 .. T
    z = alpha_bar[STEPS].sqrt() * x
    for k, t in enumerate(range(STEPS, 0, -1)):
        beta, a = DDPM_BETAS[t - 1], alpha[t - 1]
        mean = (z - beta / (1 - alpha_bar[t]).sqrt() * epsilon(z, float(alpha_bar[t]))) / a.sqrt()
        beta_tilde = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta
        std = {"large": beta, "small": beta_tilde}[variance].sqrt()
        z = mean + std * NOISE[k] if t > 1 else mean
    return z


def ddim(eta: float, x: Tensor) -> Tensor:
    """Eq. 12 and 16 of Song et al. 2021 on every second timestep."""
    every = ddpm_table.ddpm_sigmas(1e-3, 0.5, STEPS)[1::2].flip(0)
    alpha_bars = [*(1 / (1 + every**2)).tolist(), 1.0]
    z = math.sqrt(alpha_bars[0]) * x
    for k, (now, then) in enumerate(itertools.pairwise(alpha_bars)):
        eps = epsilon(z, now)
        variance = eta**2 * (1 - then) / (1 - now) * (1 - now / then)
        predicted = (z - math.sqrt(1 - now) * eps) / math.sqrt(now)
        z = math.sqrt(then) * predicted + math.sqrt(1 - then - variance) * eps + math.sqrt(variance) * NOISE[k]
    return z


def ve_sde(x: Tensor, drift: float, std: Callable[[float, float], float]) -> Tensor:
    """Score-SDE's discretised reverse VE SDE: ``x + drift G^2 score + std n``, ``G^2 = s^2 - p^2``; last, the mean."""
    levels = [*VE_SIGMAS.tolist(), 0.0]
    for k, (s, p) in enumerate(itertools.pairwise(levels)):
        x = x + drift * (s**2 - p**2) * score(x, s)
        if p > 0:
            x = x + std(s, p) * NOISE[k]
    return x


def ncsn(x: Tensor, eps: float, steps_per_level: int) -> Tensor:
    """Algorithm 1 of Song and Ermon 2019."""
    for i, s in enumerate(VE_SIGMAS.tolist()):
        alpha = eps * s**2 / VE_SIGMAS[-1].item() ** 2
        for t in range(steps_per_level):
            x = x + alpha / 2 * score(x, s) + math.sqrt(alpha) * NOISE[i * steps_per_level + t]
    return x


def paper(x: Tensor, c: float, t0: float) -> Tensor:
    """The loop of the paper's code, without a measurement."""
    for i, s in enumerate(VE_SIGMAS.tolist()):
        temperature = t0 + (1 - t0) * i / (STEPS - 1)
        x = x + c * s**2 * score(x, s)
        if i < STEPS - 1:
            x = x + math.sqrt(2 * c * s**2 * temperature) * NOISE[i]
    return x


# name, settings, levels, textbook update: one line for each sampler and setting.
CASES: dict[str, tuple[str, dict[str, Any], Tensor, Callable[[Tensor], Tensor]]] = {
    "random_walk": (
        "random_walk", {"step_scale": 0.4, "initial_temperature": 0.3}, VE_SIGMAS, lambda x: paper(x, 0.4, 0.3)
    ),
    "annealed_langevin": (
        "annealed_langevin", {"step_scale": 0.1, "steps_per_level": 3}, VE_SIGMAS,
        lambda x: ncsn(x, 2 * 0.1 * 0.02**2, 3),
    ),
    "ve_reverse_diffusion": (
        "ve_reverse_diffusion", {}, VE_SIGMAS, lambda x: ve_sde(x, 1.0, lambda s, p: math.sqrt(s**2 - p**2))
    ),
    "ve_ancestral": (
        "ddpm_small", {}, VE_SIGMAS, lambda x: ve_sde(x, 1.0, lambda s, p: math.sqrt(p**2 * (s**2 - p**2) / s**2))
    ),
    "ddpm_small": ("ddpm_small", {}, DDPM_SIGMAS, lambda x: ddpm("small", x)),
    "ddpm_large": ("ddpm_large", {}, DDPM_SIGMAS, lambda x: ddpm("large", x)),
    "ddim_eta0": ("ddim", {}, DDPM_SIGMAS[::2], lambda x: ddim(0.0, x)),
    "ddim_eta0.5": ("ddim", {"eta": 0.5}, DDPM_SIGMAS[::2], lambda x: ddim(0.5, x)),
    "ddim_eta1": ("ddim", {"eta": 1.0}, DDPM_SIGMAS[::2], lambda x: ddim(1.0, x)),
    "probability_flow": ("probability_flow", {}, VE_SIGMAS, lambda x: ve_sde(x, 0.5, lambda s, p: 0.0)),
}  # fmt: skip


def test_every_walk_has_a_textbook() -> None:
    assert {name for name, *_ in CASES.values()} == set(WALKS)


@pytest.mark.parametrize("case", CASES)
def test_textbook_update(case: str) -> None:
    name, settings, sigmas, textbook = CASES[case]
    start = START * sigmas[0]
    end, expected = (
        samplers.make(name, **settings).sample(AnyDenoiser(), sigmas, start=start, draws=StepNoise(draw)),
        textbook(start),
    )
    difference = float((end - expected).abs().max() / expected.abs().max())
    print(f"{case}: {difference:.1e}")
    assert difference < 1e-12


@pytest.mark.parametrize("sigmas", [VE_SIGMAS, DDPM_SIGMAS], ids=["ve", "ddpm"])
def test_ddim_with_full_noise_is_ddpm(sigmas: Tensor) -> None:
    ends = [
        samplers.make(name, **settings).sample(AnyDenoiser(), sigmas, start=START * sigmas[0], draws=StepNoise(draw))
        for name, settings in (("ddim", {"eta": 1.0}), ("ddpm_small", {}))
    ]
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["random_walk", "ve_reverse_diffusion", "ddpm_small", "ddpm_large", "ddim"])
def test_the_last_step_lands_on_the_denoised_image(name: str) -> None:
    sampler = samplers.make(name, **({"step_scale": 1.0} if name == "random_walk" else {}))
    end = sampler.sample(AnyDenoiser(), [0.5], start=START, draws=StepNoise(draw))
    torch.testing.assert_close(end, AnyDenoiser()(START, 0.5), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", WALKS)
def test_number_of_evaluations(name: str) -> None:
    sampler = samplers.make(name, **REQUIRED.get(name, {}))
    denoiser = CountingDenoiser(AnyDenoiser())
    sampler.sample(denoiser, VE_SIGMAS, start=START)
    assert denoiser.evaluations == sampler.num_evaluations(STEPS) == sampler.num_steps(STEPS)
    assert sampler.num_steps(STEPS) == len(sampler.plan(VE_SIGMAS).sigmas)


@pytest.mark.parametrize("name", WALKS)
def test_repeated_levels_give_finite_settings(name: str) -> None:
    plan = samplers.make(name, **{"ddim": {"eta": 1.0}, **REQUIRED}.get(name, {})).plan([2.0, 1.0, 1.0, 0.5])
    assert all(math.isfinite(value) for value in [*plan.step_sizes, *plan.temperatures])  # type: ignore[arg-type]


def likelihood(eta: float = 0.2) -> Measurement:
    operator = operators.make("super_resolution", image_shape=(1, 4, 4), factor=2)
    return Measurement(operator, GaussianNoise(eta), torch.ones(1, 1, 2, 2))


def test_measurement_caps_the_step() -> None:
    plan = samplers.make("random_walk", step_scale=0.5).plan([1.0, 0.2, 0.1], likelihood(eta=0.2))
    assert plan.step_sizes == pytest.approx([0.2**2, 0.5 * 0.2**2, 0.5 * 0.1**2])


def test_measurement_preconditions_the_step() -> None:
    measured = likelihood(eta=0.2)
    plan = samplers.make("random_walk", step_scale=0.5, preconditioned=True).plan([1.0, 0.1], measured)
    expected = [PreconditionedStep(measured.operator, sigma, eta=0.2, scale=0.5) for sigma in (1.0, 0.1)]
    assert plan.step_sizes == expected
    without = samplers.make("random_walk", step_scale=0.5, preconditioned=True).plan([1.0, 0.1])
    assert without.step_sizes == pytest.approx([0.5, 0.5 * 0.1**2])


def test_temperature_is_linear_and_ends_without_noise() -> None:
    sampler = samplers.make("random_walk", step_scale=0.7, initial_temperature=0.2, final_temperature=0.8)
    assert sampler.plan([4.0, 3.0, 2.0, 1.0]).temperatures == pytest.approx([0.2, 0.4, 0.6, 0.0])


@pytest.mark.parametrize("name", [name for name in WALKS if name != "random_walk"])
def test_samplers_of_the_prior_refuse_a_measurement(name: str) -> None:
    with pytest.raises(InputError, match="use random_walk"):
        samplers.make(name).plan(VE_SIGMAS, likelihood())


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("euler", {}, "unknown; expected one of random_walk, annealed_langevin"),
        ("ddim", {"step_scale": 1.0}, "step_scale: unknown key; known with name: ddim: name, schedule, eta"),
        ("ddpm_small", {"eta": 1.0}, "eta: unknown key; known with name: ddpm_small: name, schedule"),
        ("ddim", {"eta": 1.5}, "eta: found 1.5; allowed: a number of at least 0 and at most 1"),
        ("random_walk", {"step_scale": 0.0}, "step_scale: found 0.0; allowed: a number above 0 and below 2"),
        ("random_walk", {"step_scale": 2.0}, "step_scale: found 2.0"),
        ("random_walk", {"initial_temperature": -0.1}, "initial_temperature: found -0.1"),
        ("annealed_langevin", {"steps_per_level": 0}, "steps_per_level: found 0"),
    ],
)
def test_bad_settings_are_named(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        samplers.make(name, **settings)


@pytest.mark.parametrize("sigmas", [[], [1.0, 2.0], [1.0, 0.0], [1.0, float("nan")]])
def test_bad_levels_are_named(sigmas: list[float]) -> None:
    with pytest.raises(InputError, match="positive and decreasing"):
        samplers.make("ddim").plan(sigmas)
