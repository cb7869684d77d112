"""Score-based models through stochastic differential equations: the NCSN++ network."""

from score_sde.ncsnpp import NCSNpp
from score_sde.settings import ncsnpp_settings

__all__ = ["NCSNpp", "ncsnpp_settings"]
