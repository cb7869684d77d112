"""Measurement operators A, looked up by name: ``y = A(x) + noise`` with images x ``[B, C, H, W]``.

An operator of your own needs ``forward`` alone::

    class Flip(Operator):
        def forward(self, x):
            return x.flip(-1)

Its adjoint then comes from automatic differentiation, its norm from Lanczos' method, and its pseudo-inverse and
proximal map from conjugate gradients. Define ``adjoint`` for speed, and ``spectral`` and ``pinv`` where there is a
closed form, or, for small images, get all in closed form from ``Dense.of(Flip(image_shape))``. Set ``linear = False``
for a differentiable operator that is not linear.

``docs/extending.md`` shows how to give it a name, so that ``make`` and YAML files find it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from randomwalk.config import validate
from randomwalk.config.operators import OperatorSettings
from randomwalk.errors import InputError
from randomwalk.operators.blur import (
    Blur,
    GaussianBlur,
    SeparableBlur,
    blur_with_kernel,
    make_blur,
    make_defocus_blur,
    make_motion_blur,
)
from randomwalk.operators.composition import Composition
from randomwalk.operators.decimation import BlurredDecimation, make_super_resolution
from randomwalk.operators.deepinv_adapter import make_deepinv
from randomwalk.operators.dense import Dense
from randomwalk.operators.fourier import FourierSubsampling, PhaseRetrieval, make_fourier_subsampling
from randomwalk.operators.inpainting import Inpainting, make_inpainting
from randomwalk.operators.mri import MRI, MultiCoilMRI, make_mri
from randomwalk.operators.nonlinear import HDR, JPEG
from randomwalk.operators.operator import Identity, Measurement, Operator
from randomwalk.operators.regional_blur import RegionalBlur, make_regional_blur
from randomwalk.operators.sensing import (
    Colorization,
    CompressedSensing,
    Demosaic,
    OrthonormalRows,
    make_compressed_sensing,
)
from randomwalk.operators.separable import Separable, SuperResolution
from randomwalk.operators.tomography import Tomography, make_tomography
from randomwalk.rng import measurement_stream

__all__ = [
    "HDR",
    "JPEG",
    "MRI",
    "OPERATORS",
    "Blur",
    "BlurredDecimation",
    "Colorization",
    "Composition",
    "CompressedSensing",
    "Demosaic",
    "Dense",
    "FourierSubsampling",
    "GaussianBlur",
    "Identity",
    "Inpainting",
    "Measurement",
    "MultiCoilMRI",
    "Operator",
    "OrthonormalRows",
    "PhaseRetrieval",
    "RegionalBlur",
    "Separable",
    "SeparableBlur",
    "SuperResolution",
    "Tomography",
    "blur_with_kernel",
    "make",
]


def make_composition(
    image_shape: Sequence[int],
    generators: Sequence[np.random.Generator],
    masks: Sequence[Tensor] | None,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    dense: bool,
) -> Composition | Dense:
    """``second`` after ``first``, each ``{"name": ..., **settings}``; they draw in this order."""
    inner = make(image_shape=image_shape, generators=generators, masks=masks, **first)
    if len(inner.measurement_shape) != 3:
        raise InputError(
            f"composition: {first['name']} gives measurements of shape {inner.measurement_shape}, which are not "
            "images, so that no operator can follow it; use it as the second"
        )
    outer = make(image_shape=inner.measurement_shape, generators=generators, masks=masks, **second)
    composed = Composition(inner, outer)
    return Dense.of(composed) if dense else composed


OPERATORS: dict[str, Callable[..., Operator]] = {
    "denoising": Identity,
    "inpainting": make_inpainting,
    "super_resolution": make_super_resolution,
    "gaussian_blur": GaussianBlur,
    "defocus_blur": make_defocus_blur,
    "motion_blur": make_motion_blur,
    "blur": make_blur,
    "regional_blur": make_regional_blur,
    "colorization": Colorization,
    "compressed_sensing": make_compressed_sensing,
    "fourier_subsampling": make_fourier_subsampling,
    "mri": make_mri,
    "tomography": make_tomography,
    "demosaic": Demosaic,
    "deepinv": make_deepinv,
    "phase_retrieval": PhaseRetrieval,
    "hdr": HDR,
    "jpeg": JPEG,
    "composition": make_composition,
}


def make(
    name: str,
    *,
    image_shape: Sequence[int],
    generators: Sequence[np.random.Generator] | None = None,
    masks: Sequence[Tensor] | None = None,
    **settings: Any,
) -> Operator:
    """The operator called ``name``.

    Args:
        name: one of ``OPERATORS``.
        image_shape: ``(C, H, W)`` of the images.
        generators: one for each image of the batch, used by operators that draw something: image i's mask then
            depends on its generator alone. None means that of image 0 with seed 0, for all images.
        masks: ``[H, W]`` of each image, for inpainting with ``mask="beside"``.
        settings: as in YAML, with the same defaults and bounds; see ``docs/settings.md`` or the operator's class in
            :mod:`randomwalk.config.operators`.

    Raises:
        InputError: an unknown name or setting, or an impossible value.
    """
    complete = validate.complete("operator", OperatorSettings, {"name": name, **settings})
    made = OPERATORS[complete.pop("name")]
    batch = {"generators": [measurement_stream(0, 0)] if generators is None else generators, "masks": masks}
    taken = inspect.signature(made).parameters
    return made(image_shape, **{key: value for key, value in batch.items() if key in taken}, **complete)
