"""The log density of images along the forward SDE, by the settings of a config."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from randomwalk.config.score_embedding import ExactSettings, LegacySettings, SemiImplicitSettings
from randomwalk.lookup import find
from randomwalk.studies.score_embedding import cole_hopf, finite_difference, legacy
from randomwalk.studies.score_embedding.solution import Solution
from score_sde.sdes import SDE

SOLVERS: dict[str, Callable[..., Solution]] = {
    "exact": cole_hopf.solve,
    "semi_implicit": finite_difference.solve,
    "legacy": legacy.solve,
}
"""``solver(m0, times, sde, **settings)``: m0 ``[n, C, H, W]``, times ``[N]``, the first one that of m0."""


def solve(
    settings: ExactSettings | SemiImplicitSettings | LegacySettings, m0: Tensor, times: Tensor, sde: SDE
) -> Solution:
    """The solution by the solver that the settings name."""
    return find("solver", SOLVERS, settings.name)(m0, times, sde, **settings.model_dump(exclude={"name"}))


def level_times(num_levels: int, eps: float) -> Tensor:
    """Times of the levels, evenly spaced from eps to 1, float64 ``[N]``."""
    return torch.linspace(eps, 1, num_levels, dtype=torch.float64)
