"""Score-based models by stochastic differential equations: the SDEs and three networks."""

from score_sde.ddpm_unet import DDPMUNet
from score_sde.mlp import TimeMLP
from score_sde.ncsnpp import NCSNpp
from score_sde.settings import ncsnpp_settings

__all__ = ["DDPMUNet", "NCSNpp", "TimeMLP", "ncsnpp_settings"]
