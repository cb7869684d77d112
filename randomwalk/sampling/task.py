"""A sampling task with everything loaded: its samples, and how a batch of them is drawn.

Writes no files and prints nothing, so that benchmarks can use it too.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randomwalk import operators, samplers
from randomwalk.config import SampleConfig
from randomwalk.config.operators import InpaintingSettings, MRISettings, TomographySettings, blurs_of
from randomwalk.config.sampling import Start
from randomwalk.denoisers.denoiser import Denoiser, NetworkDenoiser
from randomwalk.denoisers.guidance import guided, name_of_class, number_of_class
from randomwalk.denoisers.tiling import TiledDenoiser, Tiling
from randomwalk.denoisers.wrappers import Probe
from randomwalk.errors import InputError, RunError
from randomwalk.images.array_source import ArraySource
from randomwalk.images.noise_whiteness import is_camera_noise
from randomwalk.images.sources import ImageSource
from randomwalk.images.tensors import Size
from randomwalk.operators import Measurement, Operator
from randomwalk.operators import noise as noises
from randomwalk.operators.measured import as_measurement
from randomwalk.operators.noise import BeerLambertNoise, GaussianNoise, Noise, PoissonNoise
from randomwalk.operators.operator import ImageShape, Margins, cut
from randomwalk.operators.weighted import Weighted
from randomwalk.rng import ImageDraws, measurement_stream, sample_stream
from randomwalk.sampling import measuring
from randomwalk.sampling.batch import Batch, SampleId, repeated, visible_and_baseline
from randomwalk.sampling.memory import Budget
from randomwalk.sampling.sizes import Sizing, sizing_of

ASSUMED_STD = 2 * 10 / 255
"""Standard deviation used to check settings and draw schedules while the true one is still to be estimated."""
FAINT_STD = 2 * 1 / 255
"""Standard deviation for pictures whose noise stays as it is and cannot be estimated."""
ASSUMED_PEAK = 100.0
"""Photons at white, likewise."""
WITHOUT_DRAWS = ("tomography", "deepinv")
"""Operators that take long to make, and are the same for all images of a size."""
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
        image_shape: ``(C, H, W)`` of the images, with margins; of the largest if they keep their own size.
        source: the true or measured images; None in an unconditional run.
        names: name of each image, empty in an unconditional run.
        sizes: size of each image if they keep their own, None for one that cannot be read; None if all have one size.
        grouped_by: sizes by which batches are formed: ``sizes``, or in a resumed run those when it began.
        greys: whether each image is grey while the network takes colour; empty unless images keep their own size.
        budget: memory bound of a network that takes any size; None for other networks.
        camera: the network for pictures whose noise is that of a camera; None if all take the same.
        precision: of the network, "fp32" or "bf16", and why; an empty reason where the config says it.
        estimated_noise: noise that was estimated, by image.
        of_cameras: images whose noise was found to be that of a camera; only looked for with `camera`.
        mask_notes: how the mask of an image was understood, a line each.
    """

    config: SampleConfig
    device: torch.device
    denoiser: Denoiser
    sampler: samplers.Sampler
    sigmas: Tensor
    image_shape: ImageShape
    source: ImageSource | None
    names: list[str] = field(default_factory=list)
    sizes: list[Size | None] | None = None
    grouped_by: list[Size | None] | None = None
    greys: list[bool] = field(default_factory=list)
    budget: Budget | None = None
    camera: NetworkDenoiser | None = None
    precision: tuple[str, str] = ("fp32", "")
    estimated_noise: dict[int, Noise] = field(default_factory=dict, init=False)
    of_cameras: set[int] = field(default_factory=set, init=False)
    mask_notes: dict[int, list[str]] = field(default_factory=dict, init=False)
    _kept: tuple[tuple[ImageShape, dict[str, Any]], Operator] | None = field(default=None, init=False, repr=False)
    _measured: tuple[list[int], Operator, list[np.random.Generator]] | None = field(
        default=None, init=False, repr=False
    )

    def __post_init__(self) -> None:
        self.grouped_by = self.sizes if self.grouped_by is None else self.grouped_by

    # --- the sampler ---------------------------------------------------------------------------------------------

    @property
    def num_steps(self) -> int:
        """Number of `Watch` calls per batch."""
        return self.sampler.num_steps(len(self.sigmas))

    @property
    def coupled_samples(self) -> int:
        """Number of samples of an image that are drawn jointly: all of them by particle methods, else 1."""
        return self.config.num_samples if self.sampler.coupled_samples else 1

    def plan(self, sigmas: Tensor | None = None) -> samplers.Plan | None:
        """Step sizes and temperatures along noise levels, the task's by default; None unless the sampler is a walk."""
        return self.sampler.plan(self.sigmas if sigmas is None else sigmas, self.trial_measurement())

    def _sample(
        self, probe: Probe, measurement: Measurement | None, draws: ImageDraws, callback: Callback | None
    ) -> Tensor:
        """Run the sampler, ``[B, C, H, W]``, from the start of the config, or else the sampler's own."""
        start, x = self.config.start, None
        if measurement is None or start != Start():
            shape = self.image_shape if measurement is None else measurement.operator.image_shape
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
        taken = self.camera if self.camera is not None and images[0] in self.of_cameras else self.denoiser
        return guided(taken, labels or None, self.config.guidance.scale if self.config.guidance else 1.0)

    def is_grey(self, image: int) -> bool:
        """Whether an image is grey while the network takes colour: it is repeated in all channels."""
        return bool(self.greys) and self.greys[image]

    @cached_property
    def sizing(self) -> Sizing:
        """Size of the true image that belongs to one of the source; see `sizes.sizing_of`."""
        return sizing_of(self.config)

    def shape_of(self, image: int) -> ImageShape:
        """Shape ``(C, H, W)`` of an image.

        Raises:
            InputError: it cannot be read, or is too small; see `sizing`.
        """
        if self.sizes is None:
            return self.image_shape
        assert self.source is not None
        size = self.sizes[image] or self.source.size(image)
        return (self.image_shape[0], *self.sizing(size, self.names[image]))

    def load_image(self, image: int) -> Tensor:
        """Load a true image, ``[C, H, W]``, or its measurement if measurements are given.

        Raises:
            InputError: it does not decode.
        """
        assert self.source is not None and self.config.data is not None
        channels, *size = self.shape_of(image)
        if self.config.measured_arrays:
            return self._load_array(image)
        if self.config.given:
            channels, *size = self.make_operator([image])[0].measurement_shape
        return self.source.load(image, channels, size, self.config.data.fit)

    def _load_array(self, image: int) -> Tensor:
        """Load a measurement from an array, ``[*measurement_shape]``, in the units in which images are in [-1, 1].

        An image ``x = (u - c) / h`` of numbers u, c and h being middle and half of the range, has the measurement
        ``A x = (A u - c A 1) / h``.

        Raises:
            InputError: it cannot be read, or is no measurement of the operator.
        """
        assert isinstance(self.source, ArraySource) and self.config.measurement is not None
        operator = self.make_operator([image])[0]
        where = f"{self.source.where}: {self.names[image]}"
        values = as_measurement(operator, self.source.values(image), where, self.config.measurement.operator.name)
        low, high = self.source.range
        noise = self.noise
        if isinstance(noise, BeerLambertNoise):
            try:
                return noise.of_operator(operator).measured(values[None].to(self.device))[0].float().cpu()
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
        if low != -high:
            values = values - (low + high) / 2 * operator.of_ones()[0].cpu()
        y = (values * (2 / (high - low))).float()
        return y if operator.sampled is None else operator.sampled[0].cpu() * y

    @cached_property
    def margins(self) -> Margins:
        """Rows and columns around the measured part of an image: restored, if a blur reaches there, and cut off."""
        measurement = self.config.measurement
        if measurement is None or all(blur.boundary != "unknown" for blur in blurs_of(measurement.operator)):
            return Operator.margins
        return self.trial_operator().margins

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
        if self.sizes is not None:
            operator, _ = self.make_operator([image])
            if self.config.given:
                self._noise_of(image, operator, loaded[None].to(self.device))
        return loaded

    # --- the measurement -----------------------------------------------------------------------------------------

    @property
    def noise(self) -> Noise | None:
        """Noise that the config states, with `ASSUMED_STD` if it is to be estimated; None in an unconditional run."""
        if self.config.measurement is None:
            return None
        settings = self.config.measurement.noise.model_dump()
        if settings.get("peak") == "auto":
            return PoissonNoise(ASSUMED_PEAK)
        return GaussianNoise(ASSUMED_STD) if settings.get("std") == "auto" else noises.make(**settings)

    @property
    def knows_noise(self) -> bool:
        """Whether the sampler is told the noise as it is; else photons of rays and given pictures pass for Gaussian."""
        replaced = self.config.given or isinstance(self.noise, BeerLambertNoise)
        return self.noise is None or not replaced or self.sampler.knows(self.noise)

    def _told(self, noise: Noise, operator: Operator, y: Tensor) -> Noise:
        """Noise that the sampler is told: for photons whose law it does not know, Gaussian of their mean variance, or
        with weights that of rays through nothing (see `_weighted`)."""
        if not self.knows_noise and isinstance(noise, BeerLambertNoise):
            return GaussianNoise(noise.stable_std)
        if self.knows_noise or not isinstance(noise, PoissonNoise):
            return noise
        known = measuring.known_part(operator)
        mean = y.mean() if known is None else (known * y).mean() / known.mean()
        return GaussianNoise(math.sqrt(float(noise.variance(mean))))

    def make_operator(self, images: Sequence[int]) -> tuple[Operator, ImageDraws]:
        """Operator of some images, each with its own mask, and the draws from which their noise comes next."""
        assert self.config.measurement is not None
        if self._measured is None or self._measured[0] != list(images):  # kept: a decomposition can take seconds
            generators = [measurement_stream(self.config.seed, image) for image in images]
            masks = None
            if self.config.painted_mask is not None and self.sizes is not None:
                masks = [self._read_mask(image, self.config.painted_mask) for image in images]
                if not self.config.given:  # the true images may have been cropped
                    shapes = map(self.shape_of, images)
                    masks = [mask[:height, :width] for mask, (_, height, width) in zip(masks, shapes, strict=True)]
            shape, described = self.shape_of(images[0]), self.config.measurement.operator
            settings = described.model_dump()
            if isinstance(described, MRISettings) and described.mask == "nonzero":
                masks = [self._nonzero_mask(image) for image in images]
            if isinstance(described, TomographySettings) and self.config.measured_arrays:
                settings["detectors"] = described.detectors or self._detectors_of(images[0], described)
            if described.name not in WITHOUT_DRAWS or self._kept is None or self._kept[0] != (shape, settings):
                made = operators.make(image_shape=shape, generators=generators, masks=masks, **settings)
                self._kept = ((shape, settings), made.to(self.device))
            self._measured = (list(images), self._kept[1], generators)
        _, operator, generators = self._measured
        return operator, ImageDraws(copy.deepcopy(generators), self.device)

    def _read_mask(self, image: int, settings: InpaintingSettings) -> Tensor:
        """Mask ``[H, W]`` of an image, and what the user should know about it."""
        assert self.source is not None
        mask = self.source.mask(image, settings.grow, settings.invert, settings.file)
        missing = f"{1 - float(mask.known.mean()):.1%} of the pixels are missing, where the mask is painted"
        self.mask_notes[image] = [*mask.notes, f"{self.names[image]}: {missing}"]
        return mask.known

    def _nonzero_mask(self, image: int) -> Tensor:
        """Mask ``[H, W]`` of the points of k-space at which an image was measured, and what the user should know."""
        assert isinstance(self.source, ArraySource)
        values = self.source.values(image)
        known = (values != 0).reshape(-1, *values.shape[-2:]).any(0)
        if not known.any():
            raise InputError(f"{self.source.where}: {self.names[image]} is 0 everywhere, which is no k-space")
        self.mask_notes[image] = [f"{self.names[image]}: {known.mean():.1%} of k-space are measured, where it is not 0"]
        return torch.from_numpy(known.astype(np.float32))

    def _detectors_of(self, image: int, settings: TomographySettings) -> int:
        """Number of detectors of given projections ``[views, detectors]``, also if they are the other way round."""
        assert isinstance(self.source, ArraySource)
        views = settings.views if isinstance(settings.views, int) else len(settings.views)
        rows, columns = self.source.planes(image).shape[-2:]
        return rows if columns == views != rows else columns

    def trial_operator(self) -> Operator:
        """Operator of the largest image that has one, to check settings with.

        Raises:
            InputError: no image has one; the message is about the largest.
        """
        areas = [math.prod(size) if size else 0 for size in self.sizes or ()]
        failed: list[InputError] = []
        for image in sorted((i for i, area in enumerate(areas) if area), key=lambda i: -areas[i]) or [0]:
            try:
                return self.make_operator([image])[0]
            except InputError as error:
                failed.append(error)
        raise failed[0]

    def trial_measurement(self) -> Measurement | None:
        """Exact measurement of a black image, to check settings with; None in an unconditional run.

        Raises:
            InputError: see `trial_operator`.
        """
        if self.noise is None:
            return None
        operator = self.trial_operator()
        with torch.no_grad():
            y = operator(torch.zeros((1, *operator.image_shape), device=self.device))
        return Measurement(operator, self._told(self.noise, operator, y), y)

    def _measure(self, batch: Batch, loaded: Tensor) -> Measurement:
        """Measure a batch, with one row of y for each group of coupled samples."""
        noise = self.noise
        assert noise is not None
        count, images = self.coupled_samples, [one.image for one in batch.ids[:: self.coupled_samples]]
        operator, draws = self.make_operator(images)
        loaded = loaded.to(self.device)
        grey = self.is_grey(images[0])
        with torch.no_grad():
            if self.config.given:
                y = loaded[::count]
            else:
                batch.truth = loaded
                y = noise.of_operator(operator).apply(operator(loaded[::count]), draws)
                if grey and measuring.has_copies(y):  # the noise is grey too
                    y = y[:, :1].expand_as(y).contiguous()
        noise = self._told(self._noise_of(images[0], operator, y), operator, y)
        weighted = isinstance(self.noise, BeerLambertNoise)
        batch.noise_std = noise.std if noise.name in ("gaussian", "laplace") and not weighted else None
        batch.measurement = repeated(y, count)
        copied = grey and measuring.has_copies(y)
        return Measurement(operator, noise.of_copies(measuring.COPIES) if copied else noise, y)

    def _weighted(self, image: int, measurement: Measurement, told: Measurement) -> Measurement:
        """Weigh the rays of tomography, or the pixels of a blurred picture, by their precision, where photons pass for
        Gaussian noise.

        With missing pixels that made no difference: 0.06 dB less to 0.01 dB more.

        Args:
            image: its number.
            measurement: the picture.
            told: the same as the sampler is told, perhaps brightened.
        """
        if not self.knows_noise and isinstance(self.noise, BeerLambertNoise):
            weights = self.noise.of_operator(measurement.operator).weights(measurement.y)
            return Measurement(Weighted(told.operator, weights), told.noise, weights * told.y)
        photons = self._noise_of(image, measurement.operator, measurement.y)
        if self.knows_noise or self.sampler.uses_spectral or not isinstance(photons, PoissonNoise):
            return told
        assert self.config.measurement is not None
        if not blurs_of(self.config.measurement.operator):
            return told
        weights = measuring.photon_weights(photons, measurement.y)
        return Measurement(Weighted(told.operator, weights), told.noise, weights * told.y)

    def _gain_of(self, measurement: Measurement) -> float:
        """Factor by which a given picture whose noise is estimated is made brighter for the network; mostly 1."""
        settings = self.config.measurement
        if settings is None or not self.config.given or not settings.noise_is_estimated:
            return 1.0  # other pictures may share a batch
        return measuring.brightening(settings, measurement.operator, measurement.y[0])

    def _noise_of(self, image: int, operator: Operator, y: Tensor) -> Noise:
        """Noise of a measurement ``[1, ...]``, estimated once if the config asks for that."""
        assert self.config.measurement is not None and self.noise is not None
        if not self.config.measurement.noise_is_estimated:
            return self.noise
        if image not in self.estimated_noise:
            channels = y[0, :1] if self.is_grey(image) else y[0]
            steps = (0.0, 0.0) if self.source is None else self.source.jpeg_steps(image)
            try:
                is_camera = self.camera is not None and is_camera_noise(channels)
                network = self.camera if is_camera else self.denoiser
                self.estimated_noise[image] = measuring.estimated_noise(
                    self.config.measurement, operator, channels, self.names[image], steps,
                    isinstance(network, NetworkDenoiser) and network.of_cameras,
                )  # fmt: skip
                if is_camera:
                    self.of_cameras.add(image)
            except InputError:
                if not self.config.measurement.keeps_known:
                    raise
                return GaussianNoise(FAINT_STD)  # the noise is not to be removed, and hardly matters
        return self.estimated_noise[image]

    # --- the batches ---------------------------------------------------------------------------------------------

    def batches(self) -> list[list[SampleId]]:
        """All samples in batches, which depend only on the config and the images: a resumed run has the same ones.

        Coupled samples share a batch, even beyond ``batch_size``. Images of different sizes never do, and large ones
        only up to `BATCH_PIXELS`. An image is alone if its size was unknown when the run began, or if it has noise of
        its own (estimated, grey, or of photons that pass for Gaussian noise).
        """
        config = self.config
        estimated = config.measurement is not None and config.measurement.noise_is_estimated
        groups: dict[object, list[int]] = {}
        for i in range(len(self.names)):
            size = () if self.grouped_by is None else self.grouped_by[i]
            alone = estimated or self.is_grey(i) or size is None or not self.knows_noise
            groups.setdefault(i if alone else size, []).append(i)
        batches = []
        for images in groups.values():
            rows = 1 if self.sampler.batch_of_one else config.batch_size
            if self.grouped_by is not None:
                own = self.grouped_by[images[0]]
                pixels = BATCH_PIXELS if own is None else math.prod(self.sizing(own, self.names[images[0]]))
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
        if self.budget is None or (self.sizes is not None and self.sizes[ids[0].image] is None):
            return None
        return self.budget.tiling(self.shape_of(ids[0].image), len(ids))

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
            measurement = None if loaded is None else self._measure(batch, loaded)
            denoiser = self.denoiser_of(images)
            probe = Probe(denoiser if tiling is None else TiledDenoiser(denoiser, tiling, watch_tiles))
            probe.shown = lambda x: cut(x, self.margins)
            callback = None if watch is None else lambda k, x, sigma: watch(k, cut(x, self.margins), sigma, probe)
            began = self._now()
            gain = 1.0 if measurement is None else self._gain_of(measurement)
            told = measurement and self._weighted(images[0], measurement, measurement.brightened(gain))
            batch.x = self._sample(probe, told, draws, callback)
            batch.x = batch.x if gain == 1 else (batch.x + 1) / gain - 1
            batch.seconds = (self._now() - began) / len(ids)
            if measurement is not None:
                if self.is_grey(images[0]):
                    batch.x = batch.x.mean(1, keepdim=True).expand_as(batch.x).contiguous()
                operator = measurement.operator.repeated(self.coupled_samples)
                batch.residuals = measuring.residuals(operator, batch)
                copies = measuring.COPIES if self.is_grey(images[0]) and measuring.has_copies(measurement.y) else 1
                found = measuring.known_entries(operator, measurement.y) / copies
                batch.entries = found.expand(len(ids)).tolist() if len(found) == 1 else found.tolist()
                if self.config.given and not self.config.measured_arrays:
                    batch.even_residuals = measuring.even_residuals(operator, batch)
                    known = measuring.known_part(operator)
                    batch.crowding = (
                        None if known is None else measuring.crowding(known.expand(len(batch.x), -1, -1, -1))
                    )
                assert self.config.measurement is not None
                if self.config.measurement.keeps_known:
                    batch.x = measuring.with_known(batch.x, measurement, self.coupled_samples)
                batch.x = cut(batch.x, self.margins)
                batch.truth = None if batch.truth is None else cut(batch.truth, self.margins)
                with torch.no_grad():  # not before the walk, whose memory is the run's
                    visible, baseline = visible_and_baseline(measurement.operator, measurement.y)
                batch.visible = repeated(visible, self.coupled_samples)
                batch.baseline = None if baseline is None else repeated(baseline, self.coupled_samples)
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
