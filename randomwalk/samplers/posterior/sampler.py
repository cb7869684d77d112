"""The interface of a posterior sampler: ``sampler.sample(denoiser, operator, noise, y, num_samples) -> samples``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError, RunError
from randomwalk.operators import Operator
from randomwalk.operators.noise import Noise
from randomwalk.rng import Draws, TorchDraws

Callback = Callable[[int, Tensor, float], object]


@dataclass(frozen=True)
class Needs:
    """What a sampler needs of a task.

    Args:
        linear: a linear operator.
        spectral: functions of ``A^T A``, see ``Operator.spectral``.
        gradient: products with the Jacobian of the denoiser (a backward pass through the network).
        noise: names of the kinds of noise that it knows the likelihood of; empty if it takes any that has a
            differentiable likelihood.
    """

    linear: bool = False
    spectral: bool = False
    gradient: bool = False
    noise: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """What a sampler works on. Row b of every tensor is a sample of its own: ``num_samples`` rows for each y in turn.

    Attributes:
        y: measurements ``[B, *operator.measurement_shape]``, repeated for the samples.
        group: num_samples: so many rows in turn belong to one measurement.
    """

    denoiser: Denoiser
    operator: Operator
    noise: Noise
    y: Tensor
    draws: Draws
    group: int

    @property
    def eta(self) -> float:
        """Standard deviation of the measurement noise (0 for exact measurements), in [-1, 1] pixel units."""
        return self.noise.std

    def normal(self) -> Tensor:
        """Draws of Normal(0, I) for the images of all rows, ``[B, C, H, W]``."""
        return self.draws.normal(self.operator.image_shape).to(self.y)

    def residual(self, x: Tensor) -> Tensor:
        """``y - A(x)``."""
        return self.y - self.operator(x)


@dataclass(frozen=True, kw_only=True)
class PosteriorSampler:
    """Base of the samplers of ``p(x | y)``. A subclass says what it ``needs`` and defines ``run``.

    Args:
        sigmas: decreasing noise levels.
    """

    needs: ClassVar[Needs] = Needs()
    sigmas: Sequence[float] | Tensor = field(repr=False)

    def __post_init__(self) -> None:
        self.levels()

    def levels(self) -> list[float]:
        """The noise levels.

        Raises:
            InputError: they are not positive and decreasing.
        """
        s = torch.as_tensor(self.sigmas, dtype=torch.float64).cpu()
        if s.ndim != 1 or len(s) == 0 or not (s > 0).all() or (s.diff() >= 0).any():
            raise InputError("sampler: the noise levels must be positive and decreasing")
        return s.tolist()

    @property
    def num_steps(self) -> int:
        """How often ``sample`` calls its callback."""
        return len(self.levels())

    @property
    def couples(self) -> bool:
        """Whether the samples of one measurement are made together, and none of them alone is a sample (particles)."""
        return False

    def check(self, operator: Operator, noise: Noise) -> None:
        """Raise InputError, with what is missing, if the sampler can't do such a task."""
        name = type(self).__name__
        if self.needs.linear and not operator.linear:
            raise InputError(f"sampler {name} needs a linear operator, but {type(operator).__name__} is not linear")
        if self.needs.spectral and not operator.has_spectral:
            raise InputError(
                f"sampler {name} needs the spectral decomposition of the operator, which {type(operator).__name__} "
                "does not have: define spectral(f, x), or use a sampler that does without"
            )
        if self.needs.noise and noise.name not in self.needs.noise:
            raise InputError(f"sampler {name}: noise {noise.name!r}; it can do {', '.join(self.needs.noise)}")

    def sample(
        self,
        denoiser: Denoiser,
        operator: Operator,
        noise: Noise,
        y: Tensor,
        num_samples: int = 1,
        noise_draws: Draws | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Samples of x given each measurement, ``[M, num_samples, C, H, W]``.

        Args:
            denoiser: the prior, in VE coordinates with pixels in [-1, 1].
            operator: A, for batches of M images (or of any number).
            noise: of the measurement.
            y: M measurements, ``[M, *operator.measurement_shape]``.
            num_samples: for each measurement.
            noise_draws: where ``M * num_samples`` rows of random numbers come from, those of one measurement in turn;
                by default from PyTorch's generator.
            callback: called as ``callback(k, x, sigma)`` after step k, with the state ``[M * num_samples, C, H, W]``.

        Raises:
            InputError: the sampler can't do such a task.
            RunError: the state is no longer finite.
        """
        self.check(operator, noise)
        rows = y.repeat_interleave(num_samples, 0)
        draws = TorchDraws(len(rows), device=y.device, dtype=y.dtype) if noise_draws is None else noise_draws
        problem = Problem(denoiser, operator.repeated(num_samples), noise, rows, draws, num_samples)
        with torch.no_grad():
            x = self.run(problem, _checked(callback))
            _check_finite(x, "at the end")
        return x.reshape(len(y), num_samples, *x.shape[1:])

    def run(self, problem: Problem, callback: Callback) -> Tensor:
        """The samples of all rows, ``[B, C, H, W]``; calls ``callback(k, x, sigma)`` ``num_steps`` times."""
        raise NotImplementedError


def _checked(callback: Callback | None) -> Callback:
    """The callback, which also stops a run on the CPU whose state is not finite (looking would wait for a GPU)."""

    def watch(k: int, x: Tensor, sigma: float) -> None:
        if x.device.type == "cpu":
            _check_finite(x, f"after step {k} (sigma = {sigma:.6g})")
        if callback is not None:
            callback(k, x, sigma)

    return watch


def _check_finite(x: Tensor, when: str) -> None:
    if not x.isfinite().all():
        raise RunError(
            f"the state is not finite {when}: take smaller steps or less guidance, or check the network and the "
            "measurement"
        )


def require(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise InputError about a setting unless ``holds``."""
    if not holds:
        raise InputError(f"sampler: {name}={value!r}; expected {expected}")
