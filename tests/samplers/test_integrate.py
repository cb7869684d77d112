"""Adaptive integration: each image meets the tolerance, and no step leaves the interval."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from randomwalk import Denoiser, samplers
from randomwalk.samplers.integrate import integrate, worst_rms


def test_the_error_is_that_of_the_worst_image() -> None:
    error = torch.tensor([[0.0, 0.0], [3.0, -4.0], [1.0, 1.0]])
    assert float(worst_rms(error)) == pytest.approx(math.sqrt(12.5))


def test_the_rate_is_never_asked_for_beyond_the_last_time() -> None:
    """Also where the solution is so flat that a step could go far beyond: there may be no denoiser there."""
    seen = []

    def rate(t: Tensor, z: Tensor) -> Tensor:
        seen.append(float(t))
        return -z

    start, times = torch.ones(2, 3, dtype=torch.float64), torch.tensor([0.0, 0.3], dtype=torch.float64)
    first = torch.tensor(0.2, dtype=torch.float64)
    end = integrate(rate, start, times, "test", method="dopri5", rtol=1e-3, atol=1e-3, first_step=first)[-1]
    assert min(seen) >= 0 and max(seen) <= 0.3 * (1 + 1e-12)
    torch.testing.assert_close(end, math.exp(-0.3) * start, rtol=0, atol=1e-3)


class Recording(Denoiser):
    """Denoiser of one black image that notes the levels at which it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.seen.append(float(sigma))
        return 0 * x


@pytest.mark.parametrize("lowest", [0.02, 0.03, 0.05, 0.07])
def test_the_flow_stays_within_its_levels_though_its_time_is_rounded(lowest: float) -> None:
    denoiser = Recording()
    samplers.make("ode").sample(denoiser, [2.0, lowest], start=torch.ones(1, 1, 2, 2))
    assert lowest <= min(denoiser.seen) and max(denoiser.seen) <= 2.0 * (1 + 1e-6)
