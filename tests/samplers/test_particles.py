"""Weights and resampling of particles."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from randomwalk import RunError
from randomwalk.samplers.posterior import particles

LOG_WEIGHTS = torch.tensor(
    [[0.0, -1.0, -2.5, 0.3, -0.2], [700.0, 701.0, 702.0, 300.0, -math.inf], [0.0, 0.0, 0.0, 0.0, 0.0]],
    dtype=torch.float64,
)
SIZE = LOG_WEIGHTS.shape[1]
POINTS = 2000


def counts(indices: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(indices, SIZE).sum(-2).double()


def test_weights_are_normalized_for_each_measurement() -> None:
    weights = particles.normalized(LOG_WEIGHTS)
    torch.testing.assert_close(weights.sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(weights[0] / weights[0, 0], LOG_WEIGHTS[0].exp())
    assert weights[1, 4] == 0
    torch.testing.assert_close(particles.log_mean(LOG_WEIGHTS[:1]).exp(), LOG_WEIGHTS[:1].exp().mean(1))


@pytest.mark.parametrize("row", [[-math.inf, -math.inf], [0.0, math.nan], [0.0, math.inf]])
def test_weights_that_say_nothing_are_an_error(row: list[float]) -> None:
    with pytest.raises(RunError, match="weights of the particles"):
        particles.normalized(torch.tensor([[0.0, 0.0], row]))


def test_effective_sample_size() -> None:
    sizes = particles.effective_sample_size(torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]]))
    torch.testing.assert_close(sizes, torch.tensor([4.0, 1.0, 2.0]))


def test_systematic_resampling_is_unbiased() -> None:
    """Over even u, particle i is kept S w_i times on average, and each time that rounded down or up.

    The count is a function of u with at most two jumps, so its mean over the midpoints of POINTS even cells is off by
    at most two cells.
    """
    weights = particles.normalized(LOG_WEIGHTS)
    u = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    for w in weights:
        kept = counts(particles.systematic(w.expand(POINTS, SIZE), u))
        assert (kept.sum(1) == SIZE).all()
        assert (kept.mean(0) - SIZE * w).abs().max() <= 2 / POINTS + 1e-9
        assert (kept >= (SIZE * w - 1e-9).floor()).all()
        assert (kept <= (SIZE * w + 1e-9).ceil()).all()


def test_systematic_resampling_at_the_ends() -> None:
    """No particle of weight 0 is kept, whatever u and the rounding of the sum."""
    weights = torch.zeros(2, 1000, dtype=torch.float64)
    weights[:, 1:-1] = 0.1 + torch.rand(998, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights /= weights.sum(1, keepdim=True)
    kept = particles.systematic(weights, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert kept.min() >= 1
    assert kept.max() <= 998


def test_measurements_are_resampled_apart() -> None:
    """Each as if it were alone, and only where the effective sample size is low."""
    u = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    rows, log_weights = particles.resampled(LOG_WEIGHTS, u, threshold=0.7)
    weights = particles.normalized(LOG_WEIGHTS)
    assert [float(size) < 0.7 * SIZE for size in particles.effective_sample_size(weights)] == [False, True, False]
    assert rows[:SIZE].tolist() == list(range(SIZE))
    assert (rows[SIZE : 2 * SIZE] - SIZE).tolist() == particles.systematic(weights[1:2], u[1:2])[0].tolist()
    assert torch.equal(log_weights[[0, 2]], LOG_WEIGHTS[[0, 2]])
    torch.testing.assert_close(particles.log_mean(log_weights), particles.log_mean(LOG_WEIGHTS))
    assert (log_weights[1] == log_weights[1, 0]).all()
    alone, _ = particles.resampled(LOG_WEIGHTS[1:2], u[1:2], threshold=0.7)
    assert (rows[SIZE : 2 * SIZE] - SIZE).tolist() == alone.tolist()


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_even_weights_are_never_resampled(threshold: float) -> None:
    rows, _ = particles.resampled(LOG_WEIGHTS[2:], torch.tensor([0.5]), threshold)
    assert rows.tolist() == list(range(SIZE))
