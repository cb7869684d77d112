"""The one interface of a sampler: ``sampler.sample(denoiser, sigmas, measurement, ...) -> x``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from pydantic import ConfigDict, ValidationError
from torch import Tensor

from randomwalk.config.samplers import SamplerBase, ScheduleSettings
from randomwalk.config.validate import explained
from randomwalk.config.yamltext import Document
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError, RunError
from randomwalk.operators import Measurement, Operator
from randomwalk.operators.noise import Noise
from randomwalk.operators.operator import WITHOUT_SPECTRAL
from randomwalk.rng import Draws, TorchDraws
from randomwalk.samplers import schedules
from randomwalk.samplers.walk import Plan, all_finite
from score_sde.sdes import SDE

Sigmas: TypeAlias = Sequence[float] | Tensor
Callback: TypeAlias = Callable[[int, Tensor, float], object]


@dataclass(frozen=True)
class Needs:
    """Requirements of a sampler.

    Args:
        measurement: "required"; "none" for samplers of the prior alone; or "optional".
        linear: a linear operator.
        spectral: functions of ``A^T A``, see ``Operator.spectral``.
        gradient: products with the Jacobian of the denoiser (a backward pass through the network).
        noise: names of the kinds of noise whose likelihood it knows; empty if any differentiable one will do.
        copies: most float32 copies of the images that a run holds outside the network: state, draws, measurement,
            residual, ..., of which the sampler's own are about two thirds. It plans the memory; too few exceed a bound.
    """

    measurement: Literal["none", "optional", "required"] = "required"
    linear: bool = False
    spectral: bool = False
    gradient: bool = False
    noise: tuple[str, ...] = ()
    copies: int = 24


@dataclass(frozen=True)
class Problem:
    """A run of a sampler. Each row of the state is a sample: ``num_samples`` rows for each measurement in turn.

    Attributes:
        denoiser: the prior.
        levels: decreasing noise levels; after the last comes 0.
        draws: random numbers, a stream for each row.
        blank: zeros of the shape, type and device of the state, ``[B, ...]``; one zero in memory, not to be written to.
        given: the measurement of every row; None samples the prior.
        num_samples: consecutive rows that belong to one measurement.
    """

    denoiser: Denoiser
    levels: list[float]
    draws: Draws
    blank: Tensor
    given: Measurement | None = None
    num_samples: int = 1

    @property
    def measurement(self) -> Measurement:
        """The measurement, for samplers that need one."""
        assert self.given is not None
        return self.given

    @property
    def operator(self) -> Operator:
        """A, for the rows of the state."""
        return self.measurement.operator

    @property
    def eta(self) -> float:
        """Standard deviation of the measurement noise (0 for exact measurements), in [-1, 1] pixel units."""
        return self.measurement.std

    def normal(self) -> Tensor:
        """Draws of Normal(0, I) for all rows, like the state."""
        return self.draws.normal(self.blank.shape[1:]).to(self.blank)

    def residual(self, x: Tensor) -> Tensor:
        """``y - A(x)``."""
        return self.measurement.residual(x)


class Sampler(SamplerBase):
    """Base of all samplers: a subclass defines ``step`` (or ``run``, the whole loop) and says what it ``needs``.

    Settings are keywords: pydantic fields, declared in `randomwalk.config.samplers` for the samplers of the library.
    They do not change after construction.

    With N levels between two fixed ones, and the exact score, the error at the last level decreases as ``N^-order``:

    Attributes:
        order: of the end point, where no noise is drawn.
        strong_order: of the end point, in root mean square, where the draws are the increments of the Brownian motion
            of the reverse SDE that the steps approach.
        weak_order: of the distribution of the end point given the start.
        marginal_order: of the distribution of the end point if the start has the exact distribution of X_sigma.
            (None where there is no such order, or none is stated.)

    Raises:
        InputError: an unknown setting, or an impossible value.
    """

    model_config = ConfigDict(frozen=True)

    needs: ClassVar[Needs] = Needs(measurement="none", copies=16)
    repeats_levels: ClassVar[bool] = False
    """Whether the same noise level may come twice in succession."""
    order: ClassVar[int | None] = None
    strong_order: ClassVar[int | None] = None
    weak_order: ClassVar[int | None] = None
    marginal_order: ClassVar[int | None] = None

    schedule: ScheduleSettings | None = None  # type: ignore[assignment]  # only a file needs one
    """Noise levels where ``sample`` is given none."""

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            document = Document(settings, f"sampler {self._title()}")
            raise explained(error, type(self), document) from None

    # --- what can be asked of a sampler ------------------------------------------------------------------------------

    def num_steps(self, num_levels: int) -> int:
        """Number of callback calls for a schedule of ``num_levels`` levels."""
        return num_levels

    def num_evaluations(self, num_levels: int) -> int | None:
        """Number of evaluations of the denoiser; None if it depends on the levels or the state."""
        return self.num_steps(num_levels)

    @property
    def coupled_samples(self) -> bool:
        """Whether the samples of one measurement are made together, and none of them alone is a sample (particles)."""
        return False

    @property
    def samples_posterior(self) -> bool:
        """Whether its samples are from the posterior, up to the length of its steps, where there are many measurements.

        Tests that compare samples with the noise rely on it.
        """
        return False

    @property
    def coupled_images(self) -> bool:
        """Whether an image depends on the others in its batch."""
        return False

    @property
    def batch_of_one(self) -> bool:
        """Whether images are to be made alone: the sampler would couple them, and no setting of it allows that."""
        return False

    @property
    def uses_spectral(self) -> bool:
        """Whether it takes functions of ``A^T A``."""
        return self.needs.spectral

    def knows(self, noise: Noise) -> bool:
        """Whether it knows the likelihood of a kind of noise."""
        return not self.needs.noise or noise.name in self.needs.noise

    @property
    def clock(self) -> SDE | None:
        """The SDE in whose time the schedule even_time is uniform; None for that of the denoiser."""
        return None

    def plan(self, sigmas: Sigmas, measurement: Measurement | None = None) -> Plan | None:
        """Noise levels, step sizes and temperatures of the walk that this sampler is; None if it is no walk."""
        return None

    def levels(self, denoiser: Denoiser, sigmas: Sigmas | None = None) -> Tensor:
        """The noise levels: those given, or those of the schedule for this denoiser; float64 on the CPU.

        Raises:
            InputError: there are neither, or they are not positive and decreasing.
        """
        if sigmas is not None:
            return decreasing(sigmas, strictly=not self.repeats_levels)
        if self.schedule is None:
            raise InputError(f"sampler {self._title()}: no noise levels; pass sigmas to sample, or give it a schedule")
        return schedules.for_denoiser(denoiser, **self.schedule.model_dump(exclude_none=True), sde=self.clock)

    def check(self, measurement: Measurement | None) -> None:
        """Raise InputError, with what is missing, if the sampler cannot be used with this measurement, or without."""
        needs, name = self.needs, type(self).__name__
        if measurement is None:
            if needs.measurement == "required":
                raise InputError(f"sampler {name} needs a measurement: sample(denoiser, sigmas, measurement)")
            return
        operator, noise = measurement.operator, measurement.noise
        if needs.measurement == "none":
            raise InputError(f"sampler {name} takes no measurement: use random_walk, or a sampler of the posterior")
        if needs.linear and not operator.linear:
            raise InputError(f"sampler {name} needs a linear operator, but {type(operator).__name__} is not linear")
        if needs.spectral and not operator.has_spectral:
            raise InputError(
                f"sampler {name} needs the spectral decomposition of the operator, which {type(operator).__name__} "
                f"does not have: define spectral(f, x), or use {WITHOUT_SPECTRAL}"
            )
        if needs.noise and noise.name not in needs.noise:
            advice = "" if noise.name in ("gaussian", "none") else "; for other noise take random_walk or daps"
            if noise.name == "poisson":
                advice = "; for photons take posterior_mean where the operator is denoising, else daps or random_walk"
            raise InputError(f"sampler {name}: noise {noise.name!r}; it supports {', '.join(needs.noise)}{advice}")

    def check_levels(self, denoiser: Denoiser, sigmas: Sigmas) -> None:
        """Raise InputError if the sampler needs the denoiser at levels, other than these, where it cannot be used."""

    # --- sampling ----------------------------------------------------------------------------------------------------

    def sample(
        self,
        denoiser: Denoiser,
        sigmas: Sigmas | None = None,
        measurement: Measurement | None = None,
        *,
        shape: Sequence[int] | None = None,
        num_samples: int = 1,
        start: Tensor | None = None,
        draws: Draws | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Samples of the prior, or of the posterior given each measurement.

        Args:
            denoiser: the prior, in VE coordinates with pixels in [-1, 1].
            sigmas: decreasing noise levels, after the last of which comes 0; the sampler's ``schedule`` if None.
            measurement: M measurements; None samples the prior.
            shape: of the result, ``[B, ...]``, where neither a measurement nor a start says it.
            num_samples: for each measurement.
            start: the state at the first level, ``[B, ...]``, not written to; drawn by the sampler if None. The state
                keeps its type, but is in float32 at least.
            draws: random numbers of the B rows; by default from PyTorch's generator.
            callback: called as ``callback(k, x, sigma)`` after step k, with the state after it and the level before.

        Returns:
            ``[B, ...]``; with a measurement B = M num_samples, ``num_samples`` rows for each measurement in turn.

        Raises:
            InputError: impossible levels or shapes, or a measurement that the sampler cannot use.
            RunError: the state is no longer finite.
        """
        self.check(measurement)
        levels = self.levels(denoiser, sigmas).tolist()
        self.check_levels(denoiser, levels)
        blank = _blank(denoiser, measurement, shape, num_samples, start)
        draws = TorchDraws(len(blank), device=blank.device, dtype=blank.dtype) if draws is None else draws
        given = None if measurement is None else measurement.repeated(num_samples)
        problem = Problem(denoiser, levels, draws, blank, given, num_samples)

        def after(k: int, x: Tensor, sigma: float) -> None:
            if x.device.type == "cpu":  # looking at the state waits for a GPU: there it is done once, at the end
                _check_finite(x, f"after step {k} (sigma = {sigma:.6g})")
            if callback is not None:
                callback(k, x, sigma)

        with torch.no_grad():
            x = self.run(problem, self.begin(problem) if start is None else start.to(blank), after)
            _check_finite(x, "at the end")
        return x

    def begin(self, problem: Problem) -> Tensor:
        """The state at the first level where none is given: ``sigma n``."""
        return problem.levels[0] * problem.normal()

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        """The samples from the start ``x``, both ``[B, ...]``; calls ``callback(k, x, sigma)`` after each step."""
        for k, (sigma, sigma_next) in enumerate(pairs(problem.levels)):
            x = self.step(problem, x, sigma, sigma_next)
            callback(k, x, sigma)
        return x

    def step(self, problem: Problem, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The state at level ``sigma_next`` (0 after the last step) from ``x`` at level ``sigma``."""
        raise NotImplementedError(f"{type(self).__name__} must define step or run")

    @classmethod
    def _title(cls) -> str:
        """The name in YAML, or else that of the class."""
        field = cls.model_fields.get("name")
        return cls.__name__ if field is None else str(field.default)


def pairs(levels: Sequence[float]) -> list[tuple[float, float]]:
    """``(sigma, sigma_next)`` of each step; the last goes to 0."""
    return list(zip(levels, [*levels[1:], 0.0], strict=True))


def decreasing(sigmas: Sigmas, strictly: bool = False) -> Tensor:
    """The noise levels, float64 on the CPU.

    Raises:
        InputError: they are not positive and (strictly) decreasing.
    """
    s = torch.as_tensor(sigmas, dtype=torch.float64).cpu()
    if s.ndim != 1 or len(s) == 0 or not (s > 0).all() or (s.diff() > 0).any():
        raise InputError("sampler: the noise levels must be positive and decreasing")
    if strictly and (s.diff() == 0).any():
        raise InputError(f"sampler: the noise level {float(s[1:][s.diff() == 0][0]):.6g} occurs twice; expected once")
    return s


def _blank(
    denoiser: Denoiser,
    measurement: Measurement | None,
    shape: Sequence[int] | None,
    num_samples: int,
    start: Tensor | None,
) -> Tensor:
    """Zeros of the shape, type and device of the state; all are one number in memory."""
    if measurement is None and num_samples != 1:
        raise InputError(f"sampler: num_samples={num_samples} is for measurements; without one, shape says how many")
    if start is not None:
        like, shape = start, start.shape
    elif measurement is not None:
        like = measurement.y
        shape = (len(like) * num_samples, *measurement.operator.image_shape) if shape is None else shape
    elif shape is not None:
        device = next(chain(denoiser.parameters(), denoiser.buffers()), torch.empty(0)).device
        like = torch.empty(0, device=device)
    else:
        raise InputError("sampler: how many images, of what size? Give shape=(B, C, H, W), a start or a measurement")
    if measurement is not None and shape[0] != len(measurement.y) * num_samples:
        raise InputError(
            f"sampler: {shape[0]} rows for {len(measurement.y)} measurements; expected num_samples = {num_samples} each"
        )
    return like.new_zeros((), dtype=torch.promote_types(like.dtype, torch.float32)).expand(tuple(shape))


def _check_finite(x: Tensor, when: str) -> None:
    if not all_finite(x):
        raise RunError(
            f"the state is not finite {when}: check the network and the measurement, or take more levels, smaller "
            "steps or less guidance"
        )
