"""Log density of a denoiser's model, by the instantaneous change of variables along the probability flow.

The flow carries X_sigma_min = X + sigma_min N to X_sigma_max and back without noise. In the coordinates of the walk

    dx/dsigma = -sigma score(x, sigma) = (x - D(x, sigma)) / sigma
    log p(x, sigma_min) = log p(x', sigma_max) + integral of (d - tr dD/dx) / sigma dsigma

where x' is the end point of x, d the number of its pixels, and the density at sigma_max is *set* to
``Normal(m, (sigma_max^2 + v) I)``. The solver integrates scaled coordinates against the logarithm of sigma,

    z = (x - m) / c,   c^2 = sigma^2 + v
    dz / d ln sigma = v z / c^2 - (D - m) / c,   of divergence  v d / c^2 - tr dD/dx

which do not move if the data are ``Normal(m, v I)``; the change of variables adds exactly
``d ln(c_max / c_min)``.

The result is the log density of a generative model: draws of that normal distribution, carried to sigma_min by this
flow. It differs from the log density of X + sigma_min N by the error of the denoiser, the tolerance of the solver, and
the density set at sigma_max. For data of mean m + e and covariance S the last costs, to leading order,
``|e|^2 / (2 sigma_max^2)`` nats on average for the mean and ``|S - v I|^2 / (4 sigma_max^4)`` for the covariance; at a
single point the first error is of the size of ``|e| / sigma_max``, the second of ``|S - v I| / sigma_max^2`` (Frobenius
norm).

Sources: Chen et al. 2018, arXiv 1806.07366 (change of variables); Song et al. 2021, arXiv 2011.13456, section 4.3 and
appendix D.2 (this use of it); Grathwohl et al. 2019, arXiv 1810.01367 (the estimated trace).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.errors import InputError, RunError
from randomwalk.rng import Draws
from randomwalk.samplers.integrate import integrate, worst_rms
from score_sde.devices import exact, with_float64

EXACT_UP_TO = 32
"""Pixels up to which ``divergence="auto"`` computes the trace exactly."""

METHODS = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""torchdiffeq's explicit solvers with adaptive steps."""


@dataclass(frozen=True)
class LogLikelihood:
    """Result of :func:`log_likelihood`; ``[B]`` tensors are float64, in nats.

    Attributes:
        log_prob: ``[B]``, the sum of the next two.
        prior_log_prob: ``[B]``, log density at sigma_max of the end point.
        volume: ``[B]``, integral of ``(d - tr dD/dx) / sigma dsigma``, how much the flow expands around the image.
        standard_error: ``[B]``, of ``log_prob``, from the probes: 0 if the trace is exact, NaN with one probe.
        latent: ``[B, ...]`` float64, the end points, in the coordinates of the walk.
        sigma_min, sigma_max: ends of the flow.
        divergence: "exact" or "hutchinson".
        probes: number for each image; 0 if the trace is exact.
        evaluations: number of evaluations of the denoiser, for the batch.
        vjps: number of products with its transposed Jacobian, for the batch.
    """

    log_prob: Tensor
    prior_log_prob: Tensor
    volume: Tensor
    standard_error: Tensor
    latent: Tensor
    sigma_min: float
    sigma_max: float
    divergence: str
    probes: int
    evaluations: int
    vjps: int


@torch.inference_mode(False)  # callers may be in inference mode, in which there are no gradients
@torch.no_grad()
def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    data_mean: float | Tensor = 0.0,
    data_variance: float = 1.0,
    divergence: Literal["auto", "exact", "hutchinson"] = "auto",
    probes: int = 1,
    probe: Literal["rademacher", "gaussian"] = "rademacher",
    draws: Draws | None = None,
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    callback: Callable[[int, float], object] | None = None,
) -> LogLikelihood:
    """Log density of X + sigma_min N at ``x``, according to the denoiser.

    The trace of the Jacobian is exact (one product with its transpose for each pixel) or Skilling-Hutchinson's
    estimate ``v^T (dD/dx) v`` with ``E v v^T = I``. The probes v of an image are drawn once and kept along its path, so
    the flow stays smooth and the estimate of ``log_prob`` unbiased.

    The local error of every image is kept below the tolerance: the root mean square over the pixels of z, and over the
    probes of the log density *in nats per pixel*, each relative to ``atol + rtol |value|``. The images of a batch share
    the steps, which the worst of them decides; otherwise no image enters the result of another. The solver's state is
    float64, the denoiser is evaluated in the type of x.

    Args:
        denoiser: D; its ``linearized`` is called, nothing else.
        x: images ``[B, ...]``.
        sigma_min, sigma_max: ends of the flow; those of the denoiser by default.
        data_mean, data_variance: m (a number or an image) and v.
        divergence: "exact", "hutchinson", or "auto", which is exact up to ``EXACT_UP_TO`` pixels.
        probes: number of probes for each image.
        probe: "rademacher" (each pixel is -1 or 1, the smaller variance) or "gaussian".
        draws: random numbers of the probes; unused if the trace is exact.
        method: one of ``METHODS``, of torchdiffeq.
        rtol, atol: tolerances.
        callback: called as ``callback(evaluations, sigma)`` after each evaluation.

    Raises:
        InputError: a setting is impossible, or draws are missing.
        RunError: the solver does not arrive.
    """
    low = float(denoiser.sigma_min if sigma_min is None else sigma_min)
    high = float(denoiser.sigma_max if sigma_max is None else sigma_max)
    _check_settings(low, high, divergence, probe, probes, method, rtol, atol, data_variance)
    denoiser.check_sigma(low)
    denoiser.check_sigma(high)

    x, size, place = x.detach().clone(), x[0].numel(), with_float64(x.device)
    if divergence == "auto":
        divergence = "exact" if size <= EXACT_UP_TO else "hutchinson"
    directions = _directions(x, divergence, probes, probe, draws)
    mean = exact(torch.as_tensor(data_mean)).to(place).expand(x.shape[1:]).reshape(1, -1).clone()
    c_low, c_high = (math.sqrt(sigma**2 + data_variance) for sigma in (low, high))
    counted = CountingDenoiser(denoiser)

    def rate(log_sigma: Tensor, state: Tensor) -> Tensor:
        """Derivative of z ``[B, d]`` and, behind it, of the gain in nats per pixel for each probe ``[B, R]``."""
        # Where little moves, torchdiffeq looks far ahead for its first step; and exp(log) may round out of the range.
        sigma = min(max(math.exp(min(float(log_sigma), math.log(high))), low), high)
        c, z = math.sqrt(sigma**2 + data_variance), state[:, :size]
        denoised, product = counted.linearized((mean + c * z).to(x).reshape(x.shape), sigma)
        velocity = data_variance / c**2 * z - (exact(denoised.flatten(1)) - mean) / c
        traces = torch.stack([exact((v * product(v)).flatten(1)).sum(1) for v in directions], 1)
        if divergence == "exact":
            traces = traces.cumsum(1)[:, -1:]  # summed in the order of the pixels, whatever the machine
        if callback is not None:
            callback(counted.evaluations, sigma)
        return torch.cat([velocity, data_variance / c**2 - traces / size], 1)

    state = torch.nn.functional.pad((exact(x.flatten(1)) - mean) / c_low, (0, 1 if divergence == "exact" else probes))
    span = torch.tensor([math.log(low), math.log(high)], dtype=torch.float64, device=place)

    def norm(error: Tensor) -> Tensor:
        """Largest root mean square of any image, over its pixels or over its probes."""
        return torch.maximum(worst_rms(error[:, :size]), worst_rms(error[:, size:]))

    state = integrate(rate, state, span, "likelihood", method=method, rtol=rtol, atol=atol, norm=norm)[-1]
    if not state.isfinite().all():
        raise RunError(f"likelihood: the flow is not finite at sigma = {high:.6g}: check the denoiser and images")

    z, gains = state[:, :size], state[:, size:]
    prior = -(z.square().sum(1) + size * math.log(2 * math.pi)) / 2 - size * math.log(c_high)
    volumes = size * (gains + math.log(c_high / c_low))
    volume, standard_error = volumes.mean(1), torch.zeros_like(prior)
    if divergence == "hutchinson":
        standard_error = volumes.std(1) / math.sqrt(probes) if probes > 1 else torch.full_like(prior, math.nan)
    return LogLikelihood(
        log_prob=prior + volume,
        prior_log_prob=prior,
        volume=volume,
        standard_error=standard_error,
        latent=(mean + c_high * z).reshape(x.shape),
        sigma_min=low,
        sigma_max=high,
        divergence=divergence,
        probes=probes if divergence == "hutchinson" else 0,
        evaluations=counted.evaluations,
        vjps=counted.vjps,
    )


def _check_settings(
    low: float,
    high: float,
    divergence: str,
    probe: str,
    probes: int,
    method: str,
    rtol: float,
    atol: float,
    data_variance: float,
) -> None:
    """Raise InputError for an impossible setting."""
    if not 0 < low < high < math.inf:
        raise InputError(
            f"likelihood: sigma_min {low:g}, sigma_max {high:g}; expected 0 < sigma_min < sigma_max < inf: give the "
            "ones that the denoiser lacks"
        )
    for known, message in (
        (divergence in ("auto", "exact", "hutchinson"), f"divergence {divergence!r}; expected auto, exact, hutchinson"),
        (probe in ("rademacher", "gaussian"), f"probe {probe!r}; expected rademacher, gaussian"),
        (probes >= 1, f"probes {probes}; expected 1 or more"),
        (method in METHODS, f"method {method!r}; expected {', '.join(METHODS)}"),
        (rtol >= 0 and atol > 0, f"rtol {rtol:g}, atol {atol:g}; expected rtol >= 0 and atol > 0"),
        (0 < data_variance < math.inf, f"data_variance {data_variance:g}; expected a positive number"),
    ):
        if not known:
            raise InputError(f"likelihood: {message}")


def _directions(x: Tensor, divergence: str, probes: int, probe: str, draws: Draws | None) -> Tensor:
    """Directions ``[R, B, ...]`` whose products with the Jacobian make its trace: all axes, or random probes.

    Raises:
        InputError: probes are to be drawn, but there are no draws.
    """
    size = x[0].numel()
    if divergence == "exact":
        return torch.eye(size).to(x).reshape(size, 1, *x.shape[1:]).expand(size, *x.shape)
    if draws is None:
        raise InputError(f"likelihood: the estimated trace of {size} pixels needs draws, one stream for each image")
    return _probes(x, probes, probe, draws)


def _probes(x: Tensor, count: int, kind: str, draws: Draws) -> Tensor:
    """The probes ``[R, B, ...]``; those of an image are the first numbers of its own stream."""
    v = draws.normal((count, *x.shape[1:])).to(x).transpose(0, 1)
    return torch.where(v < 0, -1.0, 1.0).to(x) if kind == "rademacher" else v


# --- bits per dimension ----------------------------------------------------------------------------------------


def dequantise(x: Tensor, draws: Draws, levels: int = 256) -> Tensor:
    """``x + (u - 1/2) w``, u uniform on (0, 1) for every pixel: a point of the cell around its grey value.

    Args:
        x: ``[B, ...]`` on the grid -1, -1 + w, ..., 1, ``w = 2 / (levels - 1)``, as `images.sources` makes it.
        draws: u is the probability that a normal draw is less.
        levels: number of grey values.
    """
    u = torch.special.ndtr(exact(draws.normal(x.shape[1:]).to(x.device)))
    return (exact(x) + (u - 0.5) * (2 / (levels - 1))).to(x)


def bits_per_dimension(log_prob: Tensor, dimensions: int, levels: int = 256) -> Tensor:
    """``-log_prob / (d ln 2) - log2(w)``, with ``w = 2 / (levels - 1)`` the distance of two grey values in [-1, 1].

    A density p on pixels gives a byte image the probability of its cell, ``P = w^d E p(x + (u - 1/2) w)``, so by
    Jensen's inequality the mean of this number over the dequantisation is at least ``-log2(P) / d``: a code length that
    can be had. For bytes that are scaled by ``b / 127.5 - 1`` it is ``-log_prob / (d ln 2) + log2(127.5)``, where
    log2(127.5) = 6.994; a scale of ``b / 128 - 1`` would make that 7. The density that is uniform on the 256 cells,
    from -1 - 1/255 to 1 + 1/255, gives 8 bits.

    Args:
        log_prob: at dequantised images, in nats, in [-1, 1] coordinates.
        dimensions: d.
        levels: number of grey values.
    """
    return -log_prob / (dimensions * math.log(2)) - math.log2(2 / (levels - 1))
