"""The semi-implicit scheme solves the Fokker-Planck equation, by every linear solver; with a mistake it does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from randomwalk.errors import InputError, RunError
from randomwalk.images.sources import open_images
from randomwalk.studies.score_embedding import cole_hopf, density, finite_difference, linear
from randomwalk.studies.score_embedding.finite_difference import solve
from randomwalk.studies.score_embedding.linear import SOLVERS, Stencil
from randomwalk.studies.score_embedding.solution import gradient
from score_sde.sdes import SDE, VP, PowerVE

BOUNDARIES = ("neumann", "dirichlet", "periodic")


@dataclass(frozen=True)
class Steady(SDE):
    """g and b do not change."""

    g: float = 1.0
    b: float = 0.0

    def rate(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.b)

    def diffusion(self, t: float | Tensor) -> Tensor:
        return torch.full_like(torch.as_tensor(t, dtype=torch.float64), self.g)


def levels(num: int, first: float = 1e-3) -> Tensor:
    return torch.linspace(first, 1, num, dtype=torch.float64)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def smooth(height: int, width: int, seed: int = 0) -> Tensor:
    """The logarithm of a few cosines, 0.7 high, mirrored at the border, ``[1, 1, H, W]``."""
    y, x = ((torch.arange(size, dtype=torch.float64) + 0.5) / size for size in (height, width))
    c, p = draws(3, 3, seed=seed), torch.zeros(height, width, dtype=torch.float64)
    for j in range(3):
        for k in range(3):
            p += 0.1 * c[j, k] * torch.cos(math.pi * j * y)[:, None] * torch.cos(math.pi * k * x)
    return (1 + 0.8 * torch.tanh(p)).log()[None, None]


# --- check 4: a parabola stays one, exactly ---------------------------------------------------------------------------

SIZE, INNER = 48, slice(20, 28)


def parabolas(sde: SDE, times: Tensor, quadratic: str, spacing: float) -> Tensor:
    """Levels ``[N, 1, 1, H, W]`` of ``m = c - x' K x / 2`` that solve the scheme's equations, central differences being
    exact: with dt and g of each step,

        K[n-1] = K[n] + dt (g^2 K M K - b K),    c[n-1] = c[n] + dt (g^2 tr(K) / 2 - b),

    where M is 1, or all ones for ``(m_x + m_y)^2``. For K = kappa 1 and b = 0 this is kappa + dt g^2 kappa^2.
    """
    K = torch.tensor([[0.02, 0.006], [0.006, 0.012]], dtype=torch.float64) / spacing**2
    M = torch.eye(2).double() if quadratic == "gradient" else torch.ones(2, 2).double()
    c, found = 0.3, []
    x = finite_difference._centred(SIZE, SIZE, spacing)
    for n in range(len(times) - 1, -1, -1):
        found.append(c - 0.5 * torch.einsum("ihw,ij,jhw->hw", x, K, x))
        dt, g2, b = (float(times[n] - times[n - 1]), float(sde.diffusion(times[n])) ** 2, float(sde.rate(times[n])))
        c, K = c + dt * (0.5 * g2 * float(K.trace()) - b), K + dt * (g2 * K @ M @ K - b * K)
    return torch.stack(found[::-1])[:, None, None]


def parabola_error(sde: SDE, quadratic: str = "gradient", spacing: float = 1.0, linear_solver: str = "lu") -> float:
    """Largest error in the middle, where the border does not reach: a mistake there is damped by 0.3 a pixel."""
    times = torch.tensor([0.0, 0.1, 0.25, 0.3], dtype=torch.float64)
    right = parabolas(sde, times, quadratic, spacing)
    arguments: Any = {"quadratic": quadratic, "spacing": spacing, "linear_solver": linear_solver, "tolerance": 1e-12}
    found = solve(right[0], times, sde, **arguments).log_density
    return float((found - right)[..., INNER, INNER].abs().max())


@pytest.mark.parametrize("quadratic", ["gradient", "scalar"])
@pytest.mark.parametrize("sde", [PowerVE(1.5), Steady(0.8, 0.5), VP(0.1, 1.0)])
def test_a_parabola_stays_one(sde: SDE, quadratic: str) -> None:
    # m is 10 and a linear system is solved to 1e-13 of it, four times.
    assert parabola_error(sde, quadratic) < 1e-11


@pytest.mark.parametrize("linear_solver", ["bicgstab", "adi"])
def test_a_parabola_by_other_linear_solvers(linear_solver: str) -> None:
    # The tolerance of 1e-13 is that of the norm of m, 48^2 pixels of 10: 5e-11, over four systems.
    assert parabola_error(Steady(0.4, 0.2), spacing=0.5, linear_solver=linear_solver) < 2e-10


def mistaken(mistake: str, right: Callable[..., tuple[Stencil, Tensor]]) -> Callable[..., tuple[Stencil, Tensor]]:
    def system(step: Any, below: Tensor, m: Tensor) -> tuple[Stencil, Tensor]:
        if mistake == "scalar":
            step = replace(step, quadratic="scalar")
        elif mistake == "no source":
            below = below - step.dt * step.b
        elif mistake == "other level":
            m = below
        stencil, vector = right(step, below, m)
        if mistake == "diffusion":
            stencil = replace(stencil, diffusion=-stencil.diffusion)
        elif mistake == "advection":
            stencil = replace(stencil, advection=-stencil.advection)
        return stencil, vector

    return system


@pytest.mark.parametrize("mistake", ["none", "diffusion", "advection", "other level", "no source", "scalar"])
def test_a_parabola_sees_mistakes(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step = finite_difference._Step
    monkeypatch.setattr(step, "system", mistaken(mistake, step.system))
    error = parabola_error(Steady(0.8, 0.5) if mistake == "no source" else PowerVE(1.5))
    assert error < 1e-11 if mistake == "none" else error > 1e-6


def test_a_parabola_sees_an_earlier_g() -> None:
    times = torch.tensor([0.0, 0.1, 0.25, 0.3], dtype=torch.float64)
    right = parabolas(PowerVE(1.5), times, "gradient", 1.0)
    early = solve(right[0], times - 0.1, PowerVE(1.5), tolerance=1e-12).log_density
    assert float((early - right)[..., INNER, INNER].abs().max()) > 1e-6


@pytest.mark.parametrize("quadratic", ["gradient", "scalar"])
def test_newton_comes_to_the_same_solution(quadratic: Any) -> None:
    """Sooner, and also where the lagged gradient needs dozens of iterations: a Gaussian's flank at its mirror."""
    m0 = 2 * draws(1, 1, 10, 13)
    slow, fast = (
        solve(m0, levels(6), PowerVE(2.0), tolerance=1e-11, quadratic=quadratic, linearisation=name)
        for name in ("lagged", "newton")
    )
    # Both are at the solution to 1e-11 of the norm of m, 23, times 1 / (1 - 1/2): lagging halves the error and more.
    assert float((slow.log_density - fast.log_density).abs().max()) < 5e-10
    assert fast.iterations < 8 < slow.iterations
    steep = -finite_difference._centred(16, 16, 0.75).square().sum(0)[None, None]
    with pytest.raises(RunError, match="newton"):
        solve(steep, levels(6), PowerVE(2.0), spacing=0.75, quadratic=quadratic, max_iterations=10)
    found = solve(steep, levels(6), PowerVE(2.0), spacing=0.75, quadratic=quadratic, linearisation="newton")
    assert found.iterations < 10


def test_the_parabola_of_continuous_time() -> None:
    """kappa(t) = kappa / (1 + kappa s(t)^2), to first order in the steps."""
    sde, kappa, errors = PowerVE(2.0), 0.03, []
    x = finite_difference._centred(SIZE, SIZE, 1.0)
    for num in (11, 21, 41):
        end = solve((-0.5 * kappa * x.square().sum(0))[None, None], levels(num, 0.0), sde, linear_solver="bicgstab")
        m = end.log_density[-1, 0, 0]
        curvature = float(2 * m[24, 24] - m[24, 25] - m[24, 23])
        errors.append(curvature - kappa / (1 + kappa * float(sde.std(1.0)) ** 2))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1) and errors[1] / errors[2] == pytest.approx(2, abs=0.05)


# --- check 5: the rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["neumann", "periodic"])
@pytest.mark.parametrize("linear_solver", list(SOLVERS))
def test_constants_stay(boundary: Any, linear_solver: Any) -> None:
    m0 = torch.tensor([-3.0, 0.0, 7.5]).double().reshape(3, 1, 1, 1).expand(3, 1, 6, 9)
    found = solve(m0, levels(5), PowerVE(5.0), boundary=boundary, linear_solver=linear_solver)
    # Rounding of A, whose diagonal is 1 + 2 g^2 dt = 13, and of its solution.
    assert float((found.log_density - m0).abs().max()) < 1e-13
    rows = Stencil(0.7, draws(1, 2, 6, 9), boundary).matrix(0).sum(axis=1)
    assert np.abs(rows - 1).max() < 1e-14


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(5, 7), (6, 3), (2, 2), (1, 4)])
def test_the_sparse_matrix_is_the_stencil(shape: tuple[int, int], boundary: Any) -> None:
    stencil, x = Stencil(0.3, draws(2, 2, *shape), boundary), draws(2, *shape, seed=1)
    by_matrix = np.stack([stencil.matrix(n) @ x[n].numpy().ravel() for n in range(2)]).reshape(x.shape)
    np.testing.assert_allclose(stencil.apply(x).numpy(), by_matrix, atol=1e-14)


def coupled_ends(width: int, boundary: Any) -> bool:
    """Whether the end of a row is coupled to the beginning of the next one."""
    system = Stencil(0.3, draws(1, 2, 4, width), boundary).matrix(0).toarray()
    return any(system[i, i + 1] or system[i + 1, i] for i in range(width - 1, 3 * width, width))


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_ends_of_rows_are_cut(boundary: Any) -> None:
    assert not coupled_ends(5, boundary)


def uncut(own: np.ndarray, axis: int, direction: int, boundary: Any) -> tuple[np.ndarray, np.ndarray]:
    """The published code's neighbours."""
    there = own + direction * (own.shape[1] if axis == -2 else 1)
    return np.clip(there, 0, own.size - 1), (there >= 0) & (there < own.size)


def test_moving_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transposed, mirrored and shifted pictures have the moved solutions; not if the ends of rows are not cut."""

    def apart(linear_solver: Any = "lu", **options: Any) -> list[float]:
        m0, found = draws(1, 1, 7, 10), []

        def run(m: Tensor) -> Tensor:
            return solve(m, levels(3), PowerVE(1.5), linear_solver=linear_solver, **options).log_density

        after = run(m0)
        found.append(float((run(m0.mT) - after.mT).abs().max()))
        for axis in (-2, -1):
            found.append(float((run(m0.flip(axis)) - after.flip(axis)).abs().max()))
        found.append(float((run(m0 + 2.5) - after - 2.5).abs().max()) if options["boundary"] != "dirichlet" else 0.0)
        return found

    for boundary in BOUNDARIES:
        assert max(apart(boundary=boundary)) < 1e-6  # tolerance 2e-8, of the norm of m: 8
    assert max(apart("bicgstab", boundary="neumann")) < 1e-6
    monkeypatch.setattr(linear, "_neighbour_index", uncut)
    assert coupled_ends(5, "neumann")
    assert min(apart(boundary="neumann")[:3]) > 1e-3


# --- check 9: convergence ---------------------------------------------------------------------------------------------


def cosine(size: int, tau: float) -> Tensor:
    """``log(1 + 0.7 exp(-2 pi^2 tau) cos(pi x) cos(pi y))`` on the unit square: the equation's solution after tau."""
    x = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    wave = torch.cos(math.pi * x)
    return (1 + 0.7 * math.exp(-2 * math.pi**2 * tau) * wave[:, None] * wave).log()[None, None]


def test_first_order_in_time_and_second_in_space() -> None:
    """Towards the solution of the continuous equation; extrapolation to dt = 0 leaves the error of the grid."""
    g, of_grid = 0.3, []
    for size in (8, 16, 32):
        ends = []
        for steps in (6, 12, 24):
            times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
            arguments: Any = {"spacing": 1 / size, "tolerance": 1e-9, "linearisation": "newton"}
            ends.append(solve(cosine(size, 0.0), times, Steady(g), **arguments).log_density[-1])
        first, second = ends[0] - ends[1], ends[1] - ends[2]
        # An error of c dt + d dt^2; d / c is of the order of 1, dt at most 1/6.
        assert float(first.norm() / second.norm()) == pytest.approx(2, abs=0.2)
        extrapolated = (8 * ends[2] - 6 * ends[1] + ends[0]) / 3
        of_grid.append(float((extrapolated - cosine(size, 0.5 * g**2)).square().mean().sqrt()))
    assert of_grid[0] / of_grid[1] == pytest.approx(4, abs=0.3) and of_grid[1] / of_grid[2] == pytest.approx(4, abs=0.3)


def test_towards_the_exact_solution() -> None:
    """On a grid as it is, the logarithm of the heat flow differs by the error of the grid, small on smooth fields."""
    m0, sde, apart = smooth(24, 32), PowerVE(2.0), []
    for num in (11, 21, 41):
        found = solve(m0, levels(num), sde, linear_solver="bicgstab")
        right = cole_hopf.solve(m0, levels(num), sde)
        apart.append(float((found.log_density[-1] - right.log_density[-1]).square().mean().sqrt()))
    assert apart[0] / apart[1] == pytest.approx(2, abs=0.2) and apart[1] / apart[2] == pytest.approx(2, abs=0.2)
    assert float((found.score - right.score).abs().max()) < 0.02 * float(right.score.abs().max())


def test_a_photograph_keeps_an_error_of_the_grid() -> None:
    """Its density is rough: with more levels the error falls to a plateau, 0.054 at 64 x 64, where m has a spread of 1.

    Central differences of a logarithm are not the logarithm of the discrete heat flow.
    """
    photographs = Path(__file__).resolve().parents[2] / "data" / "photographs"
    image = (open_images(photographs).load(0, 3, (64, 64), "resize").double()[None, :1] + 1) / 2
    m0, apart = density.value_pair_kde(image), []
    for num in (5, 10, 20):
        found = solve(m0, levels(num), PowerVE(2.0), linear_solver="bicgstab", linearisation="newton").log_density[-1]
        right = cole_hopf.solve(m0, levels(num), PowerVE(2.0)).log_density[-1]
        apart.append(float((found - right).square().mean().sqrt()))
    assert apart[0] > apart[1] > apart[2] == pytest.approx(0.055, rel=0.02)
    assert apart[1] - apart[2] == pytest.approx(0.4 * (apart[0] - apart[1]), rel=0.3)  # first order in 1 / (N - 1)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_borders_are_those_of_the_exact_solution(boundary: Any) -> None:
    """A rough and low field, for which the scheme is the heat flow but for its squares and dt."""
    m0, times = 0.03 * draws(1, 1, 9, 12), levels(41)
    found = solve(m0, times, PowerVE(2.0), boundary=boundary).log_density[-1]
    apart = {
        other: float((found - cole_hopf.solve(m0, times, PowerVE(2.0), boundary=other).log_density[-1]).norm())
        for other in BOUNDARIES
    }
    assert all(apart[other] > 5 * apart[boundary] for other in set(BOUNDARIES) - {boundary})


def test_linear_drift_of_a_mixture() -> None:
    """Two Gaussians under VP, known in closed form; extrapolation to dt = 0 leaves the second order of the grid."""
    sde, means, variance = VP(0.1, 1.9), torch.tensor([[-1.5, 0.5], [1.0, -1.0]]).double(), 0.8

    def exact(x: Tensor, t: float) -> Tensor:
        a, s = sde.mean_coefficient(t), sde.std(t)
        spread = a**2 * variance + s**2
        square = (x - a * means[:, :, None, None]).square().sum(1)
        return (-0.5 * square / spread - spread.log()).logsumexp(0)

    errors = []
    for size in (20, 40):
        spacing = 8 / size
        x, ends = finite_difference._centred(size, size, spacing), []
        for steps in (4, 8, 16):
            times = torch.linspace(0, 1, steps + 1).double()
            m = solve(exact(x, 0.0)[None, None], times, sde, spacing=spacing, linearisation="newton")
            ends.append(m.log_density[-1, 0, 0])
        error = (8 * ends[2] - 6 * ends[1] + ends[0]) / 3 - exact(x, 1.0)
        errors.append(float(error[x.square().sum(0) < 2].square().mean().sqrt()))  # away from the mirrored border
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.6)


def test_residuals_fall_and_the_tightest_tolerance_ends() -> None:
    m0 = torch.cat([2 * draws(1, 2, 16, 12), smooth(16, 12).expand(1, 2, -1, -1)])
    found = solve(m0, levels(10), PowerVE(2.0), tolerance=1e-10)
    table = torch.tensor(found.residuals)
    assert table.shape == (found.iterations, 2)
    for image in table.T:
        active = image[image > 0]
        assert bool((active.diff() < 0).all()) and float(active[-1]) < 1e-10
    assert int((table[:, 0] > 0).sum()) > int((table[:, 1] > 0).sum())  # the smooth one is done first


# --- check 10: linear solvers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "spacing"), [((12, 12), 1.0), ((9, 17), 0.5)])
def test_linear_solvers_agree(shape: tuple[int, int], spacing: float, boundary: Any) -> None:
    m0 = torch.cat([0.7 * draws(2, 1, *shape), smooth(*shape)])
    found = [
        solve(m0, levels(4), VP(0.1, 2.0), spacing=spacing, boundary=boundary, linear_solver=name, tolerance=1e-10)
        for name in ("lu", "bicgstab", "adi")
    ]
    scale = float(found[0].log_density.flatten(-2).norm(dim=-1).max())
    for other in found[1:]:
        # Each step is off by 1e-10 of the norm, times 1 / (1 - 1/4): an iteration reduces the error by 4 and more.
        assert float((other.log_density - found[0].log_density).abs().max()) < 5 * 1.4e-10 * scale


def test_agreement_with_the_exact_solver_by_methods() -> None:
    """Matrix products and cosines to rounding; the differences are as far from both as from one."""
    m0, apart = smooth(20, 14), []
    exact = [cole_hopf.solve(m0, levels(10), PowerVE(2.0), method=name).log_density for name in ("matrix", "dct")]
    assert float((exact[0] - exact[1]).abs().max()) < 1e-12
    for name in ("lu", "bicgstab", "adi"):
        found = solve(m0, levels(10), PowerVE(2.0), linear_solver=name, tolerance=1e-10).log_density
        apart.append(float((found - exact[0]).norm()))
    assert apart[1:] == pytest.approx(apart[:1] * 2, rel=1e-6)


def test_spacing_is_a_rescaled_time() -> None:
    m0, fields = draws(1, 1, 8, 11), []
    for g, spacing in ((1.0, 1.0), (0.4, 0.4)):
        fields.append(solve(m0, levels(6), Steady(g), spacing=spacing))
    np.testing.assert_allclose(fields[0].log_density, fields[1].log_density, atol=1e-12)
    np.testing.assert_allclose(fields[0].score, 0.4 * fields[1].score, atol=1e-12)


@pytest.mark.parametrize("linear_solver", ["bicgstab", "adi"])
def test_an_item_does_not_depend_on_its_batch(linear_solver: Any) -> None:
    m0 = torch.cat([smooth(12, 15), 1.5 * draws(1, 1, 12, 15), torch.zeros(1, 1, 12, 15).double()])
    arguments: Any = {"linear_solver": linear_solver, "tolerance": 1e-9}
    together = solve(m0, levels(5), PowerVE(2.0), **arguments)
    for n in range(3):
        alone = solve(m0[n : n + 1], levels(5), PowerVE(2.0), **arguments)
        # The same numbers in another order: rounding, however loose the tolerance is.
        assert float((alone.log_density[:, 0] - together.log_density[:, n]).abs().max()) < 1e-12
        expected = [row[0] for row in alone.residuals] + [0.0] * (together.iterations - alone.iterations)
        assert [row[n] for row in together.residuals] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(6, 9), (1, 5), (16, 2)])
def test_preconditioners_invert_what_they_say(shape: tuple[int, int], boundary: Any) -> None:
    still = Stencil(0.8, torch.zeros(2, 2, *shape).double(), boundary)
    x = draws(2, *shape)
    np.testing.assert_allclose(linear.Spectral(still)(still.apply(x)), x, atol=1e-13)
    advection = 0.5 * draws(2, 2, *shape).clamp(-2, 2)  # at most D + 0.4: not clamped by the preconditioner
    inverse, y = linear.AlternatingDirections(Stencil(0.8, advection, boundary)), x
    for n, axis in ((1, -1), (0, -2)):
        before, after = linear.neighbours(y, axis, boundary)
        y = y - 0.8 * (before + after - 2 * y) - advection[:, n] * (after - before)
    np.testing.assert_allclose(inverse(y), x, atol=1e-12)


def test_preconditioning_saves_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the base 25 with twenty levels, to 1e-9: about 10 iterations, where without it 73 were needed once."""
    calls, apply = [0], Stencil.apply

    def counted(self: Stencil, x: Tensor) -> Tensor:
        calls[0] += 1
        return apply(self, x)

    monkeypatch.setattr(Stencil, "apply", counted)
    m = solve(draws(1, 1, 64, 64), levels(10), PowerVE(2.0), linear_solver="bicgstab").log_density[2, 0]
    g2, dt = 625.0, 1 / 20
    stencil = Stencil(0.5 * g2 * dt, 0.25 * g2 * dt * gradient(m), "neumann")
    needed = {}
    for name in ("spectral", "adi", "none"):
        if name == "none":
            monkeypatch.setattr(linear.Spectral, "__call__", lambda self, r: r)
        calls[0] = 0
        found = linear.SOLVERS["adi" if name == "adi" else "bicgstab"](stencil, m, m, 1e-9)
        needed[name] = calls[0] / 2
        assert float((apply(stencil, found) - m).norm() / m.norm()) <= 1e-9
    assert needed["spectral"] < 15 and needed["none"] > 4 * needed["spectral"] and needed["adi"] < needed["none"]


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_no_convergence_is_an_error() -> None:
    with pytest.raises(RunError, match=r"level 1 \(t = 0\.25\d*\).*after 2 iterations.*tolerance 1\.0e-10"):
        solve(3 * draws(1, 1, 6, 6), levels(5), PowerVE(2.0), tolerance=1e-10, max_iterations=2)
    with pytest.raises(RunError, match="the iteration diverges"):
        solve(1e200 * draws(1, 1, 6, 6), levels(5), PowerVE(2.0), linear_solver="lu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m0": torch.zeros(3, 4, 4)}, "m0"),
        ({"m0": torch.full((1, 1, 2, 2), math.nan)}, "m0"),
        ({"times": torch.tensor([0.0, 0.5, 0.5])}, "times"),
        ({"linear_solver": "cg"}, "linear_solver='cg'"),
        ({"spacing": 0.0}, "spacing=0.0"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        solve(**({"m0": torch.zeros(1, 1, 4, 4), "times": levels(3), "sde": PowerVE(2.0)} | change))


def test_positions_are_about_the_middle_of_the_grid() -> None:
    found = finite_difference._centred(2, 3, 0.5)
    assert found[0].tolist() == [[-0.25] * 3, [0.25] * 3] and found[1].tolist() == [[-0.5, 0.0, 0.5]] * 2
