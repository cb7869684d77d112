"""A sampling task with everything loaded: which samples there are, and how a batch of them is made.

No files are written here and nothing is printed, so that a benchmark can use it too.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from randomwalk import operators, samplers
from randomwalk.config import SampleConfig
from randomwalk.denoisers.checkpoints import load_denoiser, read_config
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.guidance import guided, name_of_class, number_of_class
from randomwalk.denoisers.tiling import TiledDenoiser, Tiling
from randomwalk.denoisers.wrappers import Probe
from randomwalk.errors import InputError, RunError
from randomwalk.images.sources import ImageSource, open_images
from randomwalk.images.tensors import Size
from randomwalk.operators import Operator
from randomwalk.operators.noise import GaussianNoise, Likelihood, Noise
from randomwalk.operators.operator import ImageShape
from randomwalk.rng import ImageDraws, generator
from randomwalk.samplers.posterior import PosteriorSampler
from randomwalk.samplers.posterior.random_walk import RandomWalk
from randomwalk.sampling import measuring
from randomwalk.sampling.batch import BATCH_PIXELS, Batch, Unit, batches_of, coupling_notes, pictures_of
from randomwalk.sampling.foresight import schedule_notes
from randomwalk.sampling.levels import make_schedule
from randomwalk.sampling.memory import Budget, make_budget
from randomwalk.sampling.sections import described, make_sampler, names_of, needs_gradient, settings_of
from randomwalk.sampling.sizes import factor_of, image_shape, measured_size, own_sizes, trimming_notes
from randomwalk.sampling.trial import trial_operator, try_out

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
        budget: the memory for networks that take any size; None for others.
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
    budget: Budget | None = None
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
    def noise(self) -> Noise | None:
        """The measurement's noise, before anything is estimated of it; None in an unconditional run."""
        return None if self.config.measurement is None else measuring.make_noise(self.config.measurement)

    @cached_property
    def labels(self) -> list[int] | None:
        """The classes that the config names: image i gets the i-th, and they begin again where they end.

        Raises:
            InputError: the network knows no class of that name.
        """
        if self.config.guidance is None:
            return None
        labels = self.config.guidance.labels
        return [number_of_class(self.denoiser, k) for k in (labels if isinstance(labels, list) else [labels])]

    def label_of(self, image: int) -> int | None:
        """The class of an image; None if the config names none."""
        return None if self.labels is None else self.labels[image % len(self.labels)]

    def class_of(self, image: int) -> str | None:
        """The name of that class, for people."""
        label = self.label_of(image)
        return None if label is None else name_of_class(self.denoiser, label)

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
        tiled = [] if self.budget is None else self.budget.notes(self._tiled())
        coupled = coupling_notes(self.config, self.sampler, self.one_by_one)
        return [*coupled, *trimmed, *tiled, *schedule_notes(self)]

    def _tiled(self) -> dict[str, Tiling]:
        """The images that the network does not take whole, by what to call them."""
        found: dict[str, Tiling] = {}
        for units in self.batches():
            tiling = self.tiling_of(units)
            if tiling is not None and not tiling.is_whole(*self.shape_of(units[0].image)[1:]):
                found |= {self.names[unit.image] or f"image {unit.image}": tiling for unit in units}
        return found

    def batches(self) -> list[list[Unit]]:
        """All the work, in batches that depend on the config and the images alone: a resumed run meets the same ones.

        Samples that are made together are in one batch, even if that is larger than ``batch_size``. Images of different
        sizes are not, and neither are more large ones than have `BATCH_PIXELS`. Alone are images whose size was not
        known when the run began, and those with noise of their own: estimated, or grey.
        """
        estimated = self.config.measurement is not None and self.config.measurement.noise_is_estimated
        groups: dict[object, list[int]] = {}
        for i in range(len(self.names)):
            size = () if self.grouped_by is None else self.grouped_by[i]
            groups.setdefault(i if estimated or self.is_grey(i) or size is None else size, []).append(i)
        return [
            batch
            for images in groups.values()
            for batch in batches_of(images, self.config.num_samples, self._rows(images[0]), self.together)
        ]

    def _rows(self, image: int) -> int:
        """How many samples of images like this one make a batch."""
        if self.one_by_one:
            return 1
        if self.grouped_by is None:
            return self.config.batch_size
        size = self.grouped_by[image]
        pixels = BATCH_PIXELS if size is None else math.prod(measured_size(self.config, size, self.names[image]))
        return min(self.config.batch_size, BATCH_PIXELS // pixels)

    def tiling_of(self, units: Sequence[Unit]) -> Tiling | None:
        """How the network takes the images of a batch; None if it takes them whole.

        Raises:
            InputError: there is too little memory for them.
        """
        if self.budget is None or (self.sizes is not None and self.sizes[units[0].image] is None):
            return None
        return self.budget.tiling(self.shape_of(units[0].image), len(units))

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

    def plan(self, sigmas: Tensor | None = None) -> samplers.Plan | None:
        """Step sizes and temperatures along these levels (the task's own by default), if the sampler is a walk."""
        sigmas = self.sigmas if sigmas is None else sigmas
        if isinstance(self.sampler, samplers.WalkSampler):
            return self.sampler.plan(sigmas)
        if not isinstance(self.sampler, RandomWalk):
            return None
        assert self.noise is not None
        operator = trial_operator(self)
        y = torch.zeros((1, *operator.measurement_shape), device=self.device)
        walk = samplers.RandomWalk(**{f.name: getattr(self.sampler, f.name) for f in fields(samplers.RandomWalk)})
        return walk.plan(sigmas, Likelihood(operator, y, self.noise))

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
            settings = settings_of(self.config.measurement.operator)
            if self.config.masks_beside:
                assert self.source is not None
                masks = [measuring.mask_of(self.config, self.source, i, self.shape_of(i)) for i in images]
                settings = measuring.with_masks(settings, masks)
            operator = operators.make(image_shape=self.shape_of(images[0]), generators=generators, **settings)
            self._measured = (list(images), operator.to(self.device), generators)
        _, operator, generators = self._measured
        return operator, ImageDraws(copy.deepcopy(generators), self.device)

    def sample(
        self,
        units: Sequence[Unit],
        loaded: Tensor | None,
        watch: Watch | None = None,
        watch_tiles: Callable[[int, int], object] | None = None,
    ) -> Batch:
        """Make a batch.

        Args:
            units: which samples; all those of an image in turn if they are made together.
            loaded: of each, what `load_image` gives, ``[B, ...]``; None in an unconditional run.
            watch: called after every step.
            watch_tiles: called as ``watch_tiles(done, total)`` after each tile of an evaluation, where there are any.

        Raises:
            RunError: the state is not finite, or memory runs out.
        """
        batch = Batch(list(units), torch.empty(0))
        streams = [generator(self.config.seed, unit.image, 1 + unit.sample) for unit in units]
        draws = ImageDraws(streams, self.device)
        denoiser, tiling = self.denoiser_of([unit.image for unit in units]), self.tiling_of(units)
        probe = Probe(denoiser if tiling is None else TiledDenoiser(denoiser, tiling, watch_tiles))
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
                    + (f" or max_memory (now {self.budget.gib:g} GiB)" if self.budget is not None else "")
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
        network=described(config.network.architecture, own),
        denoiser=described(config.network.denoiser, own),
        weights=config.network.weights,
        device=device,
        precision=config.precision,
        compile=config.compile,
    )
    schedule = make_schedule(config, denoiser)
    names = names_of(config, source)
    sizes = None if source is None else own_sizes(config, denoiser, source, len(names))
    shape = image_shape(config, denoiser, sizes)
    task = Task(config, device, denoiser, make_sampler(config, schedule), schedule, shape, source, names, sizes)
    if sizes is not None and source is not None and denoiser.channels != 1:
        task.greys = [size is not None and measuring.stays_grey(config, source, i) for i, size in enumerate(sizes)]
    task.budget = make_budget(config, denoiser, device, needs_gradient(task.sampler))
    try_out(task)
    return task
