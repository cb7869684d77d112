"""Bridge between two Gaussians in closed form, and exact iterative Markovian fitting between them.

Every process here is a mixture of Brownian bridges over a Gaussian coupling,

    (X_0, X_1) ~ Normal((m_0, m_1), [[S_0, C], [C^T, S_1]]),    X_t = (1 - t) X_0 + t X_1 + sigma sqrt(t (1 - t)) Z

whose marginal at time t is Normal(mu_t, Sigma_t) with

    mu_t    = (1 - t) m_0 + t m_1
    Sigma_t = (1 - t)^2 S_0 + t^2 S_1 + t (1 - t) (C + C^T + sigma^2 I)

and whose Markovian projection (Shi et al. 2023, arXiv 2303.16852) has affine drifts, as the conditional
mean of a Gaussian is affine. With the factors 1 / (1 - t) and 1 / t cancelled by hand, so that they stay finite,

    forward   E[(X_1 - X_t) / (1 - t) | X_t = x] = m_1 - m_0 + A_t (x - mu_t)
    backward  E[(X_0 - X_t) / t       | X_t = x] = m_0 - m_1 + B_t (x - mu_t)
    A_t Sigma_t = t S_1 - (1 - t) S_0 + (1 - t) C^T - t C - t sigma^2 I
    B_t Sigma_t = (1 - t) S_0 - t S_1 + t C - (1 - t) C^T - (1 - t) sigma^2 I

(A_t + B_t = -sigma^2 Sigma_t^-1, Nelson's relation: the two drifts add up to sigma^2 times the score.)

The Schroedinger bridge is the one whose coupling is

    C = (S_0^{1/2} D S_0^{-1/2} - sigma^2 I) / 2,    D = (4 S_0^{1/2} S_1 S_0^{1/2} + sigma^4 I)^{1/2}

(Bunne, Hsieh, Cuturi and Krause 2022, arXiv 2202.05722, theorem 3, for Brownian motion). It is the optimal plan of
entropic transport with the cost ||x - y||^2 / 2 and the regularisation sigma^2: the inverse of the covariance of
(X_0, X_1) has -I / sigma^2 in its corner, so that the density is exp(x_0 . x_1 / sigma^2) times a function of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from randomwalk.errors import InputError

Direction = Literal["forward", "backward"]


def root(S: np.ndarray) -> np.ndarray:
    """Symmetric square root of a symmetric positive semi-definite matrix ``[d, d]``."""
    values, vectors = np.linalg.eigh(S)
    out: np.ndarray = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return out


def schroedinger_coupling(S0: np.ndarray, S1: np.ndarray, sigma: float) -> np.ndarray:
    """C = Cov(X_0, X_1) of the Schroedinger bridge between covariances ``S0`` and ``S1``, ``[d, d]``."""
    half, one = root(S0), np.eye(len(S0))
    D = root(4 * half @ S1 @ half + sigma**4 * one)
    out: np.ndarray = (half @ D @ np.linalg.inv(half) - sigma**2 * one) / 2
    return out


@dataclass(frozen=True)
class GaussianBridge:
    """Markovian projection of Brownian bridges over a Gaussian coupling.

    Attributes:
        m0, S0: mean ``[d]`` and covariance ``[d, d]`` at t = 0.
        m1, S1: the same at t = 1.
        sigma: of the Brownian motion.
        C: Cov(X_0, X_1), ``[d, d]``.
    """

    m0: np.ndarray
    S0: np.ndarray
    m1: np.ndarray
    S1: np.ndarray
    sigma: float
    C: np.ndarray

    def mean(self, t: float) -> np.ndarray:
        """mu_t, ``[d]``."""
        return (1 - t) * self.m0 + t * self.m1

    def covariance(self, t: float) -> np.ndarray:
        """Sigma_t, ``[d, d]``."""
        cross = self.C + self.C.T + self.sigma**2 * np.eye(len(self.m0))
        out: np.ndarray = (1 - t) ** 2 * self.S0 + t**2 * self.S1 + t * (1 - t) * cross
        return out

    def slope(self, t: float, direction: Direction = "forward") -> np.ndarray:
        """A_t, or B_t for the backward process (whose own time runs from 1 to 0), ``[d, d]``."""
        one = np.eye(len(self.m0))
        right = t * self.S1 - (1 - t) * self.S0 + (1 - t) * self.C.T - t * self.C - t * self.sigma**2 * one
        if direction == "backward":
            right = -right - self.sigma**2 * one
        out: np.ndarray = np.linalg.solve(self.covariance(t), right.T).T
        return out

    def drift(self, x: Tensor, t: float, direction: Direction = "forward") -> Tensor:
        """Drift at the points ``x [B, d, ...]``."""
        flat = x.flatten(1)
        sign = 1 if direction == "forward" else -1
        slope, centre, shift = (
            torch.as_tensor(a).to(flat) for a in (self.slope(t, direction), self.mean(t), sign * (self.m1 - self.m0))
        )
        return (shift + (flat - centre) @ slope.T).reshape(x.shape)

    def transport_cost(self) -> float:
        """E ||X_1 - X_0||^2."""
        return float(np.sum((self.m1 - self.m0) ** 2) + np.trace(self.S0 + self.S1 - 2 * self.C))

    def drift_energy(self) -> float:
        """E int ||forward drift||^2 dt of the Schroedinger bridge, by its relation to the coupling.

        The energy over 2 sigma^2 is the divergence of the process from the Brownian motion with the same start, which
        equals the divergence of the two couplings, KL(X_0, X_1 | X_0, X_0 + sigma Z):

            E ||X_1 - X_0||^2 - sigma^2 (d + ln det Cov(X_1 | X_0) / sigma^2d)

        (Leonard 2014, arXiv 1308.0215). This holds only for the coupling of the Schroedinger bridge: another one loses
        some of its divergence in the Markovian projection.
        """
        conditional = self.S1 - self.C.T @ np.linalg.solve(self.S0, self.C)
        d, log_det = len(self.m0), float(np.linalg.slogdet(conditional)[1])
        return self.transport_cost() - self.sigma**2 * (d + log_det - 2 * d * math.log(self.sigma))

    def flow_energy(self, points: int = 256) -> float:
        """E int ||v||^2 dt of the current velocity v = (forward - backward drift) / 2, by Gauss-Legendre quadrature."""
        nodes, weights = np.polynomial.legendre.leggauss(points)
        total = float(np.sum((self.m1 - self.m0) ** 2))
        for node, weight in zip(nodes, weights, strict=True):
            t = (1 + node) / 2
            V = (self.slope(t) - self.slope(t, "backward")) / 2
            total += weight / 2 * float(np.trace(V @ self.covariance(t) @ V.T))
        return total


def wasserstein(m0: np.ndarray, S0: np.ndarray, m1: np.ndarray, S1: np.ndarray) -> float:
    """Squared 2-Wasserstein distance: ||m_1 - m_0||^2 + tr(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2})."""
    half = root(S0)
    return float(np.sum((m1 - m0) ** 2) + np.trace(S0 + S1 - 2 * root(half @ S1 @ half)))


def schroedinger_bridge(m0: np.ndarray, S0: np.ndarray, m1: np.ndarray, S1: np.ndarray, sigma: float) -> GaussianBridge:
    """Schroedinger bridge from Normal(m0, S0) to Normal(m1, S1).

    Raises:
        InputError: a covariance is not symmetric and positive definite.
    """
    for name, S in (("S0", S0), ("S1", S1)):
        if not np.allclose(S, S.T) or np.linalg.eigvalsh(S)[0] <= 0:
            found = np.asarray(S).tolist()
            raise InputError(f"{name}: {found} is not a covariance; it must be symmetric and positive definite")
    return GaussianBridge(m0, S0, m1, S1, sigma, schroedinger_coupling(S0, S1, sigma))


def independent(bridge: GaussianBridge) -> GaussianBridge:
    """Bridge with the same ends and the independent coupling, from which the iteration starts."""
    return GaussianBridge(bridge.m0, bridge.S0, bridge.m1, bridge.S1, bridge.sigma, np.zeros_like(bridge.S0))


def markovian_coupling(bridge: GaussianBridge, steps: int = 100) -> np.ndarray:
    """Cov(X_0, X_1) of the Markov process with the bridge's forward drift, started at Normal(m0, S0).

    The process is linear: Cov(X_0, X_1) = S_0 Phi_1^T with Phi' = A_t Phi, Phi_0 = I, here by the Runge-Kutta
    method of order 4.
    """
    Phi, h = np.eye(len(bridge.m0)), 1 / steps
    for k in range(steps):
        first, middle, last = (bridge.slope(t) for t in (k * h, (k + 0.5) * h, (k + 1) * h))
        k1 = first @ Phi
        k2 = middle @ (Phi + h / 2 * k1)
        k3 = middle @ (Phi + h / 2 * k2)
        Phi = Phi + h / 6 * (k1 + 2 * k2 + 2 * k3 + last @ (Phi + h * k3))
    out: np.ndarray = bridge.S0 @ Phi.T
    return out


def markovian_fitting(bridge: GaussianBridge, iterations: int, steps: int = 100) -> list[GaussianBridge]:
    """Exact iterates of iterative Markovian fitting, the given bridge first.

    Each iterate fills the coupling of the last one's Markov process with Brownian bridges again (the reciprocal
    projection). All have the right ends; the coupling tends to that of the Schroedinger bridge (Shi et al. 2023). The
    forward and the backward process of a coupling have the same distribution, so that the exact iteration does not
    depend on which of them renews it.
    """
    found = [bridge]
    for _ in range(iterations):
        last = found[-1]
        found.append(GaussianBridge(last.m0, last.S0, last.m1, last.S1, last.sigma, markovian_coupling(last, steps)))
    return found
