"""Denoisers: D(x, sigma) = E[X | X + sigma N = x], and the adapters that make one out of a network.

Here end the conventions of the networks (alpha_bar, timesteps, [0, 1] pixels, scaled inputs): outside, pixels are
in [-1, 1] and sigma is in those units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from randomwalk.config.networks import VP_TABLES
from randomwalk.denoisers.ddpm_table import Table, pretrained, vp_sigmas
from randomwalk.denoisers.denoiser import NetworkDenoiser, broadcast_sigma
from randomwalk.errors import InputError
from score_sde import sdes
from score_sde.times import ContinuousTime, DiscreteTime, LogSigma, Time

Coefficients = Callable[[Tensor], tuple[Tensor | float, Tensor | float, Tensor | float, Tensor | float]]

PREDICTIONS: dict[str, Coefficients] = {
    "epsilon": lambda s: (1.0, 0.0, -s, -1 / s),
    "x0": lambda s: (0.0, -1 / s**2, 1.0, 1 / s**2),
    "v": lambda s: (1 / (1 + s**2), -1 / (1 + s**2), -s * (1 + s**2).rsqrt(), -(1 + s**2).rsqrt() / s),
    "score": lambda s: (1.0, 0.0, s**2 * (1 + s**2).rsqrt(), (1 + s**2).rsqrt()),
}
"""What a network predicts: for each name ``c_x, b_x, c_F, b_F`` of ``D = c_x x + c_F F`` and ``score = b_x x + b_F F``.

With ``X_sigma = X + sigma N`` and ``z = X_sigma / sqrt(1 + sigma^2) = alpha X + beta N``: epsilon is N, x0 is X, v is
``alpha N - beta X`` (Salimans and Ho 2022, arXiv 2202.00512), and score is the gradient of the log density of z. Two
sets of coefficients, since ``(D - x) / sigma^2`` loses digits at small sigma, and ``x + sigma^2 score`` at large.
"""


class SDEDenoiser(NetworkDenoiser):
    """Network that is told the time of an SDE.

    It sees ``z = x / sqrt(1 + sigma^2)`` (the state of the VP SDE; of the others what has the variance of VP's) and the
    SDE's time at the noise level sigma, and gives one of `PREDICTIONS`. Output channels beyond those of x (a learned
    variance) are ignored.

    Args:
        network: ``network(z, label) -> F``.
        sde: name and settings for `score_sde.sdes.make`.
        prediction: epsilon, x0, v or score.
        time: continuous, ``label = 999 t / T``; log_sigma, ``ln(sigma) / 4``; or discrete, the index in the SDE's table
            of ``num_levels`` levels.
        num_levels: of the discrete table.
        null_label: see `NetworkDenoiser`.

    Attributes:
        sde: the SDE; None of a table that belongs to none.
    """

    sde: sdes.SDE | None

    def __init__(
        self,
        network: nn.Module,
        sde: Mapping[str, Any],
        prediction: str = "epsilon",
        time: str = "continuous",
        num_levels: int = 1000,
        null_label: int | None = None,
    ) -> None:
        try:
            self._init(network, sdes.make(**sde), prediction, time, num_levels, null_label)
        except ValueError as error:
            raise InputError(f"denoiser sde: {error}") from error

    def _init(
        self, network: nn.Module, sde: sdes.SDE, prediction: str, time: str, num_levels: int, null_label: int | None
    ) -> None:
        for value, known in ((prediction, tuple(PREDICTIONS)), (time, ("continuous", "log_sigma", "discrete"))):
            if value not in known:
                raise ValueError(f"{value!r} is unknown; known are {', '.join(known)}")
        times: Time
        if time == "discrete":
            times = DiscreteTime(sde.levels(num_levels).sigma)
        else:
            times = ContinuousTime(sde) if time == "continuous" else LogSigma(sde)
        super().__init__(network, times.sigma_min, times.sigma_max, null_label)
        self.sde, self.times, self.prediction = sde, times, prediction

    def own_levels(self, u: Tensor) -> Tensor:
        if isinstance(self.times, DiscreteTime):
            return pretrained(u, self.times.table.cpu())
        return self.times.levels(1 - u).clamp(self.sigma_min, self.sigma_max)

    def predict(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """What the network predicts of ``x``, as many channels as x has."""
        self.check_sigma(sigma)
        levels = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).expand(x.shape[0])
        scale = (1 + broadcast_sigma(levels, x.double()) ** 2).rsqrt().to(x.dtype)
        return self.call_network(scale * x, self.times.label(levels), label)[:, : x.shape[1]]

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        c_x, _, c_out, _ = PREDICTIONS[self.prediction](broadcast_sigma(sigma, x))
        return c_x * x + c_out * self.predict(x, sigma, label)

    def score(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        _, b_x, _, b_out = PREDICTIONS[self.prediction](broadcast_sigma(sigma, x))
        return b_x * x + b_out * self.predict(x, sigma, label)


class VPDenoiser(SDEDenoiser):
    """Epsilon network trained on a table of noise levels, such as DDPM's (Ho et al. 2020, arXiv 2006.11239).

        D(x, sigma) = x - sigma * eps(sqrt(alpha_bar) x, t),    alpha_bar = 1 / (1 + sigma^2)

    with the fractional timestep t found by linear interpolation in the table of sigmas. The linear table is the
    discrete one of the VP SDE in `SDEDenoiser`, whose ``beta(t)`` is ``num_timesteps`` times the beta of a step; the
    others belong to no SDE here.

    Args:
        network: ``network(z, t) -> eps``, t on the scale 0 .. num_timesteps - 1.
        beta_min, beta_max, num_timesteps: of the table; see `tables.vp_sigmas`.
        null_label: see `NetworkDenoiser`.
        table: linear, scaled_linear, cosine, or ``{"alphas_cumprod": ...}`` or ``{"betas": ...}``.
    """

    times: DiscreteTime

    def __init__(
        self,
        network: nn.Module,
        beta_min: float | None = None,
        beta_max: float | None = None,
        num_timesteps: int | None = None,
        null_label: int | None = None,
        table: Table = "linear",
    ) -> None:
        times = DiscreteTime(vp_sigmas(table, beta_min, beta_max, num_timesteps))
        NetworkDenoiser.__init__(self, network, times.sigma_min, times.sigma_max, null_label)
        self.times, self.prediction, self.sde = times, "epsilon", None
        if table == "linear":
            usual = VP_TABLES["linear"]
            steps = num_timesteps or usual["num_timesteps"]
            self.sde = sdes.VP((beta_min or usual["beta_min"]) * steps, (beta_max or usual["beta_max"]) * steps)

    @property
    def table(self) -> Tensor:
        """Noise levels of the timesteps, ascending."""
        return self.times.table


class VEDenoiser(NetworkDenoiser):
    """Score network of the variance-exploding SDE (Song et al. 2021, arXiv 2011.13456) on [0, 1] pixels.

    With u = (x + 1) / 2 and the network's sigma_u = sigma / 2 the score in our units is s(u, sigma_u) / 2, so

        D(x, sigma) = x + sigma^2 * s(u, sigma_u) / 2

    Args:
        network: ``network(u, sigma_u) -> score`` (NCSN++).
        sigma_min, sigma_max: its range, in the network's own [0, 1] units.
    """

    response = 0.0  # measured: 1.00 whatever k is, at all levels

    def __init__(self, network: nn.Module, sigma_min: float = 0.01, sigma_max: float = 348.0) -> None:
        super().__init__(network, 2 * sigma_min, 2 * sigma_max)

    def score(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        self.check_sigma(sigma)
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
        return self.call_network((x + 1) / 2, levels / 2, label) / 2

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        return x + broadcast_sigma(sigma, x) ** 2 * self.score(x, sigma, label)


class ScoreDenoiser(NetworkDenoiser):
    """Network that gives the score of [0, 1] pixels and is told the time of an SDE without drift (score embedding).

    With u = (x + 1) / 2 and s(u, time_scale t) the score of ``u = u_0 + std(t) n``, std(t) = sigma / 2:

        D(x, sigma) = x + sigma^2 s(u, time_scale t) / 2

    Source: Na, Gao and Wan 2024, arXiv 2404.06661.

    Args:
        network: ``network(u, time_scale t) -> score``.
        sde: name and settings for `score_sde.sdes.make`, in units of [0, 1] pixels: power_ve, ve or edm.
        time_scale: factor of the time that the network sees.
        eps: the lowest time.
        null_label: see `NetworkDenoiser`.
    """

    def __init__(
        self,
        network: nn.Module,
        sde: Mapping[str, Any],
        time_scale: float = 1.0,
        eps: float = 1e-3,
        null_label: int | None = None,
    ) -> None:
        try:
            found = sdes.make(**sde)
        except ValueError as error:
            raise InputError(f"denoiser score: {error}") from error
        if float(found.mean_coefficient(found.T)) != 1:
            raise InputError(f"denoiser score: SDE {sde['name']!r} has a drift; allowed are power_ve, ve and edm")
        if not 0 < eps < found.T:
            raise InputError(f"denoiser score: eps = {eps}; expected a time between 0 and {found.T:g}")
        super().__init__(network, 2 * float(found.std(eps)), 2 * float(found.std(found.T)), null_label)
        self.sde, self.time_scale = found, float(time_scale)

    def own_levels(self, u: Tensor) -> Tensor:
        start, end = self.sde.time(self.sigma_max / 2), self.sde.time(self.sigma_min / 2)
        return (2 * self.sde.sigma((1 - u) * start + u * end)).clamp(self.sigma_min, self.sigma_max)

    def network_score(self, u: Tensor, t: float | Tensor, label: Tensor | None = None) -> Tensor:
        """The score of [0, 1] pixels ``u [B, C, H, W]`` at the time t, a number or ``[B]``."""
        times = self.time_scale * torch.as_tensor(t, device=u.device).expand(u.shape[0])
        return self.call_network(u, times, label)[:, : u.shape[1]]

    def score(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        self.check_sigma(sigma)
        levels = torch.as_tensor(sigma, dtype=torch.float64, device=x.device)
        return self.network_score((x + 1) / 2, self.sde.time(levels / 2), label) / 2

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        return x + broadcast_sigma(sigma, x) ** 2 * self.score(x, sigma, label)


class EDMDenoiser(NetworkDenoiser):
    """EDM preconditioning (Karras et al. 2022, arXiv 2206.00364, table 1), with s = sigma_data:

        D(x, sigma) = c_skip x + c_out F(c_in x, ln(sigma) / 4)
        c_skip = s^2 / (sigma^2 + s^2),  c_out = sigma s / sqrt(sigma^2 + s^2),  c_in = 1 / sqrt(sigma^2 + s^2)

    Args:
        network: ``network(c_in x, c_noise) -> F``.
        sigma_data: standard deviation of the clean pixels.
        sigma_min, sigma_max: the noise levels to use it at.
        null_label: see `NetworkDenoiser`.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        null_label: int | None = None,
    ) -> None:
        super().__init__(network, sigma_min, sigma_max, null_label)
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        self.check_sigma(sigma)
        s = broadcast_sigma(sigma, x)
        total = s**2 + self.sigma_data**2
        c_noise = (torch.as_tensor(sigma, dtype=x.dtype, device=x.device).log() / 4).expand(x.shape[0])
        output = self.call_network(x * total.rsqrt(), c_noise, label)[:, : x.shape[1]]
        return x * (self.sigma_data**2 / total) + output * (s * self.sigma_data * total.rsqrt())


DENOISERS: dict[str, type[NetworkDenoiser]] = {
    "vp": VPDenoiser,
    "ve": VEDenoiser,
    "edm": EDMDenoiser,
    "sde": SDEDenoiser,
    "score": ScoreDenoiser,
}


def make(name: str, network: nn.Module, **settings: Any) -> NetworkDenoiser:
    """The adapter called ``name`` around a network, with the settings of its class."""
    if name not in DENOISERS:
        raise InputError(f"denoiser {name!r} is unknown; known are {', '.join(DENOISERS)}")
    try:
        return DENOISERS[name](network, **settings)
    except TypeError as error:
        raise InputError(f"denoiser {name!r}: {error}") from error
