"""The exact solution of the Fokker-Planck equation: its kernels, its invariances, and its two methods."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, special
from torch import Tensor

from randomwalk import InputError
from randomwalk.studies.score_embedding import cole_hopf, kernels
from randomwalk.studies.score_embedding.solution import gradient
from score_sde import sdes
from score_sde.sdes import PowerVE

METHODS = ("matrix", "dct")
BOUNDARIES = ("neumann", "dirichlet", "periodic")
TIMES = torch.linspace(1e-3, 1, 6, dtype=torch.float64)
# Sums of some hundred rounded numbers of order 1, and logarithms of them.
ROUNDING = 1e-12


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- kernels of one axis ---------------------------------------------------------------------------------------------


def difference(size: int, boundary: str) -> np.ndarray:
    """Second difference of a line of pixels."""
    matrix = -2 * np.eye(size)
    for i in range(size):
        for j in (i - 1, i + 1):
            if 0 <= j < size or boundary == "periodic":
                matrix[i, j % size] += 1
            elif boundary == "neumann":
                matrix[i, i] += 1
    return matrix


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [1, 2, 3, 8, 33])
def test_kernels_are_exponentials_of_the_second_difference(size: int, boundary: str) -> None:
    # On both sides of the change from images to the Fourier series, period^2 / 32.
    tau = torch.tensor([0.0, 1e-3, 0.2, 1.0, size**2 / 9, 4.0 * size**2], dtype=torch.float64)
    values, vectors = np.linalg.eigh(difference(size, boundary))
    expected = (vectors * np.exp(tau.numpy()[:, None, None] * values)) @ vectors.T
    kernel = kernels.heat(tau, size, boundary)
    # The eigenvalues are right to rounding, and tau times that is an error of the exponent.
    tolerance = 1e-14 * (1 + 4 * size**2)
    assert np.abs(kernel.numpy() - expected).max() < tolerance
    torch.testing.assert_close(kernels.log_heat(tau, size, boundary).exp(), kernel, rtol=0, atol=1e-15)
    if boundary == "dirichlet":
        torch.testing.assert_close(kernel.sum(-1) + kernels.log_escape(tau, size).exp(), torch.ones(6, size).double())
    else:
        torch.testing.assert_close(kernel.sum(-1), torch.ones(6, size).double(), rtol=0, atol=1e-14)


def test_kernels_are_right_far_from_the_diagonal() -> None:
    x = np.array([1e-2, 1.0, 2.2, 97.0, 9700.0])
    expected = special.ive(np.arange(300)[:, None], x)
    found = np.exp(kernels.log_bessel(x, 299))
    seen = expected > 1e-290
    assert seen.sum() > 700
    # Logarithms up to 700, to rounding, summed over 300 orders.
    np.testing.assert_allclose(found[seen], expected[seen], rtol=1e-11)


# --- invariances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_semigroup(boundary: Any) -> None:
    sde, m0 = PowerVE(2.0), draws(1, 2, 14, 9)
    whole = cole_hopf.solve(m0, torch.tensor([0.0, 0.4, 1.0]), sde, boundary=boundary).log_density
    second = cole_hopf.solve(whole[1], torch.tensor([0.4, 1.0]), sde, boundary=boundary).log_density
    torch.testing.assert_close(second[1], whole[2], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("method", METHODS)
def test_symmetries(method: str, boundary: Any) -> None:
    m0 = draws(1, 2, 14, 9)

    def solve(m: Tensor) -> Tensor:
        return cole_hopf.solve(m, TIMES, PowerVE(2.0), boundary=boundary, method=method).log_density

    found = solve(m0)
    for change in (lambda m: m.flip(-1), lambda m: m.flip(-2), lambda m: m.mT, lambda m: m.flip(-3)):
        torch.testing.assert_close(solve(change(m0)), change(found), rtol=0, atol=ROUNDING)
    if boundary == "dirichlet":  # p = 1 outside: no other level is left as it is
        assert float(solve(torch.zeros(1, 1, 14, 9)).abs().max()) < ROUNDING
        assert float((solve(m0 + 3) - found - 3).abs().max()) > 1
    else:
        torch.testing.assert_close(solve(m0 + 700), found + 700, rtol=0, atol=700 * ROUNDING)


@pytest.mark.parametrize("method", METHODS)
def test_darkness_with_a_density_of_one_outside(method: str) -> None:
    m0 = draws(1, 1, 30, 30) - 2000
    found = cole_hopf.solve(m0, TIMES, PowerVE(2.0), boundary="dirichlet", method=method).log_density
    assert found.isfinite().all() and float(found.min()) >= float(m0.min()) and float(found.max()) < 0
    # From the nearest pixel outside: one that is all dark has the same.
    near = found[1:, 0, 0, 1:29, 0]
    other = cole_hopf.solve(m0 - 900, TIMES, PowerVE(2.0), boundary="dirichlet", method=method).log_density
    torch.testing.assert_close(other[1:, 0, 0, 1:29, 0], near, rtol=0, atol=ROUNDING)


def test_base_one_is_the_limit() -> None:
    m0 = draws(1, 1, 9, 9)
    limit, close = (cole_hopf.solve(m0, TIMES, PowerVE(base)).log_density for base in (1.0, 1 + 1e-7))
    # d tau / d base is t^2 / 2 there, and the rate of m at most 8 times its range, 4.
    torch.testing.assert_close(close, limit, rtol=0, atol=1e-7 * 16)
    kernel = kernels.heat((TIMES[1:] - TIMES[0]) / 2, 9, "neumann")[:, None, None]
    torch.testing.assert_close(limit[1:], (kernel @ m0.exp() @ kernel).log(), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_methods_agree(boundary: Any) -> None:
    """On images of any shape; and the transform for other devices is that of the processor."""
    for shape in ((2, 3, 20, 13), (1, 1, 1, 7), (1, 1, 32, 1)):
        m0 = draws(*shape) + 5  # brighter than what is outside of walls
        found = [cole_hopf.solve(m0, TIMES, PowerVE(5.0), boundary=boundary, method=method) for method in METHODS]
        for name in ("log_density", "score"):
            assert float((getattr(found[0], name) - getattr(found[1], name)).abs().max()) < ROUNDING
        fields, tau = m0.flatten(0, 1), torch.tensor([0.1, 3.0]).double()
        ring, own = (f(fields, tau, boundary) for f in (cole_hopf._ring_transform, cole_hopf._transform))
        assert float((ring - own).abs().max()) < ROUNDING


class Scaled(PowerVE):
    """Half the noise."""

    def std(self, t: float | Tensor) -> Tensor:
        return super().std(t) / 2


def test_spacing_is_a_scale_of_the_noise() -> None:
    m0 = draws(1, 2, 11, 8)
    wide = cole_hopf.solve(m0, TIMES, PowerVE(2.0), spacing=2.0)
    weak = cole_hopf.solve(m0, TIMES, Scaled(2.0))
    torch.testing.assert_close(wide.log_density, weak.log_density, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(wide.score, weak.score / 2, rtol=0, atol=ROUNDING)


def test_any_dynamic_range() -> None:
    """From one pixel in the dark: the kernel itself, far below the least float64."""
    size, at, dark = 260, 30, -4000.0
    m0 = torch.full((1, 1, 1, size), dark, dtype=torch.float64)
    m0[..., at] = 0
    found = cole_hopf.solve(m0, torch.tensor([0.0, 1.0]), PowerVE(2.0)).log_density[1, 0, 0, 0]
    x = float(2 * cole_hopf.heat_time(PowerVE(2.0), 0.0, 1.0))
    d = (torch.arange(size) - at).abs()
    bessel = kernels.log_bessel(np.array(x), size)  # e.g. (x / 2)^d / d! at large d
    assert bessel[200] == pytest.approx(200 * math.log(x / 2) - math.lgamma(201) - x, abs=x**2 / 4 / 201 + 1e-9)
    line = torch.cat([torch.from_numpy(bessel), torch.full((size,), -torch.inf)])
    mirrored = torch.arange(size) + at + 1
    ways = [line[d], line[mirrored], line[2 * size - mirrored], torch.full((size,), dark)]
    expected = torch.stack(ways).logsumexp(0)
    assert float(expected.min()) < -700
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9)


def test_prepared_matrices_serve_other_images() -> None:
    made = cole_hopf.make_kernels((10, 7), TIMES, PowerVE(2.0), spacing=0.7)
    for seed in (0, 1):
        m0 = draws(2, 1, 10, 7, seed=seed)
        once = cole_hopf.solve(m0, TIMES, PowerVE(2.0), spacing=0.7)
        assert torch.equal(cole_hopf.solve(m0, TIMES, PowerVE(2.0), spacing=0.7, prepared=made).score, once.score)
    assert torch.equal(once.log_density[0], m0) and torch.equal(once.score, gradient(once.log_density, 0.7))


def test_batches_do_not_matter() -> None:
    m0 = draws(3, 2, 8, 8) * torch.tensor([1.0, 300.0, 3000.0])[:, None, None, None]
    for method in METHODS:
        whole = cole_hopf.solve(m0, TIMES, PowerVE(2.0), method=method).log_density
        parts = [cole_hopf.solve(m0[i : i + 1], TIMES, PowerVE(2.0), method=method).log_density for i in range(3)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=ROUNDING, atol=ROUNDING)


def test_what_cannot_be_had() -> None:
    m0 = draws(1, 1, 5, 5)
    with pytest.raises(InputError, match="'dct': it is for SDEs without drift"):
        cole_hopf.solve(m0, TIMES, sdes.VP(), method="dct")
    with pytest.raises(InputError, match="boundary 'periodic'"):
        cole_hopf.solve(m0, TIMES, sdes.VP(), boundary="periodic")
    with pytest.raises(InputError, match="expected matrix or dct"):
        cole_hopf.solve(m0, TIMES, PowerVE(2.0), method="fft")
    with pytest.raises(InputError, match="before the first"):
        cole_hopf.solve(m0, TIMES.flip(0), PowerVE(2.0))
    for bad in (m0[0], m0 * torch.nan, m0 - torch.inf):
        with pytest.raises(InputError, match="finite numbers"):
            cole_hopf.solve(bad, TIMES, PowerVE(2.0))


@pytest.mark.parametrize("z", [0.5, 5.0, 299.0, 301.0, 1000.0])
def test_the_integral_of_the_tail_is_right_far_out(z: float) -> None:
    """``exp(z^2 / 2) H(z) sqrt(2 pi) = z^-2 int u exp(-u - u^2 / (2 z^2)) du``, also where a series takes over."""
    exact = integrate.quad(lambda u: u * math.exp(-u - u**2 / (2 * z**2)), 0, 60, epsrel=1e-12, epsabs=0)[0] / z**2
    at = torch.tensor([z], dtype=torch.float64)
    assert float(kernels._tail_integral(at, at)) * math.sqrt(2 * math.pi) == pytest.approx(exact, rel=1e-9)


def test_differences_at_the_border_are_those_of_what_lies_beyond() -> None:
    m = torch.tensor([[1.0, 4.0, 9.0, 16.0]], dtype=torch.float64)
    expected = {"neumann": [1.5, 4, 6, 3.5], "dirichlet": [2, 4, 6, -4.5], "periodic": [-6, 4, 6, -4]}
    for boundary in BOUNDARIES:
        found = gradient(m, 0.5, boundary)[1, 0]  # type: ignore[arg-type]
        assert found.tolist() == pytest.approx([2 * value for value in expected[boundary]])
