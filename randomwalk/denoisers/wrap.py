"""Any network as a denoiser, by one call that states its conventions: `wrap`.

A network sees ``z = alpha(t) u + beta(t) N``, where u is the image in its own range of pixels, and something that tells
the noise level. Everything is given by alpha and beta, by what it is told, and by what it predicts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from randomwalk.denoisers.adapters import PREDICTIONS, Coefficients, SDEDenoiser, combined, exact_levels
from randomwalk.denoisers.ddpm_table import given_sigmas
from randomwalk.denoisers.denoiser import NetworkDenoiser, broadcast_sigma
from randomwalk.errors import InputError
from score_sde.times import DiscreteTime, StraightTime, Time

Prediction = Literal["epsilon", "x0", "v", "score", "flow"]
Condition = Literal["index", "t", "sigma", "log_sigma"]
Numbers = Sequence[float] | np.ndarray | Tensor
Function = Callable[[Tensor], Tensor | float]
_HALVINGS = 100  # of the range of times, until float64 has no smaller steps


# --- the path from an image to noise ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Path:
    """Path ``alpha(t) u + beta(t) N`` of a network for images u, whose noise level ``beta / alpha`` is monotone in t.

    Args:
        alpha, beta: functions of t.
        start, end: range of t.

    Raises:
        InputError: the noise level is not positive and finite, or not monotone.
    """

    alpha: Function
    beta: Function
    start: float
    end: float
    _known: dict[float, float] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        try:
            s = self.sigma(torch.linspace(self.start, self.end, 1001, dtype=torch.float64))
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise InputError(f"wrap: alpha_sigma: cannot be called with a float64 tensor of times ({error})") from error
        if not ((s > 0) & s.isfinite()).all():
            raise InputError(
                f"wrap: sigma(t) / alpha(t) is {float(s[0]):g} to {float(s[-1]):g} at times {self.start:g} to "
                f"{self.end:g}; expected positive and finite: give times=(first, last) without the ends"
            )
        if not ((s.diff() > 0).all() or (s.diff() < 0).all()):
            raise InputError("wrap: sigma(t) / alpha(t) must rise, or fall, over all times")

    def sigma(self, t: Tensor) -> Tensor:
        """``beta / alpha``."""
        return self.values(self.beta, t) / self.values(self.alpha, t)

    @staticmethod
    def values(function: Function, t: Tensor) -> Tensor:
        """The function at every t, also one that is constant."""
        return torch.as_tensor(function(t), dtype=t.dtype, device=t.device).expand(t.shape)

    def time(self, sigma: Tensor) -> Tensor:
        """The time at which the noise level is sigma."""
        if sigma.numel() == 1 and sigma.device.type == "cpu":
            return torch.full_like(sigma, self._time_of(float(sigma)))
        return self._bisected(sigma)

    def _time_of(self, sigma: float) -> float:
        """The time of a level, which a walk asks for several times."""
        if sigma not in self._known:
            self._known.clear()
            self._known[sigma] = float(self._bisected(torch.tensor(sigma, dtype=torch.float64)))
        return self._known[sigma]

    def _bisected(self, sigma: Tensor) -> Tensor:
        low, high = torch.full_like(sigma, self.start), torch.full_like(sigma, self.end)
        rises = self.sigma(high) > self.sigma(low)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            later = (self.sigma(middle) < sigma) == rises
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        return (low + high) / 2

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of alpha and beta."""
        with torch.inference_mode(False), torch.enable_grad():
            t = t.detach().clone().requires_grad_()
            made = [self.values(function, t) for function in (self.alpha, self.beta)]
            found = [torch.autograd.grad(f.sum(), t, allow_unused=True)[0] if f.requires_grad else None for f in made]
        return tuple(torch.zeros_like(t) if rate is None else rate for rate in found)  # type: ignore[return-value]


@dataclass(frozen=True)
class PathTime:
    """Time of a path at noise levels in our units; the label is ``scale`` times the time.

    Args:
        path: in the network's units.
        unit: noise level of the network at the level 1 of ours.
        scale: factor of the label.
        even: the network's levels for u, instead of those at even times.
    """

    path: Path
    unit: float
    scale: float
    even: Callable[[Tensor], Tensor] | None = None

    @property
    def sigma_min(self) -> float:
        return min(self._ends()) / self.unit

    @property
    def sigma_max(self) -> float:
        return max(self._ends()) / self.unit

    def _ends(self) -> list[float]:
        return self.path.sigma(torch.tensor([self.path.start, self.path.end], dtype=torch.float64)).tolist()

    def label(self, sigma: Tensor) -> Tensor:
        return self.scale * self.path.time(self.unit * sigma)

    def levels(self, u: Tensor) -> Tensor:
        if self.even is not None:
            return self.even(u) / self.unit
        rising = self._ends()[1] > self._ends()[0]
        start, end = (self.path.start, self.path.end) if rising else (self.path.end, self.path.start)
        return self.path.sigma(start + u.double() * (end - start)) / self.unit


@dataclass(frozen=True)
class LevelTime:
    """Noise levels of another time, where the network is told sigma itself, or ``ln(sigma) / 4``.

    Args:
        levels_of: gives the range and the levels.
        unit, scale: as of `PathTime`.
        logarithm: whether the network is told the logarithm.
    """

    levels_of: Time
    unit: float
    scale: float
    logarithm: bool

    @property
    def sigma_min(self) -> float:
        return self.levels_of.sigma_min

    @property
    def sigma_max(self) -> float:
        return self.levels_of.sigma_max

    def label(self, sigma: Tensor) -> Tensor:
        told = self.unit * sigma
        return self.scale * (told.log() / 4 if self.logarithm else told)

    def levels(self, u: Tensor) -> Tensor:
        return self.levels_of.levels(u)


class IndexTime(DiscreteTime):
    """Table of noise levels whose label is the index in the order of its training, times a factor.

    Args:
        table: as of `DiscreteTime`.
        scale: factor of the label.
        falls: whether index 0 is the highest level in the network's training.
        whole: the nearest whole index, as integers, for networks that look it up in a list.
    """

    def __init__(self, table: Tensor, scale: float, falls: bool, whole: bool) -> None:
        super().__init__(table, scale)
        self.falls, self.whole = falls, whole

    def label(self, sigma: Tensor) -> Tensor:
        index = self.index(sigma)
        index = len(self.table) - 1 - index if self.falls else index
        return index.round().long() if self.whole else self.scale * index


# --- the network -----------------------------------------------------------------------------------------------------


class Called(nn.Module):
    """A function or module, ``network(z, t)`` or ``network(z, t, label)``, whose output is one tensor for z.

    An output may be a tensor, an object or dictionary with a tensor ``sample`` (diffusers), or a tuple that begins with
    one. Channels beyond those of z must be as many again: a learned variance, which is left out.
    """

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        t = t.to(z.dtype) if t.is_floating_point() else t
        try:
            out = self.network(z, t, *labels)
        except TypeError as error:
            if _takes(self.network, 2 + len(labels)):  # an error inside the network
                raise
            what = "network(z, t, label)" if labels else "network(z, t)"
            raise InputError(
                f"wrap: the network cannot be called as {what} ({error}); give a function that does, such as "
                f"lambda z, t{', label' * len(labels)}: network(z, timesteps=t{', y=label' * len(labels)})"
            ) from error
        found = out.get("sample") if isinstance(out, Mapping) else getattr(out, "sample", out)
        found = found[0] if isinstance(found, tuple | list) and found else found
        if not isinstance(found, Tensor):
            raise InputError(f"wrap: the network returns {type(out).__name__}; expected a tensor, or one called sample")
        channels = z.shape[1]
        if found.shape[1:2] not in ((channels,), (2 * channels,)) or (len(z), *z.shape[2:]) != (
            *found.shape[:1],
            *found.shape[2:],
        ):
            raise InputError(
                f"wrap: the network turns {list(z.shape)} into {list(found.shape)}; expected the same shape, or twice "
                f"the channels if it has learned the variance too"
            )
        return found[:, :channels]


def _takes(function: Callable[..., Any], number: int) -> bool:
    """Whether a function can be called with that many arguments."""
    try:
        inspect.signature(function.forward if isinstance(function, nn.Module) else function).bind(*range(number))
    except (TypeError, ValueError):
        return False
    return True


class WrappedDenoiser(SDEDenoiser):
    """Denoiser around a network in any convention, see `wrap`.

    It works in the network's units, ``u = scale x + offset``, and returns to ours.

    Args:
        network: ``network(z, label) -> F``.
        prediction: of F.
        times: labels at noise levels in our units.
        path: None for tables: alpha is 1 for a table of sigmas, and else ``(1 + s^2)^-1/2``.
        exploding: whether alpha is 1 without a path.
        pixels: the network's range of pixels.
        null_label: see `NetworkDenoiser`.
    """

    def __init__(
        self,
        network: nn.Module,
        prediction: Prediction,
        times: Time,
        path: Path | None,
        exploding: bool,
        pixels: tuple[float, float],
        null_label: int | None,
    ) -> None:
        NetworkDenoiser.__init__(self, network, times.sigma_min, times.sigma_max, null_label)
        self.sde, self.times, self.prediction = None, times, prediction
        self.path, self.exploding = path, exploding
        self.scale, self.offset = (pixels[1] - pixels[0]) / 2, (pixels[1] + pixels[0]) / 2

    def mean(self, s: Tensor) -> Tensor:
        if self.path is not None:
            return self.path.values(self.path.alpha, self.path.time(self.scale * s))
        return torch.ones_like(s) if self.exploding else (1 + (self.scale * s) ** 2).rsqrt()

    def coefficients(self, s: Tensor) -> Coefficients:
        """Coefficients in network units, at the level s of ours."""
        if self.prediction != "flow":
            return PREDICTIONS[self.prediction](self.scale * s, self.mean(s))
        assert self.path is not None
        t = self.path.time(self.scale * s)
        a, b = self.path.values(self.path.alpha, t), self.path.values(self.path.beta, t)
        a_rate, b_rate = self.path.rates(t)
        turn = a * b_rate - b * a_rate  # z = a u + b N and F = a' u + b' N, solved for u
        return a * b_rate / turn, a**2 * a_rate / (b * turn), -b / turn, -(a**2) / (b * turn)

    def predict(self, z: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        if label is None and self.num_classes is not None:
            if self.null_label is None:
                raise InputError("the network is class-conditional: use randomwalk.denoisers.guided(denoiser, labels)")
            label = torch.full((len(z),), self.null_label, device=z.device)
        return super().predict(z, sigma, label)

    def _at(self, x: Tensor, sigma: float | Tensor) -> list[Tensor]:
        """Coefficients for the rows of x: exact, then in its type."""
        levels = exact_levels(sigma, x) if isinstance(sigma, Tensor) else torch.tensor([sigma], dtype=torch.float64)
        found = [torch.as_tensor(c, dtype=torch.float64) for c in self.coefficients(levels)]
        return [broadcast_sigma(c.to(x.dtype), x) for c in found]

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        c_x, _, c_out, _ = self._at(x, sigma)
        u = self.scale * x + self.offset
        return (combined(c_x, u, c_out, self.predict(u, sigma, label)) - self.offset) / self.scale

    def score(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        _, b_x, _, b_out = self._at(x, sigma)
        u = self.scale * x + self.offset
        return self.scale * combined(b_x, u, b_out, self.predict(u, sigma, label))


# --- wrap ------------------------------------------------------------------------------------------------------------


def wrap(
    network: Callable[..., Any],
    predicts: Prediction,
    *,
    betas: Numbers | str | None = None,
    alphas_cumprod: Numbers | str | None = None,
    sigmas: Numbers | None = None,
    alpha_sigma: tuple[Function, Function] | None = None,
    times: tuple[float, float] = (0.001, 0.999),
    time: Condition | None = None,
    time_scale: float = 1.0,
    whole_times: bool = False,
    shift: float = 1.0,
    pixels: tuple[float, float] = (-1.0, 1.0),
    num_classes: int | None = None,
    null_label: int | None = None,
    classes: Sequence[str] = (),
    channels: int | None = None,
    image_size: int | None = None,
) -> NetworkDenoiser:
    """A network in any convention as a denoiser: ``randomwalk.wrap(network, "epsilon", alphas_cumprod=table)``.

    The network sees ``z = alpha u + beta N``, with u the image in its range of pixels, and is called as
    ``network(z, t)``, or ``network(z, t, label)`` with `num_classes`; a lambda adapts any other signature. It is not
    changed, moved to a device or put into evaluation mode.

    Args:
        network: a module or function. Its output is a tensor, or an object, dictionary or tuple with one (``sample``).
            Twice as many channels as z are a learned variance, which is left out.
        predicts: epsilon, N; x0, u; v, ``alpha N - beta u``; score, the gradient of the log density of z; or flow, the
            velocity ``dz/dt = alpha'(t) u + beta'(t) N``, which is ``N - u`` on the straight path.
        betas, alphas_cumprod: noise table of a variance-preserving network (numbers or a file of them):
            ``alpha^2 = alphas_cumprod = 1 - beta^2``. A last entry of 0, pure noise, is left out.
        sigmas: noise levels of a variance-exploding network (alpha = 1) in units of its pixels, in the order of its
            index; or, with time="sigma" or "log_sigma", the two ends of their range.
        alpha_sigma: alpha(t) and beta(t), functions of a float64 tensor. For flow the straight path is the default,
            ``(lambda t: 1 - t, lambda t: t)``; a path from noise to the image is ``(lambda t: t, lambda t: 1 - t)``.
        times: first and last t of alpha_sigma, without times of no noise or no image.
        time: what the network is told: the index in the table (default), t (default with alpha_sigma), sigma = beta /
            alpha in units of its pixels, or ``ln(sigma) / 4``.
        time_scale: factor of that: 1000 for flow networks that see ``1000 t``.
        whole_times: the nearest whole index as an integer, for networks that look it up.
        shift: of flow on the straight path: even times u are ``shift u / (1 + (shift - 1) u)``, see `FlowDenoiser`.
        pixels: the network's values of black and white.
        num_classes, null_label, classes: of a class-conditional network: number of its labels, the one that means "any
            class", and names. See `randomwalk.denoisers.guided`.
        channels, image_size: of the network's images, for code that asks the denoiser.

    Raises:
        InputError: a contradiction between these; when it is called, a network of another signature or another size of
            output.
    """
    if not callable(network):
        raise InputError(f"wrap: network: found {type(network).__name__}; expected a module or a function of (z, t)")
    if predicts not in get_args(Prediction):
        raise InputError(f"wrap: predicts={predicts!r}; expected one of {', '.join(get_args(Prediction))}")
    if len(pixels) != 2 or not pixels[0] < pixels[1]:
        raise InputError(f"wrap: pixels={pixels}; expected (black, white), such as (0, 1)")
    schedules = {"betas": betas, "alphas_cumprod": alphas_cumprod, "sigmas": sigmas, "alpha_sigma": alpha_sigma}
    given = [name for name, value in schedules.items() if value is not None]
    straight = None
    if not given and predicts == "flow":
        given, alpha_sigma, straight = ["alpha_sigma"], (lambda t: 1 - t, lambda t: t), _straight(times, shift)
    elif shift != 1:
        raise InputError(f"wrap: shift={shift:g} is for flow on the straight path, without a schedule")
    if len(given) != 1:
        raise InputError(f"wrap: found {' and '.join(given) or 'no schedule'}; expected one of {', '.join(schedules)}")
    if predicts == "flow" and alpha_sigma is None:
        raise InputError(f"wrap: a velocity is the derivative along a path: give alpha_sigma instead of {given[0]}")
    own_time = "index" if alpha_sigma is None else "t"
    _check_condition(time, (own_time, "sigma", "log_sigma"), given[0], whole_times, time_scale)
    _check_classes(num_classes, null_label, classes)
    unit = (pixels[1] - pixels[0]) / 2
    if alpha_sigma is not None and not (isinstance(alpha_sigma, Sequence) and len(alpha_sigma) == len(times) == 2):
        raise InputError("wrap: alpha_sigma and times: expected two functions of t, and the first and last t")
    path = None if alpha_sigma is None else Path(*alpha_sigma, *times)
    if path is not None:
        made: Time = PathTime(path, unit, time_scale, None if straight is None else straight.levels)
    else:
        table, falls = _table(given[0], schedules[given[0]], predicts)
        made = IndexTime(table / unit, time_scale, falls, whole_times)
    if time in ("sigma", "log_sigma"):
        made = LevelTime(made, unit, time_scale, time == "log_sigma")
    denoiser = WrappedDenoiser(Called(network), predicts, made, path, sigmas is not None, pixels, null_label)
    denoiser.num_classes, denoiser.classes = num_classes, tuple(classes)
    denoiser.channels, denoiser.image_size = channels, image_size
    return denoiser


def _straight(times: tuple[float, float], shift: float) -> StraightTime:
    try:
        return StraightTime(*times, shift=shift)
    except ValueError as error:
        raise InputError(f"wrap: {error}") from error


def _check_condition(
    time: Condition | None, allowed: Sequence[str], schedule: str, whole: bool, time_scale: float
) -> None:
    if time is not None and time not in allowed:
        raise InputError(f"wrap: time={time!r}; allowed with {schedule}: {', '.join(allowed)}")
    if whole and (time or allowed[0]) != "index":
        raise InputError("wrap: whole_times is for networks that take the index in a table")
    if whole and time_scale != 1:
        raise InputError(f"wrap: time_scale={time_scale:g} and whole_times: an index into a table takes no factor")


def _check_classes(num_classes: int | None, null_label: int | None, classes: Sequence[str]) -> None:
    if null_label is not None and num_classes is not None and null_label not in range(num_classes):
        raise InputError(f"wrap: null_label={null_label}; expected one of num_classes={num_classes} labels, from 0")
    if len(classes) > (num_classes or 0):
        raise InputError(f"wrap: {len(classes)} names in classes for num_classes={num_classes or 0} labels")


def _table(kind: str, values: Any, predicts: str) -> tuple[Tensor, bool]:
    """Ascending noise levels of a table, and whether its index falls with them."""
    if kind != "sigmas":
        if kind == "alphas_cumprod" and not isinstance(values, str) and predicts != "epsilon":
            values = _numbers(kind, values)
            values = values[:-1] if values.ndim == 1 and len(values) and values[-1] == 0 else values
        return given_sigmas({kind: values}, "wrap"), False
    levels = _numbers(kind, values)
    falls = levels.ndim == 1 and len(levels) > 1 and bool(levels[0] > levels[-1])
    levels = levels.flip(0) if falls else levels
    rises = levels.ndim == 1 and len(levels) > 1 and bool((levels.diff() > 0).all())
    if not rises or not ((levels > 0) & levels.isfinite()).all():
        raise InputError("wrap: sigmas: expected at least two positive numbers that rise or fall")
    return levels, falls


def _numbers(kind: str, values: Any) -> Tensor:
    try:
        return torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"wrap: {kind}: expected a list of numbers ({error})") from error
