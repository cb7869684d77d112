"""The interface of a sampler of the prior: ``sampler.sample(denoiser, x, sigmas) -> x``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError, RunError
from randomwalk.operators.noise import Likelihood

Sigmas: TypeAlias = Sequence[float] | Tensor
Noise: TypeAlias = Callable[[int, Tensor], Tensor]
Callback: TypeAlias = Callable[[int, Tensor, float], object]


@dataclass(frozen=True)
class Sampler:
    """Base of the samplers of the prior. A subclass defines ``sample``, and states its orders of convergence.

    With N levels between two fixed ones, and the exact score, the error at the last level falls like ``N^-order``:

    Attributes:
        order: of the end, where no noise is drawn.
        strong_order: of the end, in root mean square, where the draws are the increments of the Brownian motion of the
            reverse SDE that the steps approach.
        weak_order: of the law of the end given the start.
        marginal_order: of the law of the end if the start has the exact law of X_sigma.
            (None where there is no such order, or none is stated.)
    """

    order: ClassVar[int | None] = None
    strong_order: ClassVar[int | None] = None
    weak_order: ClassVar[int | None] = None
    marginal_order: ClassVar[int | None] = None

    @property
    def couples(self) -> bool:
        """Whether an image depends on those beside it in its batch."""
        return False

    def num_steps(self, num_levels: int) -> int:
        """How often ``sample`` calls its callback for a schedule of ``num_levels`` levels."""
        return num_levels

    def num_evaluations(self, num_levels: int) -> int | None:
        """How often ``sample`` evaluates the denoiser; None if that turns out on the way."""
        return self.num_steps(num_levels)

    def check(self, denoiser: Denoiser, sigmas: Sigmas) -> None:
        """Raise InputError if the denoiser cannot be used at the levels where the sampler needs it.

        Those of the schedule itself are looked at by who makes the schedule.
        """

    def sample(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigmas: Sigmas,
        likelihood: Likelihood | None = None,
        *,
        noise: Noise | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Go from ``x`` along the levels, and return where that ends.

        Args:
            denoiser: the prior, in VE coordinates with pixels in [-1, 1].
            x: start ``[B, ...]``, of the law of X_sigma at the first level; not written to. The state is kept in its
                type, but in float32 at least.
            sigmas: decreasing noise levels; after the last comes 0.
            likelihood: of the measurement; None samples the prior.
            noise: ``noise(k, x)`` gives the draw of step k, like x; the default is ``torch.randn_like(x)``.
            callback: called as ``callback(k, x, sigma)`` after step k, with the state after it and the level before.

        Raises:
            InputError: impossible levels, or a measurement where the sampler takes none.
            RunError: the state is no longer finite.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Solver(Sampler):
    """Base of the samplers of the prior that are no walk. A subclass defines ``states``."""

    def evaluation(self, denoiser: Denoiser) -> Callable[[Tensor, float], Tensor]:
        """What of the denoiser ``states`` is given: itself; a subclass may take its score."""
        return denoiser

    def states(
        self, denoise: Callable[[Tensor, float], Tensor], x: Tensor, levels: list[float], noise: Noise
    ) -> Iterator[Tensor]:
        """The state after each step: at ``levels[1]``, ``levels[2]``, ..., and in the end the clean image.

        Args:
            denoise: the `evaluation`, without a graph: ``D(x, sigma)``.
            x: start ``[B, ...]`` at ``levels[0]``.
            levels: strictly decreasing, the last positive.
            noise: ``noise(k, x)``, the draw of step k.
        """
        raise NotImplementedError

    def sample(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigmas: Sigmas,
        likelihood: Likelihood | None = None,
        *,
        noise: Noise | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        refuse_measurement(self, likelihood)
        levels = decreasing(sigmas, strictly=True).tolist()
        self.check(denoiser, levels)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        evaluate = self.evaluation(denoiser)

        def denoise(state: Tensor, sigma: float) -> Tensor:
            with torch.inference_mode():
                return evaluate(state, sigma)

        def draw(k: int, state: Tensor) -> Tensor:
            return torch.randn_like(state) if noise is None else noise(k, state)

        with torch.no_grad():
            for k, state in enumerate(self.states(denoise, x, levels, draw)):
                x = state
                # Looking at the state waits for a GPU, so there it is looked at once, at the end.
                if (x.device.type == "cpu" or k == len(levels) - 1) and not x.isfinite().all():
                    raise RunError(
                        f"the state is not finite after step {k} (sigma = {levels[k]:.6g}): check the network, or take "
                        "more levels"
                    )
                if callback is not None:
                    callback(k, x, levels[k])
        return x


def refuse_measurement(sampler: Sampler, likelihood: Likelihood | None) -> None:
    """Raise InputError if there is a measurement."""
    if likelihood is not None:
        raise InputError(f"sampler {type(sampler).__name__} takes no measurement: use random_walk")


def decreasing(sigmas: Sigmas, strictly: bool = False) -> Tensor:
    """The noise levels, float64 on the CPU.

    Raises:
        InputError: they are not positive and (strictly) decreasing.
    """
    s = torch.as_tensor(sigmas, dtype=torch.float64).cpu()
    if s.ndim != 1 or len(s) == 0 or not (s > 0).all() or (s.diff() > 0).any():
        raise InputError("sampler: the noise levels must be positive and decreasing")
    if strictly and (s.diff() == 0).any():
        raise InputError(f"sampler: the noise level {float(s[1:][s.diff() == 0][0]):.6g} comes twice; expected it once")
    return s


def require(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise InputError about a setting unless ``holds``."""
    if not holds:
        raise InputError(f"sampler: {name}={value!r}; expected {expected}")
