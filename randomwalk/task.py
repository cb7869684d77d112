"""A sampling task with everything loaded: which samples there are, and how a batch of them is made.

No files are written here and nothing is printed, so that a benchmark can use it too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from randomwalk import operators, samplers, schedules
from randomwalk.checkpoints import load_denoiser, read_config
from randomwalk.config import SampleConfig
from randomwalk.data import ImageSource, open_images
from randomwalk.denoisers import CountingDenoiser, Denoiser, VPDenoiser, broadcast_sigma
from randomwalk.errors import InputError, RunError
from randomwalk.noise import GaussianLikelihood, GaussianNoise
from randomwalk.operators import Operator
from randomwalk.rng import ImageDraws, generator

MEASUREMENT_STREAM = 0
"""Stream (seed, image, 0) holds mask and measurement noise; (seed, image, 1 + s) start and walk of sample s."""


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
        truth: the true images; None in an unconditional run.
        measurement: y, ``[B, *operator.measurement_shape]``.
        visible: the part of y that A can produce, ``A A^+ y`` (y without the noise on missing pixels).
        baseline: an image from y alone, to compare with: ``visible`` if that is an image, else ``A^+ y``.
        evaluations: of the network, for each sample.
        seconds: of the walk, for each sample.
    """

    units: list[Unit]
    x: Tensor
    truth: Tensor | None = None
    measurement: Tensor | None = None
    visible: Tensor | None = None
    baseline: Tensor | None = None
    evaluations: int = 0
    seconds: float = 0.0


class Probe(CountingDenoiser):
    """Counts evaluations, and can show the last one as a denoised image without another evaluation."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self._denoised: Callable[[], Tensor] | None = None

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        out = super().forward(x, sigma)
        self._denoised = lambda: out
        return out

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        score = super().score(x, sigma)
        self._denoised = lambda: x + broadcast_sigma(sigma, x) ** 2 * score
        return score

    def denoised(self) -> Tensor:
        """D(x, sigma) of the last evaluation."""
        if self._denoised is None:
            raise RuntimeError("nothing was denoised yet")
        return self._denoised()


Watch = Callable[[int, Tensor, float, Probe], object]
"""``watch(k, x, sigma, probe)`` is called after step k."""


@dataclass
class Task:
    """A sampling task, ready to run; see `load_task`."""

    config: SampleConfig
    device: torch.device
    denoiser: Denoiser
    sampler: samplers.WalkSampler
    sigmas: Tensor
    image_shape: tuple[int, int, int]
    source: ImageSource | None
    names: list[str] = field(default_factory=list)

    @property
    def num_evaluations(self) -> int:
        """Network evaluations for each batch."""
        return self.sampler.num_evaluations(len(self.sigmas))

    @property
    def noise(self) -> GaussianNoise | None:
        """The measurement's noise; None in an unconditional run."""
        if self.config.measurement is None:
            return None
        settings = self.config.measurement.noise
        return GaussianNoise(settings.std, settings.pixel_range)

    def batches(self) -> list[list[Unit]]:
        """All the work, in batches that depend on the config alone: a resumed run meets the same ones."""
        units = [Unit(i, s) for i in range(len(self.names)) for s in range(self.config.num_samples)]
        size = self.config.batch_size
        return [units[start : start + size] for start in range(0, len(units), size)]

    def load_image(self, image: int) -> Tensor:
        """True image, ``[C, H, W]``.

        Raises:
            InputError: it does not decode.
        """
        assert self.source is not None and self.config.data is not None
        channels, *size = self.image_shape
        return self.source.load(image, channels, size, self.config.data.fit)

    def make_operator(self, images: Sequence[int]) -> tuple[Operator, ImageDraws]:
        """The operator of these images, each with its own mask, and the draws that continue in their noise."""
        assert self.config.measurement is not None
        generators = [generator(self.config.seed, image, MEASUREMENT_STREAM) for image in images]
        settings = _settings(self.config.measurement.operator)
        operator = operators.make(image_shape=self.image_shape, generators=generators, **settings)
        return operator.to(self.device), ImageDraws(generators, self.device)

    def sample(self, units: Sequence[Unit], truth: Tensor | None, watch: Watch | None = None) -> Batch:
        """Make a batch.

        Args:
            units: which samples.
            truth: their true images ``[B, C, H, W]``; None in an unconditional run.
            watch: called after every step.

        Raises:
            RunError: the walk is not finite, or memory runs out.
        """
        batch = Batch(list(units), torch.empty(0))
        likelihood = None if truth is None else self._measure(batch, truth)
        walks = [generator(self.config.seed, unit.image, 1 + unit.sample) for unit in units]
        draws = ImageDraws(walks, self.device)
        std = float(self.sigmas[0]) if self.config.start.std is None else self.config.start.std
        probe = Probe(self.denoiser)
        callback = None if watch is None else lambda k, x, sigma: watch(k, x, sigma, probe)
        try:
            start_time = self._now()
            x = self.config.start.mean + std * draws.normal(self.image_shape)
            batch.x = self.sampler.sample(probe, x, self.sigmas, likelihood, noise=draws.noise, callback=callback)
            batch.seconds = (self._now() - start_time) / len(units)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise RunError(
                    f"out of memory on {self.device}: lower batch_size (now {self.config.batch_size})"
                ) from error
            raise
        batch.evaluations = probe.evaluations
        return batch

    def _measure(self, batch: Batch, truth: Tensor) -> GaussianLikelihood:
        noise = self.noise
        assert noise is not None
        batch.truth = truth.to(self.device)
        operator, draws = self.make_operator([unit.image for unit in batch.units])
        with torch.no_grad():
            batch.measurement = noise.apply(operator(batch.truth), draws)
            try:
                inverse = operator.pinv(batch.measurement)
                batch.visible = operator(inverse)
            except InputError:  # an operator without a pseudo-inverse
                inverse = batch.visible = batch.measurement
        is_image = batch.visible.shape == batch.truth.shape
        batch.baseline = batch.visible if is_image else inverse
        if batch.baseline.shape != batch.truth.shape:
            batch.baseline = None
        return GaussianLikelihood(operator, batch.measurement, noise.std)

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
    sampler = samplers.make(**_settings(config.sampler, without={"schedule"}))
    shape = _image_shape(config, denoiser)
    task = Task(config, device, denoiser, sampler, schedule, shape, source, _names(config, source))
    _try(task)
    return task


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


def _image_shape(config: SampleConfig, denoiser: Denoiser) -> tuple[int, int, int]:
    if denoiser.channels is None:
        raise InputError(f"{config.network.path}: does not say how many channels its images have")
    size = config.image_size
    if size is None:
        if denoiser.image_size is None:
            raise InputError("image_size: is needed, since the network does not say what it was trained on")
        size = [denoiser.image_size] * 2
    return (denoiser.channels, size[0], size[1])


def make_schedule(config: SampleConfig, denoiser: Denoiser) -> Tensor:
    """Noise levels of a config; a range that it does not give is that of the denoiser.

    Raises:
        InputError: a level at which the denoiser cannot be used.
    """
    settings = _settings(config.sampler.schedule)
    inner = denoiser.inner if isinstance(denoiser, CountingDenoiser) else denoiser
    no_range = not {"beta_min", "sigma_min", "sigma_max"} & settings.keys()
    if no_range and settings["name"] == "pretrained" and isinstance(inner, VPDenoiser):
        u = torch.linspace(0, 1, settings["num_steps"], dtype=torch.float64)
        return schedules.pretrained(u, inner.table.cpu())
    if "beta_min" not in settings:
        for key in ("sigma_min", "sigma_max"):
            settings.setdefault(key, getattr(denoiser, key))
    sigmas = schedules.make(**settings)
    try:
        for sigma in (float(sigmas[0]), float(sigmas[-1])):
            denoiser.check_sigma(sigma)
    except InputError as error:
        raise InputError(f"sampler.schedule: {error}") from error
    return sigmas


def _try(task: Task) -> None:
    """Find out now whether operator, sampler and image size go together."""
    likelihood = None
    if task.noise is not None:
        operator, _ = task.make_operator([0])
        y = torch.zeros((1, *operator.measurement_shape), device=task.device)
        likelihood = GaussianLikelihood(operator, y, task.noise.std)
    plan = task.sampler.plan(task.sigmas, likelihood)
    x = torch.zeros((1, *task.image_shape), device=task.device)
    step = plan.step_sizes[0]
    if not isinstance(step, (int, float, Tensor)):
        step.apply(x)
    if task.config.image_size is not None and task.config.image_size != [task.denoiser.image_size] * 2:
        try:
            with torch.inference_mode():
                task.denoiser(x, float(task.sigmas[0]))
        except RuntimeError as error:
            raise InputError(
                f"image_size: {task.config.image_size} does not go through the network, which was trained on "
                f"{task.denoiser.image_size} ({error})"
            ) from error
