"""The walk that most samplers are: a random walk along the score while the noise level falls.

    x <- x + tau_k (score(x, sigma_k) + likelihood score(x)) + sqrt(2 tau_k T_k) n,    n ~ Normal(0, I)

The samplers in `randomwalk.samplers.walks` are choices of sigma_k, tau_k and T_k. With a momentum in (0, 1) the walk
has a velocity, see :func:`glide`; with momentum 0 it is the above.

Source: Park et al. 2025, "Random Walks with Tweedie", doi 10.1109/MSP.2025.3590608.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError, RunError
from randomwalk.operators import Measurement, Operator

Draw: TypeAlias = Callable[[Tensor], Tensor]
"""``draw(like)``: Normal(0, I), of the shape of ``like``."""


class HasScore(Protocol):
    """The part of a measurement that the walk uses."""

    def score(self, x: Tensor) -> Tensor:
        """``grad_x log f(y | x)``."""


class MatrixStep(Protocol):
    """A step that differs by direction. Where nothing is measured it is ``x + c s^2 score``, plus noise of the std
    ``s sqrt(2 T c / lambda)``.
    """

    @property
    def sigma(self) -> float:
        """s, noise level of the prior."""

    @property
    def scale(self) -> float:
        """c."""

    @property
    def prior_weight(self) -> float:
        """lambda."""

    @property
    def operator(self) -> Operator:
        """A."""

    def move(self, x: Tensor, score: Tensor, measurement: HasScore | None, temperature: float, draw: Draw) -> Tensor:
        """The state after the step from ``x``.

        Args:
            x: the state.
            score: of the prior, at x.
            measurement: gives the likelihood score, if there is one.
            temperature: T.
            draw: gives the random numbers.
        """


StepSize: TypeAlias = float | Tensor | MatrixStep


@dataclass(frozen=True)
class Plan:
    """Noise level, step size, temperature and momentum of every step of a walk; no momentum if None."""

    sigmas: list[float]
    step_sizes: list[StepSize]
    temperatures: list[float]
    momenta: list[float] | None = None


@dataclass(frozen=True)
class PreconditionedStep:
    """``P = c H^-1, H = lambda I / s^2 + A^T A / eta^2``: long where the measurement says little, short where much.

        x <- x + P (lambda score(x, s) + A^T (y - A x) / eta^2) + N
          =  x + c (x' - x) + N,    x' = argmin_z ||z - D||^2 / r^2 + ||A z - y||^2 / eta^2,    r = s / sqrt(lambda)

    with the denoised image ``D = x + s^2 score``, which x' pulls towards y. For a flat prior P is c times the inverse
    curvature of the target: c in (0, 1] is stable in every direction, and c = 1 reaches the optimum in one step.

    The noise N has the standard deviation ``v = r sqrt(2 T c)`` where nothing is measured. Where y is seen it is

        "matrix"    Normal(0, 2 T P), Langevin's
        "image"     ``v lambda P n / (c s^2)``: drawn into D, before it is pulled towards y
        "white"     ``v n``, the same everywhere

    Where A has a spectral decomposition P^(1/2) is computed as it stands. For any other linear A, **perturb, then
    solve**: with g = sqrt(2 T / c), put ``D + g r n1`` for D and ``y + g eta n2`` for y. The covariance of
    ``g H^-1 (n1 / r + A^T n2 / eta)`` is ``g^2 H^-1``, and ``c^2 g^2 H^-1 = 2 T P``. The minimum is found by conjugate
    gradients, of which a part of what y asks for is mostly enough (``rough``).

    Source: Papandreou and Yuille 2010, "Gaussian sampling by local perturbations".

    Args:
        operator: A, linear.
        sigma: s, noise level of the prior.
        eta: standard deviation of the measurement noise, which is Gaussian; 0, for exact y, not with "matrix".
        scale: c, fraction of the Newton step.
        prior_weight: lambda.
        noise: kind of N.
        rough: whether conjugate gradients end early, see :meth:`Operator.rough`.
    """

    operator: Operator
    sigma: float
    eta: float
    scale: float
    prior_weight: float = 1.0
    noise: Literal["matrix", "image", "white"] = "matrix"
    rough: bool = True

    def move(self, x: Tensor, score: Tensor, measurement: HasScore | None, temperature: float, draw: Draw) -> Tensor:
        """The state after the step, see :class:`MatrixStep`; nothing is drawn where T is 0."""
        if not (self.noise == "matrix" and self.operator.has_spectral):
            assert isinstance(measurement, Measurement)
            return self.perturb_and_solve(x, score, measurement.y, temperature, draw)
        drift = self.drift(x, score, measurement)
        del score
        x = x + self.apply(drift)
        del drift  # large pictures: no tensor is kept longer than needed
        return (math.sqrt(2 * temperature) * self.sqrt(draw(x))).add_(x) if temperature > 0 else x

    def drift(self, x: Tensor, score: Tensor, measurement: HasScore | None) -> Tensor:
        """``lambda score(x, s) + A^T (y - A x) / eta^2``."""
        drift = score if self.prior_weight == 1 else self.prior_weight * score
        return drift if measurement is None else drift + measurement.score(x)

    def perturb_and_solve(self, x: Tensor, score: Tensor, y: Tensor, temperature: float, draw: Draw) -> Tensor:
        """The same step by its minimum.

        Args:
            x, score, temperature, draw: see :class:`MatrixStep`; draws n1, then n2 for "matrix".
            y: the measurement, ``[B, *measurement_shape]``, or one ``[1, ...]``.
        """
        r, g = self.sigma / math.sqrt(self.prior_weight), math.sqrt(2 * temperature / self.scale)
        target = x + self.sigma**2 * score
        del score
        if g > 0 and self.noise != "white":
            target = target.add_(draw(x), alpha=g * r)
            y = y + g * self.eta * draw(y.expand(len(x), *y.shape[1:])) if self.noise == "matrix" else y
        tolerance, iterations = self.operator.rough(target, y) if self.rough else (None, None)
        target = self.operator.proximal(target, y, self.eta, r, tolerance=tolerance, iterations=iterations)
        x = target if self.scale == 1 else torch.lerp(x, target, self.scale)
        del target
        return x + self.scale * g * r * draw(x) if g > 0 and self.noise == "white" else x

    def _gain(self, eigenvalues: Tensor) -> Tensor:
        return self.scale / (self.prior_weight / self.sigma**2 + eigenvalues / self.eta**2)

    def apply(self, v: Tensor) -> Tensor:
        """``P v``, in closed form."""
        return self.operator.spectral(self._gain, v)

    def sqrt(self, v: Tensor) -> Tensor:
        """``P^(1/2) v``, in closed form."""
        return self.operator.spectral(lambda eigenvalues: self._gain(eigenvalues).sqrt(), v)


@dataclass(frozen=True)
class PriorStep:
    """``x + c s^2 score(x, s)``, along the prior alone whatever is measured; c = 1/2 is a step of the probability flow.

    Args:
        operator: A.
        sigma: s.
        scale: c.
    """

    operator: Operator
    sigma: float
    scale: float
    prior_weight: ClassVar[float] = 1.0

    def move(self, x: Tensor, score: Tensor, measurement: HasScore | None, temperature: float, draw: Draw) -> Tensor:
        """The state after the step, see :class:`MatrixStep`; it draws nothing."""
        return x + self.scale * self.sigma**2 * score


@dataclass(frozen=True)
class PosteriorFlow:
    """From the walk's target at the level s, ``p_s(x) f(y | x)``, to the posterior, in one step without noise:

        x + s^2 K (score(x, s) - K g / 2),    K = (I + w^2 A^T A / eta^2)^-1,    g = score(x, s) + likelihood score(x)

    Let X have the variance w^2 about 0 in a direction of singular value a. Then the target has the mean m and the
    variance V, and to first order in s^2 both shrink towards the posterior's by

        K = 1 / (1 + w^2 a^2 / eta^2) = V / w^2,    m <- m - s^2 K m / w^2,    V <- V - s^2 K V / w^2

    which is what ``x - s^2 K (m + (x - m) / 2) / w^2`` does. With ``score = -x / w^2`` and ``g = -(x - m) / V`` this is
    the above. What is left of relative errors is of order ``(s / w)^4``. Where nothing is measured, the step is half
    the way to the denoised image, that of the prior's probability flow; where y is precise, it is short.

    Of the smallest details w is known only that s should be a fraction of it: w = s / `FRACTION`. Where w is larger,
    s^2 / w^2 is small and the step is of no account.

    Args:
        operator: A, linear, with a spectral decomposition.
        sigma: s.
        eta: standard deviation of the measurement noise, which is Gaussian.
    """

    operator: Operator
    sigma: float
    eta: float
    scale: ClassVar[float] = 0.5
    prior_weight: ClassVar[float] = 1.0
    FRACTION: ClassVar[float] = 0.3

    def move(self, x: Tensor, score: Tensor, measurement: HasScore | None, temperature: float, draw: Draw) -> Tensor:
        """The state after the step, see :class:`MatrixStep`; it draws nothing."""
        g = score if measurement is None else score + measurement.score(x)
        along = score - self.operator.spectral(self._gain, g) / 2
        return x + self.sigma**2 * self.operator.spectral(self._gain, along)

    def along_score(self, eigenvalue: float) -> float:
        """Step size along the prior's score, ``s^2 K (1 - K / 2)``, where A^T A has this eigenvalue."""
        gain = 1 / (1 + (self.sigma / self.FRACTION / self.eta) ** 2 * eigenvalue)
        return self.sigma**2 * gain * (1 - gain / 2)

    def _gain(self, eigenvalues: Tensor) -> Tensor:
        return 1 / (1 + (self.sigma / self.FRACTION) ** 2 * eigenvalues / self.eta**2)


def glide(
    x: Tensor, v: Tensor, drift: Tensor, root: Draw, temperature: float, momentum: float, draw: Draw
) -> tuple[Tensor, Tensor]:
    """The state and its velocity after a step with the momentum a: a kick, half a drift, new noise, half a drift.

        v  <- v + sqrt(2) P^(1/2) g(x)                  g = lambda score(x, s) + likelihood score(x)
        v' <- a v + sqrt(T (1 - a^2)) n
        x  <- x + P^(1/2) (v + v') / sqrt(2)

    With one evaluation this is a step h of the underdamped dynamics ``dx = M v dt, dv = M g dt - gamma v dt +
    sqrt(2 gamma T) dW``, with the metric M of ``P = h^2 M^2 / 2`` and ``a = exp(-gamma h)``. It is BAOAB: there, one
    half kick ends a step and another begins the next, both at the same x, so they are taken at once.

    **Stationary law.** The dynamics keep ``p(x)^(1/T) Normal(v; 0, T I)``, where g is the gradient of log p: kick and
    drift are those of the energy ``-log p(x) + |v|^2 / 2``, and the noise keeps Normal(0, T I). The velocity is in
    units of P^(1/2), so the law of v is the same at every level, and v is kept when the level falls.

    **Bias in the step size.** Take a Gaussian of curvature H, a direction in which ``P^(1/2) H P^(1/2)`` is k, and the
    position q there, in units of P^(1/2), from the mean. Then the step keeps these moments, for every a:

                                       Var(q)       Cov(q, v)       Var(v)
        before the step                T / k        T / sqrt(2)     T
        after v - sqrt(2) k q          T / k        -T / sqrt(2)    T
        after q + v / sqrt(2)          T / k - T/2  0               T           and the noise changes nothing
        after q + v' / sqrt(2)         T / k        T / sqrt(2)     T

    So on Gaussians the positions are exact at any stable step, k < 2, which is the limit of the walk without momentum
    too; that one has the variance ``T / (k (1 - k / 2))``. Elsewhere the error is of order h^2: first order in P.

    **Momentum 0** is the walk, not the limit a -> 0 of this step, ``x + P g + sqrt(2 T) P^(1/2) (n + n_prev) / 2``, in
    which half of n moves x now and half in the next step.

    Source: Leimkuhler and Matthews 2013, doi 10.1093/amrx/abs010, for BAOAB and the limit; Kieninger and Keller 2022,
    doi 10.1021/acs.jctc.2c00585, for one kick a step.

    Args:
        x, v: state and velocity, both ``[B, ...]``.
        drift: g at x.
        root: ``u -> P^(1/2) u``.
        temperature: T.
        momentum: a, in (0, 1).
        draw: gives n.
    """
    v = v + math.sqrt(2) * root(drift)
    renewed = momentum * v
    if temperature > 0:
        renewed = renewed.add_(draw(v), alpha=math.sqrt(temperature * (1 - momentum**2)))
    return x + root(v.add_(renewed)).div_(math.sqrt(2)), renewed


def walk(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    step_sizes: Sequence[StepSize] | Tensor,
    temperatures: Sequence[float] | Tensor,
    *,
    measurement: HasScore | None = None,
    momenta: Sequence[float] | None = None,
    noise: Callable[[int, Tensor], Tensor] | None = None,
    callback: Callable[[int, Tensor, float], object] | None = None,
) -> Tensor:
    """Walk from ``x`` and return where it ends. One evaluation of the denoiser at each step, without a graph.

    Args:
        denoiser: gives ``score(x, sigma)``.
        x: start ``[B, ...]``; not written to. The state is kept in its type, but in float32 at least.
        sigmas: noise level of each step.
        step_sizes: ``tau`` of each step: a number, a tensor that broadcasts against x, or a :class:`MatrixStep`.
        temperatures: T of each step; nothing is drawn where it is 0.
        measurement: gives the likelihood score; None samples the prior.
        momenta: momentum of each step, in [0, 1), see :func:`glide`; 0 in all if None. If the first is not 0, the walk
            starts with a velocity of ``Normal(0, T I)``, a draw of step 0 before that of the step.
        noise: ``noise(k, x)`` gives a draw of step k, like x; the default is ``torch.randn_like(x)``.
        callback: called as ``callback(k, x, sigma)`` after step k, with the state after it.

    Raises:
        InputError: the sequences differ in length, or a value is impossible.
        RunError: the state is no longer finite.
    """
    steps = _check(sigmas, step_sizes, temperatures, momenta)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    v: Tensor | None = None
    finite_steps = torch.zeros((), dtype=torch.long, device=x.device)
    with torch.no_grad():
        for k, (sigma, tau, temperature, momentum) in enumerate(steps):

            def draw(like: Tensor, k: int = k) -> Tensor:
                return torch.randn_like(like) if noise is None else noise(k, like)

            with torch.inference_mode():
                drift = denoiser.score(x, sigma)
            if momentum > 0:
                if v is None:
                    v = math.sqrt(temperature) * draw(x) if temperature > 0 else torch.zeros_like(x)
                drift, root = _drift_and_root(tau, x, drift, measurement)
                x, v = glide(x, v, drift, root, temperature, momentum, draw)
                del drift, root
            elif not isinstance(tau, (int, float, Tensor)):
                x = tau.move(x, drift, measurement, temperature, draw)
                del drift
            else:
                if measurement is not None:
                    drift = drift + measurement.score(x)
                x = x + tau * drift
                del drift  # large pictures: no tensor is kept longer than needed
                if temperature > 0:
                    x = (math.sqrt(2 * temperature) * (tau**0.5 * draw(x))).add_(x)
            finite_steps += all_finite(x)
            # Reading the count waits for a GPU, so there it is read once, at the end.
            if (x.device.type == "cpu" or k == len(steps) - 1) and finite_steps <= k:
                bad = int(finite_steps)
                raise RunError(
                    f"the walk is not finite after step {bad} (sigma = {steps[bad][0]:.6g}): take smaller steps "
                    "(step_scale), or check the network and the measurement"
                )
            if callback is not None:
                callback(k, x, sigma)
    return x


def _drift_and_root(
    tau: StepSize, x: Tensor, score: Tensor, measurement: HasScore | None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The score that a step follows, and ``u -> P^(1/2) u``."""
    if isinstance(tau, PreconditionedStep):
        return tau.drift(x, score, measurement), tau.sqrt
    assert isinstance(tau, (int, float, Tensor))
    return score if measurement is None else score + measurement.score(x), lambda u: tau**0.5 * u


def all_finite(x: Tensor) -> Tensor:
    """Whether all values are finite, a boolean scalar; without a tensor of the size of x."""
    low, high = torch.aminmax(x)  # NaN if one value is
    return low.isfinite() & high.isfinite()


def _check(
    sigmas: Sequence[float] | Tensor,
    step_sizes: Sequence[StepSize] | Tensor,
    temperatures: Sequence[float] | Tensor,
    momenta: Sequence[float] | None,
) -> list[tuple[float, StepSize, float, float]]:
    """Level, step size, temperature and momentum of each step; tensors are read here, once."""
    columns = [
        column.tolist() if isinstance(column, Tensor) and column.ndim == 1 else list(column)
        for column in (sigmas, step_sizes, temperatures)
    ]
    if not len(columns[0]) == len(columns[1]) == len(columns[2]):
        raise InputError(
            f"walk: {len(columns[0])} sigmas, {len(columns[1])} step sizes and {len(columns[2])} temperatures; "
            "expected one of each for every step"
        )
    columns.append([0.0] * len(columns[0]) if momenta is None else list(momenta))
    if len(columns[3]) != len(columns[0]):
        raise InputError(f"walk: {len(columns[3])} momenta for {len(columns[0])} steps; expected one for every step")
    for k, (sigma, tau, temperature, momentum) in enumerate(zip(*columns, strict=True)):
        if not (sigma > 0 and temperature >= 0 and not (isinstance(tau, (int, float)) and tau < 0)):
            raise InputError(
                f"walk: step {k} has sigma = {sigma}, step size {tau}, temperature {temperature}; expected a "
                "positive sigma and the others not negative"
            )
        if not 0 <= momentum < 1:
            raise InputError(f"walk: step {k} has momentum {momentum}; expected it in [0, 1)")
        rooted = isinstance(tau, PreconditionedStep) and tau.noise == "matrix" and tau.operator.has_spectral
        if momentum > 0 and not (rooted or isinstance(tau, (int, float, Tensor))):
            raise InputError(f"walk: step {k} has momentum {momentum}, which needs the root of the step in closed form")
    return [(float(s), tau, float(t), float(a)) for s, tau, t, a in zip(*columns, strict=True)]
