"""Samples of a run, and the result of a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from randomwalk.operators import Operator


@dataclass(frozen=True)
class SampleId:
    """Sample number ``sample`` of image number ``image``."""

    image: int
    sample: int


@dataclass
class Batch:
    """Result of a batch; row b of every tensor belongs to ``ids[b]``.

    Attributes:
        ids: the samples of the batch.
        x: the drawn images ``[B, C, H, W]``, without margins.
        truth: the true images; None in an unconditional run, and where measurements are given.
        measurement: y, ``[B, *operator.measurement_shape]``; None in an unconditional run.
        visible: the part of y in the range of A, ``A A^+ y``, which leaves out the noise on missing pixels; y itself
            if the pseudo-inverse has no closed form.
        baseline: an image from y alone, to compare with: ``visible`` if it has the shape of an image, else ``A^+ y``,
            else ``A^T y``; None if A has neither.
        noise_std: standard deviation of the noise as the sampler was told, pixels in [-1, 1]; None if there is none.
        residuals, even_residuals: see `measuring.residuals` and `measuring.even_residuals`.
        entries: number of known entries of y of each row, copies of a grey image counted once.
        crowding: see `measuring.crowding`; None if no pixels are missing.
        evaluations: network evaluations per sample.
        vjps: products with the network's transposed Jacobian per sample.
        seconds: sampling time per sample.
    """

    ids: list[SampleId]
    x: Tensor
    truth: Tensor | None = None
    measurement: Tensor | None = None
    visible: Tensor | None = None
    baseline: Tensor | None = None
    noise_std: float | None = None
    residuals: list[float] | None = None
    entries: list[float] | None = None
    even_residuals: list[float | None] | None = None
    crowding: list[float] | None = None
    evaluations: int = 0
    vjps: int = 0
    seconds: float = 0.0


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Images as one tensor ``[B, ...]``, without a copy where there is a single one."""
    return torch.stack(list(images)) if len(images) > 1 else images[0][None].contiguous()


def repeated(rows: Tensor, count: int) -> Tensor:
    """Each row ``count`` times in a row, without a copy where that is once."""
    return rows.repeat_interleave(count, 0) if count > 1 else rows


def visible_and_baseline(operator: Operator, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """`Batch.visible` and `Batch.baseline` of measurements ``[B, ...]``.

    A pseudo-inverse without a closed form is not computed: it is slow, and amplifies noise where the operator is
    ill-conditioned. The interpolated image takes its place, such as the filtered back-projection, or ``A^T y``.
    """
    inverse = operator.pinv(y) if operator.has_spectral else None
    visible = y if inverse is None else operator(inverse)
    if tuple(visible.shape[1:]) == operator.shown_shape:
        return visible, visible
    if inverse is None and operator.linear:
        interpolates = type(operator).interpolated is not Operator.interpolated
        inverse = operator.interpolated(y) if interpolates else operator.adjoint(y)
    return visible, None if inverse is None else operator.cut(inverse)
