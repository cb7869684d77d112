"""Random walks with Tweedie: sampling and solving inverse problems with score-based diffusion models.

Names are imported on first use, so that ``import randomwalk.config`` (and ``sample.py --help``) does not wait for
PyTorch. ``__init__.pyi`` lists the same names for editors and type checkers.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
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
    "wrap": "randomwalk.denoisers.wrap",
}
_MODULES = {
    "denoisers": "randomwalk.denoisers",
    "kernels": "randomwalk.operators.kernels",
    "likelihood": "randomwalk.samplers.likelihood",
    "operators": "randomwalk.operators",
    "samplers": "randomwalk.samplers",
    "schedules": "randomwalk.samplers.schedules",
    "sdes": "score_sde.sdes",
}

__all__ = sorted([*_EXPORTS, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'randomwalk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _refuse_foreign_networks() -> None:
    """Raise ImportError if a checkout would import another package called guided_diffusion or score_sde than its own.

    An installed wheel keeps its networks inside the package (`hatch_build.py`), so no other package can replace them.
    """
    root = Path(__file__).resolve().parent.parent
    for name in ("guided_diffusion", "score_sde"):
        own = root / name / "__init__.py"
        if not own.is_file():  # installed from a wheel
            return
        spec = importlib.util.find_spec(name)
        found = None if spec is None else spec.origin
        if found is None or Path(found).resolve() != own:
            raise ImportError(
                f"randomwalk in {root} needs its own package {name}, but Python finds {found or 'none'}: put {root} "
                f"first on PYTHONPATH, uninstall the other {name}, or install randomwalk with pip install {root}, "
                "which keeps its networks apart"
            )


_refuse_foreign_networks()
