"""Signs in a restored photograph that the noise level or the blur kernel was wrong.

A noise level that is too small shows in the residual: noise is taken for signal, and fitted. A wrong kernel does not
show there, since every blur can be fitted: it shows in the picture, by values that no picture has, and by ripples.

The bounds are for `random_walk` with ``kappa``, as in configs/photo_deblur.yaml. They were found on three photographs
that were blurred by Gaussian, disc, straight and crooked kernels, with noise of 2 and 8 of 255.
"""

from __future__ import annotations

import torch
from torch import Tensor

from randomwalk.config.operators import BlurSettings, blurs_of
from randomwalk.operators import Measurement, Operator, blur_with_kernel
from randomwalk.operators.blur import kernel_of
from randomwalk.operators.noise import GaussianNoise
from randomwalk.operators.operator import cut
from randomwalk.rng import ImageDraws, sample_stream
from randomwalk.samplers import RandomWalk
from randomwalk.sampling.batch import Batch
from randomwalk.sampling.task import Task

MOST, LEAST = 1.03, 0.6
"""Largest and smallest residual, in units of the noise given, of a restoration with the right noise."""
OUTSIDE, BRIGHT = 0.03, 0.95
"""Largest share of values outside [-1.02, 1.02], beyond the share of the photograph's that are above `BRIGHT`."""
CONTRAST = 1.0
"""Largest `contrast` of a restoration with the right kernel (0.8 was the largest found)."""
SIDE = 160
"""Side of the cut-out on which a kernel is tried both ways."""
SKEW = 0.2
"""Part of a kernel that must move when it is turned; turning others changes little."""


def of_batch(task: Task, batch: Batch) -> list[str]:
    """Doubts about the restorations of given blurred photographs, a line each; none for other tasks and samplers."""
    measurement = task.config.measurement
    restores = isinstance(task.sampler, RandomWalk) and task.sampler.kappa is not None
    if measurement is None or not measurement.given or not blurs_of(measurement.operator) or not restores:
        return []
    kernel = kernel_of(task.make_operator([batch.ids[0].image])[0])
    found = []
    for row, one in enumerate(batch.ids):
        name = task.names[one.image]
        line = _of_noise(batch, row) or (None if kernel is None else _of_kernel(batch, row, kernel))
        found += [f"{name}: {line}"] if line else []
    return found


def _of_noise(batch: Batch, row: int) -> str:
    """Doubt about the noise level."""
    if batch.residuals is None or batch.noise_std is None:
        return ""
    residual, std = batch.residuals[row], 127.5 * batch.noise_std
    if residual > MOST:
        return (
            f"the residual is {residual:.2f} times the noise of {std:.1f} of 255 that was assumed: there is more "
            f"noise, which the restoration shows as texture; try measurement.noise.std (--noise) {1.4 * std:.1f}"
        )
    if residual < LEAST:
        return (
            f"the residual is {residual:.2f} times the noise of {std:.1f} of 255 that was assumed: there is less "
            f"noise, and the restoration is too smooth; try measurement.noise.std (--noise) {1.1 * residual * std:.1f}"
        )
    return ""


def _of_kernel(batch: Batch, row: int, kernel: Tensor) -> str:
    """Doubt about the kernel."""
    assert batch.measurement is not None and batch.noise_std is not None
    x, y = batch.x[row], batch.measurement[row]
    if x.shape != y.shape:
        return ""
    outside = share_outside(x) - float((y.abs() > BRIGHT).float().mean())
    ratio = contrast(x, y, kernel, batch.noise_std)
    if outside < OUTSIDE and ratio < CONTRAST:
        return ""
    sign = (
        f"{100 * share_outside(x):.0f}% of its values are outside the range of pictures"
        if outside >= OUTSIDE
        else "it has ripples"
    )
    return (
        f"the restoration does not look like a photograph: {sign}; the kernel may be wrong (too large, of another "
        "kind, or turned: see flip)"
    )


def share_outside(x: Tensor) -> float:
    """Share of values that are clearly outside the range of pictures, [-1, 1]."""
    return float((x.abs() > 1.02).float().mean())


def contrast(x: Tensor, y: Tensor, kernel: Tensor, std: float) -> float:
    """Steepness of a restoration in units of what the photograph and the kernel let expect: above 1 there are ripples.

    The differences of neighbouring pixels of a picture are about white, so that a blur k leaves ``|k|^2`` of their
    energy, and noise adds ``2 std^2``: ``sqrt(E(x) |k|^2 / (E(y) - 2 std^2))``. 0 where noise hides E(y).

    Args:
        x, y: the restoration and the photograph, ``[C, H, W]``.
        kernel: k, ``[k, l]``.
        std: standard deviation of the noise.
    """
    noise, of_y = 2 * std**2, _energy(y)
    if of_y - noise < 0.1 * noise:
        return 0.0
    return float((_energy(x) * float(kernel.square().sum()) / (of_y - noise)) ** 0.5)


def _energy(x: Tensor) -> float:
    """Mean square of the differences of neighbouring pixels, over both axes."""
    down, across = x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]
    return float(down.square().mean() + across.square().mean()) / 2


def total_variation(x: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels ``[..., H, W]``, along both axes."""
    return float((x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean())


def of_orientation(task: Task, y: Tensor) -> list[str]:
    """One line if a cut-out of a photograph looks more natural restored with the kernel turned by 180 degrees.

    That is, if it has both less total variation and less than half as many values outside the range of pictures.

    Args:
        task: a blur with the kernel of a file.
        y: the photograph, ``[1, C, H, W]``.
    """
    assert task.config.measurement is not None
    [blur] = blurs_of(task.config.measurement.operator)
    kernel = kernel_of(task.make_operator([0])[0])
    if not isinstance(blur, BlurSettings) or kernel is None:
        return []
    moved = float((kernel - kernel.flip(0, 1)).abs().sum() / (2 * kernel.abs().sum()))
    noise = task.estimated_noise.get(0, task.noise)
    if moved < SKEW or not isinstance(noise, GaussianNoise):
        return []
    top, left = ((size - min(size, SIDE)) // 2 for size in y.shape[2:])
    y = y[..., top : top + SIDE, left : left + SIDE].contiguous()
    as_given, turned = (_restored(task, y, k, noise) for k in (kernel, kernel.flip(0, 1)))
    smoother = total_variation(turned) < total_variation(as_given)
    inside = share_outside(turned) + 1e-4 < (share_outside(as_given) + 1e-4) / 2
    if not (smoother and inside):
        return []
    return [
        f"{blur.file}: on a cut-out of {y.shape[2]}x{y.shape[3]} pixels the kernel turned by 180 degrees gives the "
        f"more natural picture: try {'without' if blur.flip else 'with'} --flip"
    ]


def _restored(task: Task, y: Tensor, kernel: Tensor, noise: GaussianNoise) -> Tensor:
    """A cut-out ``[1, C, H, W]``, restored with a kernel."""
    shape = (y.shape[1], *(size + taps - 1 for size, taps in zip(y.shape[2:], kernel.shape, strict=True)))
    operator: Operator = blur_with_kernel(shape, kernel, "unknown").to(y.device)
    with torch.no_grad():
        draws = ImageDraws([sample_stream(task.config.seed, 0, 0)], y.device)
        x = task.sampler.sample(task.denoiser_of([0]), task.sigmas, Measurement(operator, noise, y), draws=draws)
    return cut(x, operator.margins)
