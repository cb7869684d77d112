"""The published scheme is reproduced with every one of its defects, and each defect shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde
from torch import Tensor

from randomwalk.errors import InputError, RunError
from randomwalk.images.sources import open_images
from randomwalk.studies.score_embedding import finite_difference, legacy
from randomwalk.studies.score_embedding.linear import Stencil
from score_sde.sdes import VP, PowerVE

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "data" / "photographs"


def levels(num: int) -> Tensor:
    return torch.linspace(1e-3, 1, num, dtype=torch.float64)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def value_pairs(size: int, channel: int = 0) -> Tensor:
    """The paper's log density of a channel of the astronaut, by SciPy as in the code of 2024, ``[1, 1, H, W]``."""
    image = (open_images(PHOTOGRAPHS).load(0, 3, (size, size), "resize")[channel].double().numpy() + 1) / 2
    pairs = np.stack([image.T.ravel(), image.ravel()])
    return torch.from_numpy(gaussian_kde(pairs).logpdf(pairs)).reshape(1, 1, size, size)


def published_matrix(score: np.ndarray, g: float, dt: float, h: float) -> np.ndarray:
    """The definition, entry by entry, ``score [H, W]``."""
    width, flat = score.shape[1], score.ravel()
    found = np.zeros((flat.size, flat.size))
    for i in range(flat.size):
        found[i, i] = 1 + 2 * g**2 * dt / h**2
        for offset, sign in ((1, 1), (width, 1), (-1, -1), (-width, -1)):
            j = i + offset
            if 0 <= j < flat.size:  # nothing else is cut: not the ends of rows
                found[i, j] = sign * g**2 * dt / (2 * h**2) - g**2 * flat[j] * dt / (4 * h)
    return found


def transported(field: Tensor, move: Callable[[Tensor], Tensor], run: Callable[[Tensor], Tensor]) -> float:
    """How far moving the picture before the solution is from moving the solution, relative to the latter."""
    after = move(run(field))
    return float((run(move(field)) - after).norm() / (after - after.mean()).norm())


# --- the definition ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4), (3, 5)])
def test_the_matrix_is_the_published_one(shape: tuple[int, int]) -> None:
    score = draws(*shape).numpy()
    found = legacy.matrix(score.ravel(), 1.7, 0.1, shape[1], 0.5).toarray()
    np.testing.assert_allclose(found, published_matrix(score, 1.7, 0.1, 0.5), rtol=1e-14)


def test_constants_are_not_preserved() -> None:
    """Rows inside: 1.4 on the diagonal, 0.1 and -0.1 beside it at g = 2, dt = 0.05. Those of the right one sum to 1."""
    system = legacy.matrix(np.zeros(49), 2.0, 0.05, 7).toarray()
    row = system[24]
    assert row.sum() == pytest.approx(1.4, abs=1e-14)
    assert [row[24], row[25], row[31], row[23], row[17]] == pytest.approx([1.4, 0.1, 0.1, -0.1, -0.1], abs=1e-14)
    right = Stencil(0.1, draws(1, 2, 7, 7), "neumann").matrix(0)
    assert np.abs(right.sum(axis=1) - 1).max() < 1e-14


@pytest.mark.parametrize(("base", "num", "left"), [(2.0, 10, 0.034), (5.0, 20, 4e-5)])
def test_the_field_dies_out(base: float, num: int, left: float) -> None:
    """By the product of 1 / (1 + 2 g^2 dt); at the border more, where the signs of the published rows do not cancel."""
    g2 = PowerVE(base).diffusion(levels(num))[1:] ** 2
    assert float((1 / (1 + 2 * g2 / num)).prod()) == pytest.approx(left, rel=0.1)
    m = legacy.solve(torch.full((1, 1, 48, 48), 1e-6).double(), levels(num), PowerVE(base), tolerance=1e-6).log_density
    # A small constant keeps the scores near 0. The middle is beyond the reach of the border: 24 pixels.
    assert float(m[-1, 0, 0, 24, 24] / 1e-6) == pytest.approx(left, rel=0.1)


def test_fixed_point_and_score_against_the_definition() -> None:
    """What it stops at solves the published equations, with dt = 1 / N and across the ends of rows."""
    m0, times = 0.5 * draws(2, 2, 4, 4), levels(5)
    found = legacy.solve(m0, times, PowerVE(2.0), tolerance=1e-7, spacing=1.5)
    m = found.log_density.numpy()
    np.testing.assert_allclose(m[0], m0.numpy(), rtol=1e-7)  # float32
    for image in range(2):
        for channel in range(2):
            for n in range(1, 5):
                flat = m[n, image, channel].ravel()
                wide = np.concatenate([[0], flat, [0]])
                score = ((wide[2:] - wide[:-2]) / 3.0).reshape(4, 4)
                np.testing.assert_allclose(found.score[n, image, channel, 1].numpy(), score, atol=1e-6)
                system = published_matrix(score, 2.0 ** float(times[n]), 1 / 5, 1.5)
                # The score lags by one iteration, which changed the field by 1e-7.
                np.testing.assert_allclose(system @ flat, m[n - 1, image, channel].ravel(), atol=2e-6)
    assert not found.score[:, :, :, 0].any()
    for field in (found.log_density, found.score):
        assert torch.equal(field.float().double(), field)  # kept in float32


def test_an_image_is_done_when_it_has_converged() -> None:
    """It has the result that it has alone, to the last bit, and its residual counts as 0 from then on."""
    m0 = torch.cat([0.1 * draws(1, 1, 6, 6), 2 * draws(1, 1, 6, 6, seed=1)])
    both = legacy.solve(m0, levels(6), PowerVE(2.0), tolerance=1e-5)
    alone = [legacy.solve(m0[n : n + 1], levels(6), PowerVE(2.0), tolerance=1e-5) for n in range(2)]
    assert alone[0].iterations < alone[1].iterations == both.iterations
    assert torch.equal(both.score, torch.cat([one.score for one in alone], dim=1))
    assert [row[1] for row in both.residuals] == [row[0] for row in alone[1].residuals]
    assert all(row[0] == 0 for row in both.residuals[alone[0].iterations :])


# --- figures ----------------------------------------------------------------------------------------------------------


def test_iterations_of_a_photograph() -> None:
    """Seven at 64 x 64, as published for a photograph of a face, with residuals of the same orders.

    Those of the face were .753, .271, 3.5e-3, 2.7e-4, 2.8e-5, 2.9e-6, 2.7e-7; the astronaut's are within a factor of 3.
    """
    found = legacy.solve(value_pairs(64), levels(10), PowerVE(2.0), tolerance=1e-6)
    face = [0.753, 0.271, 3.5e-3, 2.7e-4, 2.8e-5, 2.9e-6, 2.7e-7]
    assert found.iterations == 7
    for (mine,), other in zip(found.residuals, face, strict=True):
        assert abs(math.log(mine / other)) < math.log(3)
    # The standard deviation of the scores fell from 0.19 to 0.006 with the face.
    spread = found.score[:, 0, 0, 1].std(dim=(-2, -1))
    assert float(spread[0]) > 0.1 and float(spread[-1] / spread[0]) == pytest.approx(0.006 / 0.19, rel=0.5)


def test_iterations_at_the_base_of_five() -> None:
    """Eight at 32 x 32 with twenty levels, to the floor of float32."""
    assert legacy.solve(value_pairs(32), levels(20), PowerVE(5.0)).iterations == 8


def test_it_is_not_the_equation() -> None:
    """Its last level has next to nothing of the right one's structure."""
    m0 = value_pairs(32)
    right, published = (
        solver(m0, levels(10), PowerVE(2.0)).log_density[-1].flatten()
        for solver in (finite_difference.solve, legacy.solve)
    )
    assert float(published.std() / right.std()) < 0.2


@pytest.mark.parametrize("move", ["transpose", "flip"])
def test_moving_the_picture(move: str) -> None:
    """A picture that is transposed or mirrored has another solution; with the right scheme it is the moved one."""
    moves: dict[str, Callable[[Tensor], Tensor]] = {
        "transpose": lambda x: x.transpose(-2, -1),
        "flip": lambda x: x.flip(-1),
    }
    field = draws(1, 1, 8, 8)
    apart = {
        name: transported(field, moves[move], lambda m, s=solver: s(m, levels(5), PowerVE(2.0)).log_density[1:])
        for name, solver in (("legacy", legacy.solve), ("right", finite_difference.solve))
    }
    assert apart["right"] < 1e-7  # the tolerance of the fixed point is 2e-8
    assert apart["legacy"] > 0.1


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_it_does_not_go_on_for_ever() -> None:
    with pytest.raises(RunError, match=r"not converged after 3 iterations.*float32"):
        legacy.solve(draws(1, 1, 4, 4), levels(5), PowerVE(2.0), tolerance=1e-7, max_iterations=3)


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="without drift"):
        legacy.solve(draws(1, 1, 4, 4), levels(5), VP())
    with pytest.raises(InputError, match="m0"):
        legacy.solve(draws(1, 4, 4), levels(5), PowerVE(2.0))
