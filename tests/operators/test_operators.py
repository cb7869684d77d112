"""What every measurement operator has to fulfil, against dense matrices and automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from operator_cases import (
    LINEAR,
    NONLINEAR,
    Case,
    Correlation,
    Shape,
    Square,
    build,
    dense,
    label,
    normal,
    random_kernel,
)
from torch import Tensor

from randomwalk import InputError, RunError, operators, samplers
from randomwalk.operators import Dense, Measurement, Operator
from randomwalk.operators.noise import GaussianNoise, PoissonNoise
from randomwalk.operators.operator import RCOND
from randomwalk.operators.solve import conjugate_gradients, largest_eigenvalue
from randomwalk.operators.weighted import Weighted

EACH_LINEAR = pytest.mark.parametrize("case", LINEAR, ids=label)
EACH = pytest.mark.parametrize("case", LINEAR + NONLINEAR, ids=label)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("batch", [1, 3])
@EACH_LINEAR
def test_adjoint(case: Case, batch: int) -> None:
    operator = build(case, range(batch))
    assert operator.linear
    x, y = normal(batch, *case[2]), normal(batch, *operator.measurement_shape, seed=1)
    assert operator(x).shape == y.shape and operator.adjoint(y).shape == x.shape
    close((operator(x) * y).flatten(1).sum(1), (x * operator.adjoint(y)).flatten(1).sum(1))
    close(operator.adjoint(y), Operator.adjoint(operator, y))  # by automatic differentiation


@EACH_LINEAR
def test_closed_forms_are_those_of_the_matrix(case: Case) -> None:
    operator = build(case)
    x, y = normal(2, *case[2]), normal(2, *operator.measurement_shape, seed=1)
    matrix = dense(operator)
    assert operator.norm() == pytest.approx(torch.linalg.svdvals(matrix)[0].item(), rel=1e-9)
    eta, sigma = 0.3, 0.7
    curvature = matrix.T @ matrix / eta**2 + torch.eye(len(matrix.T), dtype=torch.float64) / sigma**2
    right = y.flatten(1) @ matrix / eta**2 + x.flatten(1) / sigma**2
    close(operator.proximal(x, y, eta, sigma), torch.linalg.solve(curvature, right.T).T.reshape(x.shape), 1e-9)
    if operator.has_spectral:
        inverse = torch.linalg.pinv(matrix, rtol=RCOND)
        close(operator.pinv(y), (y.flatten(1) @ inverse.T).reshape(x.shape), 1e-8)
        eigenvalues, vectors = torch.linalg.eigh(matrix.T @ matrix)
        for f in (lambda t: t, lambda t: 1 / (0.3 + 5 * t), lambda t: torch.exp(-t)):
            close(operator.spectral(f, x), (x.flatten(1) @ (vectors * f(eigenvalues)) @ vectors.T).reshape(x.shape))
    else:
        with pytest.raises(InputError, match="has no spectral decomposition"):
            operator.spectral(torch.exp, x)
        solution = operator.pinv(y)  # of A^T A x = A^T y, to the residual that is promised
        residual = operator.adjoint(operator(solution) - y).flatten(1).norm(dim=1)
        assert (residual <= 2e-11 * operator.adjoint(y).flatten(1).norm(dim=1)).all()
        null = torch.linalg.svd(matrix)[2][int(torch.linalg.matrix_rank(matrix)) :]
        assert not (solution.flatten(1) @ null.T).abs().gt(1e-8).any()
    assert torch.equal(operator.proximal(x, y, 0.0, sigma), x + operator.pinv(y - operator(x)))


@EACH
def test_an_image_does_not_depend_on_its_batch(case: Case) -> None:
    together = build(case, range(3))
    x = normal(3, *case[2])
    y = together(x) + 0.1 * normal(3, *together.measurement_shape, seed=1)
    repeated = together.repeated(2)
    close(repeated(x.repeat_interleave(2, 0)), together(x).repeat_interleave(2, 0))
    for image in range(3):
        alone, row = build(case, range(image, image + 1)), slice(image, image + 1)
        close(together(x)[row], alone(x[row]))
        close(alone.repeated(2)(x[row].expand(2, -1, -1, -1)), alone(x[row]).repeat(2, *[1] * (y.ndim - 1)))
        if together.linear:
            close(together.adjoint(y)[row], alone.adjoint(y[row]))
            close(together.proximal(x, y, 0.3, 0.7)[row], alone.proximal(x[row], y[row], 0.3, 0.7), 1e-9)


@pytest.mark.parametrize(
    "case", [c for c in LINEAR if c[0] in ("motion_blur", "compressed_sensing") and "length" not in c[1]], ids=label
)
def test_images_have_operators_of_their_own(case: Case) -> None:
    x = normal(1, *case[2]).expand(2, *case[2])
    y = build(case, range(2))(x)
    assert (y[0] - y[1]).abs().max() > 1e-3


@EACH
def test_precision_device_and_state(case: Case) -> None:
    operator = build(case, range(2))
    x = normal(2, *case[2]).float() / 2
    y = operator(x)
    assert y.dtype == torch.float32
    calls = [operator.forward] if not operator.linear else [operator.forward, operator.adjoint, operator.pinv]
    for call, argument in zip(calls, (x, y, y), strict=False):
        assert call(argument).dtype == torch.float32
    if case[0] != "jpeg":  # which rounds
        close(y.double(), operator(x.double()), 1e-5)
    if operator.has_spectral:
        assert operator.spectral(torch.exp, x).dtype == torch.float32
    if operator.linear:
        exact = operator.proximal(x.double(), y.double(), 0.3, 0.7)
        close(operator.proximal(x, y, 0.3, 0.7).double(), exact, 1e-4)

    other = build(case, range(7, 9))
    other.load_state_dict(operator.state_dict())
    assert torch.equal(other(x), y)
    single = build(case, range(2)).float()  # what it holds may be moved to another type, too
    if case[0] != "jpeg":
        close(single(x), y, 1e-5)

    operator.to("meta")
    assert operator(x.to("meta")).shape == y.shape and operator(x.to("meta")).device.type == "meta"
    if operator.linear:
        assert operator.adjoint(y.to("meta")).shape == x.shape
    if operator.has_spectral:
        assert operator.spectral(torch.exp, x.to("meta")).shape == operator.pinv(y.to("meta")).shape == x.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@EACH
def test_gpu(case: Case) -> None:
    operator = build(case, range(2))
    x = normal(2, *case[2])
    y = operator(x)
    operator.to("cuda")
    close(operator(x.cuda()).cpu(), y, 1e-9)
    if operator.linear:
        close((operator.adjoint(y.cuda()) * x.cuda()).sum().cpu(), (y * y).sum(), 1e-9)
        close(operator(operator.proximal(x.cuda(), y.cuda(), 0.3, 0.7)).cpu(), y, 1e-9)


@pytest.mark.parametrize("case", NONLINEAR, ids=label)
def test_operators_that_are_not_linear(case: Case) -> None:
    operator = build(case)
    x, y = normal(2, *case[2]) / 2, normal(2, *operator.measurement_shape)
    assert not operator.linear and operator(x).shape == y.shape
    for call in (lambda: operator.adjoint(y), lambda: operator.pinv(y), lambda: operator.proximal(x, y, 0.3, 0.7)):
        with pytest.raises(InputError, match="is not linear"):
            call()
    # The Jacobian is nowhere larger than norm() says, and that bound is not idle.
    size = x[0].numel()
    jacobian = torch.autograd.functional.jacobian(operator, x[:1]).reshape(-1, size)
    largest = torch.linalg.svdvals(jacobian)[0].item()
    assert 0.2 * operator.norm() < largest <= operator.norm() * (1 + 1e-12)


def test_dense_has_a_memory_limit() -> None:
    with pytest.raises(InputError, match=r"takes 72\.0 GiB, more than 1; dense is for small images"):
        Dense.of(operators.make("denoising", image_shape=(3, 256, 128)))
    with pytest.raises(InputError, match="Square is not linear and has no matrix"):
        Dense.of(Square((1, 2, 2)))
    with pytest.raises(InputError, match=r"shape \(1, 3, 5\); expected \(3, 4\)"):
        Dense((1, 2, 2), torch.ones(3, 5))


@pytest.mark.parametrize("name", ["adjoint", "pinv", "norm"])
def test_without_linearity_there_is_none(name: str) -> None:
    y = torch.ones(1, 1, 2, 2)
    with pytest.raises(InputError, match="not linear"):
        getattr(Square((1, 2, 2)), name)(*[] if name == "norm" else [y])


def test_an_operator_that_is_not_linear_has_the_norm_that_it_defines() -> None:
    assert not Square((1, 2, 2)).has_norm
    assert Correlation((2, 7, 6)).has_norm
    assert all(build(case).has_norm for case in NONLINEAR)


def test_conjugate_gradients_rows_stop_for_themselves() -> None:
    scales = torch.tensor([1.0, 1e3, 1e-3], dtype=torch.float64)[:, None]
    eigenvalues = torch.linspace(1, 50, 30, dtype=torch.float64)
    b = normal(3, 30) * scales
    together = conjugate_gradients(lambda v: eigenvalues * v, b, tolerance=1e-6)
    assert ((eigenvalues * together - b).norm(dim=1) <= 1.001e-6 * b.norm(dim=1)).all()
    for row in range(3):
        alone = conjugate_gradients(lambda v: eigenvalues * v, b[row : row + 1], tolerance=1e-6)
        close(together[row : row + 1] / scales[row], alone / scales[row], 1e-12)
    zero = torch.zeros(2, 30, dtype=torch.float64)
    assert torch.equal(conjugate_gradients(lambda v: eigenvalues * v, zero), zero)


def test_conjugate_gradients_say_when_they_fail() -> None:
    eigenvalues = torch.logspace(-9, 0, 200, dtype=torch.float64)
    with pytest.raises(RunError, match="conjugate gradients reached a relative residual of"):
        conjugate_gradients(lambda v: eigenvalues * v, normal(1, 200), max_iterations=20)


def test_largest_eigenvalue() -> None:
    eigenvalues = torch.cat(
        [torch.linspace(0, 1, 500, dtype=torch.float64), torch.tensor([1.001], dtype=torch.float64)]
    )
    assert largest_eigenvalue(lambda v: eigenvalues * v, normal(501)) == pytest.approx(1.001, rel=1e-9)
    assert largest_eigenvalue(lambda v: 0 * v, normal(5)) == 0


@pytest.mark.parametrize("shape", [(2, 7, 6), (1, 3, 3)])
def test_a_user_defines_forward_alone(shape: Shape) -> None:
    operator = Correlation(shape)
    assert operator.measurement_shape == (shape[0], (shape[1] - 1) // 2, (shape[2] - 1) // 2)
    assert not operator.has_spectral and Dense.of(operator).has_spectral


class Gain(Operator):
    """A x = gain x."""

    def __init__(self, gain: float) -> None:
        super().__init__((1, 4, 4))
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


def test_the_walk_knows_the_norm_of_its_operator() -> None:
    sigmas, eta, step_scale = [2.0, 1.0, 0.5, 0.2], 0.3, 0.7
    sampler = samplers.make("random_walk", step_scale=step_scale, initial_temperature=0.0, final_temperature=0.0)
    paper = [min(step_scale * s**2, eta**2) for s in sigmas]
    x = normal(2, 1, 4, 4)
    for gain, cap in ((0.5, eta**2), (1.0, eta**2), (1.07, eta**2), (3.0, eta**2 / 9)):
        likelihood = Measurement(Gain(gain), GaussianNoise(eta), gain * x)
        steps = sampler.plan(sigmas, likelihood).step_sizes
        assert steps == pytest.approx([min(tau, cap) for tau in paper], rel=1e-9)
        # The distance from the optimum, in the worst direction, shrinks at every step; with eta^2 it grows at gain 3.
        assert all(abs(1 - tau * (1 / s**2 + gain**2 / eta**2)) < 1 for tau, s in zip(steps, sigmas, strict=True))
    assert abs(1 - eta**2 * 9 / eta**2) > 1
    likelihood = Measurement(Square((1, 4, 4)), GaussianNoise(eta), x.square())
    assert sampler.plan(sigmas, likelihood).step_sizes == pytest.approx(paper)


def test_proximal_in_single_precision_at_a_high_noise_level() -> None:
    """Where y says nothing, ``(sigma / eta)^2`` = 6e7 must not blow up rounding errors."""
    operator = operators.make("super_resolution", image_shape=(1, 16, 16), factor=4)
    z, y = 80 * normal(1, 1, 16, 16), normal(1, 1, 4, 4, seed=1)
    exact = operator.proximal(z, y, 0.01, 80.0)
    close(operator.proximal(z.float(), y.float(), 0.01, 80.0).double(), exact, 1e-3)


def test_each_matrix_of_a_batch_has_the_pseudo_inverse_of_its_own_size() -> None:
    """A small matrix is not singular because there is a large one beside it."""
    eye = torch.eye(2, dtype=torch.float64)
    operator = Dense((1, 1, 2), torch.stack([eye, 1e-5 * eye]))
    found = operator.pinv(torch.ones(2, 2, dtype=torch.float64))
    close(found[0], torch.ones(1, 1, 2, dtype=torch.float64))
    close(found[1], torch.full((1, 1, 2), 1e5, dtype=torch.float64))


def test_the_walk_takes_steps_that_are_stable_for_photons() -> None:
    """At most ``stable_std^2 = (2 lowest / peak)^2``, far shorter than the noise's typical ``std^2 = 2 / peak``."""
    walk = samplers.make("random_walk", step_scale=0.5)
    noise = PoissonNoise(50.0)
    given = Measurement(operators.Identity((1, 2, 2)), noise, torch.zeros(1, 1, 2, 2))
    steps = walk.plan([1.0, 0.01], given).step_sizes
    assert steps == pytest.approx([(1 / 50) ** 2, 0.5 * 0.01**2], rel=1e-12)


def test_a_weighted_operator_takes_noise_that_differs_from_entry_to_entry() -> None:
    """``argmin_x sum (A x - y)_i^2 / eta_i^2 + ||x - z||^2 / sigma^2``, with matrices."""
    blur = operators.blur_with_kernel((1, 5, 4), random_kernel(3, 2), "unknown")
    stds = 0.1 + normal(1, *blur.measurement_shape).abs()
    eta, sigma = 0.3, 0.7
    operator, z, y = Weighted(blur, eta / stds), normal(1, 1, 5, 4), normal(1, *blur.measurement_shape, seed=1)
    matrix, precision = dense(blur), stds.flatten() ** -2
    curvature = matrix.T @ (precision[:, None] * matrix) + torch.eye(20, dtype=torch.float64) / sigma**2
    exact = torch.linalg.solve(curvature, matrix.T @ (precision * y.flatten()) + z.flatten() / sigma**2)
    close(operator.proximal(z, eta / stds * y, eta, sigma).flatten(), exact, 1e-9)
    close(operator.adjoint(y).flatten(), dense(operator).T @ y.flatten(), 1e-12)
    close(operator.interpolated(eta / stds * y), blur.interpolated(y), 1e-12)
