"""Random walks with Tweedie: sampling and solving inverse problems with score-based diffusion models.

Names are imported on first use, so that ``import randomwalk.config`` (and ``sample.py --help``) does not
wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Denoiser": "randomwalk.denoisers.denoiser",
    "GaussianMixture": "randomwalk.denoisers.mixture",
    "GaussianNoise": "randomwalk.operators.noise",
    "InputError": "randomwalk.errors",
    "Measurement": "randomwalk.operators",
    "Operator": "randomwalk.operators",
    "RunError": "randomwalk.errors",
    "load_denoiser": "randomwalk.denoisers.checkpoints",
    "save_denoiser": "randomwalk.denoisers.checkpoints",
    "walk": "randomwalk.samplers.walk",
}
_MODULES = {
    "denoisers": "randomwalk.denoisers",
    "likelihood": "randomwalk.samplers.likelihood",
    "operators": "randomwalk.operators",
    "samplers": "randomwalk.samplers",
    "schedules": "randomwalk.samplers.schedules",
}

__all__ = sorted([*_EXPORTS, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'randomwalk' has no attribute {name!r}")
