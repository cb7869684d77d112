"""The exact solution of the Fokker-Planck equation against closed forms, and mistakes that these must find."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy import integrate
from torch import Tensor

from randomwalk.studies.score_embedding import cole_hopf
from randomwalk.studies.score_embedding.solution import Solution, gradient
from score_sde import sdes
from score_sde.sdes import SDE, PowerVE

Solver = Callable[..., Solution]
METHODS = ("matrix", "dct")
TIMES = torch.linspace(1e-3, 1, 6, dtype=torch.float64)
# Sums of some hundred rounded numbers of order 1, and logarithms of them.
ROUNDING = 1e-12


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cells(size: int, width: float = 20.0) -> tuple[Tensor, float]:
    """Positions of the pixels ``[size, size, 2]`` about 0, and their spacing."""
    h = width / size
    x = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * h
    return torch.cartesian_prod(x, x).reshape(size, size, 2), h


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture in the plane, after z = a x + s n."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def moved(self, a: float, s: float) -> Mixture:
        return Mixture(self.weights, a * self.means, a**2 * self.covariances + s**2 * torch.eye(2))

    def log_density(self, x: Tensor) -> Tensor:
        parts = torch.distributions.MultivariateNormal(self.means, self.covariances)
        return torch.logsumexp(self.weights.log() + parts.log_prob(x[..., None, :]), -1)

    def score(self, x: Tensor) -> Tensor:
        """``[H, W, 2] -> [2, H, W]``."""
        x = x.clone().requires_grad_()
        return torch.autograd.grad(self.log_density(x).sum(), x)[0].movedim(-1, 0)


def gaussian(mean: tuple[float, float], std: float) -> Mixture:
    covariance = std**2 * torch.eye(2, dtype=torch.float64)[None]
    return Mixture(torch.ones(1).double(), torch.tensor([mean], dtype=torch.float64), covariance)


MIXTURE = Mixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[-1.5, 1.0], [1.0, -0.5]], dtype=torch.float64),
    torch.tensor([[[1.5, 0.6], [0.6, 0.9]], [[0.8, -0.3], [-0.3, 2.0]]], dtype=torch.float64),
)


def errors(solve: Solver, start: Mixture, sde: SDE, size: int, radius: float, **settings: Any) -> tuple[float, float]:
    """Largest error of m and of the score within the radius at t = 1, from t = 0."""
    x, h = cells(size, settings.pop("width", 20.0))
    end = start.moved(float(sde.mean_coefficient(1.0)), float(sde.std(1.0)))
    found = solve(start.log_density(x)[None, None], torch.tensor([0.0, 1.0]), sde, spacing=h, **settings)
    near = x.norm(dim=-1) < radius
    of_m = (found.log_density[-1, 0, 0] - end.log_density(x))[near].abs().max()
    return float(of_m), float((found.score[-1, 0, 0] - end.score(x))[:, near].abs().max())


# --- heat time -------------------------------------------------------------------------------------------------------


SDES: list[SDE] = [PowerVE(1.0), PowerVE(2.0), PowerVE(25.0), sdes.VE(), sdes.EDM(), sdes.VP(), sdes.OU()]


@pytest.mark.parametrize("sde", SDES)
def test_heat_time_is_half_the_variance_added(sde: SDE) -> None:
    def added(u: float, end: float) -> float:
        """Of the noise at u, what is left of its variance at the end."""
        t = torch.tensor([u, end], dtype=torch.float64)
        a = sde.mean_coefficient(t)
        return float(sde.diffusion(t[0]) ** 2 * (a[1] / a[0]) ** 2)

    tau = [float(cole_hopf.heat_time(sde, *pair)) for pair in ((0.1, 0.4), (0.4, 0.9), (0.1, 0.9))]
    for value, (start, end) in zip(tau, ((0.1, 0.4), (0.4, 0.9), (0.1, 0.9)), strict=True):
        expected = integrate.quad(added, start, end, args=(end,), epsrel=1e-12)[0] / 2
        assert value == pytest.approx(expected, rel=1e-10)
    faded = float(sde.mean_coefficient(0.9) / sde.mean_coefficient(0.4)) ** 2  # 1 without drift
    assert faded * tau[0] + tau[1] == pytest.approx(tau[2], rel=ROUNDING)


def test_standard_deviations_of_the_paper() -> None:
    for base, end in ((2.0, 1.471), (5.0, 2.731), (25.0, 9.845)):
        sde = PowerVE(base)
        assert float(sde.std(1.0)) == pytest.approx(end, abs=5e-4)
        assert float(2 * cole_hopf.heat_time(sde, 0.0, 1e-3)) == pytest.approx(0.0316**2, rel=5e-3)


# --- closed forms ----------------------------------------------------------------------------------------------------


def check_gaussian(solve: Solver) -> None:
    """Errors of the grid as they are known: of second order."""
    found = [errors(solve, gaussian((0, 0), 1.5), PowerVE(2.0), size, 4) for size in (32, 64, 128)]
    for (of_m, _), figure in zip(found, (1.66e-2, 4.09e-3, 1.03e-3), strict=True):
        assert of_m == pytest.approx(figure, abs=0.005 * 10 ** math.floor(math.log10(figure)) * 1.001)
    for coarse, fine in pairwise(found):
        assert all(a / b == pytest.approx(4, abs=0.2) for a, b in zip(coarse, fine, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_gaussian(method: str) -> None:
    check_gaussian(lambda *args, **settings: cole_hopf.solve(*args, method=method, **settings))
    x, h = cells(64)
    m0 = gaussian((0, 0), 1.5).log_density(x)[None, None]
    found = cole_hopf.solve(m0, TIMES, PowerVE(2.0), spacing=h, method=method).log_density
    # Within 10 of the middle, 6.7 standard deviations, lies all mass but 5e-11.
    assert float((found.exp().sum((-2, -1)) * h**2 - 1).abs().max()) < 1e-10


def check_mixture(solve: Solver) -> None:
    found = [errors(solve, MIXTURE, PowerVE(2.0), size, 3) for size in (64, 128)]
    assert all(a / b == pytest.approx(4, abs=0.2) for a, b in zip(*found, strict=True))
    # tau h^2 / 12 times (p_xxxx + p_yyyy) / p, which is about 1 there; of the score, its derivative, and h^2 m_xxx / 6.
    assert found[1][0] < 1e-2 and found[1][1] < 1e-2


@pytest.mark.parametrize("method", METHODS)
def test_mixture_with_covariances(method: str) -> None:
    check_mixture(lambda *args, **settings: cole_hopf.solve(*args, method=method, **settings))


def test_it_is_the_equation_with_the_squared_gradient() -> None:
    """``m_t = g^2 / 2 (lap m + |grad m|^2)``; the preprint's scalar form, ``(m_x + m_y)^2``, is another equation."""
    x, h = cells(128)
    sde, t, dt = PowerVE(2.0), 0.5, 1e-3
    times = torch.tensor([0.0, t - dt, t, t + dt], dtype=torch.float64)
    found = cole_hopf.solve(MIXTURE.log_density(x)[None, None], times, sde, spacing=h)
    m, score = found.log_density[:, 0, 0], found.score[2, 0, 0]
    rate = (m[3] - m[1]) / (2 * dt)
    laplacian = sum((m[2].roll(1, k) + m[2].roll(-1, k) - 2 * m[2]) / h**2 for k in (0, 1))
    near = x.norm(dim=-1) < 4
    off = {
        name: float((rate - float(sde.diffusion(t)) ** 2 / 2 * (laplacian + square))[near].norm() / rate[near].norm())
        for name, square in (("gradient", score.square().sum(0)), ("scalar", score.sum(0) ** 2))
    }
    assert off["gradient"] < 0.01 and off["scalar"] > 0.3  # h^2 is 0.024


def check_eigenmodes(solve: Solver) -> None:
    """1 + cosines decay by ``exp(-tau lambda)``, with lambda the eigenvalues of the second difference."""
    height, width, spacing = 24, 17, 0.8
    i, j = torch.arange(height, dtype=torch.float64) + 0.5, torch.arange(width, dtype=torch.float64) + 0.5
    for k, n in ((1, 0), (0, 3), (2, 1), (23, 16)):
        wave = torch.cos(math.pi * k * i / height)[:, None] * torch.cos(math.pi * n * j / width)
        eigenvalue = 4 - 2 * math.cos(math.pi * k / height) - 2 * math.cos(math.pi * n / width)
        found = solve((1 + 0.3 * wave).log()[None, None], TIMES, PowerVE(5.0), spacing=spacing).log_density[:, 0, 0]
        tau = cole_hopf.heat_time(PowerVE(5.0), TIMES[0], TIMES) / spacing**2
        expected = (1 + 0.3 * torch.exp(-tau * eigenvalue)[:, None, None] * wave).log()
        assert float((found - expected).abs().max()) < ROUNDING


@pytest.mark.parametrize("method", METHODS)
def test_eigenmodes(method: str) -> None:
    check_eigenmodes(lambda *args, **settings: cole_hopf.solve(*args, method=method, **settings))


@pytest.mark.parametrize("method", METHODS)
def test_eigenmodes_of_the_other_boundaries(method: str) -> None:
    height, width, k, n = 12, 9, 3, 2
    i, j = torch.arange(height, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)
    x, y = 2 * math.pi * k / height, 2 * math.pi * n / width
    walls = (math.pi * k * (i + 1) / (height + 1), math.pi * n * (j + 1) / (width + 1))
    cases = {
        "periodic": (torch.cos(x * i + y * j), 4 - 2 * math.cos(x) - 2 * math.cos(y)),
        "dirichlet": (
            walls[0].sin() * walls[1].sin(),
            4 - 2 * math.cos(math.pi * k / (height + 1)) - 2 * math.cos(math.pi * n / (width + 1)),
        ),
    }
    tau = cole_hopf.heat_time(PowerVE(2.0), TIMES[0], TIMES)[:, None, None]
    for boundary, (wave, eigenvalue) in cases.items():
        m0 = (1 + 0.5 * wave).log()[None, None]
        found = cole_hopf.solve(m0, TIMES, PowerVE(2.0), boundary=boundary, method=method).log_density[:, 0, 0]
        expected = (1 + 0.5 * torch.exp(-tau * eigenvalue) * wave).log()
        assert float((found - expected).abs().max()) < ROUNDING


# --- conservation ----------------------------------------------------------------------------------------------------


def check_conservation(solve: Solver) -> None:
    """Mass, positivity, and the maximum principle, on fields that are as rough as can be."""
    m0 = 3 * draws(2, 3, 19, 26)
    found = solve(m0, TIMES, PowerVE(5.0)).log_density
    mass = found.exp().sum((-2, -1))
    assert float((mass / mass[0] - 1).abs().max()) < ROUNDING
    low, high = m0.amin((-2, -1), keepdim=True), m0.amax((-2, -1), keepdim=True)
    assert ((found >= low - ROUNDING) & (found <= high + ROUNDING)).all()
    assert (found[1:].amax((-2, -1)) < found[:-1].amax((-2, -1))).all()


@pytest.mark.parametrize("boundary", ["neumann", "periodic"])
@pytest.mark.parametrize("method", METHODS)
def test_conservation(method: str, boundary: str) -> None:
    def solve(*args: Any) -> Solution:
        return cole_hopf.solve(*args, boundary=boundary, method=method)

    check_conservation(solve)


# --- with drift ------------------------------------------------------------------------------------------------------


def check_drift(solve: Solver) -> None:
    """A Gaussian in VP: mean a mu, variance a^2 s0^2 + s^2; of second order in the spacing."""
    sde, start = sdes.VP(0.1, 2.0), gaussian((1.2, -0.7), 0.6)
    found = [errors(solve, start, sde, size, 3, width=14.0) for size in (32, 64, 128)]
    for coarse, fine in pairwise(found):
        assert all(a / b == pytest.approx(4, abs=0.4) for a, b in zip(coarse, fine, strict=True))
    # The pixels add h^2 / 12 to the variance at y and at x, so dS (r^2 / S^2 - 2 / S) / 2 to m, and r dS / S^2 to the
    # score, at the distance r from the mean.
    a, h = float(sde.mean_coefficient(1.0)), 14 / 128
    variance, added = (0.6 * a) ** 2 + float(sde.std(1.0)) ** 2, (1 + a**2) * h**2 / 12
    r = 3 + a * math.hypot(1.2, 0.7)
    assert found[2][0] == pytest.approx(added * (r**2 / variance**2 - 2 / variance) / 2, rel=0.03)
    assert found[2][1] == pytest.approx(added * r / variance**2, rel=0.1)  # its component along r, nearly


def test_drift() -> None:
    check_drift(cole_hopf.solve)


def test_drift_keeps_mass_and_the_prior() -> None:
    x, h = cells(60, 12.0)
    for sde in (sdes.VP(), sdes.OU(3.0), sdes.SubVP()):
        times = torch.linspace(0, sde.T, 5, dtype=torch.float64)
        rough = draws(1, 1, 60, 60)
        mass = cole_hopf.solve(rough, times, sde, spacing=h).log_density.exp().sum((-2, -1))
        assert float((mass / mass[0] - 1).abs().max()) < ROUNDING
    prior = gaussian((0, 0), 1.0).log_density(x)[None, None]
    stays = cole_hopf.solve(prior, torch.linspace(0, 1, 5), sdes.VP(), spacing=h).log_density[-1]
    near = x.norm(dim=-1) < 3
    assert float((stays - prior)[0, 0, near].abs().max()) < h**2 / 12 * 7  # (r^2 - 2) / 2, and twice h^2 / 12
    far = cole_hopf.solve(rough, torch.tensor([0.0, 1.0]), sdes.VP(), spacing=1.0)  # Normal(0, 1), 30 of them wide
    assert far.log_density.isfinite().all() and float(far.log_density[-1].min()) < -700


def test_drift_of_nothing_is_nothing() -> None:
    m0 = draws(1, 1, 11, 14)
    found = cole_hopf.solve(m0, torch.tensor([0.3, 0.3, 0.3 + 1e-14], dtype=torch.float64), sdes.VP()).log_density
    # What crosses the four sides of a pixel, std / sqrt(2 pi) of the neighbour's density.
    leak = 4 * 0.4 * math.sqrt(1.2e-13) * float((m0.max() - m0.min()).exp())
    torch.testing.assert_close(found[1:], m0.expand(2, 1, 1, 11, 14), rtol=0, atol=leak)


# --- the flow of a Gaussian ------------------------------------------------------------------------------------------


def at_points(field: Tensor, x: Tensor, h: float) -> Tensor:
    """``field [2, H, W]`` interpolated at the points ``[n, 2]``, to a grid about 0."""
    place = x / h + (torch.tensor(field.shape[1:]) - 1) / 2
    i = place.floor().long()
    (p, q), (r, c) = (place - i).T, i.T
    rows = (1 - p) * field[:, r, c] + p * field[:, r + 1, c], (1 - p) * field[:, r, c + 1] + p * field[:, r + 1, c + 1]
    return ((1 - q) * rows[0] + q * rows[1]).T


def flow_errors(solve: Solver, score_sign: float = 1.0) -> list[float]:
    """Of the Euler steps ``x^n = x^(n-1) - g_n^2 score^n dt / 2`` with 10, 20 and 40 of them."""
    sde, (x, h), start, std = PowerVE(2.0), cells(160), torch.tensor([[2.0, 0.5], [-1.0, 1.6]]).double(), 1.5
    mu = torch.tensor([0.3, -0.2]).double()
    m0 = gaussian((0.3, -0.2), std).log_density(x)[None, None]
    exact = mu + (start - mu) * math.sqrt((std**2 + float(sde.std(1.0)) ** 2) / std**2)
    found = []
    for num in (10, 20, 40):
        times = torch.linspace(0, 1, num + 1, dtype=torch.float64)
        solution, point = solve(m0, times, sde, spacing=h), start
        for n in range(1, num + 1):
            force = at_points(solution.score[n, 0, 0], point, h)
            point = point - score_sign * float(sde.diffusion(times[n])) ** 2 / (2 * num) * force
        found.append(float((point - exact).abs().max()))
    return found


def check_flow(solve: Solver) -> None:
    found = flow_errors(solve)
    assert found[0] / found[1] == pytest.approx(2, abs=0.15) and found[1] / found[2] == pytest.approx(2, abs=0.15)


def test_flow_map() -> None:
    check_flow(cole_hopf.solve)
    wrong = flow_errors(cole_hopf.solve, -1.0)
    assert wrong[2] > 0.9 * wrong[1] > 0.5


# --- mistakes --------------------------------------------------------------------------------------------------------


class NoHalf(PowerVE):
    """tau without its factor 1/2."""

    def std(self, t: float | Tensor) -> Tensor:
        return super().std(t) * math.sqrt(2)


def no_half(m0: Tensor, times: Tensor, sde: Any, **settings: Any) -> Solution:
    return cole_hopf.solve(m0, times, NoHalf(sde.base), **settings)


def walls(m0: Tensor, times: Tensor, sde: SDE, **settings: Any) -> Solution:
    return cole_hopf.solve(m0, times, sde, boundary="dirichlet", **settings)


def ring(m0: Tensor, times: Tensor, sde: SDE, **settings: Any) -> Solution:
    return cole_hopf.solve(m0, times, sde, boundary="periodic", **settings)


def of_logarithms(m0: Tensor, times: Tensor, sde: SDE, **settings: Any) -> Solution:
    """Heat flow of m in the place of p: the equation without its quadratic term."""
    m = cole_hopf.solve((m0 - m0.amin() + 1).log(), times, sde, **settings).log_density.exp() + m0.amin() - 1
    return Solution(times, m, gradient(m, settings.get("spacing", 1.0)))


def ahead(m0: Tensor, times: Tensor, sde: SDE, **settings: Any) -> Solution:
    """Differences to the next pixel."""
    found = cole_hopf.solve(m0, times, sde, **settings)
    shift = torch.stack([found.log_density.roll(-1, axis) - found.log_density for axis in (-2, -1)], dim=-3)
    return Solution(found.times, found.log_density, shift / settings.get("spacing", 1.0))


def driftless(m0: Tensor, times: Tensor, sde: SDE, **settings: Any) -> Solution:
    return cole_hopf.solve(m0, times, PowerVE(1.0), **settings)


MISTAKES = [
    (no_half, check_gaussian),
    (no_half, check_mixture),
    (no_half, check_eigenmodes),
    (no_half, check_flow),
    (walls, check_conservation),
    (walls, check_eigenmodes),
    (ring, check_eigenmodes),
    (of_logarithms, check_gaussian),
    (of_logarithms, check_mixture),
    (of_logarithms, check_conservation),
    (ahead, check_gaussian),
    (ahead, check_flow),
    (driftless, check_drift),
]


@pytest.mark.parametrize(("mistake", "check"), MISTAKES, ids=[f"{a.__name__}-{b.__name__}" for a, b in MISTAKES])
def test_mistakes_are_found(mistake: Solver, check: Callable[[Solver], None]) -> None:
    with pytest.raises(AssertionError):
        check(mistake)


@pytest.mark.parametrize("top", [-800.0, -2.0, 0.0, 3.0, 800.0])
def test_logarithms_are_the_matrices_where_density_flows_in(top: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a density of 1 outside and any largest one inside: the slow way for a large range is the same."""
    m0 = draws(1, 1, 6, 9)
    m0 = m0 - m0.max() + top
    plain = cole_hopf.solve(m0, TIMES, PowerVE(5.0), boundary="dirichlet").log_density
    monkeypatch.setattr(cole_hopf, "TINY", math.inf)
    slow = cole_hopf.solve(m0, TIMES, PowerVE(5.0), boundary="dirichlet").log_density
    torch.testing.assert_close(slow, plain, rtol=ROUNDING, atol=ROUNDING)
    assert plain.isfinite().all()


@pytest.mark.parametrize("boundary", ["neumann", "periodic", "dirichlet"])
def test_transforms_keep_to_the_maximum_principle(boundary: Any) -> None:
    """Where the density is 1e-30 of the largest, rounding would leave a density below the smallest, or none at all."""
    m0 = torch.full((1, 1, 16, 16), -70.0, dtype=torch.float64)
    m0[..., 3, 4] = 0
    times = torch.tensor([0.0, 1e-6, 1e-3], dtype=torch.float64)
    found = cole_hopf.solve(m0, times, PowerVE(5.0), boundary=boundary, method="dct").log_density
    assert found.isfinite().all() and (found >= -70).all() and (found[1:] <= 1e-12).all()
