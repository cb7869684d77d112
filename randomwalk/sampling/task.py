"""A sampling task with everything loaded: its samples, and how a batch of them is drawn.

Writes no files and prints nothing, so that benchmarks can use it too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from randomwalk import samplers
from randomwalk.config import SampleConfig
from randomwalk.config.sampling import Start
from randomwalk.denoisers.denoiser import Denoiser, NetworkDenoiser
from randomwalk.denoisers.guidance import guided, name_of_class, number_of_class
from randomwalk.denoisers.tiling import TiledDenoiser, Tiling
from randomwalk.denoisers.wrappers import Probe
from randomwalk.errors import RunError
from randomwalk.images.tensors import Size
from randomwalk.operators import Measurement
from randomwalk.operators.operator import Margins, Operator, cut
from randomwalk.rng import ImageDraws, sample_stream
from randomwalk.sampling.batch import Batch, SampleId, repeated
from randomwalk.sampling.measurements import Measurements
from randomwalk.sampling.memory import Budget
from randomwalk.sampling.task_images import TaskImages

BATCH_PIXELS = 2**20
"""Most pixels in a batch of images that keep their own size: larger batches are not faster, and take memory."""

Callback = Callable[[int, Tensor, float], object]
Watch = Callable[[int, Tensor, float, Probe], object]
"""``watch(k, x, sigma, probe)`` is called after step k."""


@dataclass
class Task:
    """A sampling task, ready to run; `randomwalk.sampling.loading.load_task` makes it.

    Attributes:
        config: the settings.
        device: where the network and the samples are.
        denoiser: the network, not yet conditioned on a class.
        sampler: of the prior, or of the posterior if there is a measurement.
        sigmas: noise levels of the schedule, decreasing.
        images: what is drawn or restored.
        budget: memory bound of a network that takes any size; None for other networks.
        camera: the network for pictures whose noise is that of a camera; None if all take the same.
        precision: of the network, "fp32" or "bf16", and why; an empty reason where the config says it.
        grouped_by: sizes by which batches are formed: those of the images, or in a resumed run those when it began.
    """

    config: SampleConfig
    device: torch.device
    denoiser: Denoiser
    sampler: samplers.Sampler
    sigmas: Tensor
    images: TaskImages
    budget: Budget | None = None
    camera: NetworkDenoiser | None = None
    precision: tuple[str, str] = ("fp32", "")
    grouped_by: list[Size | None] | None = field(init=False)

    def __post_init__(self) -> None:
        self.grouped_by = self.images.sizes

    @cached_property
    def measurements(self) -> Measurements:
        """Operators and noise of the images; not for an unconditional run."""
        assert self.config.measurement is not None
        return Measurements(self.config.measurement, self.images, self.sampler, self.denoiser, self.camera, self.device)

    # --- the sampler ---------------------------------------------------------------------------------------------

    @property
    def num_steps(self) -> int:
        """Number of `Watch` calls per batch."""
        return self.sampler.num_steps(len(self.sigmas))

    @property
    def coupled_samples(self) -> int:
        """Number of samples of an image that are drawn jointly: all of them by particle methods, else 1."""
        return self.config.num_samples if self.sampler.coupled_samples else 1

    def trial_measurement(self) -> Measurement | None:
        """Exact measurement of a black image, to check settings with; None in an unconditional run.

        Raises:
            InputError: no image has an operator.
        """
        return None if self.config.measurement is None else self.measurements.trial()

    def plan(self, sigmas: Tensor | None = None) -> samplers.Plan | None:
        """Step sizes and temperatures along noise levels, the task's by default; None unless the sampler is a walk."""
        return self.sampler.plan(self.sigmas if sigmas is None else sigmas, self.trial_measurement())

    def _sample(
        self, probe: Probe, measurement: Measurement | None, draws: ImageDraws, callback: Callback | None
    ) -> Tensor:
        """Run the sampler, ``[B, C, H, W]``, from the start of the config, or else the sampler's own."""
        start, x = self.config.start, None
        if measurement is None or start != Start():
            shape = self.images.shape if measurement is None else measurement.operator.image_shape
            std = float(self.sigmas[0]) if start.std is None else start.std
            mean: float | Tensor
            if start.mean == "measurement":
                assert measurement is not None
                mean = repeated(measurement.operator.interpolated(measurement.y), self.coupled_samples)
            else:
                mean = start.mean
            x = draws.normal(shape).mul_(std).add_(mean)
        return self.sampler.sample(
            probe, self.sigmas, measurement, num_samples=self.coupled_samples, start=x, draws=draws, callback=callback
        )

    # --- the images ----------------------------------------------------------------------------------------------

    @cached_property
    def labels(self) -> list[int] | None:
        """Classes that the config names; image i has class ``i % len(labels)``. None without guidance.

        Raises:
            InputError: the network knows no class of that name.
        """
        if self.config.guidance is None:
            return None
        labels = self.config.guidance.labels
        return [number_of_class(self.denoiser, k) for k in (labels if isinstance(labels, list) else [labels])]

    def label_of(self, image: int) -> int | None:
        """Class of an image; None without guidance."""
        return None if self.labels is None else self.labels[image % len(self.labels)]

    def class_of(self, image: int) -> str | None:
        """Name of an image's class; None without guidance."""
        label = self.label_of(image)
        return None if label is None else name_of_class(self.denoiser, label)

    def denoiser_of(self, images: Sequence[int]) -> Denoiser:
        """Denoiser conditioned on the classes of the images, one per row of a batch.

        A picture whose noise was found to be that of a camera is alone in its batch.

        Raises:
            InputError: the network does not know such classes, or requires one.
        """
        labels = [label for image in images if (label := self.label_of(image)) is not None]
        taken = self.camera if self.camera is not None and images[0] in self.measurements.of_cameras else self.denoiser
        return guided(taken, labels or None, self.config.guidance.scale if self.config.guidance else 1.0)

    @property
    def margins(self) -> Margins:
        """Rows and columns around the measured part of an image: restored, if a blur reaches there, and cut off."""
        return Operator.margins if self.config.measurement is None else self.measurements.margins

    def load_image(self, image: int) -> Tensor:
        """Load a true image, ``[C, H, W]``, or its measurement if measurements are given.

        Raises:
            InputError: it does not decode.
        """
        if self.config.given:
            return self.measurements.load(image)
        return self.images.load(image, self.images.shape_of(image))

    def load_truth(self, image: int) -> Tensor:
        """Load the part of a true image that is measured, ``[C, H, W]``: what a result is compared with.

        Raises:
            InputError: it does not decode.
        """
        return cut(self.load_image(image), self.margins)

    def load_measurable(self, image: int) -> Tensor:
        """`load_image`, and check that the image can be measured.

        Raises:
            InputError: the image does not decode, has no operator, or its noise cannot be estimated.
        """
        loaded = self.load_image(image)
        if self.images.sizes is not None:
            self.measurements.check(image, loaded)
        return loaded

    # --- the batches ---------------------------------------------------------------------------------------------

    def batches(self) -> list[list[SampleId]]:
        """All samples in batches, which depend only on the config and the images: a resumed run has the same ones.

        Coupled samples share a batch, even beyond ``batch_size``. Images of different sizes never do, and large ones
        only up to `BATCH_PIXELS`. An image is alone if its size was unknown when the run began, or if it has noise of
        its own (estimated, grey, or of photons that pass for Gaussian noise).
        """
        config, measured = self.config, self.config.measurement
        own_noise = measured is not None and (measured.noise_is_estimated or not self.measurements.knows_noise)
        groups: dict[object, list[int]] = {}
        for i in range(len(self.images)):
            size = () if self.grouped_by is None else self.grouped_by[i]
            alone = own_noise or self.images.is_grey(i) or size is None
            groups.setdefault(i if alone else size, []).append(i)
        batches = []
        for images in groups.values():
            rows = 1 if self.sampler.batch_of_one else config.batch_size
            if self.grouped_by is not None:
                own = self.grouped_by[images[0]]
                pixels = (
                    BATCH_PIXELS if own is None else math.prod(self.images.sizing(own, self.images.names[images[0]]))
                )
                rows = min(rows, BATCH_PIXELS // pixels)
            rows = max(1, rows // self.coupled_samples) * self.coupled_samples
            ids = [SampleId(image, sample) for image in images for sample in range(config.num_samples)]
            batches += [ids[start : start + rows] for start in range(0, len(ids), rows)]
        return batches

    def tiling_of(self, ids: Sequence[SampleId]) -> Tiling | None:
        """Tiles in which the network takes the images of a batch; None if it takes them whole.

        Raises:
            InputError: they do not fit into the memory.
        """
        if self.budget is None or (self.images.sizes is not None and self.images.sizes[ids[0].image] is None):
            return None
        return self.budget.tiling(self.images.shape_of(ids[0].image), len(ids))

    def sample(
        self,
        ids: Sequence[SampleId],
        loaded: Tensor | None,
        watch: Watch | None = None,
        watch_tiles: Callable[[int, int], object] | None = None,
    ) -> Batch:
        """Draw a batch of samples.

        Args:
            ids: the samples; coupled samples of an image follow one another.
            loaded: `load_image` of each, ``[B, ...]``; None in an unconditional run.
            watch: called after every step.
            watch_tiles: ``watch_tiles(done, total)`` is called after each tile of a tiled evaluation.

        Raises:
            RunError: the state is not finite, or memory runs out.
        """
        images = [one.image for one in ids]
        batch = Batch(list(ids), torch.empty(0))
        draws = ImageDraws([sample_stream(self.config.seed, one.image, one.sample) for one in ids], self.device)
        tiling = self.tiling_of(ids)
        try:
            measurement, told, gain = None, None, 1.0
            if loaded is not None:
                measurement = self.measurements.measure(batch, loaded, self.coupled_samples)
                gain = self.measurements.gain_of(measurement)
                told = self.measurements.told(images[0], measurement, gain)
            denoiser = self.denoiser_of(images)
            probe = Probe(denoiser if tiling is None else TiledDenoiser(denoiser, tiling, watch_tiles))
            probe.shown = lambda x: cut(x, self.margins)
            callback = None if watch is None else lambda k, x, sigma: watch(k, cut(x, self.margins), sigma, probe)
            began = self._now()
            batch.x = self._sample(probe, told, draws, callback)
            batch.seconds = (self._now() - began) / len(ids)
            batch.x = batch.x if gain == 1 else (batch.x + 1) / gain - 1
            if measurement is not None:
                self.measurements.judge(batch, measurement, self.coupled_samples)
                batch.x = cut(batch.x, self.margins)
                batch.truth = None if batch.truth is None else cut(batch.truth, self.margins)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise RunError(
                    f"out of memory on {self.device}: lower batch_size (now {self.config.batch_size})"
                    + (f" or num_samples (now {self.coupled_samples})" if self.coupled_samples > 1 else "")
                    + (f" or max_memory (now {self.budget.gib:g} GiB)" if self.budget is not None else "")
                ) from error
            raise
        batch.evaluations, batch.vjps = probe.evaluations, probe.vjps
        return batch

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
