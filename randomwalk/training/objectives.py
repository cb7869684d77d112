"""Training loss: a distribution of the noise level, a weight, and an estimate of the denoiser's error.

    L(theta) = E_{sigma, X, N} [ w(sigma) ||X - D_theta(X + sigma N, sigma)||^2 / d ]

(Park et al. 2024, arXiv 2411.18702), the squared error either as written or in one of the forms of
`randomwalk.training.losses` with the same expectation. The losses of the literature differ in their weight:

* inverse_variance, ``w = sigma^-2``: the squared error of epsilon (Ho et al. 2020, arXiv 2006.11239), since
  ``X - D = sigma (eps - N)``; also score matching weighted by the variance, ``||sigma score + N||^2``.
* uniform, ``w = 1``: the squared error of x0.
* v, ``w = sigma^-2 + 1``: the squared error of v (Salimans and Ho 2022, arXiv 2202.00512). With
  ``alpha = (1 + sigma^2)^-1/2`` and ``beta = sigma alpha`` a network's v gives ``D = alpha^2 x - beta v``, so
  ``X - D = -beta (alpha N - beta X - v)``, and ``w = beta^-2``.
* flow, ``w = (1 + 1 / sigma)^2``: the squared error of the velocity of flow matching (Lipman et al. 2023, arXiv
  2210.02747). With ``t = sigma / (1 + sigma)`` and ``z = (1 - t) x`` a network's F gives ``D = z - t F``, so
  ``X - D = -t (N - X - F)``, and ``w = t^-2``.
* edm, ``w = (sigma^2 + c^2) / (sigma c)^2``, c the data's standard deviation: the squared error of the raw network of
  Karras et al. 2022 (arXiv 2206.00364); with c = 1 it is v.
* snr_clipped, ``w = min(sigma^-2, gamma)`` (Hang et al. 2023, arXiv 2303.09556).
* likelihood, ``w = (d sigma^2 / du) / sigma^4 = (d ln sigma^2 / du) / sigma^2`` for the distribution
  ``sigma = Q(u)``. For any distribution on the same range of sigma the loss is the same integral,

      E_u [w ||X - D||^2] = integral of E||X - D||^2 / sigma^4 d(sigma^2)
                          = integral of E||s - grad log p_sigma||^2 d(sigma^2) + constant

  This is the weighting g^2 of Song et al. 2021 (arXiv 2101.09258, theorem 1). For an SDE ``dz = -b z / 2 dt + g dw``
  with ``z = a X + s N`` the variance obeys ``d(s^2) / dt = g^2 - b s^2``, and ``da / dt = -b a / 2``, so
  ``d(sigma^2) = d(s^2 / a^2) = g^2 / a^2 dt``, while the score of z is that of x divided by a:
  ``g^2 ||error_z||^2 dt = ||error_x||^2 d(sigma^2)``. Half of the integral, plus the
  divergence of the noisiest distribution from the prior, bounds the Kullback-Leibler divergence of the data from the
  samples of the reverse SDE. For a table of levels the derivative is
  a finite difference (`TableLevels`).

The discrete and the continuous training of an SDE in the literature are the distribution even_time for a denoiser with
discrete or continuous time. Training on VP, sub-VP and VE differs only in that distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from randomwalk.config.objective import Objective
from randomwalk.denoisers.adapters import EDMDenoiser, SDEDenoiser
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.training.levels import Levels, make_levels
from randomwalk.training.losses import (
    Estimate,
    ImplicitScoreMatching,
    Model,
    Normal,
    Probes,
    SlicedScoreMatching,
    squared_error,
)
from score_sde.devices import exact

Weight = Callable[[Tensor, Tensor], Tensor]
"""``w(u, sigma)``, ``[B]``, with ``sigma = Q(u)``."""

_WEIGHT_OF_PREDICTION = {
    "epsilon": "inverse_variance",
    "score": "inverse_variance",
    "x0": "uniform",
    "v": "v",
    "flow": "flow",
}


@dataclass(frozen=True)
class Loss:
    """Weighted error ``w(sigma) e`` of each image, e an unbiased estimate of the mean squared error per pixel.

    Args:
        levels: distribution of sigma.
        weight: w.
        error: e.
    """

    levels: Levels
    weight: Weight
    error: Estimate

    def __call__(self, model: Model, x: Tensor, u: Tensor, noise: Tensor, normal: Normal | None = None) -> Tensor:
        """Loss of each image, ``[B]``; row i depends only on row i of the arguments.

        Args:
            model: ``model(x, sigma) -> D``.
            x: clean images X, ``[B, ...]``.
            u: ``[B]``, uniform on [0, 1]: the quantiles of sigma.
            noise: standard normal N, ``[B, ...]``.
            normal: draws the probes, if there are any; PyTorch's global generator if None.
        """
        sigma = self.levels(u).to(x)
        return self.weight(u, sigma).to(x) * self.error(model, x, noise, sigma, normal)


def make_loss(objective: Objective, denoiser: Denoiser) -> Loss:
    """Make the loss that the settings name, for training ``denoiser``.

    Raises:
        InputError: the distribution of sigma does not fit the denoiser.
    """
    levels = make_levels(objective, denoiser)
    return Loss(levels, make_weight(objective, denoiser, levels), make_error(objective))


def make_weight(objective: Objective, denoiser: Denoiser, levels: Levels) -> Weight:
    """Make the weight that the settings name, or else that of the squared error of the network's prediction.

    A network that predicts the score has the weight of epsilon.
    """
    sigma_data = denoiser.sigma_data if isinstance(denoiser, EDMDenoiser) else 0.5
    weights: dict[str, Weight] = {
        "inverse_variance": lambda u, sigma: sigma**-2,
        "edm": lambda u, sigma: (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2,
        "uniform": lambda u, sigma: torch.ones_like(sigma),
        "v": lambda u, sigma: sigma**-2 + 1,
        "flow": lambda u, sigma: (1 + 1 / sigma) ** 2,
        "snr_clipped": lambda u, sigma: (sigma**-2).clamp(max=objective.gamma),
        "likelihood": lambda u, sigma: levels.rate(u) * exact(sigma) ** -2,
    }
    return weights[objective.weight or own_weight(denoiser)]


def own_weight(denoiser: Denoiser) -> str:
    """Name of the weight that gives the squared error of the network's prediction."""
    if isinstance(denoiser, EDMDenoiser):
        return "edm"
    if not isinstance(denoiser, SDEDenoiser):
        return "inverse_variance"
    return _WEIGHT_OF_PREDICTION.get(denoiser.prediction, denoiser.prediction)


def make_error(objective: Objective) -> Estimate:
    """Make the estimate of the squared error that the settings name."""
    if objective.name == "denoising":
        return squared_error
    probes = Probes(objective.probes or "rademacher", objective.num_probes or 1)
    if objective.name == "sliced_score_matching":
        return SlicedScoreMatching(probes)
    return ImplicitScoreMatching(None if objective.divergence is None else objective.divergence == "exact", probes)
