"""Motion blur: kernels drawn as the path of a shaking camera."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from randomwalk.config.operators import Boundary
from randomwalk.operators.blur import Blur
from randomwalk.operators.dense import Dense

_POINTS = 500


def motion_kernel(size: int, intensity: float, draws: np.random.Generator) -> Tensor:
    """Kernel ``[size, size]`` of sum 1: how long a camera that moves at constant speed looks at each pixel.

    The path has between half and the whole length of the kernel and starts in any direction. The direction then does
    a random walk, whose standard deviation at the end is ``2 intensity`` radians, with ``Poisson(2 intensity)`` jumps
    to any direction: 0 gives a straight line, 1 a tangled one. The mean of the path is in the middle of the kernel, and
    each point of the path is spread over the four pixels around it (bilinear weights).

    Args:
        size: odd, in pixels.
        intensity: between 0 and 1.
        draws: source of the random path.
    """
    length = draws.uniform(0.5, 1) * (size - 1)
    turns = draws.normal(0, 2 * intensity / _POINTS**0.5, _POINTS)
    turns[0] = draws.uniform(0, 2 * np.pi)
    for jump in draws.integers(1, _POINTS, draws.poisson(2 * intensity)):
        turns[jump] += draws.uniform(-np.pi, np.pi)
    angles = np.cumsum(turns)
    path = np.cumsum(np.stack([np.sin(angles), np.cos(angles)], 1), 0) * length / _POINTS
    path += (size - 1) / 2 - path.mean(0)  # no point is further than length / 2 from the mean: all fit in
    kernel = np.zeros((size, size))
    corner = np.clip(np.floor(path).astype(int), 0, max(size - 2, 0))
    for step in np.ndindex(2, 2) if size > 1 else [(0, 0)]:
        weight = np.prod(1 - np.abs(path - corner - step), axis=1)
        np.add.at(kernel, tuple((corner + step).T), weight)
    return torch.from_numpy(kernel / kernel.sum())


def make_motion_blur(
    image_shape: Sequence[int],
    generators: Sequence[np.random.Generator],
    kernel_size: int,
    intensity: float,
    boundary: Boundary,
    dense: bool,
) -> Blur | Dense:
    """Blur with one motion kernel for each generator, see :class:`randomwalk.config.operators.MotionBlurSettings`.

    Only the circular boundary has a spectral decomposition, so that every sampler can use it; with the others, solves
    by conjugate gradients take up to thousands of products, and may fail.
    """
    kernels = [motion_kernel(kernel_size, intensity, draws) for draws in generators]
    blur = Blur(image_shape, torch.stack(kernels)[:, None], boundary)
    return Dense.of(blur) if dense else blur
