"""Laws of the measurement noise and the likelihoods that follow from them."""

from __future__ import annotations

import pytest
import torch
from operator_cases import Correlation, Square, normal

from randomwalk import InputError
from randomwalk.operators import Measurement, Operator
from randomwalk.operators.noise import (
    GaussianNoise,
    LaplaceNoise,
    Noise,
    NoNoise,
    PoissonNoise,
)
from randomwalk.operators.noise import make as noise_of
from randomwalk.rng import ImageDraws, generator


@pytest.mark.parametrize("operator", [Correlation((2, 7, 6)), Square((2, 7, 6))], ids=["linear", "nonlinear"])
def test_likelihood_score_is_the_gradient_of_its_log_density(operator: Operator) -> None:
    x = normal(3, 2, 7, 6)
    y = operator(x) + 0.3 * normal(3, *operator.measurement_shape, seed=1)
    likelihood = Measurement(operator, GaussianNoise(0.3), y)
    exact = torch.distributions.Normal(operator(x), 0.3).log_prob(y).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.log_prob(x), exact, rtol=1e-12, atol=0)
    start = (x + 0.1).requires_grad_()
    gradient = torch.autograd.grad(likelihood.log_prob(start).sum(), start)[0]
    with torch.no_grad():
        score = likelihood.score(start.detach())
    assert not score.requires_grad
    torch.testing.assert_close(score, gradient, rtol=1e-12, atol=1e-12)


def test_noise_level_is_stated_in_a_pixel_range() -> None:
    assert noise_of("gaussian", std=0.2).std == pytest.approx(0.2)
    assert noise_of("gaussian", std=0.2, pixel_range=(0, 1)).std == pytest.approx(0.4)
    assert noise_of("gaussian", std=51, pixel_range=(0, 255)).std == pytest.approx(0.4)
    clean = torch.zeros(2, 3, 50, 50)
    noisy = noise_of("gaussian", std=0.2, pixel_range=(0, 1)).apply(clean, ImageDraws([generator(0), generator(1)]))
    assert noisy.std().item() == pytest.approx(0.4, rel=5 / (2 * clean.numel()) ** 0.5)  # five standard errors
    alone = noise_of("gaussian", std=0.2, pixel_range=(0, 1)).apply(clean[:1], ImageDraws([generator(1)]))
    assert torch.equal(noisy[1:], alone)
    for std, pixel_range in ((0.0, (-1, 1)), (-1.0, (-1, 1)), (0.2, (1, 0))):
        with pytest.raises(InputError, match="noise"):
            noise_of("gaussian", std=std, pixel_range=pixel_range)


NOISES = [GaussianNoise(0.3), LaplaceNoise(0.3), PoissonNoise(20.0)]
EACH_NOISE = pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.name)


def draws(*keys: int) -> ImageDraws:
    return ImageDraws([generator(5, key) for key in keys])


@EACH_NOISE
def test_draws_follow_the_law_whose_density_is_given(noise: Noise) -> None:
    clean = torch.tensor([-0.6, 0.0, 0.7], dtype=torch.float64)
    size = 40_000
    y = noise.apply(clean[None, :, None].expand(1, 3, size), draws(0))
    # The distribution function, from log_prob alone: a sum over counts, or over a fine grid of values.
    step = 2 / noise.peak if isinstance(noise, PoissonNoise) else 1e-3
    grid = torch.arange(-1 if isinstance(noise, PoissonNoise) else -5, 5, step, dtype=torch.float64)
    for row, value in enumerate(clean):
        log_density = noise.log_prob(grid[:, None], value.expand(len(grid), 1))
        mass = log_density.exp() * (1 if isinstance(noise, PoissonNoise) else step)
        assert mass.sum().item() == pytest.approx(1, abs=1e-5)
        ranks = torch.searchsorted((grid + step / 2).contiguous(), y[0, row].contiguous())
        found = torch.bincount(ranks, minlength=len(grid) + 1)[: len(grid)].cumsum(0) / size
        # The largest gap of 40,000 draws is above 1.95 / sqrt(n) once in a thousand (Kolmogorov); the draws are fixed.
        assert (found - mass.cumsum(0)).abs().max() < 1.95 / size**0.5


@EACH_NOISE
def test_standard_deviation(noise: Noise) -> None:
    y = noise.apply(torch.zeros(1, 200_000), draws(1))
    kurtosis = {"gaussian": 3.0, "laplace": 6.0, "poisson": 3.1}[noise.name]  # of the variance's standard error
    assert y.std().item() == pytest.approx(noise.std, rel=5 * ((kurtosis - 1) / 4 / y.numel()) ** 0.5)


@EACH_NOISE
def test_an_image_has_its_own_noise(noise: Noise) -> None:
    clean = torch.linspace(-1, 1, 3 * 20).reshape(3, 1, 4, 5)
    together = noise.apply(clean, draws(0, 1, 2))
    for image in range(3):
        assert torch.equal(together[image : image + 1], noise.apply(clean[image : image + 1], draws(image)))


@pytest.mark.parametrize("operator", [Correlation((2, 7, 6)), Square((2, 7, 6))], ids=["linear", "nonlinear"])
@EACH_NOISE
def test_scores_are_gradients_row_by_row(noise: Noise, operator: Operator) -> None:
    x = normal(3, 2, 7, 6) / 10
    y = noise.apply(operator(x), draws(0, 1, 2))
    likelihood = Measurement(operator, noise, y)
    step = 1e-6 * normal(*x.shape, seed=3)
    rise = likelihood.log_prob(x + step) - likelihood.log_prob(x - step)
    torch.testing.assert_close((likelihood.score(x) * 2 * step).flatten(1).sum(1), rise, rtol=1e-4, atol=1e-9)


def test_log_densities_are_those_of_the_textbook() -> None:
    clean, y = normal(4, 6) / 3, normal(4, 6, seed=1) / 3
    laplace = torch.distributions.Laplace(clean, 0.3 / 2**0.5).log_prob(y).sum(1)
    torch.testing.assert_close(LaplaceNoise(0.3).log_prob(y, clean), laplace, rtol=1e-12, atol=0)
    counts = torch.arange(24.0, dtype=torch.float64).reshape(4, 6)
    poisson = torch.distributions.Poisson(10 * (clean + 1)).log_prob(counts).sum(1)
    torch.testing.assert_close(PoissonNoise(20.0).log_prob(counts / 10 - 1, clean), poisson, rtol=1e-12, atol=0)


def test_poisson_counts_photons() -> None:
    noise = PoissonNoise(8.0)
    y = noise.apply(torch.linspace(-1, 1, 1000, dtype=torch.float64)[None], draws(0))
    counts = 8 * (y + 1) / 2
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-12)
    assert y[0, 0] == -1 and counts.max() > 8
    assert torch.equal(noise.apply(torch.full((1, 9), -1.2), draws(0)), torch.full((1, 9), -1.0))  # an overshoot
    with pytest.raises(InputError, match="for measurements that are pixels"):
        noise.apply(torch.full((1, 9), -3.0), draws(0))


def test_poisson_likelihood_goes_on_below_black() -> None:
    noise = PoissonNoise(10.0)
    edges = torch.tensor([-1.0, -1 + 2 * noise.lowest / 10], dtype=torch.float64)  # black, and where it is exact
    for photons in (0, 1, 7):
        y = torch.full((1, 1), 2 * photons / 10 - 1, dtype=torch.float64)

        def value(x: torch.Tensor, y: torch.Tensor = y) -> torch.Tensor:
            return noise.log_prob(y.expand(len(x), 1), x[:, None])

        torch.testing.assert_close(value(edges + 1e-9), value(edges - 1e-9), rtol=0, atol=1e-5)  # no jump
        darker = value(torch.tensor([-3.0, -2.0, -1.0], dtype=torch.float64))
        assert darker.isfinite().all() and (darker.diff() >= 0).all()  # nothing below black is likelier
        assert (darker.diff() > 0).all() == (photons > 0)


def test_no_noise() -> None:
    noise, clean = NoNoise(), normal(2, 5)
    assert torch.equal(noise.apply(clean, draws(0, 1)), clean)
    assert noise.log_prob(clean, clean).tolist() == [0, 0]
    assert noise.log_prob(clean, clean + torch.tensor([[0.0], [0.1]])).tolist() == [0, -torch.inf]
    with pytest.raises(InputError, match="no likelihood score"):
        Measurement(Square((1, 2, 2)), noise, torch.zeros(1, 1, 2, 2)).score(torch.zeros(1, 1, 2, 2))


def test_noises_by_name() -> None:
    assert noise_of("gaussian", std=0.2, pixel_range=[0, 1]).std == pytest.approx(0.4)
    assert noise_of("laplace", std=0.2).std == pytest.approx(0.2)
    assert noise_of("poisson", peak=50.0).std == pytest.approx(0.2)
    assert noise_of("none").std == 0
    for name, settings, said in (
        (
            "uniform",
            {},
            "unknown; expected one of gaussian, laplace, poisson, rician, gamma, quantized, beer_lambert, none",
        ),
        ("none", {"std": 0.1}, "std: unknown key"),
        ("poisson", {"peak": 0.0}, "peak: found 0.0; allowed: a number above 0"),
        ("gaussian", {"std": "auto"}, "only a sampling task can estimate"),
        ("gaussian", {}, "std: missing"),
        ("laplace", {"std": -1.0}, "std: found -1.0"),
    ):
        with pytest.raises(InputError, match=said):
            noise_of(name, **settings)


def test_stable_steps_of_poisson_noise() -> None:
    noise = PoissonNoise(20.0)
    clean = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64, requires_grad=True)
    one = torch.full((3001, 1), 2 / 20 - 1, dtype=torch.float64)  # one photon
    slope = torch.autograd.grad(noise.log_prob(one, clean[:, None]).sum(), clean)[0]
    curvature = -(slope.diff() / clean.diff()).detach()
    assert curvature.max().item() == pytest.approx(1 / noise.stable_std**2, rel=0.02)
    assert GaussianNoise(0.3).stable_std == 0.3


@pytest.mark.parametrize("noise", [GaussianNoise(0.3), LaplaceNoise(0.3), PoissonNoise(200)], ids=lambda n: n.name)
def test_noise_without_a_stream_is_pytorchs(noise: Noise) -> None:
    """`Operator.measure` makes a measurement in one call; its spread is known to ``5 / sqrt(2 n)`` of itself."""
    operator, x = Correlation((1, 7, 6)), torch.zeros(2000, 1, 7, 6, dtype=torch.float64)
    torch.manual_seed(0)
    found = operator.measure(x, noise)
    assert found.operator is operator and found.std == noise.std
    n = found.y.numel()
    kurtosis = 6.0 if noise.name == "laplace" else 3.0 + 1 / 100
    assert float((found.y - operator(x)).std()) == pytest.approx(noise.std, rel=5 * ((kurtosis - 1) / 4 / n) ** 0.5)
    torch.manual_seed(0)
    assert torch.equal(operator.measure(x, noise).y, found.y)
    three = found.repeated(3)
    assert torch.equal(three.y[::3], found.y) and torch.equal(three.y[2::3], found.y)
