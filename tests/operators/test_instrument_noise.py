"""Noise of instruments: densities, scores, draws, units, and the walk to its posterior."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from operator_cases import Correlation, Square, normal

from randomwalk import GaussianMixture, InputError, operators, samplers
from randomwalk.operators import Measurement, Operator
from randomwalk.operators.instrument_noise import BeerLambertNoise, GammaNoise, QuantizedNoise, RicianNoise
from randomwalk.operators.noise import Noise
from randomwalk.operators.noise import make as noise_of
from randomwalk.rng import ImageDraws, generator


def behind(photons: float, shift: float) -> BeerLambertNoise:
    """Photons behind rays whose line integral is ``0.6 A x + shift``."""
    noise = BeerLambertNoise(photons, 0.0, 1.2)
    noise.offset = torch.full((1, 1), shift, dtype=torch.float64)
    return noise


NOISES = [
    RicianNoise(0.3), GammaNoise(4.0), GammaNoise(2.5), QuantizedNoise(3, 0.2), QuantizedNoise(2, 0.6),
    behind(30.0, 0.9),
]  # fmt: skip
EACH = pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.name)
CLEAN = torch.tensor([-1.3, -0.97, -0.6, 0.0, 0.7, 1.4], dtype=torch.float64)
"""Exact measurements, from darker than black to brighter than white."""


def draws(*keys: int) -> ImageDraws:
    return ImageDraws([generator(5, key) for key in keys])


def values_of(noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of y in increasing order, which are all of them or a fine grid, and the weight of each in a sum."""
    if isinstance(noise, QuantizedNoise):
        grid = torch.linspace(-1, 1, 2**noise.bits, dtype=torch.float64)
        return grid, torch.ones_like(grid)
    if isinstance(noise, BeerLambertNoise):
        grid = noise.measured(torch.arange(120.0, dtype=torch.float64)[:, None])[:, 0].flip(0)
        return grid, torch.ones_like(grid)
    grid = torch.arange(-1 + 2.5e-4, 19, 5e-4, dtype=torch.float64)
    return grid, torch.full_like(grid, 5e-4)


@EACH
def test_draws_follow_the_density_which_sums_to_one(noise: Noise) -> None:
    size = 40_000
    y = noise.apply(CLEAN[None, :, None].expand(1, len(CLEAN), size), draws(0))
    grid, weight = values_of(noise)
    for row, value in enumerate(CLEAN):
        mass = weight * noise.log_prob(grid[:, None], value.expand(len(grid), 1)).exp()
        assert mass.sum().item() == pytest.approx(1, abs=1e-5)
        ranks = torch.searchsorted((grid[1:] + grid[:-1]) / 2, y[0, row].contiguous())
        found = torch.bincount(ranks, minlength=len(grid)).cumsum(0) / size
        # The largest gap of 40,000 draws is above 1.95 / sqrt(n) once in a thousand (Kolmogorov); the draws are fixed.
        assert (found - mass.cumsum(0)).abs().max() < 1.95 / size**0.5


def test_moments() -> None:
    """Of the textbooks, to five standard errors."""
    size, v = 200_000, 0.4
    clean = torch.full((1, size), v - 1, dtype=torch.float64)
    squares = (RicianNoise(0.3).apply(clean, draws(1)) + 1).square()
    variance = 4 * v**2 * 0.3**2 + 4 * 0.3**4
    assert squares.mean().item() == pytest.approx(v**2 + 2 * 0.3**2, abs=5 * (variance / size) ** 0.5)
    speckled = GammaNoise(3.0).apply(clean, draws(2)) + 1
    assert speckled.mean().item() == pytest.approx(v, abs=5 * v / (3 * size) ** 0.5)
    assert speckled.var().item() == pytest.approx(v**2 / 3, rel=5 * ((3 + 6 / 3 - 1) / size) ** 0.5)
    rounded = QuantizedNoise(6, 0.1)
    y = rounded.apply(clean, draws(3))
    assert y.std().item() == pytest.approx(rounded.std, rel=5 / (2 * size) ** 0.5)
    counts = behind(50.0, 0.3).counts(behind(50.0, 0.3).apply(clean, draws(4)))
    expected = 50 * math.exp(-0.6 * (v - 1) - 0.3)
    assert counts.mean().item() == pytest.approx(expected, abs=5 * (expected / size) ** 0.5)
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)


@EACH
def test_scores_are_derivatives(noise: Noise) -> None:
    y = noise.apply(CLEAN.expand(50, -1), draws(*range(50)))
    smooth = (CLEAN - 0.5).expand(50, -1)  # behind rays with a negative integral too
    torch.testing.assert_close(noise.score(y, smooth), Noise.score(noise, y, smooth), rtol=1e-9, atol=1e-9)
    step = 1e-6
    for column in range(len(CLEAN)):
        change = step * (torch.arange(len(CLEAN)) == column)
        rise = (noise.log_prob(y, smooth + change) - noise.log_prob(y, smooth - change)) / (2 * step)
        torch.testing.assert_close(noise.score(y, smooth)[:, column], rise, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operator", [Correlation((2, 7, 6)), Square((2, 7, 6))], ids=["linear", "nonlinear"])
@EACH
def test_scores_through_operators(noise: Noise, operator: Operator) -> None:
    if isinstance(noise, BeerLambertNoise):
        noise = BeerLambertNoise(30.0, 0.1, 0.4)
    x = normal(3, 2, 7, 6) / 10
    likelihood = Measurement(operator, noise, noise.of_operator(operator).apply(operator(x), draws(0, 1, 2)))
    step = 1e-6 * normal(*x.shape, seed=3)
    rise = likelihood.log_prob(x + step) - likelihood.log_prob(x - step)
    torch.testing.assert_close((likelihood.score(x) * 2 * step).flatten(1).sum(1), rise, rtol=1e-4, atol=1e-9)


@EACH
def test_an_image_has_its_own_noise(noise: Noise) -> None:
    clean = torch.linspace(-1, 1, 3 * 20).reshape(3, 20)
    together = noise.apply(clean, draws(0, 1, 2))
    for image in range(3):
        assert torch.equal(together[image : image + 1], noise.apply(clean[image : image + 1], draws(image)))


@EACH
def test_copies_share_one_likelihood(noise: Noise) -> None:
    y = noise.apply(CLEAN[None], draws(0))
    shared = noise.of_copies(3)
    assert shared.copies == 3 and noise.copies == 1
    others = CLEAN[None] + 0.05
    one = noise.log_prob(y, others) - noise.log_prob(y, CLEAN[None])
    three = [shared.log_prob(y.repeat(1, 3), clean.repeat(1, 3)) for clean in (others, CLEAN[None])]
    torch.testing.assert_close(three[0] - three[1], one, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(3 * shared.score(y, others), noise.score(y, others), rtol=1e-9, atol=1e-9)
    if isinstance(noise, BeerLambertNoise) and isinstance(shared, BeerLambertNoise):
        counts = torch.tensor([[0.0, 1.0, 7.0]], dtype=torch.float64)
        torch.testing.assert_close(shared.measured(counts / 3), noise.measured(counts), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(shared.counts(noise.measured(counts)), counts / 3, rtol=1e-12, atol=1e-12)


@EACH
def test_steps_are_stable(noise: Noise) -> None:
    """The curvature is at most ``1 / stable_std^2``; of speckle where twice the lowest intensity is measured."""
    clean = torch.linspace(-2, 2, 2001, dtype=torch.float64)[:, None]
    grid, _ = values_of(noise)
    ys = grid[:: max(1, len(grid) // 40)] if not isinstance(noise, GammaNoise) else [2 * noise.lowest - 1]
    most = 0.0
    for y in ys:
        slope = noise.score(torch.full_like(clean, float(y)), clean)[:, 0]
        most = max(most, float((-slope.diff() / clean[:, 0].diff())[slope[1:] != 0].max()))
    assert most <= 1.001 / noise.stable_std**2
    if not isinstance(noise, QuantizedNoise):
        assert most > 0.9 / noise.stable_std**2


@pytest.mark.parametrize("noise", [RicianNoise(0.3), GammaNoise(4.0)], ids=lambda noise: noise.name)
def test_brighter_measurements(noise: Noise) -> None:
    """The density of ``gain (y + 1) - 1`` is that of y over the gain."""
    y, clean = CLEAN[None, 2:] + 0.1, CLEAN[None, 2:]
    brighter = noise.brightened(1.5).log_prob(1.5 * (y + 1) - 1, 1.5 * (clean + 1) - 1)
    torch.testing.assert_close(brighter, noise.log_prob(y, clean) - y.numel() * math.log(1.5), rtol=1e-9, atol=1e-9)


def test_photons_behind_an_absorber_in_units() -> None:
    """Attenuations from 0.1 to 0.5 per centimetre, in pixels of half a centimetre."""
    operator = operators.make("tomography", image_shape=(1, 5, 5), views=3, pixel_size=0.5)
    attenuation = 0.3 + 0.2 * normal(1, 1, 5, 5).clamp(-1, 1)
    integral = 0.5 * operators.make("tomography", image_shape=(1, 5, 5), views=3)(attenuation)
    noise = noise_of("beer_lambert", photons=1e7, pixel_range=[0.1, 0.5])
    x = (attenuation - 0.3) / 0.2
    found = operator.measure(x, noise, draws(0))
    assert found.noise is not noise and isinstance(found.noise, BeerLambertNoise)
    counts = found.noise.counts(found.y)
    expected = 1e7 * (-integral).exp()
    assert ((counts - expected) ** 2 / expected).mean() < 1 + 5 * (2 / counts.numel()) ** 0.5
    torch.testing.assert_close(found.y, operator(x), rtol=0, atol=5 * 4 / 1e7**0.5)
    mean_ray = float(0.3 * operator(torch.ones_like(x)).mean())
    assert found.noise.std == pytest.approx((1e7 * math.exp(-mean_ray)) ** -0.5 / 0.2)
    torch.testing.assert_close(found.noise.measured(counts), found.y, rtol=1e-9, atol=1e-9)
    with pytest.raises(InputError, match="needs its operator"):
        noise.log_prob(found.y, found.y)
    with pytest.raises(InputError, match="found -2 photons"):
        found.noise.measured(counts - counts - 2)


def test_weighted_projections_have_the_same_noise_everywhere() -> None:
    """Rays through a dark disc, with 20 photons instead of 400: the noise of 2,000 measurements has one spread."""
    operator = operators.make("tomography", image_shape=(1, 9, 9), views=4, pixel_size=0.5)
    rows = torch.linspace(-1, 1, 9)
    disc = torch.where(rows[:, None] ** 2 + rows**2 < 0.4, 1.0, -1.0)[None, None]
    noise = BeerLambertNoise(400.0, 0.0, 1.0).of_operator(operator)
    clean = operator(disc)
    counts = noise.counts(clean)
    assert float(counts.max() / counts.min()) > 10
    y = noise.apply(clean.expand(2000, -1, -1, -1), ImageDraws([generator(4, i) for i in range(2000)]))
    spread = (noise.weights(y) * (y - clean)).std(0) / noise.stable_std
    plain = (y - clean).std(0) / noise.stable_std
    assert plain.max() > 3  # without weights
    # 5 standard errors, and what 20 photons do to the square root of their number: a part in 40.
    assert (spread - 1).abs().max() < 5 / (2 * 2000) ** 0.5 + 1 / 40


def test_settings() -> None:
    assert noise_of("rician", std=51, pixel_range=[0, 255]).std == pytest.approx(0.4)
    assert noise_of("gamma", looks=4).std == pytest.approx(0.5)
    rounded = noise_of("quantized", bits=2, std=0.1, pixel_range=[0, 1])
    assert isinstance(rounded, QuantizedNoise) and rounded.before == pytest.approx(0.2) and rounded.step == 2 / 3
    for noise in (RicianNoise(0.1), GammaNoise(1.0)):
        with pytest.raises(InputError, match=f"{noise.name} is for measurements that are pixels"):
            noise.apply(torch.full((1, 3), -2.0))


POSTERIORS = [RicianNoise(0.5), GammaNoise(3.0), QuantizedNoise(2, 0.4), BeerLambertNoise(6.0, 0.2, 2.2)]


@pytest.mark.parametrize("noise", POSTERIORS, ids=lambda noise: noise.name)
def test_the_walk_reaches_the_posterior(noise: Noise) -> None:
    """Of one pixel, by quadrature: mean and deviation to 5 standard errors and the bias of a step, a percent."""
    operator, size, s, w = operators.make("denoising", image_shape=(1, 1, 1)), 2000, 0.06, 0.5
    noise = noise.of_operator(operator)
    y = noise.apply(torch.full((1, 1, 1, 1), -0.2), draws(3))
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 1, 1, 1), w**2)
    walk = samplers.make("random_walk", step_scale=1.0, initial_temperature=1.0, schedule=None)
    x = walk.sample(prior, torch.full((300,), s), Measurement(operator, noise, y), num_samples=size,
                    draws=ImageDraws([generator(7, i) for i in range(size)])).flatten().double()  # fmt: skip
    grid = torch.linspace(-3, 3, 20_001, dtype=torch.float64)
    log = noise.log_prob(y.double().expand(len(grid), 1, 1, 1), grid[:, None, None, None]) - grid**2 / (
        2 * (w**2 + s**2)
    )
    mass = (log - log.max()).exp()
    mass = mass / mass.sum()
    mean = float((mass * grid).sum())
    std = float((mass * (grid - mean) ** 2).sum().sqrt())
    assert std < 0.9 * w, "y says something"
    assert float(x.mean()) == pytest.approx(mean, abs=std * (5 / size**0.5 + 0.01))
    assert float(x.std()) == pytest.approx(std, rel=5 * (1 / size) ** 0.5 + 0.01)


def test_samplers_that_know_only_other_noise_say_so() -> None:
    operator = operators.make("denoising", image_shape=(1, 2, 2))
    given = Measurement(operator, RicianNoise(0.2), torch.zeros(1, 1, 2, 2))
    for name in ("dps", "diffpir", "pigdm", "mmps", "ddrm"):
        with pytest.raises(InputError, match="noise 'rician'; it supports gaussian, none; for other noise take random"):
            samplers.make(name).check(given)
    with pytest.raises(InputError, match="needs a linear operator and Gaussian noise; here are Identity and rician"):
        samplers.make("random_walk", step_scale=1.0, preconditioned=True).check(given)
    samplers.make("random_walk", step_scale=1.0).check(given)
    assert np.isfinite(float(given.score(torch.zeros(1, 1, 2, 2)).sum()))
