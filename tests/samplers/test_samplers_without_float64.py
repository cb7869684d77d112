"""Every sampler, the likelihood and every loss on a device without float64 give what they give on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from device_tools import DeviceTensor, stand_in
from torch import Tensor

import randomwalk
from randomwalk import Denoiser, GaussianMixture, operators, samplers
from randomwalk.config.objective import Objective
from randomwalk.denoisers import adapters
from randomwalk.denoisers.empirical import EmpiricalDenoiser
from randomwalk.operators import Measurement
from randomwalk.operators.noise import GaussianNoise, LaplaceNoise, PoissonNoise
from randomwalk.rng import ImageDraws, generator
from randomwalk.samplers.likelihood import dequantise, log_likelihood
from randomwalk.training.objectives import make_loss

SHAPE = (1, 4, 4)
SIGMAS = [8.0, 3.0, 1.0, 0.4, 0.15]


def prior() -> GaussianMixture:
    """Two components that no operator commutes with."""
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(2, *SHAPE, generator=rng)
    root = torch.randn(2, 16, 16, generator=rng) / 4
    return GaussianMixture([0.3, 0.7], means, root @ root.mT + 0.05 * torch.eye(16))


WALK = {"step_scale": 0.5}
CASES: list[tuple[str, dict[str, Any], str]] = [
    *((name, {}, "") for name in samplers.SAMPLERS if name not in ("random_walk", "predictor_corrector")),
    ("random_walk", WALK, ""),
    ("random_walk", WALK, "gaussian"),
    ("random_walk", {**WALK, "preconditioned": True}, "gaussian"),
    ("random_walk", WALK, "poisson"),
    ("predictor_corrector", {"sde": {"name": "vp"}, "corrector": "langevin"}, ""),
    ("predictor_corrector", {"sde": {"name": "sub_vp"}, "predictor": "euler_maruyama"}, ""),
    ("posterior_mean", {}, "poisson"),
    ("tds", {}, "laplace"),
    ("tweedie_smc", {"max_rank": 0, "probes": 0}, "gaussian"),
    ("tweedie_smc", {"weighted": False}, "gaussian"),
]
"""Sampler, settings, and the noise of a measurement where it could go without one, or with several."""


def run(device: torch.device | str, name: str, settings: dict[str, Any], noise: str) -> Tensor:
    sampler = samplers.make(name, **settings)
    denoiser, draws = prior().to(device), ImageDraws([generator(0, i, 1) for i in range(6)], device)
    if sampler.needs.measurement != "required" and not noise:
        return sampler.sample(denoiser, SIGMAS, shape=(6, *SHAPE), draws=draws)
    kind = {"name": "denoising"} if name == "posterior_mean" else {"name": "super_resolution", "factor": 2}
    operator = operators.make(**kind, image_shape=SHAPE)
    law = {"poisson": PoissonNoise(30.0), "laplace": LaplaceNoise(0.2)}.get(noise, GaussianNoise(0.2))
    exact = torch.linspace(-0.9, 0.9, 32).reshape(2, *SHAPE)
    y = law.apply(operator(exact).to(device), ImageDraws([generator(1, i, 0) for i in range(2)], device))
    return sampler.sample(denoiser, SIGMAS, Measurement(operator.to(device), law, y), num_samples=3, draws=draws)


@pytest.mark.parametrize(
    ("name", "settings", "noise"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_sampler(name: str, settings: dict[str, Any], noise: str) -> None:
    expected = run("cpu", name, settings, noise)
    with stand_in() as device:
        found = run(device, name, settings, noise)
        assert isinstance(found, DeviceTensor) and found.dtype == torch.float32
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_the_cases_are_every_sampler() -> None:
    assert {name for name, _, _ in CASES} == samplers.SAMPLERS.keys()


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_the_likelihood(divergence: Any) -> None:
    def found(device: torch.device | str) -> list[Tensor]:
        draws = ImageDraws([generator(0, i, 1) for i in range(3)], device)
        x = dequantise(torch.linspace(-1, 1, 48).reshape(3, *SHAPE).to(device), draws)
        given = {"sigma_min": 0.1, "sigma_max": 20.0, "divergence": divergence, "probes": 2}
        made = log_likelihood(prior().to(device), x, data_mean=torch.full(SHAPE, 0.1), draws=draws, **given)
        return [made.log_prob, made.standard_error, made.latent]

    expected = found("cpu")
    with stand_in() as device:
        for one, other in zip(found(device), expected, strict=True):
            assert one.dtype == torch.float64
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def network(z: Tensor, t: Tensor, *_: Tensor) -> Tensor:
    return z * torch.tanh(t.to(z.dtype).reshape(-1, 1, 1, 1) / 500)


DENOISERS: dict[str, dict[str, Any]] = {
    "vp": {},
    "sde": {"sde": {"name": "vp"}},
    "ve": {},
    "edm": {},
    "flow": {},
}
OBJECTIVES: list[dict[str, Any]] = [
    {},
    {"weight": "likelihood"},
    {"levels": {"name": "logit_normal"}},
    {"levels": {"name": "log_uniform"}, "weight": "snr_clipped"},
    {"name": "sliced_score_matching"},
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("name", DENOISERS)
def test_every_loss(name: str, objective: dict[str, Any]) -> None:
    x, noise = torch.linspace(-1, 1, 96).reshape(2, 3, *SHAPE)
    u = torch.tensor([0.1, 0.5, 0.9])

    def found(device: torch.device | str) -> Tensor:
        denoiser = adapters.make(name, network, **DENOISERS[name]).to(device)  # type: ignore[arg-type]
        loss = make_loss(Objective(**objective), denoiser)
        return loss(denoiser, x.to(device), u.to(device), noise.to(device), lambda shape: torch.ones(3, *shape))

    expected = found("cpu")
    with stand_in() as device:
        torch.testing.assert_close(found(device).cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_the_denoiser_of_a_finite_set(sigma: float) -> None:
    x = torch.linspace(-1, 1, 48).reshape(3, *SHAPE)
    denoiser: Denoiser = EmpiricalDenoiser(x.flip(0) / 2, chunk=2)
    expected = denoiser(x, sigma)
    with stand_in() as device:
        found = denoiser.to(device)(x.to(device), sigma)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-6)


def test_the_stand_in_refuses_what_such_a_device_refuses() -> None:
    x = torch.ones(3)
    with stand_in() as device:
        assert (x.to(device) + 1).cpu().tolist() == [2.0] * 3
        for wrong in (
            lambda: x.double().to(device),
            lambda: x.to(device).double(),
            lambda: x.to(device).to("cpu", torch.float64),
            lambda: torch.zeros(3, dtype=torch.float64, device=device),
            lambda: torch.tensor([0.5], dtype=torch.float64, device=device),
        ):
            with pytest.raises(TypeError, match="no float64"):
                wrong()
        with pytest.raises(RuntimeError, match="two devices"):
            x.to(device) + x


WRAPPED: dict[str, dict[str, Any]] = {
    "epsilon": {"betas": torch.linspace(1e-4, 0.02, 100).tolist(), "pixels": (0.0, 1.0)},
    "x0": {"betas": torch.linspace(1e-4, 0.02, 100).tolist(), "whole_times": True},
    "v": {"alpha_sigma": (torch.cos, torch.sin), "times": (0.01, 1.5), "time_scale": 500.0},
    "score": {"sigmas": (0.01, 9.0), "time": "log_sigma"},
    "flow": {"time_scale": 1000.0, "shift": 3.0},
}


@pytest.mark.parametrize("predicts", WRAPPED)
def test_a_wrapped_network(predicts: Any) -> None:
    x = torch.linspace(-1, 1, 32).reshape(2, *SHAPE)
    denoiser = randomwalk.wrap(network, predicts, **WRAPPED[predicts])
    levels = (0.5, torch.tensor([0.2, 0.9]))
    expected = [f(x, sigma) for f in (denoiser, denoiser.score) for sigma in levels]
    with stand_in() as device:
        there = denoiser.to(device)
        at = [level.to(device) if isinstance(level, Tensor) else level for level in levels]
        found = [f(x.to(device), sigma) for f in (there, there.score) for sigma in at]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-5)
