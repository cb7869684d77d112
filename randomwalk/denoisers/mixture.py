"""Gaussian mixtures, whose denoiser, score and density are known in closed form: test cases for samplers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.operators import Operator


class GaussianMixture(Denoiser):
    """X ~ sum_k w_k Normal(m_k, S_k), and so X_sigma = X + sigma N ~ sum_k w_k Normal(m_k, S_k + sigma^2 I).

    With ``S_k = Q_k diag(l_k) Q_k^T`` decomposed once, ``z_k = Q_k^T (x - m_k)`` and the probabilities ``r_k(x)`` of
    the components given ``X_sigma = x``,

        D(x, sigma)    = sum_k r_k (m_k + Q_k diag(l_k / (l_k + sigma^2)) z_k)
        score(x, sigma) = -sum_k r_k Q_k diag(1 / (l_k + sigma^2)) z_k

    Both are evaluated as written, so that neither loses digits at very small or very large sigma. If every S_k is
    isotropic, the components differ only in the span of the means, and no ``[B, K, d]`` is formed. Computations are in
    the type of ``means`` (float64 for exact work), results in that of x.

    Args:
        weights: ``[K]``, not negative; scaled to sum 1.
        means: ``[K, d]``, or ``[K, C, H, W]`` for images, which are flattened.
        covariances: a number or ``[K]`` is isotropic, the *variance* of every pixel (one number for each component,
            never one for each pixel); ``[K, d]`` is diagonal; ``[K, d, d]`` is full. Eigenvalues may be 0: a mixture of
            points is allowed where sigma is positive.

    Raises:
        InputError: shapes that do not fit, negative weights, covariances that are not symmetric and positive
            semi-definite.
    """

    log_weights: Tensor
    means: Tensor
    eigenvalues: Tensor  # [K, 1] or [K, d]
    basis: Tensor | None  # [K, d, d], an eigenvector in every column; None where S_k is diagonal
    span: Tensor | None  # [d, r], orthonormal columns that span the differences of the means; if S_k is isotropic

    def __init__(
        self,
        weights: Tensor | np.ndarray | Sequence[float],
        means: Tensor | np.ndarray | Sequence[Sequence[float]],
        covariances: Tensor | np.ndarray | Sequence[float] | float,
    ) -> None:
        super().__init__()
        centres = torch.as_tensor(means)
        centres = centres if centres.is_floating_point() else centres.to(torch.get_default_dtype())
        kind: dict[str, Any] = {"dtype": centres.dtype, "device": centres.device}
        shares = torch.as_tensor(weights, **kind)
        if centres.ndim < 2 or shares.shape != centres.shape[:1]:
            raise InputError(
                f"mixture: weights of shape {tuple(shares.shape)} and means of shape {tuple(centres.shape)}; "
                "expected [K] and [K, d] or [K, C, H, W]"
            )
        if not ((shares >= 0).all() and shares.sum() > 0):
            raise InputError(f"mixture: weights {shares.tolist()}; expected them not negative, with a positive sum")
        self.event_shape = tuple(centres.shape[1:])
        eigenvalues, basis = _decompose(torch.as_tensor(covariances, **kind), *centres.flatten(1).shape)
        self.register_buffer("log_weights", (shares / shares.sum()).log())
        self.register_buffer("means", centres.flatten(1))
        self.register_buffer("eigenvalues", eigenvalues)
        self.register_buffer("basis", basis)
        self.register_buffer("span", _span(self.means) if eigenvalues.shape[1] == 1 else None)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        if self.span is not None:
            variances, log_joint = self._isotropic(x, sigma, relative=True)
            r = log_joint.softmax(1)
            out = (r * (1 - self.eigenvalues[:, 0] / variances)) @ self.means
            out = out + (r * self.eigenvalues[:, 0] / variances).sum(1, keepdim=True) * x.flatten(1).to(out)
            return out.reshape(x.shape).to(x.dtype)
        z, variances, log_joint = self._components(x, sigma)
        inward = self.means + self._rotate_back(self.eigenvalues / variances * z)
        return self._average(log_joint, inward).reshape(x.shape).to(x.dtype)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        if self.span is not None:
            variances, log_joint = self._isotropic(x, sigma, relative=True)
            r = log_joint.softmax(1) / variances
            origin = self.means[0]  # differences from a mean, since digits are lost if the means are far from 0
            out = r @ (self.means - origin) - r.sum(1, keepdim=True) * (x.flatten(1).to(r) - origin)
            return out.reshape(x.shape).to(x.dtype)
        z, variances, log_joint = self._components(x, sigma)
        return self._average(log_joint, self._rotate_back(-z / variances)).reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Log density of X_sigma at ``x [B, ...]``, ``[B]``."""
        log_joint = self._components(x, sigma)[2] if self.span is None else self._isotropic(x, sigma)[1]
        return log_joint.logsumexp(1).to(x.dtype)

    def responsibilities(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Probability of each component given ``X_sigma = x``, ``[B, K]``."""
        log_joint = self._components(x, sigma)[2] if self.span is None else self._isotropic(x, sigma, relative=True)[1]
        return log_joint.softmax(1).to(x.dtype)

    def sample(self, num: int, generator: np.random.Generator) -> Tensor:
        """``num`` independent draws of X, ``[num, d]`` or ``[num, C, H, W]``."""
        weights = self.log_weights.double().exp().cpu().numpy()
        chosen = torch.from_numpy(generator.choice(len(weights), num, p=weights / weights.sum())).to(self.means.device)
        normal = torch.from_numpy(generator.standard_normal((num, self.means.shape[1]))).to(self.means)
        out = self.means[chosen].clone()
        for k in range(len(weights)):  # one rotation per component, not per draw
            z = self.eigenvalues[k].sqrt() * normal[chosen == k]
            out[chosen == k] += z if self.basis is None else z @ self.basis[k].T
        return out.reshape(num, *self.event_shape)

    def covariances(self) -> Tensor:
        """``[K, d, d]``."""
        dense = torch.diag_embed(self.eigenvalues.expand(self.means.shape))
        return dense if self.basis is None else self.basis @ dense @ self.basis.mT

    def posterior(self, operator: Tensor | Operator, measurement: Tensor, eta: float) -> GaussianMixture:
        """X given ``A X + eta N = y``: of each component, with the decomposition ``A S^(1/2) / eta = U diag(c) V^T``,

            S' = S^(1/2) V diag(1 / (1 + c^2)) V^T S^(1/2)
            m' = m + S^(1/2) V diag(c / (1 + c^2)) U^T (y - A m) / eta
            w' = w Normal(y; A m, A S A^T + eta^2 I), up to a factor

        In this form m' keeps its digits and S' is positive however small eta is.

        Args:
            operator: A, a matrix ``[m, d]`` or a linear Operator on images of the mixture's shape.
            measurement: y of one image, ``[m]`` or ``[*measurement_shape]`` (a leading 1 is accepted).
            eta: standard deviation of the noise.
        """
        matrix, covariances = self._matrix(operator), self.covariances()
        y, predicted = measurement.to(matrix).reshape(-1), self.means @ matrix.T
        root = torch.diag_embed(self.eigenvalues.expand(self.means.shape).sqrt())
        root = root if self.basis is None else self.basis @ root @ self.basis.mT
        u, c, vt = torch.linalg.svd(matrix @ root / eta)
        padded = torch.nn.functional.pad(c, (0, vt.shape[1] - c.shape[1]))  # no information: c = 0
        half = (1 + padded**2).rsqrt()[..., None] * (vt @ root)  # half^T half = S'
        along = c / (1 + c**2) * torch.einsum("kmc,km->kc", u[..., : c.shape[1]], y - predicted) / eta
        means = self.means + torch.einsum("kcd,kc->kd", (vt @ root)[:, : c.shape[1]], along)
        spread = matrix @ covariances @ matrix.T + eta**2 * torch.eye(len(matrix)).to(matrix)
        evidence = torch.distributions.MultivariateNormal(predicted, spread).log_prob(y)
        weights = (self.log_weights + evidence).softmax(0)
        return GaussianMixture(weights, means.reshape(-1, *self.event_shape), half.mT @ half)

    def _isotropic(self, x: Tensor, sigma: float | Tensor, relative: bool = False) -> tuple[Tensor, Tensor]:
        """Variances ``l_k + sigma^2`` (``[1 or B, K]``) and ``log(w_k p_k(x)) [B, K]``; for isotropic components.

        ``relative`` omits a term common to all components if they have one variance.
        """
        assert self.span is not None
        z = x.flatten(1).to(self.means) - self.means[0]
        along = z @ self.span
        distances = (along[:, None] - (self.means - self.means[0]) @ self.span).square().sum(2)
        if not (relative and (self.eigenvalues == self.eigenvalues[0]).all()):
            distances = distances + (z - along @ self.span.T).square().sum(1, keepdim=True)
        level = torch.as_tensor(sigma, dtype=z.dtype, device=z.device).reshape(-1, 1)
        variances = self.eigenvalues[:, 0] + level**2
        log_scale = z.shape[1] * (2 * math.pi * variances).log()
        return variances, self.log_weights - (distances / variances + log_scale) / 2

    def _components(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``z [B, K, d]``, the eigenvalues of S_k + sigma^2 I, and ``log(w_k p_k(x)) [B, K]``."""
        z = x.flatten(1).to(self.means)[:, None] - self.means
        if self.basis is not None:
            z = torch.einsum("bkd,kde->bke", z, self.basis)
        level = torch.as_tensor(sigma, dtype=z.dtype, device=z.device).reshape(-1, 1, 1)
        variances = self.eigenvalues + level**2
        log_scale = (2 * math.pi * variances).log().expand(*variances.shape[:2], z.shape[2]).sum(2)
        return z, variances, self.log_weights - (z.square() / variances).sum(2) / 2 - log_scale / 2

    def _rotate_back(self, z: Tensor) -> Tensor:
        return z if self.basis is None else torch.einsum("bkd,ked->bke", z, self.basis)

    @staticmethod
    def _average(log_joint: Tensor, values: Tensor) -> Tensor:
        return torch.einsum("bk,bkd->bd", log_joint.softmax(1), values)

    def _matrix(self, operator: Tensor | Operator) -> Tensor:
        """A as a dense matrix ``[m, d]``."""
        if isinstance(operator, Tensor):
            return operator.to(self.means)
        size = self.means.shape[1]
        columns = operator(torch.eye(size).to(self.means).reshape(size, *operator.image_shape))
        return columns.reshape(size, -1).T


def _span(means: Tensor) -> Tensor:
    """Orthonormal columns ``[d, r]`` that span the differences of the means."""
    _, values, vt = torch.linalg.svd(means - means[0], full_matrices=False)
    rank = int((values > 1e-12 * values[:1].clamp_min(1e-300)).sum()) if len(means) > 1 else 0
    return vt[:rank].T.contiguous()


def _decompose(covariances: Tensor, num: int, size: int) -> tuple[Tensor, Tensor | None]:
    """Eigenvalues ``[K, 1 or d]`` and, for full covariances, eigenvectors ``[K, d, d]``."""
    basis = None
    if covariances.shape in ((), (num,)):
        eigenvalues = covariances.expand(num)[:, None]
    elif covariances.shape == (num, size):
        eigenvalues = covariances
    elif covariances.shape == (num, size, size):
        if not torch.allclose(covariances, covariances.mT):
            raise InputError("mixture: a covariance is not symmetric")
        eigenvalues, basis = torch.linalg.eigh(covariances)
        rounding = 10 * size * torch.finfo(eigenvalues.dtype).eps * eigenvalues.abs().amax(1, keepdim=True)
        eigenvalues = torch.where(eigenvalues > -rounding, eigenvalues.clamp_min(0), eigenvalues)
    else:
        raise InputError(
            f"mixture: covariances of shape {tuple(covariances.shape)}; expected a number or [{num}] (isotropic), "
            f"[{num}, {size}] (diagonal) or [{num}, {size}, {size}] (full)"
        )
    if not (eigenvalues >= 0).all():
        raise InputError("mixture: a covariance is not positive semi-definite")
    return eigenvalues, basis
