"""Pieces of the work of a sampling run, and what came of a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from randomwalk import samplers
from randomwalk.config import SampleConfig
from randomwalk.operators import Operator

BATCH_PIXELS = 2**20
"""So many pixels make a batch of images that keep their own size: more at once is not faster, and takes memory."""


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


def batches_of(images: Sequence[int], num_samples: int, rows: int, together: int) -> list[list[Unit]]:
    """The samples of images in batches of so many rows, at least of those that are made together."""
    units = [Unit(image, sample) for image in images for sample in range(num_samples)]
    size = max(1, rows // together) * together
    return [units[start : start + size] for start in range(0, len(units), size)]


def coupling_notes(config: SampleConfig, sampler: samplers.Sampler) -> list[str]:
    """What the user should know of samples that depend on each other, one line each."""
    name, count, size = config.sampler.name, config.num_samples, config.batch_size
    found = []
    if sampler.coupled_images and not sampler.batch_of_one and size > 1:
        found.append(f"{name} couples the images of a batch: each depends on those beside it")
    if not sampler.coupled_samples:
        return found
    if count == 1:
        found.append(f"{name} is a particle method: with num_samples: 1 it is far from the posterior; raise it")
    if count > size:
        found.append(
            f"{name} makes the {count} samples of an image together: a batch has {count} rows, although "
            f"batch_size is {size}"
        )
    return found
