"""Measurement operators A, looked up by name: ``y = A(x) + noise`` with images x ``[B, C, H, W]``.

An operator of your own needs ``forward`` alone::

    class Flip(Operator):
        def forward(self, x):
            return x.flip(-1)

Its adjoint then comes from automatic differentiation and its norm from power iteration. Define ``adjoint`` for
speed, ``pinv`` to start from a pseudo-inverse, ``spectral`` for preconditioned steps, and set ``linear = False``
for a differentiable operator that is not linear.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from randomwalk.errors import InputError
from randomwalk.operators.inpainting import Inpainting, make_inpainting
from randomwalk.operators.operator import Identity, Operator
from randomwalk.operators.separable import Separable, SuperResolution
from randomwalk.rng import generator

__all__ = ["OPERATORS", "Identity", "Inpainting", "Operator", "Separable", "SuperResolution", "make"]

OPERATORS: dict[str, Callable[..., Operator]] = {
    "denoising": Identity,
    "inpainting": make_inpainting,
    "super_resolution": SuperResolution,
}


def make(
    name: str,
    *,
    image_shape: Sequence[int],
    generators: Sequence[np.random.Generator] | None = None,
    **settings: Any,
) -> Operator:
    """The operator called ``name``.

    Args:
        name: one of ``OPERATORS``.
        image_shape: ``(C, H, W)`` of the images.
        generators: one for each image of the batch, used by operators that draw something: image i's mask then
            depends on its generator alone. None means one draw for all images, from ``rng.generator(0)``.
        settings: those of the operator, e.g. ``factor`` of super_resolution.

    Raises:
        InputError: an unknown name or setting, or an impossible value.
    """
    if name not in OPERATORS:
        raise InputError(f"operator {name!r}: unknown; expected one of {', '.join(OPERATORS)}")
    parameters = inspect.signature(OPERATORS[name]).parameters
    allowed = [key for key in parameters if key not in ("image_shape", "generators")]
    if unknown := sorted(set(settings) - set(allowed)):
        raise InputError(
            f"operator {name!r}: unknown setting {', '.join(unknown)}; allowed: {', '.join(allowed) or 'none'}"
        )
    if "generators" in parameters:
        settings["generators"] = [generator(0)] if generators is None else generators
    return OPERATORS[name](image_shape, **settings)
