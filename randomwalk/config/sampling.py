"""One sampling task: schedule, sampler, and what is sampled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from randomwalk.config.base import (
    Count,
    Device,
    Fit,
    Fraction,
    Natural,
    NonNegative,
    Pair,
    Positive,
    Precision,
    Settings,
    Text,
    TwoOrMore,
    check_order,
)
from randomwalk.config.measurement import Measurement
from randomwalk.config.networks import Weights

# --- schedules and samplers ------------------------------------------------------------------------------------------


class ScheduleSettings(Settings):
    """Decreasing noise levels, in [-1, 1] pixel units. Without a range, that of the denoiser."""

    name: Literal["pretrained", "sigmoid", "linear", "cosine", "geometric", "karras"]
    num_steps: Count
    sigma_min: Positive | None = None
    sigma_max: Positive | None = None
    beta_min: Positive | None = None
    """With beta_max and num_timesteps: the range of this DDPM table instead of sigma_min and sigma_max."""
    beta_max: Annotated[float, Field(gt=0, lt=1)] | None = None
    num_timesteps: TwoOrMore | None = None
    t0: Positive | None = None
    """Steepness of the sigmoid schedule (0.3 by default)."""
    rho: Positive | None = None
    """Exponent of the Karras schedule (7 by default)."""

    @model_validator(mode="after")
    def _one_range(self) -> ScheduleSettings:
        table = {"beta_min": self.beta_min, "beta_max": self.beta_max, "num_timesteps": self.num_timesteps}
        sigmas = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        given_table = [key for key, value in table.items() if value is not None]
        given_sigmas = [key for key, value in sigmas.items() if value is not None]
        if given_table and len(given_table) < len(table):
            missing = next(key for key in table if key not in given_table)
            raise ValueError(f"{missing}: missing; beta_min, beta_max and num_timesteps are given together or not")
        if given_table and given_sigmas:
            raise ValueError(
                f"{given_sigmas[0]}: found beside {given_table[0]}; allowed: sigma_min and sigma_max, or beta_min, "
                "beta_max and num_timesteps, not both"
            )
        check_order("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        check_order("beta_min", self.beta_min, "beta_max", self.beta_max)
        return self

    @model_validator(mode="after")
    def _only_its_own_settings(self) -> ScheduleSettings:
        for key, owner in (("t0", "sigmoid"), ("rho", "karras")):
            if getattr(self, key) is not None and self.name != owner:
                raise ValueError(f"{key}: is for the {owner} schedule, but name is {self.name}; remove it")
        for key in ("sigma_min", "sigma_max"):
            if self.name == "pretrained" and getattr(self, key) is not None:
                raise ValueError(
                    f"{key}: the pretrained schedule follows the network's own noise table; remove it, or choose "
                    "another name, such as geometric"
                )
        return self


class _Sampler(Settings):
    schedule: ScheduleSettings


class RandomWalkSettings(_Sampler):
    """The paper's walk: tau = c sigma^2, temperature linear from T0 to T1, no noise on the last step."""

    name: Literal["random_walk"]
    step_scale: Positive
    """c in tau = c sigma^2 (or in the preconditioned step)."""
    initial_temperature: NonNegative = 0.0
    """T0: 1 is Langevin dynamics, less is colder, 0 adds no noise."""
    final_temperature: NonNegative = 1.0
    preconditioned: bool = False
    """With a measurement: step c (I/sigma^2 + A^T A/eta^2)^-1 instead of min(c sigma^2, eta^2)."""


class AnnealedLangevinSettings(_Sampler):
    """NCSN (Song & Ermon 2019, arXiv 1907.05600): L steps of tau = c sigma^2 at each level, T = 1."""

    name: Literal["annealed_langevin"]
    step_scale: Positive = 0.1
    steps_per_level: Count = 3


class TemplateSettings(_Sampler):
    """A named setting of the template without parameters of its own."""

    name: Literal["ve_reverse_diffusion", "ddpm_small", "ddpm_large", "probability_flow"]


class DDIMSettings(_Sampler):
    """DDIM (Song et al. 2021, arXiv 2010.02502)."""

    name: Literal["ddim"]
    eta: Fraction = 0.0
    """0 is deterministic, 1 is DDPM with the small variance."""


SamplerSettings = Annotated[
    RandomWalkSettings | AnnealedLangevinSettings | TemplateSettings | DDIMSettings, Field(discriminator="name")
]


class Start(Settings):
    """Where the walk starts: mean + std * Normal(0, I)."""

    mean: float = 0.0
    std: Positive | None = None
    """Without it, the highest sigma of the schedule."""


# --- sample.py -------------------------------------------------------------------------------------------------------


class SampleData(Settings):
    """The true images, from which measurements are made (unconditional runs need none)."""

    path: Text
    """A folder, a zip or one image file; any mode and size (see `fit`)."""
    num_images: Count | None = None
    """The first so many images in name order; all of them without it."""
    fit: Fit = "resize"
    """How an image gets the network's size: resize the short side and crop the centre, crop, or pad."""


class SampleConfig(Settings):
    """One sampling task: `python sample.py --diffusion_config FILE`."""

    seed: Natural = 0
    """Image i is a function of the seed and i alone."""
    output: Text
    """Folder for the run; a date and time is appended if it exists and is not empty."""
    network: Weights
    data: SampleData | None = None
    measurement: Measurement | None = None
    sampler: SamplerSettings
    start: Start = Start()
    num_images: Count | None = None
    """How many images an unconditional run makes."""
    image_size: Annotated[list[Count], Pair] | None = None
    """[height, width]; without it, the size that the network was trained on."""
    num_samples: Count = 1
    """Samples for each measurement."""
    batch_size: Count = 16
    device: Device = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Precision = "fp32"
    """Of the network; the state of the walk is always float32."""
    compile: bool = False
    """torch.compile the network."""
    animation_frames: Natural = 24
    """Frames of the progress animation of each image; 0 writes none."""
    _notes: tuple[str, ...] = PrivateAttr(default=())

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader of the file should know, one line each; set where the file was translated."""
        return self._notes

    @model_validator(mode="after")
    def _has_its_images(self) -> SampleConfig:
        if self.measurement is not None and self.data is None:
            raise ValueError("data: missing; a measurement needs data.path, the folder of the true images")
        if self.measurement is None and self.data is not None:
            raise ValueError("data: is for runs with a measurement; add the section measurement, or remove data")
        if self.measurement is None and self.num_images is None:
            raise ValueError("num_images: missing; an unconditional run needs it")
        if self.measurement is not None and self.num_images is not None:
            raise ValueError("num_images: is for unconditional runs; with a measurement use data.num_images")
        return self
