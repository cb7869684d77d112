"""Log density of a denoiser's model, by the instantaneous change of variables along the probability flow.

The flow carries X_sigma_min = X + sigma_min N to X_sigma_max and back without noise. In the coordinates of the walk

    dx/dsigma = -sigma score(x, sigma) = (x - D(x, sigma)) / sigma
    log p(x, sigma_min) = log p(x', sigma_max) + integral of (d - tr dD/dx) / sigma dsigma

where x' is where x arrives, d the number of its pixels, and the density at sigma_max is *set* to
``Normal(m, (sigma_max^2 + v) I)``. What is integrated are scaled coordinates against the logarithm of sigma,

    z = (x - m) / c,   c^2 = sigma^2 + v
    dz / d ln sigma = v z / c^2 - (D - m) / c,   of divergence  v d / c^2 - tr dD/dx

which do not move at all if the data are ``Normal(m, v I)``; the change of variables adds exactly
``d ln(c_max / c_min)``.

The number is the log density of a generative model: draws of that normal distribution, brought down to sigma_min by
this flow. It differs from the log density of X + sigma_min N by what is wrong with the denoiser, by the solver's
tolerance, and by the start at sigma_max. For data of mean m + e and covariance S the start costs, to leading order,
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
from randomwalk.lookup import optional_library
from randomwalk.rng import Draws

Divergence = Literal["auto", "exact", "hutchinson"]
Probe = Literal["rademacher", "gaussian"]

EXACT_UP_TO = 32
"""Pixels up to which ``divergence="auto"`` computes the trace exactly."""

METHODS = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""torchdiffeq's explicit solvers with adaptive steps."""

MAX_STEPS = 10_000
"""Steps of the solver, far more than a flow that can be followed takes."""


@dataclass(frozen=True)
class LogLikelihood:
    """Result of :func:`log_likelihood`; ``[B]`` tensors are float64, in nats.

    Attributes:
        log_prob: ``[B]``, the sum of the next two.
        prior_log_prob: ``[B]``, log density at sigma_max of the point where the image arrives.
        volume: ``[B]``, integral of ``(d - tr dD/dx) / sigma dsigma``, how much the flow expands around the image.
        standard_error: ``[B]``, of ``log_prob`` from the probes of the trace: 0 if it is exact, NaN with one probe.
        latent: ``[B, ...]`` float64, where the images arrive, in the coordinates of the walk at sigma_max.
        sigma_min, sigma_max: ends of the flow.
        divergence: "exact" or "hutchinson".
        probes: of each image; 0 if the trace is exact.
        evaluations: of the denoiser, for the batch.
        vjps: products with its transposed Jacobian, for the batch.
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


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    data_mean: float | Tensor = 0.0,
    data_variance: float = 1.0,
    divergence: Divergence = "auto",
    probes: int = 1,
    probe: Probe = "rademacher",
    draws: Draws | None = None,
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    callback: Callable[[int, float], object] | None = None,
) -> LogLikelihood:
    """Log density of X + sigma_min N at ``x``, according to the denoiser.

    The trace of the Jacobian is exact (one product with its transpose for each pixel) or Skilling-Hutchinson's
    estimate ``v^T (dD/dx) v`` with ``E v v^T = I``. The v are drawn once for each image and kept along its path, so
    the flow stays smooth, and the estimate of ``log_prob`` is without bias.

    The solver keeps its estimate of the local error of every image below the tolerance: the root mean square over the
    pixels of z, and over the probes of the log density *in nats per pixel*, each relative to
    ``atol + rtol |value|``; the images of a batch share the steps, which the worst of them decides. Nothing else of one
    image enters the result of another, so with the same draws a batch gives what its images give alone up to the
    tolerance. The solver's state is float64, the denoiser is evaluated in the type of x.

    Args:
        denoiser: D; its ``linearized`` is called, nothing else.
        x: images ``[B, ...]``.
        sigma_min, sigma_max: ends of the flow; those of the denoiser by default.
        data_mean, data_variance: m (a number, or an image) and v of the density at sigma_max.
        divergence: "exact", "hutchinson", or "auto", which is exact up to ``EXACT_UP_TO`` pixels.
        probes: v's for each image.
        probe: "rademacher" (each pixel is -1 or 1, the smaller variance) or "gaussian".
        draws: the v's come from; needed for Hutchinson's estimate, and not touched otherwise.
        method: one of ``METHODS``, of torchdiffeq.
        rtol, atol: tolerances.
        callback: called as ``callback(evaluations, sigma)`` after each evaluation.

    Raises:
        InputError: a setting is impossible, or draws are missing.
        RunError: the solver does not arrive.
    """
    sigmas = _range(denoiser, sigma_min, sigma_max)
    size = x[0].numel()
    how = _trace_method(divergence, size, probes, probe, draws)
    _check_solver(method, rtol, atol, data_variance)
    # Callers may be in inference mode, in which no gradient can be had.
    with torch.inference_mode(False), torch.no_grad():
        x = x.detach().clone()
        mean = torch.as_tensor(data_mean, dtype=torch.float64, device=x.device).expand(x.shape[1:]).reshape(1, -1)
        directions = _directions(x, probes, probe, draws) if how == "hutchinson" and draws is not None else None
        counted = denoiser if isinstance(denoiser, CountingDenoiser) else CountingDenoiser(denoiser)
        before = counted.evaluations, counted.vjps
        flow = _Flow(counted, x, mean.clone(), float(data_variance), sigmas, directions, callback)
        start = (x.flatten(1).double() - flow.mean) / flow.scale(sigmas[0])
        z, gained = _solve(flow, start, method, rtol, atol)
    latent = flow.mean + flow.scale(sigmas[1]) * z
    prior = -(z.square().sum(1) + size * math.log(2 * math.pi)) / 2 - size * math.log(flow.scale(sigmas[1]))
    volumes = size * (gained + math.log(flow.scale(sigmas[1]) / flow.scale(sigmas[0])))
    volume = volumes.mean(1)
    return LogLikelihood(
        log_prob=prior + volume,
        prior_log_prob=prior,
        volume=volume,
        standard_error=torch.zeros_like(volume) if how == "exact" else _standard_error(volumes),
        latent=latent.reshape(x.shape),
        sigma_min=sigmas[0],
        sigma_max=sigmas[1],
        divergence=how,
        probes=volumes.shape[1] if how == "hutchinson" else 0,
        evaluations=counted.evaluations - before[0],
        vjps=counted.vjps - before[1],
    )


class _Flow:
    """Right-hand side of the flow: of ``z [B, d]`` and, behind it, of the gain in nats per pixel ``[B, R]``."""

    def __init__(
        self,
        denoiser: CountingDenoiser,
        x: Tensor,
        mean: Tensor,
        variance: float,
        sigmas: tuple[float, float],
        directions: Tensor | None,
        callback: Callable[[int, float], object] | None,
    ) -> None:
        self.denoiser, self.sigmas, self.callback = denoiser, sigmas, callback
        self.evaluations = 0
        self.shape, self.dtype, self.size = x.shape, x.dtype, x[0].numel()
        self.mean, self.variance, self.directions = mean, variance, directions

    def scale(self, sigma: float) -> float:
        """c = sqrt(sigma^2 + v)."""
        return math.sqrt(sigma**2 + self.variance)

    def __call__(self, log_sigma: Tensor, state: Tensor) -> Tensor:
        low, high = self.sigmas
        # Where little moves, torchdiffeq looks far ahead for its first step; and exp(log) may round out of the range.
        sigma = min(max(math.exp(min(float(log_sigma), math.log(high))), low), high)
        c, z = self.scale(sigma), state[:, : self.size]
        x = (self.mean + c * z).to(self.dtype).reshape(self.shape)
        out, product = self.denoiser.linearized(x, sigma)
        velocity = self.variance / c**2 * z - (out.flatten(1).double() - self.mean) / c
        traces = _exact_trace(product, x) if self.directions is None else _estimated(product, self.directions)
        rate = self.variance / c**2 - traces / self.size
        self.evaluations += 1
        if self.callback is not None:
            self.callback(self.evaluations, sigma)
        return torch.cat([velocity, rate], 1)


def _exact_trace(product: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``tr J [B, 1]`` from the products ``v -> J^T v``, one for each pixel."""
    total = torch.zeros(len(x), 1, dtype=torch.float64, device=x.device)
    for pixel in range(x[0].numel()):
        unit = torch.zeros_like(x).flatten(1)
        unit[:, pixel] = 1
        total += product(unit.reshape(x.shape)).flatten(1)[:, pixel, None]
    return total


def _estimated(product: Callable[[Tensor], Tensor], directions: Tensor) -> Tensor:
    """``v^T J v [B, R]`` for the probes ``v [R, B, ...]``."""
    return torch.stack([(v * product(v)).flatten(1).double().sum(1) for v in directions], 1)


def _directions(x: Tensor, probes: int, probe: Probe, draws: Draws) -> Tensor:
    """The probes ``[R, B, ...]``; those of an image are the first numbers of its own stream."""
    v = draws.normal((probes, *x.shape[1:])).to(x).transpose(0, 1)
    return torch.where(v < 0, -1.0, 1.0).to(x) if probe == "rademacher" else v.clone()


def _standard_error(values: Tensor) -> Tensor:
    """Of the mean over the probes, ``[B, R] -> [B]``; NaN for one probe."""
    spread = values.std(1) if values.shape[1] > 1 else values.new_full((len(values),), math.nan)
    return spread / math.sqrt(values.shape[1])


def _solve(flow: _Flow, start: Tensor, method: str, rtol: float, atol: float) -> tuple[Tensor, Tensor]:
    """z at sigma_max, and the gain in log density of z for each probe in nats per pixel ``[B, R]``."""
    odeint = optional_library("torchdiffeq", "ode", "the likelihood").odeint
    size, rows = flow.size, 1 if flow.directions is None else len(flow.directions)
    state = torch.cat([start, start.new_zeros(len(start), rows)], 1)
    span = torch.tensor([math.log(s) for s in flow.sigmas], dtype=torch.float64, device=start.device)

    # step_t ends the last step at sigma_max: without it the solver steps beyond and interpolates.
    options = {"norm": lambda error: _worst(error, size), "step_t": span[1:], "max_num_steps": MAX_STEPS}
    try:
        end = odeint(flow, state, span, rtol=rtol, atol=atol, method=method, options=options)[-1]
    except AssertionError as error:  # how torchdiffeq says that it gives up
        raise RunError(f"likelihood: the solver gave up ({str(error)[:200]}): {_ADVICE}") from error
    if not end.isfinite().all():
        raise RunError(f"likelihood: the flow is not finite at sigma = {flow.sigmas[1]:.6g}: {_ADVICE}")
    return end[:, :size], end[:, size:]


def _worst(error: Tensor, size: int) -> Tensor:
    """Largest root mean square of any image, over its pixels or over its probes."""
    return torch.stack([part.square().mean(1).max() for part in (error[:, :size], error[:, size:])]).max().sqrt()


_ADVICE = "check the denoiser and the images, or loosen rtol and atol"


def _range(denoiser: Denoiser, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    low = float(denoiser.sigma_min if sigma_min is None else sigma_min)
    high = float(denoiser.sigma_max if sigma_max is None else sigma_max)
    if not 0 < low < high < math.inf:
        raise InputError(
            f"likelihood: sigma_min = {low:g} and sigma_max = {high:g}; expected 0 < sigma_min < sigma_max < inf: "
            "give those that the denoiser does not have"
        )
    denoiser.check_sigma(low)
    denoiser.check_sigma(high)
    return low, high


def _trace_method(divergence: str, size: int, probes: int, probe: str, draws: Draws | None) -> str:
    if divergence not in ("auto", "exact", "hutchinson") or probe not in ("rademacher", "gaussian") or probes < 1:
        raise InputError(
            f"likelihood: divergence {divergence!r}, probe {probe!r}, probes {probes}; expected auto, exact or "
            "hutchinson, rademacher or gaussian, and 1 or more"
        )
    how = divergence if divergence != "auto" else "exact" if size <= EXACT_UP_TO else "hutchinson"
    if how == "hutchinson" and draws is None:
        raise InputError(f"likelihood: the estimated trace of {size} pixels needs draws, one stream for each image")
    return how


def _check_solver(method: str, rtol: float, atol: float, variance: float) -> None:
    if method not in METHODS:
        raise InputError(f"likelihood: method {method!r} is unknown; known are {', '.join(METHODS)}")
    if not (rtol >= 0 and atol > 0 and 0 < variance < math.inf):
        raise InputError(
            f"likelihood: rtol {rtol:g}, atol {atol:g}, data_variance {variance:g}; expected the first not "
            "negative and the others positive"
        )


# --- bits per dimension ----------------------------------------------------------------------------------------


def dequantise(x: Tensor, draws: Draws, levels: int = 256) -> Tensor:
    """``x + (u - 1/2) w``, u even on (0, 1) for every pixel: a point of the cell around its grey value.

    Args:
        x: ``[B, ...]`` on the grid -1, -1 + w, ..., 1, ``w = 2 / (levels - 1)``, as `images.sources` makes it.
        draws: u is the probability that a normal draw is less.
        levels: number of grey values.
    """
    u = torch.special.ndtr(draws.normal(x.shape[1:]).to(x.device).double())
    return (x.double() + (u - 0.5) * (2 / (levels - 1))).to(x.dtype)


def bits_per_dimension(log_prob: Tensor, dimensions: int, levels: int = 256) -> Tensor:
    """``-log_prob / (d ln 2) - log2(w)``, with ``w = 2 / (levels - 1)`` the distance of two grey values in [-1, 1].

    A density p on pixels gives a byte image the probability of its cell, ``P = w^d E p(x + (u - 1/2) w)``, so by
    Jensen's inequality the mean of this number over the dequantisation is at least ``-log2(P) / d``: a code length that
    can be had. For bytes that are scaled by ``b / 127.5 - 1`` it is ``-log_prob / (d ln 2) + log2(127.5)``, where
    log2(127.5) = 6.994; a scale of ``b / 128 - 1`` would make that 7. The density that is even on the 256 cells, from
    -1 - 1/255 to 1 + 1/255, gives 8 bits.

    Args:
        log_prob: at dequantised images, in nats, in [-1, 1] coordinates.
        dimensions: d.
        levels: number of grey values.
    """
    return -log_prob / (dimensions * math.log(2)) - math.log2(2 / (levels - 1))
