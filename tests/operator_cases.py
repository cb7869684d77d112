"""Table of the operators and settings on which the tests of operators run."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from randomwalk import operators
from randomwalk.config.operators import Downsampling
from randomwalk.operators import Dense, Operator
from randomwalk.operators.decimation import downsample_with_kernel
from randomwalk.operators.regional_blur import RegionalBlur, weights_of
from randomwalk.rng import generator

Shape = tuple[int, int, int]
Case = tuple[str, dict[str, Any], Shape]


class Correlation(Operator):
    """Operator as a user may write it, with only ``forward``: a correlation with a small kernel for each channel."""

    def __init__(self, image_shape: Shape) -> None:
        super().__init__(image_shape)
        taps = torch.randn((image_shape[0], 1, 3, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.register_buffer("taps", taps)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, self.get_buffer("taps").to(x.dtype), stride=2, groups=x.shape[1])


class Square(Operator):
    """Differentiable operator that is not linear."""

    linear = False

    def forward(self, x: Tensor) -> Tensor:
        return x.square()


def random_kernel(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Kernel without symmetry that is not the product of a row and a column."""
    return torch.rand((rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


_BOUNDARIES = ("reflect", "replicate", "zero", "circular", "unknown")

LINEAR: list[Case] = [
    ("denoising", {}, (3, 4, 6)),
    ("inpainting", {"missing": 0.6}, (3, 6, 5)),
    ("inpainting", {"mask": "box", "box_size": [2, 4], "margin": 1}, (1, 8, 6)),
    *(("super_resolution", {"factor": f}, s) for f, s in ((2, (2, 4, 8)), (3, (1, 9, 6)))),
    ("super_resolution", {"factor": 4}, (3, 4, 12)),
    ("super_resolution", {"factor": 5}, (1, 5, 15)),
    *(("super_resolution", {"factor": 2, "downsampling": d}, (2, 6, 8)) for d in get_args(Downsampling)),
    *(("super_resolution", {"factor": 3, "downsampling": d}, (1, 6, 9)) for d in ("box", "nearest", "strided")),
    ("super_resolution", {"factor": 2, "kernel": random_kernel(3, 4)}, (2, 6, 8)),
    ("super_resolution", {"factor": 3, "kernel": random_kernel(2, 5)}, (1, 9, 6)),
    ("super_resolution", {"factor": 2, "kernel": random_kernel(7, 9)}, (1, 4, 6)),  # larger than the image
    ("super_resolution", {"factor": 2, "kernel": random_kernel(1, 3)}, (1, 6, 8)),  # separable
    *(("gaussian_blur", {"std": 0.6, "boundary": b}, (2, 6, 5)) for b in _BOUNDARIES),
    ("gaussian_blur", {"std": 1.0, "kernel_size": 15}, (1, 5, 3)),  # wider than the image
    ("defocus_blur", {"radius": 1.6}, (1, 7, 6)),
    ("defocus_blur", {"radius": 2.4, "boundary": "unknown"}, (1, 8, 6)),
    ("motion_blur", {"length": 4.0, "angle": 60.0, "boundary": "unknown"}, (1, 8, 6)),
    ("gaussian_blur", {"std": 0.5}, (1, 1, 4)),
    *(("motion_blur", {"kernel_size": 5, "boundary": b}, (2, 7, 6)) for b in _BOUNDARIES),
    ("motion_blur", {"kernel_size": 13, "intensity": 1.0}, (1, 5, 4)),
    ("motion_blur", {"kernel_size": 13, "intensity": 1.0, "boundary": "circular"}, (1, 5, 4)),
    ("motion_blur", {"kernel_size": 5, "dense": True}, (1, 5, 6)),
    *(("blur", {"kernel": random_kernel(3, 4), "boundary": b}, (1, 6, 7)) for b in _BOUNDARIES),
    ("blur", {"kernel": torch.outer(torch.tensor([1.0, 4, 2]), torch.tensor([3.0, 1]))}, (1, 6, 7)),  # separable
    *(("regional_blur", {"kernels": 2, "boundary": b}, (2, 6, 7)) for b in _BOUNDARIES),
    ("regional_blur", {"kernels": 6, "boundary": "zero"}, (1, 5, 8)),
    ("colorization", {}, (3, 5, 4)),
    ("demosaic", {"pattern": "GRBG"}, (3, 5, 4)),
    ("compressed_sensing", {"ratio": 0.3}, (2, 5, 3)),
    ("compressed_sensing", {"ratio": 1.0}, (1, 4, 4)),
    ("compressed_sensing", {"ratio": 0.4, "matrix": "dense"}, (3, 3, 4)),
    ("fourier_subsampling", {"acceleration": 2.0}, (2, 6, 8)),
    ("fourier_subsampling", {"acceleration": 2.5}, (1, 5, 7)),
    ("fourier_subsampling", {"acceleration": 1.0}, (1, 4, 3)),
    *(("mri", {"mask": m, "acceleration": 2.0}, (2, 6, 8)) for m in ("random", "equispaced", "variable_density")),
    ("mri", {"acceleration": 3.0, "mask": "variable_density"}, (2, 5, 7)),
    ("mri", {"acceleration": 2.0, "coils": 3}, (2, 5, 6)),
    ("mri", {"acceleration": 2.5, "coils": 4, "mask": "variable_density"}, (2, 4, 5)),
    ("tomography", {"views": 3, "pixel_size": 0.5}, (2, 4, 5)),
    ("tomography", {"views": [10.0, 75.0, 200.0], "detectors": 6, "detector_spacing": 0.8}, (1, 5, 4)),
    ("tomography", {"views": 9, "arc": 360.0}, (1, 4, 3)),
    (
        "composition",
        {"first": {"name": "motion_blur", "kernel_size": 3}, "second": {"name": "inpainting", "missing": 0.5}},
        (2, 5, 6),
    ),
    (
        "composition",
        {"first": {"name": "inpainting", "missing": 0.3}, "second": {"name": "super_resolution", "factor": 2}},
        (1, 6, 4),
    ),
    (
        "composition",
        {
            "first": {"name": "defocus_blur", "radius": 1.2, "boundary": "unknown"},
            "second": {"name": "super_resolution", "factor": 2},
        },
        (1, 8, 6),
    ),
    ("user", {}, (2, 7, 6)),
    ("user", {"dense": True}, (2, 7, 6)),
]

NONLINEAR: list[Case] = [
    ("phase_retrieval", {}, (2, 8, 12)),
    ("phase_retrieval", {"oversample": 4.0}, (1, 5, 7)),
    ("hdr", {"factor": 2.0}, (3, 4, 5)),
    ("jpeg", {"quality": 30}, (3, 17, 20)),
    ("jpeg", {"quality": 80, "subsampling": "4:4:4"}, (3, 8, 9)),
    ("jpeg", {"quality": 10}, (1, 9, 16)),
    (
        "composition",
        {"first": {"name": "gaussian_blur", "std": 1.0}, "second": {"name": "hdr"}},
        (1, 6, 5),
    ),
]


def label(case: Case) -> str:
    """Identifier of a case in the names of tests."""
    name, settings, shape = case
    words = [str(value) for value in settings.values() if isinstance(value, (str, int, float))]
    return "-".join([name, *words, "x".join(map(str, shape))])


def build(case: Case, images: range = range(1)) -> Operator:
    """Operator of a case, for these images."""
    name, settings, shape = case
    if name == "user":
        return Dense.of(Correlation(shape)) if settings else Correlation(shape)
    if "kernel" in settings:
        kernel = settings["kernel"] / settings["kernel"].sum()
        if name == "super_resolution":
            return downsample_with_kernel(shape, settings["factor"], kernel)
        return operators.blur_with_kernel(shape, kernel, settings.get("boundary", "reflect"))
    if "kernels" in settings:
        count = settings["kernels"]
        taps = torch.stack([random_kernel(3, 4, seed) for seed in range(count)])
        weights = weights_of(2, count // 2, *shape[1:])
        return RegionalBlur(shape, taps / taps.sum((1, 2), keepdim=True), weights, settings["boundary"])
    draws = [generator(3, image) for image in images]
    return operators.make(name, image_shape=shape, generators=draws, **settings)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(operator: Operator) -> Tensor:
    """Matrix of an operator with one state, column by column."""
    size = int(np.prod(operator.image_shape))
    images = torch.eye(size, dtype=torch.float64).reshape(size, *operator.image_shape)
    return operator(images).reshape(size, -1).T
