"""Predictor-corrector samplers of Score-SDE: any predictor with any corrector, in the coordinates of any SDE."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.samplers.sampler import Noise, Sigmas, Solver, decreasing, require
from score_sde import sdes
from score_sde.correctors import CORRECTORS, NORMS
from score_sde.predictors import PREDICTORS, Step, unchanged
from score_sde.sdes import SDE, Level

# The lowest noise level of an SDE may be missed by rounding.
_RANGE_SLACK = 1e-5


@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """At each level of the schedule some steps of a corrector, then one of a predictor to the level below.

    The state is ``z = a x`` in the coordinates of an SDE, at the time t where its noise level ``s / a`` is the
    schedule's, and the score of z is that of x divided by a. Any SDE goes with any denoiser, since all of them are
    one walk in x; it decides on what the steps take for constant in between, and on how long those of the correctors
    are. The last step goes to the data (t = 0), and its mean is the result. Euler-Maruyama with VE does not get there:
    its t = 0 is the level sigma_min, whose noise remains.

    Without a predictor x goes to the level below as it is (the reference leaves ``z = a x``, which for VE is the same),
    and the result keeps the noise of the last level.

    The orders are those without a corrector; with one, the steps do not approach any SDE.

    Source: Song et al. 2021, arXiv 2011.13456, section 4.2 and appendix G; in the order of their code, corrector first.
    The steps: `score_sde.predictors`, `score_sde.correctors`.

    Args:
        sde: name and settings for `score_sde.sdes.make`.
        predictor: euler_maruyama, reverse_diffusion, ancestral or none.
        corrector: langevin, annealed_langevin or none.
        snr: "signal-to-noise ratio" of the corrector, which its lengths go with the square of.
        corrector_steps: at each level.
        norms: of langevin: of each sample; or their means over the batch.
        probability_flow: the predictor's step is one of the flow, without noise.
    """

    order: ClassVar[int | None] = 1
    strong_order: ClassVar[int | None] = 1
    weak_order: ClassVar[int | None] = 1
    marginal_order: ClassVar[int | None] = 1
    sde: Mapping[str, Any]
    predictor: str = "reverse_diffusion"
    corrector: str = "langevin"
    snr: float = 0.16
    corrector_steps: int = 1
    norms: str = "sample"
    probability_flow: bool = False

    def __post_init__(self) -> None:
        for name, known in (("predictor", PREDICTORS), ("corrector", CORRECTORS)):
            require(getattr(self, name) in {*known, "none"}, name, getattr(self, name), f"{', '.join(known)} or none")
        require(self.norms in NORMS, "norms", self.norms, " or ".join(NORMS))
        require(self.snr > 0, "snr", self.snr, "a positive number")
        whole = isinstance(self.corrector_steps, int) and self.corrector_steps >= 1
        require(whole, "corrector_steps", self.corrector_steps, "a positive integer")
        if self.predictor == "none":
            require(self.corrector != "none", "corrector", self.corrector, "one, where there is no predictor")
            require(not self.probability_flow, "probability_flow", True, "a predictor that makes its steps")
        self.process()

    def process(self) -> SDE:
        """The SDE."""
        try:
            return sdes.make(**self.sde)
        except (TypeError, ValueError) as error:
            raise InputError(f"sampler: sde={dict(self.sde)}: {error}") from error

    @property
    def couples(self) -> bool:
        return self.corrector == "langevin" and self.norms == "batch"

    @property
    def corrections(self) -> int:
        """Steps of the corrector at each level."""
        return 0 if self.corrector == "none" else self.corrector_steps

    def num_evaluations(self, num_levels: int) -> int:
        return num_levels * (self.corrections + (self.predictor != "none"))

    def levels(self, sigmas: list[float]) -> Level:
        """Times and coefficients of the SDE at noise levels of the schedule."""
        sde = self.process()
        return sde.level(sde.time(torch.tensor(sigmas, dtype=torch.float64)).clamp_min(0))

    def check(self, denoiser: Denoiser, sigmas: Sigmas) -> None:
        lowest, last = float(self.process().sigma(0.0)), float(decreasing(sigmas)[-1])
        if last < lowest * (1 - _RANGE_SLACK):
            raise InputError(
                f"sampler: the SDE {self.sde['name']!r} has no noise level below {lowest:.6g}, but the schedule goes "
                f"down to {last:.6g}: raise sigma_min of the schedule or lower that of the SDE"
            )

    def evaluation(self, denoiser: Denoiser) -> Callable[[Tensor, float], Tensor]:
        """The score of x: ``(D - x) / sigma^2`` would lose digits that steps of langevin do not shrink with sigma."""
        return denoiser.score

    def states(
        self, score_of_x: Callable[[Tensor, float], Tensor], x: Tensor, levels: list[float], noise: Noise
    ) -> Iterator[Tensor]:
        """See `Solver.states`; the draws are counted over the steps of corrector and predictor."""
        table = self.levels(levels)
        number = itertools.count()
        z = float(table.a[0]) * x
        for k, sigma in enumerate(levels):
            level, last = table[k], k + 1 == len(levels)
            below = Level.clean() if last else table[k + 1]

            def score(z: Tensor, a: float = float(level.a), sigma: float = sigma) -> Tensor:
                return score_of_x(z / a, sigma) / a

            for _ in range(self.corrections):
                draw = noise(next(number), z)
                correct = CORRECTORS[self.corrector]
                z = correct(score(z), z, draw, level, below, self.snr, self.norms).draw(draw)
            step = self._predict(score, z, level, below)
            z = step.mean if last or not step.std else step.draw(noise(next(number), z))
            yield z / float(below.a)

    def _predict(self, score: Callable[[Tensor], Tensor], z: Tensor, level: Level, below: Level) -> Step:
        if self.predictor == "none":
            return unchanged(z, level, below)
        return PREDICTORS[self.predictor](self.process(), score(z), z, level, below, self.probability_flow)
