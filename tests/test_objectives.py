"""What training minimises: laws of the noise level, weights, and three ways to see the error of a denoiser."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from randomwalk.config import Objective
from randomwalk.denoisers import EDMDenoiser, NetworkDenoiser, VEDenoiser, VPDenoiser
from randomwalk.training.levels import make_levels
from randomwalk.training.losses import denoising_error
from randomwalk.training.objectives import make_weight

UNIFORM = torch.linspace(0.5 / 20_000, 1 - 0.5 / 20_000, 20_000, dtype=torch.float64)


def weighted(denoiser: NetworkDenoiser, x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The default denoising loss at given noise levels."""
    weight = make_weight(Objective(), denoiser, make_levels(Objective(), denoiser))
    return weight(torch.full_like(sigma, 0.5), sigma) * denoising_error(denoiser, x, noise, sigma)


# --- the usual losses, against their own formulas ----------------------------------------------------------------


def test_noise_level_laws_have_their_stated_distribution() -> None:
    network = torch.nn.Identity()
    vp, ve, edm = VPDenoiser(network), VEDenoiser(network, 0.01, 50.0), EDMDenoiser(network)
    levels = make_levels(Objective(), vp)(UNIFORM)
    values, counts = torch.unique(levels, return_counts=True)
    assert torch.equal(values, vp.table) and counts.eq(20).all()
    log = make_levels(Objective(), ve)(UNIFORM).log()
    assert log.mean().item() == pytest.approx((math.log(0.02) + math.log(100)) / 2, abs=1e-9)
    assert log.std().item() == pytest.approx(math.log(5000) / math.sqrt(12), rel=1e-4)
    log = make_levels(Objective(), edm)(UNIFORM).log()
    assert log.mean().item() == pytest.approx(-1.2, abs=1e-6) and log.std().item() == pytest.approx(1.2, rel=1e-3)


def test_vp_loss_is_the_squared_error_of_epsilon() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 2, 3, padding=1).double()
    denoiser = VPDenoiser(lambda z, t: network(z))  # type: ignore[arg-type]
    x, noise = torch.randn(2, 3, 2, 5, 5, dtype=torch.float64)
    sigma = torch.tensor([0.05, 1.0, 40.0], dtype=torch.float64)
    got = weighted(denoiser, x, noise, sigma)
    alpha_bar = (1 / (1 + sigma**2))[:, None, None, None]
    z = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise
    expected = (noise - network(z)).square().flatten(1).mean(1)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


def test_ve_loss_is_denoising_score_matching_weighted_by_the_variance() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 1, 3, padding=1).double()
    denoiser = VEDenoiser(lambda u, s: network(u), 0.01, 50.0)  # type: ignore[arg-type]
    x, noise = torch.randn(2, 3, 1, 5, 5, dtype=torch.float64)
    sigma = torch.tensor([0.05, 1.0, 40.0], dtype=torch.float64)
    got = weighted(denoiser, x, noise, sigma)
    s = (sigma / 2)[:, None, None, None]  # the network's pixels are in [0, 1]
    u = (x + 1) / 2 + s * noise
    expected = (s * network(u) + noise).square().flatten(1).mean(1)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


def test_edm_loss_is_the_unit_weighted_error_of_the_raw_network() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 1, 3, padding=1).double()
    denoiser = EDMDenoiser(lambda z, c: network(z))  # type: ignore[arg-type]
    x, noise = torch.randn(2, 2, 1, 5, 5, dtype=torch.float64)
    sigma = torch.tensor([0.3, 5.0], dtype=torch.float64)
    got = weighted(denoiser, x, noise, sigma)
    s, d = sigma[:, None, None, None], 0.5
    noisy, total = x + s * noise, s**2 + d**2
    target = (x - d**2 / total * noisy) / (s * d / total.sqrt())
    expected = (network(noisy / total.sqrt()) - target).square().flatten(1).mean(1)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)
