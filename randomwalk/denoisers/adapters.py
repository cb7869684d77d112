"""Denoisers: D(x, sigma) = E[X | X + sigma N = x], and the adapters that make one out of a network.

The conventions of the networks (alpha_bar, timesteps, [0, 1] pixels, scaled inputs) stay inside the adapters: outside,
pixels are in [-1, 1] and sigma is in those units.

`make` builds an adapter by name from the settings of YAML (:mod:`randomwalk.config.networks`), which have all defaults
and bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from randomwalk.config import validate
from randomwalk.config.networks import DenoiserSettings
from randomwalk.denoisers.ddpm_table import Table, pretrained, vp_sigmas
from randomwalk.denoisers.denoiser import NetworkDenoiser, broadcast_sigma
from randomwalk.errors import InputError
from score_sde import sdes
from score_sde.devices import on_device, with_float64
from score_sde.times import ContinuousTime, DiscreteTime, LogSigma, StraightTime, Time

Factor = Tensor | float
Coefficients = tuple[Factor, Factor, Factor, Factor]

PREDICTIONS: dict[str, Callable[[Tensor, Tensor], Coefficients]] = {
    "epsilon": lambda s, a: (1.0, 0.0, -s, -1 / s),
    "x0": lambda s, a: (0.0, -1 / s**2, 1.0, 1 / s**2),
    "v": lambda s, a: (1 / (1 + s**2), -1 / (1 + s**2), -s / (a * (1 + s**2)), -1 / (a * s * (1 + s**2))),
    "score": lambda s, a: (1.0, 0.0, s**2 * a, a),
}
"""Predictions of a network, each with ``c_x, b_x, c_F, b_F`` of ``D = c_x x + c_F F`` and ``score = b_x x + b_F F``.

With ``X_sigma = X + sigma N`` and the network's input ``z = a X_sigma = a X + b N``: epsilon is N, x0 is X, v is
``a N - b X`` (Salimans and Ho 2022, arXiv 2202.00512), and score is the gradient of the log density of z. Two
sets of coefficients, since ``(D - x) / sigma^2`` loses digits at small sigma, and ``x + sigma^2 score`` at large.
"""


def exact_levels(sigma: float | Tensor, x: Tensor) -> Tensor:
    """Noise levels of the rows of x, ``[B]`` float64, on its device or, if that has no float64, on the CPU."""
    levels = sigma.detach() if isinstance(sigma, Tensor) else torch.tensor(sigma, dtype=torch.float64)
    return levels.to(with_float64(x.device)).double().expand(x.shape[0])


class SDEDenoiser(NetworkDenoiser):
    """Network conditioned on the time of an SDE.

    It sees ``z = x / sqrt(1 + sigma^2)`` (the state of the VP SDE, and for the other SDEs their state scaled to that
    variance) and the SDE's time at the noise level sigma, and predicts one of `PREDICTIONS`. Output channels beyond
    those of x (a learned variance) are ignored.

    Args:
        network: ``network(z, label) -> F``.
        sde: name and settings for `score_sde.sdes.make`.
        prediction: epsilon, x0, v or score.
        time: continuous, ``label = 999 t / T``; log_sigma, ``ln(sigma) / 4``; or discrete, the index in the SDE's table
            of ``num_levels`` levels.
        num_levels: size of the discrete table.
        null_label: see `NetworkDenoiser`.

    Attributes:
        sde: the SDE; None for a table that belongs to no SDE.
    """

    sde: sdes.SDE | None
    times: Time

    def __init__(
        self,
        network: nn.Module,
        sde: Mapping[str, Any],
        prediction: str,
        time: str,
        num_levels: int,
        null_label: int | None,
    ) -> None:
        made = sdes.make(**sde)
        times: Time
        if time == "discrete":
            times = DiscreteTime(made.levels(num_levels).sigma)
        else:
            times = ContinuousTime(made) if time == "continuous" else LogSigma(made)
        super().__init__(network, times.sigma_min, times.sigma_max, null_label)
        self.sde, self.times, self.prediction = made, times, prediction

    def own_levels(self, u: Tensor) -> Tensor:
        if isinstance(self.times, DiscreteTime):
            return pretrained(u, self.times.table.cpu())
        return self.times.levels(1 - u).clamp(self.sigma_min, self.sigma_max)

    def mean(self, s: Tensor) -> Tensor:
        """a, the factor of the image in the network's input ``z = a x``, at the noise level s."""
        return (1 + s**2).rsqrt()

    def coefficients(self, s: Tensor) -> Coefficients:
        """``c_x, b_x, c_F, b_F`` at the noise level s, see `PREDICTIONS`."""
        return PREDICTIONS[self.prediction](s, self.mean(s))

    def predict(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """Prediction of the network for ``x``, with as many channels as x."""
        self.check_sigma(sigma)
        levels = exact_levels(sigma, x)
        if isinstance(sigma, Tensor):
            z = broadcast_sigma(self.mean(levels), x) * x
        else:  # without a transfer to the GPU
            z = float(self.mean(torch.tensor(sigma, dtype=torch.float64))) * x
        return self.call_network(z, on_device(self.times.label(levels), x.device), label)[:, : x.shape[1]]

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        c_x, _, c_out, _ = self.coefficients(broadcast_sigma(sigma, x))
        return combined(c_x, x, c_out, self.predict(x, sigma, label))

    def score(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        _, b_x, _, b_out = self.coefficients(broadcast_sigma(sigma, x))
        return combined(b_x, x, b_out, self.predict(x, sigma, label))


def combined(a: Tensor | float, x: Tensor, b: Tensor | float, out: Tensor) -> Tensor:
    """``a x + b out`` in as few passes over the images as can be: next to a fast network each one counts."""
    if isinstance(a, float) and a == 0:
        return b * out
    scaled = x if isinstance(a, float) and a == 1 else a * x
    return torch.addcmul(scaled, torch.as_tensor(b, dtype=out.dtype, device=out.device), out)


class VPDenoiser(SDEDenoiser):
    """Epsilon network trained on a table of noise levels, such as DDPM's (Ho et al. 2020, arXiv 2006.11239).

        D(x, sigma) = x - sigma * eps(sqrt(alpha_bar) x, t),    alpha_bar = 1 / (1 + sigma^2)

    with the fractional timestep t found by linear interpolation in the table of sigmas. The linear table is the
    discrete one of the VP SDE in `SDEDenoiser`, whose ``beta(t)`` is ``num_timesteps`` times the beta of a step; the
    others belong to no SDE of this library.

    Args:
        network: ``network(z, time_scale t) -> eps``, t on the scale 0 .. num_timesteps - 1.
        table, beta_min, beta_max, num_timesteps: see `ddpm_table.vp_sigmas`.
        time_scale: factor of the timestep that the network sees.
        null_label: see `NetworkDenoiser`.
    """

    times: DiscreteTime

    def __init__(
        self,
        network: nn.Module,
        table: Table,
        beta_min: float | None,
        beta_max: float | None,
        num_timesteps: int | None,
        time_scale: float,
        null_label: int | None,
    ) -> None:
        times = DiscreteTime(vp_sigmas(table, beta_min, beta_max, num_timesteps), time_scale)
        NetworkDenoiser.__init__(self, network, times.sigma_min, times.sigma_max, null_label)
        self.times, self.prediction, self.sde = times, "epsilon", None
        if table == "linear":
            assert beta_min is not None and beta_max is not None and num_timesteps is not None
            self.sde = sdes.VP(beta_min * num_timesteps, beta_max * num_timesteps)

    @property
    def table(self) -> Tensor:
        """Noise levels of the timesteps, ascending."""
        return self.times.table


class FlowDenoiser(SDEDenoiser):
    """Network of flow matching: the velocity of the straight path from an image to noise.

    It sees ``z = (1 - t) X + t N`` and the time t, and predicts ``dz/dt = N - X``. In our coordinates
    ``sigma = t / (1 - t)``, ``z = (1 - t) x`` and

        D(x, sigma) = z - t F,    score(x, sigma) = -(1 - t)^2 / t (x + F)

    Source: Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2023, arXiv 2209.03003; the shift of Esser et al. 2024,
    arXiv 2403.03206, eq. 23.

    Args:
        network: ``network(z, time_scale t) -> F``.
        t_min, t_max: range of t.
        time_scale: factor of the time that the network sees.
        shift: even times u are taken as ``t = shift u / (1 + (shift - 1) u)``, in training and by the schedule
            pretrained: more of them have much noise with a shift above 1, as large images need.
        null_label: see `NetworkDenoiser`.
    """

    def __init__(
        self, network: nn.Module, t_min: float, t_max: float, time_scale: float, shift: float, null_label: int | None
    ) -> None:
        times = StraightTime(t_min, t_max, time_scale, shift)
        NetworkDenoiser.__init__(self, network, times.sigma_min, times.sigma_max, null_label)
        self.sde, self.times, self.prediction = None, times, "flow"

    def mean(self, s: Tensor) -> Tensor:
        return 1 / (1 + s)

    def coefficients(self, s: Tensor) -> Coefficients:
        return 1 / (1 + s), -1 / (s * (1 + s)), -s / (1 + s), -1 / (s * (1 + s))


class VEDenoiser(NetworkDenoiser):
    """Score network of the variance-exploding SDE (Song et al. 2021, arXiv 2011.13456) on [0, 1] pixels.

    With u = (x + 1) / 2 and the network's sigma_u = sigma / 2 the score in our units is s(u, sigma_u) / 2, so

        D(x, sigma) = x + sigma^2 * s(u, sigma_u) / 2

    Args:
        network: ``network(u, sigma_u) -> score`` (NCSN++).
        sigma_min, sigma_max: its noise range, in the network's own [0, 1] units.
    """

    response = 0.0  # measured: 1.00 for all k, at all levels

    def __init__(self, network: nn.Module, sigma_min: float, sigma_max: float) -> None:
        super().__init__(network, 2 * sigma_min, 2 * sigma_max)

    def score(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        self.check_sigma(sigma)
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
        return self.call_network((x + 1) / 2, levels / 2, label) / 2

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        return x + broadcast_sigma(sigma, x) ** 2 * self.score(x, sigma, label)


class ScoreDenoiser(NetworkDenoiser):
    """Network that predicts the score of [0, 1] pixels at the time of an SDE without drift (score embedding).

    With u = (x + 1) / 2 and s(u, time_scale t) the score of ``u = u_0 + std(t) n``, std(t) = sigma / 2:

        D(x, sigma) = x + sigma^2 s(u, time_scale t) / 2

    Source: Na, Gao and Wan 2024, arXiv 2404.06661.

    Args:
        network: ``network(u, time_scale t) -> score``.
        sde: name and settings for `score_sde.sdes.make`, in units of [0, 1] pixels: power_ve, ve or edm.
        time_scale: factor of the time that the network sees.
        eps: lowest time.
        null_label: see `NetworkDenoiser`.
    """

    def __init__(
        self,
        network: nn.Module,
        sde: Mapping[str, Any],
        time_scale: float,
        eps: float,
        null_label: int | None,
    ) -> None:
        found = sdes.make(**sde)
        if eps >= found.T:
            raise ValueError(f"eps: found {eps}; allowed: a time below {found.T:g}, the end of the SDE")
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
        times = self.sde.time(exact_levels(sigma, x) / 2)
        return self.network_score((x + 1) / 2, on_device(times, x.device), label) / 2

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
        sigma_data: float,
        sigma_min: float,
        sigma_max: float,
        null_label: int | None,
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
    "flow": FlowDenoiser,
    "score": ScoreDenoiser,
}


def make(name: str, network: nn.Module, **settings: Any) -> NetworkDenoiser:
    """The denoiser called ``name`` around a network.

    Args:
        name: one of ``DENOISERS``.
        network: see the class.
        settings: as in YAML, with the same defaults and bounds; see ``docs/settings.md`` or
            :mod:`randomwalk.config.networks`.

    Raises:
        InputError: an unknown name or setting, or an impossible value.
    """
    complete = validate.complete("denoiser", DenoiserSettings, {"name": name, **settings})
    try:
        return DENOISERS[complete.pop("name")](network, **complete)
    except ValueError as error:
        raise InputError(f"denoiser {name}: {error}") from error
