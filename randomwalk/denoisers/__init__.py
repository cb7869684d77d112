"""Denoisers: networks behind one interface, wrappers around them, and their files."""

from randomwalk.denoisers.adapters import (
    DENOISERS,
    EDMDenoiser,
    ScoreDenoiser,
    SDEDenoiser,
    VEDenoiser,
    VPDenoiser,
    make,
)
from randomwalk.denoisers.checkpoints import load_denoiser, save_denoiser
from randomwalk.denoisers.denoiser import Denoiser, NetworkDenoiser
from randomwalk.denoisers.empirical import EmpiricalDenoiser
from randomwalk.denoisers.guidance import guided
from randomwalk.denoisers.mixture import GaussianMixture
from randomwalk.denoisers.tiling import TiledDenoiser
from randomwalk.denoisers.wrappers import CountingDenoiser

__all__ = [
    "DENOISERS",
    "CountingDenoiser",
    "Denoiser",
    "EDMDenoiser",
    "EmpiricalDenoiser",
    "GaussianMixture",
    "NetworkDenoiser",
    "SDEDenoiser",
    "ScoreDenoiser",
    "TiledDenoiser",
    "VEDenoiser",
    "VPDenoiser",
    "guided",
    "load_denoiser",
    "make",
    "save_denoiser",
]
