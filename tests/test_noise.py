"""Laws of the measurement noise and the likelihoods that follow from them."""

from __future__ import annotations

import pytest
import torch
from operator_cases import Correlation, Square, normal

from randomwalk import InputError
from randomwalk.noise import GaussianLikelihood, GaussianNoise
from randomwalk.operators import Operator
from randomwalk.rng import ImageDraws, generator


@pytest.mark.parametrize("operator", [Correlation((2, 7, 6)), Square((2, 7, 6))], ids=["linear", "nonlinear"])
def test_likelihood_score_is_the_gradient_of_its_log_density(operator: Operator) -> None:
    x = normal(3, 2, 7, 6)
    y = operator(x) + 0.3 * normal(3, *operator.measurement_shape, seed=1)
    likelihood = GaussianLikelihood(operator, y, 0.3)
    exact = torch.distributions.Normal(operator(x), 0.3).log_prob(y).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.log_prob(x), exact, rtol=1e-12, atol=0)
    start = (x + 0.1).requires_grad_()
    gradient = torch.autograd.grad(likelihood.log_prob(start).sum(), start)[0]
    with torch.no_grad():
        score = likelihood.score(start.detach())
    assert not score.requires_grad
    torch.testing.assert_close(score, gradient, rtol=1e-12, atol=1e-12)


def test_noise_level_is_stated_in_a_pixel_range() -> None:
    assert GaussianNoise(0.2).std == pytest.approx(0.2)
    assert GaussianNoise(0.2, pixel_range=(0, 1)).std == pytest.approx(0.4)
    assert GaussianNoise(51, pixel_range=(0, 255)).std == pytest.approx(0.4)
    clean = torch.zeros(2, 3, 50, 50)
    noisy = GaussianNoise(0.2, (0, 1)).apply(clean, ImageDraws([generator(0), generator(1)]))
    assert noisy.std().item() == pytest.approx(0.4, rel=5 / (2 * clean.numel()) ** 0.5)  # five standard errors
    alone = GaussianNoise(0.2, (0, 1)).apply(clean[:1], ImageDraws([generator(1)]))
    assert torch.equal(noisy[1:], alone)
    for std, pixel_range in ((0.0, (-1, 1)), (-1.0, (-1, 1)), (0.2, (1, 0))):
        with pytest.raises(InputError, match="noise"):
            GaussianNoise(std, pixel_range)
