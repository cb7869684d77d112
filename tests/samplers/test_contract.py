"""One contract: samplers of the prior and of the posterior are called alike, and make what they are not given."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import randomwalk
from randomwalk import Denoiser, GaussianMixture, GaussianNoise, InputError, Measurement, operators, samplers
from randomwalk.config.samplers import POSTERIOR_NAMES
from randomwalk.rng import TorchDraws
from randomwalk.samplers import SAMPLERS, Sampler, schedules

SHAPE = (1, 4, 4)
SIGMAS = schedules.make("karras", 4, sigma_min=0.1, sigma_max=3.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "random_walk": {"step_scale": 0.5},
    "predictor_corrector": {"sde": {"name": "vp"}},
}


def make(name: str, **settings: Any) -> Sampler:
    return samplers.make(name, **SETTINGS.get(name, {}), **settings)


def prior() -> GaussianMixture:
    means = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(1))
    return GaussianMixture([0.4, 0.6], means, 0.2)


def measurement(count: int = 2) -> Measurement:
    operator = operators.make("inpainting", image_shape=SHAPE, missing=0.5)
    truth = torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(2))
    return operator.measure(truth, GaussianNoise(0.3), TorchDraws(count, torch.Generator().manual_seed(3)))


def given(name: str) -> dict[str, Any]:
    """Arguments for six samples."""
    if name in POSTERIOR_NAMES and name != "random_walk":
        return {"measurement": measurement(), "num_samples": 3}
    return {"shape": (6, *SHAPE)}


def draws(seed: int = 0) -> TorchDraws:
    return TorchDraws(6, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "posterior_mean"])  # no levels
def test_a_sampler_makes_what_it_is_not_given(name: str) -> None:
    """A start from the same draws, or PyTorch's own; levels from its schedule; rows for each measurement in turn."""
    sampler, calls = make(name), []
    x = sampler.sample(
        prior(), SIGMAS, **given(name), draws=draws(), callback=lambda k, x, sigma: calls.append((k, x.shape))
    )
    assert x.shape == (6, *SHAPE) and x.dtype == torch.float32
    assert calls == [(k, x.shape) for k in range(sampler.num_steps(len(SIGMAS)))]
    schedule = {"name": "karras", "num_steps": 4, "sigma_min": 0.1, "sigma_max": 3.0}
    assert torch.equal(make(name, schedule=schedule).sample(prior(), **given(name), draws=draws()), x)
    assert not torch.equal(sampler.sample(prior(), SIGMAS, **given(name)), x)  # PyTorch's generator
    torch.manual_seed(1)
    own = sampler.sample(prior(), SIGMAS, **given(name))
    torch.manual_seed(1)
    assert torch.equal(sampler.sample(prior(), SIGMAS, **given(name)), own)


@pytest.mark.parametrize(
    "name", [n for n in SAMPLERS if n not in ("ddrm", "posterior_mean", "split_gibbs", "tweedie_smc")]
)
def test_the_start_is_a_draw_at_the_highest_level(name: str) -> None:
    sampler, rest = make(name), draws()
    start = 3 * rest.normal(SHAPE)
    without = {key: value for key, value in given(name).items() if key != "shape"}
    expected = sampler.sample(prior(), SIGMAS, **without, start=start, draws=rest)
    torch.testing.assert_close(sampler.sample(prior(), SIGMAS, **given(name), draws=draws()), expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "Give shape="),
        ({"shape": (2, *SHAPE), "num_samples": 2}, "num_samples=2 is for measurements"),
        ({"measurement": measurement(), "start": torch.zeros(3, *SHAPE)}, "3 rows for 2 measurements"),
    ],
)
def test_impossible_shapes_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make("random_walk").sample(prior(), SIGMAS, **arguments)
    with pytest.raises(InputError, match="no noise levels"):
        make("random_walk").sample(prior(), **{"shape": (1, *SHAPE), **arguments})


def test_levels_for_a_denoiser() -> None:
    denoiser = Denoiser()
    with pytest.raises(InputError, match="expected a positive number"):
        schedules.for_denoiser(denoiser)
    denoiser.sigma_min, denoiser.sigma_max = 0.02, 30.0
    found = schedules.for_denoiser(denoiser, 10)
    assert torch.equal(found, schedules.make("karras", 10, sigma_min=0.02, sigma_max=30.0))
    assert schedules.for_denoiser(denoiser, 10, "geometric", sigma_max=5.0)[0] == pytest.approx(5.0)
    with pytest.raises(InputError, match="outside the range of this denoiser"):
        schedules.for_denoiser(denoiser, 10, sigma_max=50.0)


def test_five_lines_sample_and_restore() -> None:
    D = randomwalk.load_denoiser("pretrained_models/fashion_vp.safetensors")
    x0 = samplers.make("ddim").sample(D, schedules.for_denoiser(D, 5), shape=(2, 1, 32, 32))
    A = operators.make("inpainting", image_shape=(1, 32, 32), missing=0.75)
    m = A.measure(x0, GaussianNoise(0.2))
    x = samplers.make("dps").sample(D, schedules.for_denoiser(D, 5), m, num_samples=2)
    assert x.shape == (4, 1, 32, 32) and x.isfinite().all()


class Scaled(Denoiser):
    """The exact denoiser of Normal(0, variance) pixels, with a factor to be learned."""

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.variance, self.factor = variance, torch.nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        s = torch.as_tensor(sigma).reshape(-1, 1, 1, 1)
        return self.factor * self.variance / (self.variance + s**2) * x


def test_loss_is_the_error_of_the_predicted_noise() -> None:
    """On data Normal(0, v), ``v / (v + sigma^2)`` on average at the exact denoiser, where it is smallest."""
    generator = torch.Generator().manual_seed(0)
    v, denoiser = 0.5, Scaled(0.5)
    x, noise = (torch.randn((4000, 1, 2, 2), generator=generator) for _ in range(2))
    sigma = torch.rand(4000, generator=generator) + 0.5
    loss = denoiser.loss(math.sqrt(v) * x, sigma, noise)
    squares = v / (v + sigma**2)
    # A square of a normal variable has a standard deviation of sqrt(2) times its mean.
    standard_error = float((2 * squares.square().mean()).sqrt()) / math.sqrt(4 * 4000)
    assert abs(float(loss.detach()) - float(squares.mean())) < 5 * standard_error
    loss.backward()
    gradient = denoiser.factor.grad
    assert gradient is not None and abs(float(gradient)) < 0.1
    predicted = (denoiser(math.sqrt(v) * x + 0.5 * noise, 0.5) - math.sqrt(v) * x) / 0.5
    torch.testing.assert_close(denoiser.loss(math.sqrt(v) * x, 0.5, noise), predicted.square().mean())
    assert denoiser.loss(x, 0.5).ndim == 0  # draws its own noise
