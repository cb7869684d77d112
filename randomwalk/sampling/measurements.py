"""Measurements of a task's images: the operator, mask and noise of each, and what the sampler is told of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randomwalk import operators, samplers
from randomwalk.config.measurement import Measurement as MeasurementSettings
from randomwalk.config.operators import InpaintingSettings, MRISettings, TomographySettings, blurs_of
from randomwalk.denoisers.denoiser import Denoiser, NetworkDenoiser
from randomwalk.errors import InputError
from randomwalk.images.array_source import ArraySource
from randomwalk.images.noise_whiteness import is_camera_noise
from randomwalk.operators import Measurement, Operator
from randomwalk.operators import noise as noises
from randomwalk.operators.measured import as_measurement
from randomwalk.operators.noise import BeerLambertNoise, GaussianNoise, Noise, PoissonNoise
from randomwalk.operators.operator import ImageShape, Margins
from randomwalk.operators.weighted import Weighted
from randomwalk.rng import ImageDraws, measurement_stream
from randomwalk.sampling import measuring
from randomwalk.sampling.batch import Batch, repeated, visible_and_baseline
from randomwalk.sampling.task_images import TaskImages

ASSUMED_STD = 2 * 10 / 255
"""Standard deviation used to check settings and draw schedules while the true one is still to be estimated."""
FAINT_STD = 2 * 1 / 255
"""Standard deviation for pictures whose noise stays as it is and cannot be estimated."""
ASSUMED_PEAK = 100.0
"""Photons at white, likewise."""
WITHOUT_DRAWS = ("tomography", "deepinv")
"""Operators that take long to make, and are the same for all images of a size."""


class Measurements:
    """Measurements of a task's images, simulated or given.

    Args:
        settings: of the measurement.
        images: what is measured, or what was.
        sampler: which may know some kinds of noise and not others.
        denoiser: the network.
        camera: the network for pictures whose noise is that of a camera; None if all take the same.
        device: where the samples are.

    Attributes:
        estimated_noise: noise that was estimated, by image.
        of_cameras: images whose noise was found to be that of a camera; only looked for with ``camera``.
        mask_notes: how the mask of an image was understood, a line each.
    """

    def __init__(
        self,
        settings: MeasurementSettings,
        images: TaskImages,
        sampler: samplers.Sampler,
        denoiser: Denoiser,
        camera: NetworkDenoiser | None,
        device: torch.device,
    ) -> None:
        self.settings, self.images, self.sampler, self.device = settings, images, sampler, device
        self._config, self._denoiser, self._camera = images.config, denoiser, camera
        self.estimated_noise: dict[int, Noise] = {}
        self.of_cameras: set[int] = set()
        self.mask_notes: dict[int, list[str]] = {}
        self._kept: tuple[tuple[ImageShape, dict[str, Any]], Operator] | None = None
        self._last: tuple[list[int], Operator, list[np.random.Generator]] | None = None

    # --- operators ---------------------------------------------------------------------------------------------------

    def operator_of(self, images: Sequence[int]) -> tuple[Operator, ImageDraws]:
        """Operator of some images, each with its own mask, and the draws from which their noise comes next."""
        if self._last is None or self._last[0] != list(images):  # kept: a decomposition can take seconds
            generators = [measurement_stream(self._config.seed, image) for image in images]
            masks = None
            if self._config.painted_mask is not None and self.images.sizes is not None:
                masks = [self._read_mask(image, self._config.painted_mask) for image in images]
                if not self._config.given:  # the true images may have been cropped
                    shapes = map(self.images.shape_of, images)
                    masks = [mask[:height, :width] for mask, (_, height, width) in zip(masks, shapes, strict=True)]
            shape, described = self.images.shape_of(images[0]), self.settings.operator
            settings = described.model_dump()
            if isinstance(described, MRISettings) and described.mask == "nonzero":
                masks = [self._nonzero_mask(image) for image in images]
            if isinstance(described, TomographySettings) and self._config.measured_arrays:
                settings["detectors"] = described.detectors or self._detectors_of(images[0], described)
            if described.name not in WITHOUT_DRAWS or self._kept is None or self._kept[0] != (shape, settings):
                made = operators.make(image_shape=shape, generators=generators, masks=masks, **settings)
                self._kept = ((shape, settings), made.to(self.device))
            self._last = (list(images), self._kept[1], generators)
        _, operator, generators = self._last
        return operator, ImageDraws(copy.deepcopy(generators), self.device)

    def _read_mask(self, image: int, settings: InpaintingSettings) -> Tensor:
        """Mask ``[H, W]`` of an image, and what the user should know about it."""
        assert self.images.source is not None
        mask, name = self.images.source.mask(image, settings.grow, settings.invert, settings.file), self._name(image)
        missing = f"{1 - float(mask.known.mean()):.1%} of the pixels are missing, where the mask is painted"
        self.mask_notes[image] = [*mask.notes, f"{name}: {missing}"]
        return mask.known

    def _nonzero_mask(self, image: int) -> Tensor:
        """Mask ``[H, W]`` of the points of k-space at which an image was measured, and what the user should know."""
        source = self._arrays()
        values, name = source.values(image), self._name(image)
        known = (values != 0).reshape(-1, *values.shape[-2:]).any(0)
        if not known.any():
            raise InputError(f"{source.where}: {name} is 0 everywhere, which is no k-space")
        self.mask_notes[image] = [f"{name}: {known.mean():.1%} of k-space are measured, where it is not 0"]
        return torch.from_numpy(known.astype(np.float32))

    def _detectors_of(self, image: int, settings: TomographySettings) -> int:
        """Number of detectors of given projections ``[views, detectors]``, also if they are the other way round."""
        views = settings.views if isinstance(settings.views, int) else len(settings.views)
        rows, columns = self._arrays().planes(image).shape[-2:]
        return rows if columns == views != rows else columns

    def _arrays(self) -> ArraySource:
        assert isinstance(self.images.source, ArraySource)
        return self.images.source

    def _name(self, image: int) -> str:
        return self.images.names[image]

    @cached_property
    def margins(self) -> Margins:
        """Rows and columns around the measured part of an image: restored, if a blur reaches there, and cut off."""
        if all(blur.boundary != "unknown" for blur in blurs_of(self.settings.operator)):
            return Operator.margins
        return self.trial_operator().margins

    def trial_operator(self) -> Operator:
        """Operator of the largest image that has one, to check settings with.

        Raises:
            InputError: no image has one; the message is about the largest.
        """
        areas = [math.prod(size) if size else 0 for size in self.images.sizes or ()]
        failed: list[InputError] = []
        for image in sorted((i for i, area in enumerate(areas) if area), key=lambda i: -areas[i]) or [0]:
            try:
                return self.operator_of([image])[0]
            except InputError as error:
                failed.append(error)
        raise failed[0]

    def trial(self) -> Measurement:
        """Exact measurement of a black image, to check settings with.

        Raises:
            InputError: see `trial_operator`.
        """
        operator = self.trial_operator()
        with torch.no_grad():
            y = operator(torch.zeros((1, *operator.image_shape), device=self.device))
        return Measurement(operator, self._told(self.noise, operator, y), y)

    # --- noise -------------------------------------------------------------------------------------------------------

    @property
    def noise(self) -> Noise:
        """Noise that the config states, with `ASSUMED_STD` or `ASSUMED_PEAK` if it is to be estimated."""
        settings = self.settings.noise.model_dump()
        if settings.get("peak") == "auto":
            return PoissonNoise(ASSUMED_PEAK)
        return GaussianNoise(ASSUMED_STD) if settings.get("std") == "auto" else noises.make(**settings)

    @property
    def knows_noise(self) -> bool:
        """Whether the sampler is told the noise as it is; else photons of rays and given pictures pass for Gaussian."""
        replaced = self._config.given or isinstance(self.noise, BeerLambertNoise)
        return not replaced or self.sampler.knows(self.noise)

    def _told(self, noise: Noise, operator: Operator, y: Tensor) -> Noise:
        """Noise that the sampler is told: for photons whose law it does not know, Gaussian of their mean variance, or
        with weights that of rays through nothing (see `told`)."""
        if not self.knows_noise and isinstance(noise, BeerLambertNoise):
            return GaussianNoise(noise.stable_std)
        if self.knows_noise or not isinstance(noise, PoissonNoise):
            return noise
        known = measuring.known_part(operator)
        mean = y.mean() if known is None else (known * y).mean() / known.mean()
        return GaussianNoise(math.sqrt(float(noise.variance(mean))))

    def _noise_of(self, image: int, operator: Operator, y: Tensor) -> Noise:
        """Noise of a measurement ``[1, ...]``, estimated once if the config asks for that."""
        if not self.settings.noise_is_estimated:
            return self.noise
        if image not in self.estimated_noise:
            channels = y[0, :1] if self.images.is_grey(image) else y[0]
            steps = (0.0, 0.0) if self.images.source is None else self.images.source.jpeg_steps(image)
            try:
                is_camera = self._camera is not None and is_camera_noise(channels)
                network = self._camera if is_camera else self._denoiser
                of_cameras = isinstance(network, NetworkDenoiser) and network.of_cameras
                self.estimated_noise[image] = measuring.estimated_noise(
                    self.settings, operator, channels, self._name(image), steps, of_cameras
                )
                if is_camera:
                    self.of_cameras.add(image)
            except InputError:
                if not self.settings.keeps_known:
                    raise
                return GaussianNoise(FAINT_STD)  # the noise is not to be removed, and hardly matters
        return self.estimated_noise[image]

    # --- measurements ------------------------------------------------------------------------------------------------

    def load(self, image: int) -> Tensor:
        """Load the given measurement of an image, ``[*measurement_shape]``.

        Raises:
            InputError: it does not decode, or is no measurement of the operator.
        """
        operator, _ = self.operator_of([image])
        if self._config.measured_arrays:
            return self._load_array(image, operator)
        channels, height, width = operator.measurement_shape
        return self.images.load(image, (channels, height, width))

    def _load_array(self, image: int, operator: Operator) -> Tensor:
        """Load a measurement from an array, in the units in which images are in [-1, 1].

        An image ``x = (u - c) / h`` of numbers u, c and h being middle and half of the range, has the measurement
        ``A x = (A u - c A 1) / h``.
        """
        source = self._arrays()
        where = f"{source.where}: {self._name(image)}"
        values = as_measurement(operator, source.values(image), where, self.settings.operator.name)
        low, high = source.range
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

    def check(self, image: int, loaded: Tensor) -> None:
        """Raise InputError if a loaded image has no operator, or its noise cannot be estimated."""
        operator, _ = self.operator_of([image])
        if self._config.given:
            self._noise_of(image, operator, loaded[None].to(self.device))

    def measure(self, batch: Batch, loaded: Tensor, count: int) -> Measurement:
        """Measure a batch, or take what is given, with one row of y for each group of coupled samples.

        Args:
            batch: receives the truth, the measurement and the level of the noise.
            loaded: image or given measurement of each sample.
            count: number of samples in a group.
        """
        images = [one.image for one in batch.ids[::count]]
        operator, draws = self.operator_of(images)
        loaded = loaded.to(self.device)
        grey = self.images.is_grey(images[0])
        with torch.no_grad():
            if self._config.given:
                y = loaded[::count]
            else:
                batch.truth = loaded
                y = self.noise.of_operator(operator).apply(operator(loaded[::count]), draws)
                if grey and measuring.has_copies(y):  # the noise is grey too
                    y = y[:, :1].expand_as(y).contiguous()
        noise = self._told(self._noise_of(images[0], operator, y), operator, y)
        weighted = isinstance(self.noise, BeerLambertNoise)
        batch.noise_std = noise.std if noise.name in ("gaussian", "laplace") and not weighted else None
        batch.measurement = repeated(y, count)
        copied = grey and measuring.has_copies(y)
        return Measurement(operator, noise.of_copies(measuring.COPIES) if copied else noise, y)

    def gain_of(self, measurement: Measurement) -> float:
        """Factor by which a given picture whose noise is estimated is made brighter for the network; mostly 1."""
        if not self._config.given or not self.settings.noise_is_estimated:
            return 1.0  # other pictures may share a batch
        return measuring.brightening(self.settings, measurement.operator, measurement.y[0])

    def told(self, image: int, measurement: Measurement, gain: float) -> Measurement:
        """Measurement that the sampler is told: brightened by the gain, and where photons pass for Gaussian noise with
        the rays of tomography, or the pixels of a blurred picture, weighted by their precision.

        With missing pixels weights made no difference: 0.06 dB less to 0.01 dB more.

        Args:
            image: its number.
            measurement: the picture.
            gain: see `gain_of`.
        """
        told = measurement.brightened(gain)
        if not self.knows_noise and isinstance(self.noise, BeerLambertNoise):
            weights = self.noise.of_operator(measurement.operator).weights(measurement.y)
            return Measurement(Weighted(told.operator, weights), told.noise, weights * told.y)
        photons = self._noise_of(image, measurement.operator, measurement.y)
        if self.knows_noise or self.sampler.uses_spectral or not isinstance(photons, PoissonNoise):
            return told
        if not blurs_of(self.settings.operator):
            return told
        weights = measuring.photon_weights(photons, measurement.y)
        return Measurement(Weighted(told.operator, weights), told.noise, weights * told.y)

    def judge(self, batch: Batch, measurement: Measurement, count: int) -> None:
        """Compare the samples of a batch with their measurement, and add what shows it: see `Batch`.

        Samples of grey images become grey, and known pixels are put back if the config says so.

        Args:
            batch: the samples, still with margins.
            measurement: see `measure`.
            count: number of samples in a group.
        """
        grey = self.images.is_grey(batch.ids[0].image)
        if grey:
            batch.x = batch.x.mean(1, keepdim=True).expand_as(batch.x).contiguous()
        operator = measurement.operator.repeated(count)
        batch.residuals = measuring.residuals(operator, batch)
        copies = measuring.COPIES if grey and measuring.has_copies(measurement.y) else 1
        found = measuring.known_entries(operator, measurement.y) / copies
        batch.entries = found.expand(len(batch.ids)).tolist() if len(found) == 1 else found.tolist()
        if self._config.given and not self._config.measured_arrays:
            batch.even_residuals = measuring.even_residuals(operator, batch)
            known = measuring.known_part(operator)
            batch.crowding = None if known is None else measuring.crowding(known.expand(len(batch.x), -1, -1, -1))
        if self.settings.keeps_known:
            batch.x = measuring.with_known(batch.x, measurement, count)
        with torch.no_grad():
            visible, baseline = visible_and_baseline(measurement.operator, measurement.y)
        batch.visible = repeated(visible, count)
        batch.baseline = None if baseline is None else repeated(baseline, count)
