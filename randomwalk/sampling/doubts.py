"""Signs in a restored photograph that the noise level or the blur kernel was wrong.

A wrong noise level shows in the residual: of too small a level noise is taken for signal, and fitted, and of too large
a one the restoration is too smooth. Details that are lost show there as well, so that it is looked at where the picture
is even (`measuring.even_residuals`). A wrong kernel does not show there, since every blur can be fitted: it shows in
the picture, by values that no picture has, and by ripples.

The bounds are for `random_walk` with ``kappa``, as in the configs for photographs, and for the bundled network. Those
of the noise were chosen by ``benchmarks/doubts.py`` on ten photographs of 128 x 128 pixels with 80, 50, 20 or 20% in
boxes missing, at x2 and x4, and blurred by a Gaussian and by motion, with noise of 2, 5, 10 of 255. With the right
level, none of 239 restorations is out of them. Twice the level is noticed in all of 60 blurred pictures, in all of 90
with up to half of the pixels missing and 15 of 30 with 80%, in all of 30 at x2 and 27 of 28 at x4. Half of it is
noticed in all of 60 blurred ones, and, where it is above the lowest level of the walk, below which it changes nothing,
in all of 80 with missing pixels and 20 at x4. It is not noticed at x2, where the noise of a small picture can be fitted
as texture. Those of the kernel were found on three photographs that were blurred by Gaussian, disc, straight and
crooked kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from randomwalk.config.operators import BlurSettings, CompositionSettings, OperatorSettings, blurs_of
from randomwalk.operators import Measurement, Operator, blur_with_kernel
from randomwalk.operators.blur import kernel_of
from randomwalk.operators.noise import GaussianNoise
from randomwalk.operators.operator import cut
from randomwalk.rng import ImageDraws, sample_stream
from randomwalk.samplers import RandomWalk
from randomwalk.sampling.batch import Batch
from randomwalk.sampling.task import Task

OF_BLURS, OF_DOUBLING, OF_ENLARGEMENT = (0.74, 1.18), (0.64, 1.05), (0.7, 1.04)
"""Smallest and largest residual in even areas, in units of the noise given, of a restoration with the right noise."""
OF_LONE_PIXELS, OF_CROWDED_PIXELS = (0.8, 1.36), (0.68, 1.08)
"""The same for known pixels of which a fifth, or seven tenths and more, of the neighbours are known."""
FAR_OFF = 3.0
"""Residual from which on the noise given tells nothing about the right one."""
OUTSIDE, BRIGHT = 0.03, 0.95
"""Largest share of values outside [-1.02, 1.02], beyond the share of the photograph's that are above `BRIGHT`."""
CONTRAST = 1.0
"""Largest `contrast` of a restoration with the right kernel (0.8 was the largest found)."""
SIDE = 160
"""Side of the cut-out on which a kernel is tried both ways."""
SKEW = 0.2
"""Part of a kernel that must move when it is turned; turning others changes little."""


def of_batch(task: Task, batch: Batch) -> list[str]:
    """Doubts about the restorations of given photographs, a line each; none for other tasks and samplers."""
    measurement = task.config.measurement
    restores = isinstance(task.sampler, RandomWalk) and task.sampler.kappa is not None
    if measurement is None or not measurement.given or not restores:
        return []
    blurred = blurs_of(measurement.operator)
    kernel = kernel_of(task.measurements.operator_of([batch.ids[0].image])[0]) if blurred else None
    found = []
    for row, one in enumerate(batch.ids):
        bounds = bounds_of(measurement.operator, None if batch.crowding is None else batch.crowding[row])
        lowest = 0.0 if blurred else float(task.sigmas[-1])
        line = of_noise(batch, row, bounds, lowest) if bounds else ""
        line = line or (_of_kernel(batch, row, kernel) if kernel is not None else "")
        found += [f"{task.images.names[one.image]}: {line}"] if line else []
    return found


def bounds_of(settings: OperatorSettings, crowding: float | None) -> tuple[float, float] | None:
    """Smallest and largest residual in even areas of restorations with the right noise; None if they are not known.

    Args:
        settings: of the operator.
        crowding: see `measuring.crowding`; None if no pixels are missing.
    """
    if blurs_of(settings):
        return OF_BLURS
    if isinstance(settings, CompositionSettings):
        return None
    if settings.name == "super_resolution":
        return OF_DOUBLING if settings.factor == 2 else OF_ENLARGEMENT
    if crowding is None:
        return None
    share = min(max((crowding - 0.2) / 0.5, 0.0), 1.0)
    lone, crowded = OF_LONE_PIXELS, OF_CROWDED_PIXELS
    return lone[0] + share * (crowded[0] - lone[0]), lone[1] + share * (crowded[1] - lone[1])


def of_noise(batch: Batch, row: int, bounds: tuple[float, float], lowest: float) -> str:
    """Doubt about the noise level.

    Args:
        bounds: of the residual.
        lowest: noise level below which none that is given matters: the lowest of the walk, if nothing is blurred.
    """
    residual = None if batch.even_residuals is None else batch.even_residuals[row]
    if residual is None or batch.noise_std is None:
        return ""
    std, (least, most) = 127.5 * batch.noise_std, bounds
    where = f"in even areas of the picture the residual is {residual:.2f} times the assumed noise of {std:.3g} of 255"
    if residual * batch.noise_std > most * max(batch.noise_std, lowest):
        return (
            f"{where}: there is more noise, which the restoration shows as texture; try measurement.noise.std "
            f"(--noise) {'auto' if residual > FAR_OFF else format(1.4 * std, '.3g')}"
        )
    if residual < least and batch.noise_std >= lowest:
        return (
            f"{where}: there is less noise, and the restoration is too smooth; try measurement.noise.std (--noise) "
            f"{1.1 * residual * std:.3g}"
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
        f"{100 * share_outside(x):.0f}% of its values are outside the range of images"
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
    kernel = kernel_of(task.measurements.operator_of([0])[0])
    if not isinstance(blur, BlurSettings) or kernel is None:
        return []
    moved = float((kernel - kernel.flip(0, 1)).abs().sum() / (2 * kernel.abs().sum()))
    noise = task.measurements.estimated_noise.get(0, task.measurements.noise)
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
