"""The exact denoiser against torch.distributions, automatic differentiation, and many digits where those fail."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from randomwalk import GaussianMixture, InputError, operators
from randomwalk.rng import generator

K, D = 3, 4
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
EYE = torch.eye(D, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MEANS = 2 * normal(K, D)
FACTORS = normal(K, D, D, seed=1)
COVARIANCES: dict[str, Any] = {
    "number": 0.3,
    "isotropic": torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64),
    "diagonal": normal(K, D, seed=2).square(),
    "full": FACTORS @ FACTORS.mT,
}


def dense(kind: str) -> Tensor:
    given = torch.as_tensor(COVARIANCES[kind], dtype=torch.float64)
    if kind in ("number", "isotropic"):
        return given.expand(K)[:, None, None] * EYE
    return torch.diag_embed(given) if kind == "diagonal" else given


def exact(covariances: Tensor, sigma: float) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(WEIGHTS), MultivariateNormal(MEANS, covariances + sigma**2 * EYE))


@pytest.mark.parametrize("sigma", [1e-6, 0.01, 0.5, 3.0, 1e6])
@pytest.mark.parametrize("kind", COVARIANCES)
def test_density_score_and_denoiser(kind: str, sigma: float) -> None:
    mixture = GaussianMixture(WEIGHTS, MEANS, COVARIANCES[kind])
    x = (MEANS[0] + (1 + sigma) * normal(6, D, seed=3)).requires_grad_()
    log_prob = exact(dense(kind), sigma).log_prob(x)
    gradient = torch.autograd.grad(log_prob.sum(), x)[0]
    x = x.detach()
    torch.testing.assert_close(mixture.log_prob(x, sigma), log_prob, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixture.score(x, sigma), gradient, rtol=1e-9, atol=1e-10 * float(gradient.abs().max()))
    if sigma <= 3:  # at a huge sigma x + sigma^2 score has no digits left
        torch.testing.assert_close(mixture(x, sigma), x + sigma**2 * gradient, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("kind", COVARIANCES)
def test_covariances_are_those_given(kind: str) -> None:
    mixture = GaussianMixture(WEIGHTS, MEANS, COVARIANCES[kind])
    torch.testing.assert_close(mixture.covariances(), dense(kind), rtol=1e-12, atol=1e-12)


def test_limits_of_sigma() -> None:
    mixture = GaussianMixture(WEIGHTS, MEANS, COVARIANCES["full"])
    x = normal(6, D, seed=3)
    torch.testing.assert_close(mixture(x, 1e-9), x, rtol=0, atol=1e-12)
    far = 1e7 * normal(6, D, seed=4)
    # D -> E[X] + (x - E[X]) cov(X) / sigma^2 + ..., which x + sigma^2 score could not resolve.
    mean = WEIGHTS @ MEANS
    spread = torch.einsum("k,kde->de", WEIGHTS, dense("full") + (MEANS - mean)[:, :, None] * (MEANS - mean)[:, None])
    torch.testing.assert_close(mixture(far, 1e9), mean + far @ spread / 1e18, rtol=1e-9, atol=1e-12)
    assert mixture.score(1e3 * x, 1e-6).isfinite().all() and mixture.log_prob(1e3 * x, 1e-6).isfinite().all()


def test_points_are_a_mixture() -> None:
    points = GaussianMixture([1.0, 3.0], torch.tensor([[0.0], [1.0]], dtype=torch.float64), 0.0)
    x = torch.tensor([[0.25], [0.75]], dtype=torch.float64)
    probability = 3 / (3 + torch.exp(((x - 1) ** 2 - x**2) / (2 * 0.3**2)))
    torch.testing.assert_close(points(x, 0.3), probability, rtol=1e-12, atol=0)
    # Far from both, where every density underflows, the nearer one wins.
    torch.testing.assert_close(points(torch.tensor([[100.0]]).double(), 0.1), torch.ones(1, 1).double())


def test_one_sigma_for_each_image() -> None:
    mixture = GaussianMixture(WEIGHTS, MEANS, COVARIANCES["full"])
    x, sigmas = normal(3, D, seed=3), torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    for method in (mixture.forward, mixture.score, mixture.log_prob):
        together = method(x, sigmas)
        apart = torch.cat([method(x[i : i + 1], float(sigmas[i])) for i in range(3)])
        torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)


def test_images_are_flattened_and_types_kept() -> None:
    flat = GaussianMixture(WEIGHTS, MEANS, COVARIANCES["diagonal"])
    images = GaussianMixture(WEIGHTS, MEANS.reshape(K, 1, 2, 2), COVARIANCES["diagonal"])
    x = normal(5, D, seed=3)
    assert torch.equal(images(x.reshape(5, 1, 2, 2), 0.5), flat(x, 0.5).reshape(5, 1, 2, 2))
    assert images.sample(7, generator(0)).shape == (7, 1, 2, 2)
    single = flat(x.float(), 0.5)  # exact inside, rounded once
    assert single.dtype == torch.float32 and flat.score(x.float(), 0.5).dtype == torch.float32
    torch.testing.assert_close(single.double(), flat(x.float().double(), 0.5), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", COVARIANCES)
def test_draws_have_the_moments(kind: str) -> None:
    num = 100_000
    mixture = GaussianMixture(WEIGHTS, MEANS, COVARIANCES[kind])
    x = mixture.sample(num, generator(5))
    assert torch.equal(x, mixture.sample(num, generator(5)))
    mean = WEIGHTS @ MEANS
    second = torch.einsum("k,kde->de", WEIGHTS, dense(kind) + MEANS[:, :, None] * MEANS[:, None])
    for drawn, expected in ((x, mean), (x[:, :, None] * x[:, None], second)):
        assert ((drawn.mean(0) - expected).abs() < 5 * drawn.std(0) / num**0.5).all()  # five standard errors


@pytest.mark.parametrize("eta", [1e-6, 0.1, 1.0, 1e3])
@pytest.mark.parametrize("rows", [2, 4, 6])
@pytest.mark.parametrize("kind", COVARIANCES)
def test_posterior_is_bayes_rule(kind: str, rows: int, eta: float) -> None:
    mixture = GaussianMixture(WEIGHTS, MEANS, COVARIANCES[kind])
    matrix, truth = normal(rows, D, seed=6), normal(D, seed=7)
    y = matrix @ truth + eta * normal(rows, seed=8)
    posterior = mixture.posterior(matrix, y, eta)
    # f(x | y) / (f(x) f(y | x)) does not depend on x; x where the posterior has its mass.
    x = posterior.sample(20, generator(1))
    log_likelihood = -((y - x @ matrix.T) ** 2).sum(1) / (2 * eta**2)
    ratio = posterior.log_prob(x) - mixture.log_prob(x) - log_likelihood
    rounding = 1e-8 + 1e-13 / eta**2  # of x itself, seen through the likelihood
    assert float(ratio.max() - ratio.min()) < rounding * 1e3


def test_posterior_with_little_noise_has_all_its_digits() -> None:
    mixture = GaussianMixture([1.0], torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]))
    posterior = mixture.posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([0.5]), 1e-7)
    # The second given that the first is 0.5: mean 0.25, variance 1.5.
    torch.testing.assert_close(posterior.means[0], torch.tensor([0.5, 0.25]).double(), rtol=1e-12, atol=0)
    expected = torch.tensor([[1e-14, 5e-15], [5e-15, 1.5]], dtype=torch.float64)
    torch.testing.assert_close(posterior.covariances()[0], expected, rtol=1e-12, atol=1e-15)


def test_posterior_of_an_operator_is_that_of_its_matrix() -> None:
    operator = operators.make("super_resolution", image_shape=(1, 2, 2), factor=2)
    mixture = GaussianMixture(WEIGHTS, MEANS.reshape(K, 1, 2, 2), COVARIANCES["full"])
    y = torch.tensor([[[[0.3]]]], dtype=torch.float64)
    matrix = torch.full((1, 4), 0.25, dtype=torch.float64)
    ours, expected = mixture.posterior(operator, y, 0.1), mixture.posterior(matrix, y, 0.1)
    assert ours.event_shape == (1, 2, 2)
    torch.testing.assert_close(ours.means, expected.means, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.covariances(), expected.covariances(), rtol=1e-12, atol=1e-12)


def test_posterior_weights() -> None:
    mixture = GaussianMixture([0.5, 0.5], torch.tensor([[-1.0], [2.0]], dtype=torch.float64), 0.25)
    posterior = mixture.posterior(torch.ones(1, 1), torch.tensor([0.7]), 0.6)
    density = [math.exp(-((0.7 - m) ** 2) / (2 * (0.25 + 0.36))) for m in (-1.0, 2.0)]
    expected = [d / sum(density) for d in density]
    assert posterior.log_weights.exp().tolist() == pytest.approx(expected, rel=1e-6)  # 0.7 and 0.6 are float32


def test_lists_and_arrays_are_accepted() -> None:
    listed = GaussianMixture([1, 2], [[0, 0], [1, 1]], [1, 2])
    array = GaussianMixture(np.array([1.0, 2.0]), np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([1.0, 2.0]))
    assert listed.means.dtype == torch.float32 and array.means.dtype == torch.float64
    torch.testing.assert_close(listed.log_weights.exp(), torch.tensor([1 / 3, 2 / 3]))


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "said"),
    [
        ([0.5, 0.5], torch.zeros(3, 2), 1.0, r"weights of shape \(2,\) and means of shape \(3, 2\)"),
        ([0.5, -0.5], torch.zeros(2, 2), 1.0, "not negative"),
        ([0.5, 0.5], torch.zeros(2, 3), torch.ones(3), r"covariances of shape \(3,\); expected a number or \[2\]"),
        ([0.5, 0.5], torch.zeros(2, 3), -1.0, "not positive semi-definite"),
        ([1.0], torch.zeros(1, 2), torch.tensor([[[1.0, 2.0], [2.0, 1.0]]]), "not positive semi-definite"),
        ([1.0], torch.zeros(1, 2), torch.tensor([[[1.0, 0.5], [0.0, 1.0]]]), "not symmetric"),
        ([1.0], torch.zeros(1, 2), float("nan"), "not positive semi-definite"),
    ],
)
def test_impossible_mixtures_are_named(weights: Any, means: Any, covariances: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        GaussianMixture(weights, means, covariances)
