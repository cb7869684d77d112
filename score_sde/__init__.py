"""Score-based models through stochastic differential equations: the SDEs, NCSN++, and a small network for points."""

from score_sde.mlp import TimeMLP
from score_sde.ncsnpp import NCSNpp
from score_sde.settings import ncsnpp_settings

__all__ = ["NCSNpp", "TimeMLP", "ncsnpp_settings"]
