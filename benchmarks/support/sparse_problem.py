"""Sparse priors in an orthonormal basis, whose denoiser is exact, with many linear measurements."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.operators import Dense, FourierSubsampling, Inpainting, Operator, make
from randomwalk.operators.noise import GaussianNoise


def haar(n: int) -> Tensor:
    """Orthonormal Haar basis of n samples, n a power of 2: ``[n, n]``, a basis vector in each column."""
    basis = torch.ones(1, 1, dtype=torch.float64)
    while len(basis) < n:
        size = len(basis)
        coarse = torch.kron(basis, torch.tensor([[1.0], [1.0]], dtype=torch.float64))
        fine = torch.kron(torch.eye(size, dtype=torch.float64), torch.tensor([[1.0], [-1.0]], dtype=torch.float64))
        basis = torch.cat([coarse, fine], 1) / math.sqrt(2)
    return basis


def dct(n: int) -> Tensor:
    """Orthonormal basis of the discrete cosine transform (DCT-II): ``[n, n]``, a basis vector in each column."""
    k = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * (k[:, None] + 0.5) * k) * math.sqrt(2 / n)
    basis[:, 0] = math.sqrt(1 / n)
    return basis


BASES: dict[str, Callable[[int], Tensor]] = {
    "identity": lambda n: torch.eye(n, dtype=torch.float64),
    "haar": haar,
    "dct": dct,
}
"""Bases of a line of n pixels; that of an image is the product of those of its rows and columns."""


@dataclass(frozen=True)
class Scales:
    """A density of a coefficient, ``sum_k w_k Normal(0, v_k)``.

    Attributes:
        weights: w, ``[K]``, of sum 1.
        variances: v, ``[K]``.
    """

    weights: Tensor
    variances: Tensor

    def sample(self, shape: tuple[int, ...], draws: np.random.Generator) -> Tensor:
        """Independent draws."""
        chosen = draws.choice(len(self.weights), shape, p=self.weights.numpy())
        return self.variances.sqrt()[torch.from_numpy(chosen)] * torch.from_numpy(draws.standard_normal(shape))

    def log_density(self, z: Tensor) -> Tensor:
        """Logarithm of the density at z."""
        terms = [
            math.log(w) - math.log(2 * math.pi * v) / 2 - z.square() / (2 * v)
            for w, v in zip(self.weights.tolist(), self.variances.tolist(), strict=True)
        ]
        return torch.stack(terms).logsumexp(0)


def two_scales(share: float = 0.8, small: float = 0.1, large: float = 1.0) -> Scales:
    """Small with probability ``share``, otherwise large: standard deviations of Gaussians."""
    variances = torch.tensor([small**2, large**2], dtype=torch.float64)
    return Scales(torch.tensor([share, 1 - share], dtype=torch.float64), variances)


def gaussian(std: float = 0.45) -> Scales:
    """A single scale."""
    return Scales(torch.ones(1, dtype=torch.float64), torch.full((1,), std**2, dtype=torch.float64))


def laplace(std: float = 0.45, step: float = 0.25) -> Scales:
    """Laplace's density: a variance with the exponential distribution of mean ``std^2``.

    The integral over the logarithm of the variance is a sum in even steps (trapezoidal rule, which converges
    exponentially). Near z = 0, where the density has a kink, it is cut at a variance of ``exp(-18) std^2``.
    """
    t = torch.arange(-18.0, 4.0, step, dtype=torch.float64)
    weights = torch.exp(t - t.exp())
    return Scales(weights / weights.sum(), std**2 * t.exp())


def student(freedom: float = 3.0, std: float = 0.45, step: float = 0.25) -> Scales:
    """Student's t with this many degrees of freedom: an inverse variance with a Gamma distribution, as in `laplace`."""
    t = torch.arange(-8.0, 16.0, step, dtype=torch.float64)  # logarithm of the variance
    weights = torch.exp(-freedom / 2 * (t + (-t).exp()))
    return Scales(weights / weights.sum(), std**2 * (freedom - 2) / freedom * t.exp())


PRIORS: dict[str, Callable[[], Scales]] = {
    "two scales": two_scales,
    "laplace": laplace,
    "student": student,
    "gaussian": gaussian,
}


class Prior(Denoiser):
    """A prior of images with independent coefficients of one density; its score is exact.

    Args:
        scales: the density.
        shape: of an image, ``(1, H, W)``.
    """

    def __init__(self, scales: Scales, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.scales, self.shape = scales, shape

    def analyse(self, x: Tensor) -> Tensor:
        """Coefficients z of images x, ``[..., H, W]`` both."""
        raise NotImplementedError

    def synthesise(self, z: Tensor) -> Tensor:
        """Images of coefficients z."""
        raise NotImplementedError

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return x + float(sigma) ** 2 * self.score(x, sigma)


class SparsePrior(Prior):
    """``X = Psi z``: independent coefficients z of one density, in an orthonormal basis of the image.

    White noise stays white in z, so that the score of each coefficient is that of ``sum_k w_k Normal(0, v_k + s^2)``.

    Args:
        scales: the density.
        shape: of an image, ``(1, H, W)``.
        basis: name in `BASES`.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, scales: Scales, shape: tuple[int, int, int], basis: str = "identity") -> None:
        super().__init__(scales, shape)
        self.plain = basis == "identity"
        self.register_buffer("rows", BASES[basis](shape[1]))
        self.register_buffer("columns", BASES[basis](shape[2]))

    def analyse(self, x: Tensor) -> Tensor:
        return x if self.plain else self.rows.T.to(x) @ x @ self.columns.to(x)

    def synthesise(self, z: Tensor) -> Tensor:
        return z if self.plain else self.rows.to(z) @ z @ self.columns.T.to(z)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        z = self.analyse(x)
        variances = self.scales.variances + float(sigma) ** 2
        # One component after the other: no [B, d, K].
        square, logs = z.square(), (self.scales.weights.log() - variances.log() / 2).tolist()
        joint = [log - square / (2 * v) for log, v in zip(logs, variances.tolist(), strict=True)]
        most = torch.maximum(*joint) if len(joint) == 2 else torch.stack(joint).amax(0)
        total, slope = torch.zeros_like(z), torch.zeros_like(z)
        for log, v in zip(joint, variances.tolist(), strict=True):
            weight = (log - most).exp_()
            total += weight
            slope += weight / v
        return self.synthesise(-z * slope / total)


@dataclass(frozen=True)
class SparseProblem:
    """A prior and a measurement of an image drawn from it.

    Attributes:
        prior: of the image.
        operator: A.
        noise: of standard deviation eta.
        y: ``A Psi z + eta n``, ``[1, *measurement_shape]``.
        truth: z, ``[1, 1, H, W]``.
    """

    prior: Prior
    operator: Operator
    noise: GaussianNoise
    y: Tensor
    truth: Tensor

    def matrix(self) -> Tensor:
        """``A Psi``, ``[m, d]``."""
        d = self.truth.numel()
        unit = torch.eye(d, dtype=torch.float64).reshape(d, *self.prior.shape)
        rows = [self.operator(self.prior.synthesise(part)).flatten(1) for part in unit.split(256)]
        return torch.cat(rows).T.contiguous()


OPERATORS = ("rows", "missing", "blur", "fourier")


def make_operator(
    name: str, shape: tuple[int, int, int], m: int, draws: np.random.Generator, condition: float | None = None
) -> Operator:
    """An operator: m rows of Normal(0, 1/m), m pixels, a circular blur (m is not used), or columns of the spectrum.

    Args:
        condition: of random rows: their singular values become even on the logarithmic scale, from 1 to 1 / condition.

    Raises:
        InputError: the name is not in `OPERATORS`, or has no condition.
    """
    d = math.prod(shape)
    if condition is not None and (name != "rows" or not condition >= 1):
        raise InputError(f"condition {condition:g} of the operator {name!r}: expected 1 or more, and the operator rows")
    if name == "rows":
        rows = draws.standard_normal((m, d)) / math.sqrt(m)
        if condition is not None:
            left, _, right = np.linalg.svd(rows, full_matrices=False)
            rows = (left * np.geomspace(1, 1 / condition, m)) @ right
        return Dense(shape, torch.from_numpy(rows))
    if name == "missing":
        kept = torch.zeros(d)
        kept[torch.from_numpy(draws.permutation(d)[:m])] = 1
        return Inpainting(shape, kept.reshape(shape[1:]))
    if name == "blur":
        return make("gaussian_blur", image_shape=shape, std=1.0, boundary="circular")
    if name == "fourier":
        columns = torch.zeros(shape[2])
        columns[torch.from_numpy(draws.permutation(shape[2])[: m * shape[2] // d])] = 1
        return FourierSubsampling(shape, columns)
    raise InputError(f"operator {name!r}: expected one of {', '.join(OPERATORS)}")


def make_problem(
    prior: str, basis: str, operator: str, d: int, m: int, eta: float, seed: int, condition: float | None = None
) -> SparseProblem:
    """One problem, in float64.

    Args:
        prior, basis: names in `PRIORS` and `BASES`.
        operator: name in `make_operator`.
        d, m: numbers of pixels, a square of a power of 2, and of measurements.
        eta: standard deviation of the noise.
        seed: of everything that is drawn.
        condition: see `make_operator`.
    """
    side = math.isqrt(d)
    made = SparsePrior(PRIORS[prior](), (1, side, side), basis)
    return problem_with(made, operator, m, eta, seed, condition)


def problem_with(
    made: Prior, operator: str, m: int, eta: float, seed: int, condition: float | None = None
) -> SparseProblem:
    """A problem with this prior; for the other arguments see `make_problem`."""
    draws = np.random.default_rng(seed)
    A = make_operator(operator, made.shape, m, draws, condition)
    z = made.scales.sample((1, *made.shape), draws)
    clean = A(made.synthesise(z))
    noise = eta * torch.from_numpy(draws.standard_normal(clean.shape))
    return SparseProblem(made, A, GaussianNoise(eta), clean + noise, z)
