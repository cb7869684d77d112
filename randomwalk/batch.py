"""Pieces of the work of a sampling run, and what came of a batch of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from randomwalk.operators import Operator


@dataclass(frozen=True)
class Unit:
    """One piece of work: sample ``sample`` of image ``image``."""

    image: int
    sample: int


@dataclass
class Batch:
    """What came of a batch; row b of every tensor belongs to ``units[b]``.

    Attributes:
        x: the samples ``[B, C, H, W]``.
        truth: the true images; None in an unconditional run, and where measurements are given.
        measurement: y, ``[B, *operator.measurement_shape]``.
        visible: the part of y that A can produce, ``A A^+ y`` (y without the noise on missing pixels); y itself if
            there is no closed form of the pseudo-inverse.
        baseline: an image from y alone, to compare with: ``visible`` if that has the shape of one, else ``A^+ y``,
            else ``A^T y``; None if A has neither.
        noise_std: of the noise, as the sampler was told, in [-1, 1] units; None where there is no measurement.
        residuals: see `measuring.residuals`; None where there are none.
        evaluations: of the network, for each sample.
        vjps: products with the network's transposed Jacobian, for each sample.
        seconds: of sampling, for each sample.
    """

    units: list[Unit]
    x: Tensor
    truth: Tensor | None = None
    measurement: Tensor | None = None
    visible: Tensor | None = None
    baseline: Tensor | None = None
    noise_std: float | None = None
    residuals: list[float] | None = None
    evaluations: int = 0
    vjps: int = 0
    seconds: float = 0.0


def pictures_of(operator: Operator, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """What is to be seen of measurements ``[B, ...]``: ``visible`` and ``baseline`` of a `Batch`.

    A pseudo-inverse without a closed form is left alone: it takes long, and makes little of noise where the operator is
    ill-conditioned.
    """
    inverse = operator.pinv(y) if operator.has_spectral else None
    visible = y if inverse is None else operator(inverse)
    if tuple(visible.shape[1:]) == operator.image_shape:
        return visible, visible
    if inverse is None and operator.linear:
        inverse = operator.adjoint(y)
    return visible, inverse
