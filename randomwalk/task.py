"""A sampling task with everything loaded: which samples there are, and how a batch of them is made.

No files are written here and nothing is printed, so that a benchmark can use it too.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randomwalk import measuring, operators, posterior, samplers
from randomwalk.batch import Batch, Unit, pictures_of
from randomwalk.checkpoints import load_denoiser, read_config
from randomwalk.config import SampleConfig
from randomwalk.data import ImageSource, Size, open_images
from randomwalk.denoisers import Denoiser
from randomwalk.errors import InputError, RunError
from randomwalk.guidance import guided
from randomwalk.levels import make_schedule
from randomwalk.noise import GaussianNoise, Likelihood, Noise
from randomwalk.operators import Operator
from randomwalk.operators.operator import ImageShape
from randomwalk.posterior import PosteriorSampler
from randomwalk.posterior.random_walk import RandomWalk
from randomwalk.probe import Probe
from randomwalk.rng import ImageDraws, generator
from randomwalk.sizes import factor_of, image_shape, measured_size, own_sizes, trimming_notes

MEASUREMENT_STREAM = 0
"""Stream (seed, image, 0) holds mask and measurement noise; (seed, image, 1 + s) start and steps of sample s."""
TIES_STREAM = (0, 1)
"""Stream (seed, image, 0, 1) breaks the ties between the true pixels and those of the samples."""


Callback = Callable[[int, Tensor, float], object]
Watch = Callable[[int, Tensor, float, Probe], object]
"""``watch(k, x, sigma, probe)`` is called after step k."""


@dataclass
class Task:
    """A sampling task, ready to run; see `load_task`.

    Attributes:
        image_shape: of the images; of the largest if they keep their own size.
        sizes: of the images if they keep their own, None for those that cannot be read; None if all have one size.
        grouped_by: the sizes by which batches are formed: a resumed run is given those of its beginning.
        greys: whether images are grey pictures for a network of colours, if they keep their own size.
        noise_levels: standard deviations of the noise that have been estimated, by image.
    """

    config: SampleConfig
    device: torch.device
    denoiser: Denoiser
    sampler: samplers.Sampler | PosteriorSampler
    sigmas: Tensor
    image_shape: ImageShape
    source: ImageSource | None
    names: list[str] = field(default_factory=list)
    sizes: list[Size | None] | None = None
    grouped_by: list[Size | None] | None = None
    greys: list[bool] = field(default_factory=list)
    noise_levels: dict[int, float] = field(default_factory=dict, init=False)
    _measured: tuple[list[int], Operator, list[np.random.Generator]] | None = field(
        default=None, init=False, repr=False
    )

    def __post_init__(self) -> None:
        self.grouped_by = self.sizes if self.grouped_by is None else self.grouped_by

    @property
    def num_steps(self) -> int:
        """Steps of each batch: so often is a `Watch` called."""
        if isinstance(self.sampler, PosteriorSampler):
            return self.sampler.num_steps
        return self.sampler.num_steps(len(self.sigmas))

    @property
    def together(self) -> int:
        """How many samples of an image must be made at once: all of them by particle methods, else 1."""
        coupled = isinstance(self.sampler, PosteriorSampler) and self.sampler.couples
        return self.config.num_samples if coupled else 1

    @property
    def one_by_one(self) -> bool:
        """Whether images are made alone, since the sampler would couple them and nobody has allowed that."""
        return isinstance(self.sampler, samplers.ODE) and not self.sampler.shared_steps

    @property
    def largest(self) -> int:
        """The image that the operator is tried with."""
        areas = [math.prod(size or (0,)) for size in self.sizes or []]
        return areas.index(max(areas)) if areas else 0

    @property
    def noise(self) -> Noise | None:
        """The measurement's noise, before anything is estimated of it; None in an unconditional run."""
        return None if self.config.measurement is None else measuring.make_noise(self.config.measurement)

    @property
    def labels(self) -> list[int] | None:
        """The classes that the config names: image i gets the i-th, and they begin again where they end."""
        if self.config.guidance is None:
            return None
        labels = self.config.guidance.labels
        return labels if isinstance(labels, list) else [labels]

    def label_of(self, image: int) -> int | None:
        """The class of an image; None if the config names none."""
        return None if self.labels is None else self.labels[image % len(self.labels)]

    def denoiser_of(self, images: Sequence[int]) -> Denoiser:
        """The denoiser of a batch whose rows are of these images, told their classes.

        Raises:
            InputError: the network does not know such classes, or must be told some.
        """
        labels = [label for image in images if (label := self.label_of(image)) is not None]
        return guided(self.denoiser, labels or None, self.config.guidance.scale if self.config.guidance else 1.0)

    @property
    def notes(self) -> list[str]:
        """What the user should know before it starts, one line each."""
        whole = self.sizes is None or self.config.given
        trimmed = [] if whole else trimming_notes(self.names, self.sizes or [], factor_of(self.config))
        return [*self._notes_on_sampler(), *trimmed]

    def _notes_on_sampler(self) -> list[str]:
        name, count, size = self.config.sampler.name, self.config.num_samples, self.config.batch_size
        if not isinstance(self.sampler, PosteriorSampler):
            coupled = self.sampler.couples and not self.one_by_one and size > 1
            return [f"{name} couples the images of a batch: each depends on those beside it"] if coupled else []
        if not self.sampler.couples:
            return []
        found = []
        if count == 1:
            found.append(f"{name} is a particle method: with num_samples: 1 it is far from the posterior; raise it")
        if count > size:
            found.append(
                f"{name} makes the {count} samples of an image together: a batch has {count} rows, although "
                f"batch_size is {size}"
            )
        return found

    def batches(self) -> list[list[Unit]]:
        """All the work, in batches that depend on the config and the images alone: a resumed run meets the same ones.

        Samples that are made together are in one batch, even if that is larger than ``batch_size``. Images of different
        sizes are not. Alone are images whose size was not known when the run began, and those with noise of their own:
        estimated, or grey.
        """
        estimated = self.config.measurement is not None and self.config.measurement.noise_is_estimated
        groups: dict[object, list[Unit]] = {}
        for i in range(len(self.names)):
            known = None if self.grouped_by is None else self.grouped_by[i] or i
            alone = estimated or self.is_grey(i)
            groups.setdefault(i if alone else known, []).extend(Unit(i, s) for s in range(self.config.num_samples))
        size = 1 if self.one_by_one else max(1, self.config.batch_size // self.together) * self.together
        return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]

    def shape_of(self, image: int) -> ImageShape:
        """``(C, H, W)`` of an image, see `sizes.measured_size` if it keeps its own size.

        Raises:
            InputError: nothing can be read of it, or it is too small.
        """
        if self.sizes is None:
            return self.image_shape
        assert self.source is not None
        size = self.sizes[image] or self.source.size(image)
        return (self.image_shape[0], *measured_size(self.config, size, self.names[image]))

    def is_grey(self, image: int) -> bool:
        """Whether an image is a grey picture for a network of colours, which gets it as equal channels."""
        return bool(self.greys) and self.greys[image]

    def plan(self) -> samplers.Plan | None:
        """Step sizes and temperatures, if the sampler is a walk."""
        if isinstance(self.sampler, samplers.WalkSampler):
            return self.sampler.plan(self.sigmas)
        if not isinstance(self.sampler, RandomWalk):
            return None
        assert self.noise is not None
        operator, _ = self.make_operator([self.largest])
        y = torch.zeros((1, *operator.measurement_shape), device=self.device)
        walk = samplers.RandomWalk(**{f.name: getattr(self.sampler, f.name) for f in fields(samplers.RandomWalk)})
        return walk.plan(self.sigmas, Likelihood(operator, y, self.noise))

    def load_image(self, image: int) -> Tensor:
        """True image, ``[C, H, W]``, or its measurement if that is given.

        Raises:
            InputError: it does not decode.
        """
        assert self.source is not None and self.config.data is not None
        channels, *size = self.shape_of(image)
        if self.config.given:
            channels, *size = self.make_operator([image])[0].measurement_shape
        return self.source.load(image, channels, size, self.config.data.fit)

    def load_measurable(self, image: int) -> Tensor:
        """As `load_image`, of an image of which all is known that it takes to measure it.

        Raises:
            InputError: it does not decode, or the operator can't be made for it, or its noise can't be estimated.
        """
        loaded = self.load_image(image)
        if self.sizes is not None:
            operator, _ = self.make_operator([image])
            if self.config.given:
                self._noise_of(image, operator, loaded[None].to(self.device))
        return loaded

    def remarks(self, image: int) -> list[str]:
        """What was found of an image and should be looked at, one line each."""
        found = []
        if image in self.noise_levels:
            found.append(f"{self.names[image]}: noise estimated as {127.5 * self.noise_levels[image]:.1f} of 255")
        if self.config.masks_beside and self.source is not None:
            missing = 1 - float(self.source.mask(image).mean())
            found.append(f"{self.names[image]}: {missing:.1%} of the pixels are missing, where the mask is dark")
        return found

    def make_operator(self, images: Sequence[int]) -> tuple[Operator, ImageDraws]:
        """The operator of these images, each with its own mask, and the draws that continue in their noise."""
        assert self.config.measurement is not None
        if self._measured is None or self._measured[0] != list(images):  # a decomposition can take seconds: keep one
            generators = [generator(self.config.seed, image, MEASUREMENT_STREAM) for image in images]
            settings = _settings(self.config.measurement.operator)
            if self.config.masks_beside:
                assert self.source is not None
                masks = [measuring.mask_of(self.config, self.source, i, self.shape_of(i)) for i in images]
                settings = measuring.with_masks(settings, masks)
            operator = operators.make(image_shape=self.shape_of(images[0]), generators=generators, **settings)
            self._measured = (list(images), operator.to(self.device), generators)
        _, operator, generators = self._measured
        return operator, ImageDraws(copy.deepcopy(generators), self.device)

    def sample(self, units: Sequence[Unit], loaded: Tensor | None, watch: Watch | None = None) -> Batch:
        """Make a batch.

        Args:
            units: which samples; all those of an image in turn if they are made together.
            loaded: of each, what `load_image` gives, ``[B, ...]``; None in an unconditional run.
            watch: called after every step.

        Raises:
            RunError: the state is not finite, or memory runs out.
        """
        batch = Batch(list(units), torch.empty(0))
        streams = [generator(self.config.seed, unit.image, 1 + unit.sample) for unit in units]
        draws = ImageDraws(streams, self.device)
        probe = Probe(self.denoiser_of([unit.image for unit in units]))
        callback = None if watch is None else lambda k, x, sigma: watch(k, x, sigma, probe)
        try:
            if loaded is None:
                start_time = self._now()
                batch.x = self._sample_prior(probe, draws, callback)
            else:
                operator, noise, y = self._measure(batch, loaded)
                start_time = self._now()
                batch.x = self._sample_posterior(operator, noise, y, probe, draws, callback)
            batch.seconds = (self._now() - start_time) / len(units)
            if loaded is not None and self.is_grey(units[0].image):
                batch.x = batch.x.mean(1, keepdim=True).expand_as(batch.x).contiguous()
            if loaded is not None:
                batch.residuals = measuring.residuals(operator.repeated(self.together), batch)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise RunError(
                    f"out of memory on {self.device}: lower batch_size (now {self.config.batch_size})"
                    + (f" or num_samples (now {self.together})" if self.together > 1 else "")
                ) from error
            raise
        batch.evaluations, batch.vjps = probe.evaluations, probe.vjps
        return batch

    def _sample_prior(self, probe: Probe, draws: ImageDraws, callback: Callback | None) -> Tensor:
        assert isinstance(self.sampler, samplers.Sampler)
        start = self.config.start
        std = float(self.sigmas[0]) if start.std is None else start.std
        x = start.mean + std * draws.normal(self.image_shape)
        return self.sampler.sample(probe, x, self.sigmas, noise=draws.noise, callback=callback)

    def _sample_posterior(
        self, operator: Operator, noise: Noise, y: Tensor, probe: Probe, draws: ImageDraws, callback: Callback | None
    ) -> Tensor:
        assert isinstance(self.sampler, PosteriorSampler)
        x = self.sampler.sample(probe, operator, noise, y, self.together, draws, callback)
        return x.flatten(0, 1)

    def _measure(self, batch: Batch, loaded: Tensor) -> tuple[Operator, Noise, Tensor]:
        """Operator, noise and measurements, one of each for the samples that are made together."""
        noise = self.noise
        assert noise is not None
        images = [unit.image for unit in batch.units[:: self.together]]
        operator, draws = self.make_operator(images)
        loaded = loaded.to(self.device)
        with torch.no_grad():
            if self.config.given:
                y = loaded[:: self.together]
            else:
                batch.truth = loaded
                y = noise.apply(operator(loaded[:: self.together]), draws)
                y = measuring.same_in_all_channels(y) if self.is_grey(images[0]) else y
            visible, baseline = pictures_of(operator, y)
        noise = self._noise_of(images[0], operator, y)
        batch.noise_std = noise.std if noise.name in ("gaussian", "laplace") else None
        batch.measurement = y.repeat_interleave(self.together, 0)
        batch.visible = visible.repeat_interleave(self.together, 0)
        batch.baseline = None if baseline is None else baseline.repeat_interleave(self.together, 0)
        copied = self.is_grey(images[0]) and measuring.has_copies(y)
        return operator, noise.of_copies(measuring.COPIES) if copied else noise, y

    def _noise_of(self, image: int, operator: Operator, y: Tensor) -> Noise:
        """The noise of a measurement ``[1, ...]``, estimated once if it is to be."""
        assert self.config.measurement is not None and self.noise is not None
        if not self.config.measurement.noise_is_estimated:
            return self.noise
        if image not in self.noise_levels:
            channels = y[0, :1] if self.is_grey(image) else y[0]
            self.noise_levels[image] = measuring.noise_level(operator, channels, self.names[image])
        return GaussianNoise(self.noise_levels[image])

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def load_task(config: SampleConfig, device: torch.device) -> Task:
    """Load and check everything that a config names, before anything starts.

    Raises:
        InputError: a file is missing or does not fit, or settings contradict each other.
    """
    if config.measurement is None and config.num_samples > 1:
        raise InputError("num_samples: is for measurements; an unconditional run makes num_images images")
    own = read_config(config.network.path) is not None
    source = None if config.data is None else open_images(config.data.path)
    source = source.without_masks() if source is not None and config.masks_beside else source
    denoiser = load_denoiser(
        config.network.path,
        network=_described(config.network.architecture, own),
        denoiser=_described(config.network.denoiser, own),
        weights=config.network.weights,
        device=device,
        precision=config.precision,
        compile=config.compile,
    )
    schedule = make_schedule(config, denoiser)
    names = _names(config, source)
    sizes = None if source is None else own_sizes(config, denoiser, source, len(names))
    shape = image_shape(config, denoiser, sizes)
    task = Task(config, device, denoiser, make_sampler(config, schedule), schedule, shape, source, names, sizes)
    if sizes is not None and source is not None and denoiser.channels != 1:
        task.greys = [size is not None and source.header(i).grey for i, size in enumerate(sizes)]
    _try(task)
    return task


def make_sampler(config: SampleConfig, sigmas: Tensor) -> samplers.Sampler | PosteriorSampler:
    """The sampler of a config: of the posterior if there is a measurement, else of the prior.

    Raises:
        InputError: an impossible setting.
    """
    settings = _settings(config.sampler, without={"schedule"})
    if config.measurement is None:
        return samplers.make(**settings)
    if config.sampler.name == "random_walk":
        settings |= {"start_mean": config.start.mean, "start_std": config.start.std}
    return posterior.make(sigmas=sigmas, **settings)


def _settings(section: Any, without: set[str] | None = None) -> dict[str, Any]:
    """A section of the config as keyword arguments; what was left out keeps the default of the called."""
    found: dict[str, Any] = section.model_dump(exclude_none=True, exclude=without)
    return found


def _described(section: Any, own: bool) -> dict[str, Any] | None:
    """What the config says of the network; beside a file that describes itself only what was written, not defaults."""
    return None if section is None else section.model_dump(exclude_none=True, exclude_unset=own)


def _names(config: SampleConfig, source: ImageSource | None) -> list[str]:
    if source is None or config.data is None:
        return [""] * (config.num_images or 0)
    if (config.data.num_images or 0) > len(source):
        raise InputError(f"data.num_images: {config.data.num_images} asked for, but {source.where} has {len(source)}")
    return source.names[: config.data.num_images]


def _try(task: Task) -> None:
    """Find out now whether classes, operator, noise, sampler and image size go together."""
    task.denoiser_of(range(len(task.labels or [0])))
    if isinstance(task.sampler, PosteriorSampler):
        assert task.noise is not None
        operator, _ = task.make_operator([task.largest])
        x = torch.zeros((1, *operator.image_shape), device=task.device)
        task.sampler.check(operator, task.noise)
        with torch.no_grad():
            operator(x)
            if task.sampler.needs.spectral or (isinstance(task.sampler, RandomWalk) and task.sampler.preconditioned):
                operator.spectral(torch.ones_like, x)
    else:
        task.sampler.check(task.denoiser, task.sigmas)
    task.plan()
    if task.config.image_size is not None and task.config.image_size != [task.denoiser.image_size] * 2:
        x = torch.zeros((1, *task.image_shape), device=task.device)
        try:
            with torch.inference_mode():
                task.denoiser_of([0])(x, float(task.sigmas[0]))
        except RuntimeError as error:
            raise InputError(
                f"image_size: {task.config.image_size} does not go through the network, which was trained on "
                f"{task.denoiser.image_size} ({error})"
            ) from error
