"""Predictor-corrector samplers of Score-SDE: any predictor with any corrector, in the coordinates of any SDE."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from randomwalk.config.samplers import PredictorCorrectorSettings
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.samplers.sampler import Callback, Problem, Sampler, Sigmas, decreasing
from score_sde import sdes
from score_sde.correctors import CORRECTORS
from score_sde.predictors import PREDICTORS, unchanged
from score_sde.sdes import SDE, Level

# The lowest noise level of an SDE may be missed by rounding.
_RANGE_SLACK = 1e-5


class PredictorCorrector(Sampler, PredictorCorrectorSettings):
    """At each level of the schedule some steps of a corrector, then one of a predictor to the level below.

    The state is ``z = a x`` in the coordinates of an SDE, at the time t where its noise level ``s / a`` is the
    schedule's, and the score of z is that of x divided by a. Any SDE goes with any denoiser, since all of them are
    one walk in x; the choice decides which coefficients a step takes as constant, and how long the steps of the
    correctors are. The last step goes to the data (t = 0), and its mean is the result. Euler-Maruyama with VE does not
    get there: its t = 0 is the level sigma_min, whose noise remains.

    Without a predictor x is the state of the next level unchanged (the reference leaves ``z = a x``, which for VE is
    the same), and the result keeps the noise of the last level.

    The orders are those without a corrector; with one, the steps do not converge to any SDE.

    Source: Song et al. 2021, arXiv 2011.13456, section 4.2 and appendix G; in the order of their code, corrector first.
    The steps: `score_sde.predictors`, `score_sde.correctors`.
    """

    order = strong_order = weak_order = marginal_order = 1

    @property
    def clock(self) -> SDE:
        """The SDE."""
        try:
            return sdes.make(**self.sde.model_dump(exclude_none=True))
        except ValueError as error:
            raise InputError(f"sampler: sde={self.sde!r}: {error}") from error

    def model_post_init(self, context: object) -> None:
        _ = self.clock  # an impossible SDE is an error now

    @property
    def coupled_images(self) -> bool:
        return self.corrector == "langevin" and self.norms == "batch"

    @property
    def corrections(self) -> int:
        """Steps of the corrector at each level."""
        return 0 if self.corrector == "none" else self.corrector_steps

    def num_evaluations(self, num_levels: int) -> int:
        return num_levels * (self.corrections + (self.predictor != "none"))

    def table(self, sigmas: list[float]) -> Level:
        """Times and coefficients of the SDE at noise levels of the schedule."""
        sde = self.clock
        return sde.level(sde.time(torch.tensor(sigmas, dtype=torch.float64)).clamp_min(0))

    def check_levels(self, denoiser: Denoiser, sigmas: Sigmas) -> None:
        lowest, last = float(self.clock.sigma(0.0)), float(decreasing(sigmas)[-1])
        if last < lowest * (1 - _RANGE_SLACK):
            raise InputError(
                f"sampler: the SDE {self.sde.name!r} has no noise level below {lowest:.6g}, but the schedule goes "
                f"down to {last:.6g}: raise sigma_min of the schedule or lower that of the SDE"
            )

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        table, sde = self.table(problem.levels), self.clock
        number = itertools.count()  # of the draws, over the steps of corrector and predictor
        z = float(table.a[0]) * x
        for k, sigma in enumerate(problem.levels):
            level, last = table[k], k + 1 == len(problem.levels)
            below = Level.clean() if last else table[k + 1]

            def score(z: Tensor, a: float = float(level.a), sigma: float = sigma) -> Tensor:
                # Not (D - x) / sigma^2, which loses digits that steps of langevin do not shrink with sigma.
                return problem.denoiser.score(z / a, sigma) / a

            for _ in range(self.corrections):
                n = problem.draws.noise(next(number), z)
                z = CORRECTORS[self.corrector](score(z), z, n, level, below, self.snr, self.norms).draw(n)
            if self.predictor == "none":
                step = unchanged(z, level, below)
            else:
                step = PREDICTORS[self.predictor](sde, score(z), z, level, below, self.probability_flow)
            z = step.mean if last or not step.std else step.draw(problem.draws.noise(next(number), z))
            x = z / float(below.a)
            callback(k, x, sigma)
        return x
