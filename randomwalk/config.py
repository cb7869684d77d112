"""Typed configuration of ``sample.py`` and ``train.py``.

The classes below are the whole vocabulary of the YAML files: each key with its type, range, default and one line of
explanation, which the JSON schema (``python -m randomwalk.config --schema``) hands to the editor. Nothing here
imports PyTorch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["fp32", "bf16"]


class Settings(BaseModel):
    """Base of every section: unknown keys are errors, keys carry their docstring into the schema."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


# --- networks and denoisers ----------------------------------------------------------------------------------


class UNetSettings(Settings):
    """ADM UNet of guided-diffusion (Dhariwal & Nichol 2021, arXiv 2105.05233)."""

    name: Literal["unet"]
    image_size: Count
    in_channels: Count = 3
    model_channels: Count = 128
    out_channels: Count = 3
    """Twice `in_channels` for networks that also learn the variance; the extra half is ignored."""
    num_res_blocks: Count = 2
    attention_resolutions: list[Count] = []
    """Downsampling rates at which attention is used: 16 means at `image_size / 16`."""
    dropout: Fraction = 0.0
    channel_mult: list[Count] = [1, 2, 4, 8]
    num_classes: Count | None = None
    use_checkpoint: bool = False
    num_heads: Count = 1
    num_head_channels: int = -1
    """Channels per head; -1 uses `num_heads` instead."""
    num_heads_upsample: int = -1
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False


class NCSNppSettings(Settings):
    """NCSN++ of score-SDE (Song et al. 2021, arXiv 2011.13456)."""

    name: Literal["ncsnpp"]
    image_size: Count
    num_channels: Count = 3
    nf: Count = 128
    ch_mult: list[Count] = [1, 2, 2, 2]
    num_res_blocks: Count = 2
    attn_resolutions: list[Count] = [16]
    """Feature-map widths at which attention is used."""
    sigma_min: Positive = 0.01
    sigma_max: Positive = 348.0
    num_scales: Count = 1000
    dropout: Fraction = 0.0
    fourier_scale: Positive = 16.0
    conv_size: Count = 3
    init_scale: NonNegative = 0.0
    skip_rescale: bool = True
    fir: bool = True
    fir_kernel: list[Count] = [1, 3, 3, 1]
    resamp_with_conv: bool = True
    resblock_type: Literal["biggan", "ddpm"] = "biggan"
    progressive: Literal["none", "output_skip", "residual"] = "output_skip"
    progressive_input: Literal["none", "input_skip", "residual"] = "input_skip"
    progressive_combine: Literal["sum", "cat"] = "sum"
    embedding_type: Literal["fourier", "positional"] = "fourier"
    scale_by_sigma: bool = True
    conditional: bool = True
    centered: bool = False
    use_checkpoint: bool = False


NetworkSettings = Annotated[UNetSettings | NCSNppSettings, Field(discriminator="name")]


class VPDenoiserSettings(Settings):
    """Epsilon network on a DDPM table: D(x, sigma) = x - sigma * eps(sqrt(alpha_bar) x, t(sigma))."""

    name: Literal["vp"]
    beta_min: Positive = 1e-4
    """First per-step beta of the linear DDPM table."""
    beta_max: Annotated[float, Field(gt=0, lt=1)] = 0.02
    num_timesteps: Annotated[int, Field(ge=2)] = 1000


class VEDenoiserSettings(Settings):
    """NCSN++ score network that sees images in [0, 1] and sigma in those units (half of ours)."""

    name: Literal["ve"]
    sigma_min: Positive = 0.01
    """Lowest noise level, in the network's own [0, 1] units."""
    sigma_max: Positive = 348.0
    """Highest noise level, in the network's own [0, 1] units."""


class EDMDenoiserSettings(Settings):
    """EDM preconditioning (Karras et al. 2022, arXiv 2206.00364): D = c_skip x + c_out F(c_in x, c_noise)."""

    name: Literal["edm"]
    sigma_data: Positive = 0.5
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0


DenoiserSettings = Annotated[
    VPDenoiserSettings | VEDenoiserSettings | EDMDenoiserSettings, Field(discriminator="name")
]


class Weights(Settings):
    """Which weights denoise, and for files that do not say it themselves, what they are."""

    path: str
    """File with the weights: our .safetensors, a guided-diffusion state dict or a score_sde checkpoint."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the parameters, or the parameters themselves."""
    architecture: NetworkSettings | None = None
    """The network, for files that carry no description of it."""
    denoiser: DenoiserSettings | None = None
    """How the network denoises, for files that carry no description of it."""


# --- measurement ---------------------------------------------------------------------------------------------


class IdentitySettings(Settings):
    """A x = x: denoising."""

    name: Literal["identity"]


class InpaintingSettings(Settings):
    """A x = mask * x."""

    name: Literal["inpainting"]
    mask: Literal["random", "box", "file"] = "random"
    missing: Fraction = 0.75
    """Share of the pixels that is dropped (mask: random)."""
    box_size: Count | Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    """Side of the missing box in pixels, or [lowest, highest + 1] to draw it (mask: box)."""
    margin: Annotated[int, Field(ge=0)] = 0
    """Least distance of the box from the border (mask: box)."""
    file: str | None = None
    """Image whose bright pixels are kept (mask: file)."""

    @model_validator(mode="after")
    def _has_what_its_mask_needs(self) -> InpaintingSettings:
        if self.mask == "box" and self.box_size is None:
            raise ValueError("mask: box needs box_size, the side of the missing box in pixels")
        if self.mask == "file" and self.file is None:
            raise ValueError("mask: file needs file, the path of the mask image")
        return self


class SuperResolutionSettings(Settings):
    """A x = antialiased bicubic downsampling."""

    name: Literal["super_resolution"]
    factor: Annotated[int, Field(ge=2)] = 4


OperatorSettings = Annotated[
    IdentitySettings | InpaintingSettings | SuperResolutionSettings, Field(discriminator="name")
]


class GaussianNoiseSettings(Settings):
    """Additive white Gaussian noise."""

    name: Literal["gaussian"] = "gaussian"
    std: Positive
    """Standard deviation, in the units of `pixel_range`."""
    pixel_range: Annotated[list[float], Field(min_length=2, max_length=2)] = [-1.0, 1.0]
    """The range of the pixels that `std` refers to: 0.2 on [0, 1] is 0.4 on [-1, 1]."""


class Measurement(Settings):
    """y = A x + e. Without this section the sampling is unconditional."""

    operator: OperatorSettings
    noise: GaussianNoiseSettings


# --- schedules and samplers ----------------------------------------------------------------------------------


class ScheduleSettings(Settings):
    """Decreasing noise levels, in [-1, 1] pixel units. Without a range, that of the denoiser."""

    name: Literal["pretrained", "sigmoid", "linear", "cosine", "geometric", "karras"]
    num_steps: Count
    sigma_min: Positive | None = None
    sigma_max: Positive | None = None
    beta_min: Positive | None = None
    """With beta_max and num_timesteps: the range of this DDPM table instead of sigma_min and sigma_max."""
    beta_max: Positive | None = None
    num_timesteps: Annotated[int, Field(ge=2)] | None = None
    t0: Positive | None = None
    """Steepness of the sigmoid schedule (0.3 by default)."""
    rho: Positive | None = None
    """Exponent of the Karras schedule (7 by default)."""

    @model_validator(mode="after")
    def _one_range(self) -> ScheduleSettings:
        table = [self.beta_min, self.beta_max, self.num_timesteps]
        sigmas = [self.sigma_min, self.sigma_max]
        if any(v is not None for v in table) and any(v is None for v in table):
            raise ValueError("beta_min, beta_max and num_timesteps must be given together")
        if any(v is not None for v in table) and any(v is not None for v in sigmas):
            raise ValueError("give sigma_min and sigma_max, or beta_min, beta_max and num_timesteps, not both")
        if self.sigma_min is not None and self.sigma_max is not None and self.sigma_min > self.sigma_max:
            raise ValueError("sigma_min must not be above sigma_max")
        return self


class _Sampler(Settings):
    schedule: ScheduleSettings


class RandomWalkSettings(_Sampler):
    """The paper's walk: tau = c sigma^2, temperature linear from T0 to T1, no noise on the last step."""

    name: Literal["random_walk"]
    step_scale: Positive
    """c in tau = c sigma^2 (or in the preconditioned step)."""
    initial_temperature: NonNegative = 0.0
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


SamplerSettings = Annotated[
    RandomWalkSettings | AnnealedLangevinSettings | TemplateSettings | DDIMSettings, Field(discriminator="name")
]


class Start(Settings):
    """Where the walk starts: mean + std * Normal(0, I)."""

    mean: float = 0.0
    std: Positive | None = None
    """Without it, the highest sigma of the schedule."""


# --- sample.py -----------------------------------------------------------------------------------------------


class SampleData(Settings):
    """The true images, from which measurements are made (unconditional runs need none)."""

    path: str
    """A folder, a zip or one image file; any mode and size (see `fit`)."""
    num_images: Count | None = None
    """The first so many images in name order; all of them without it."""
    fit: Literal["resize", "crop", "pad"] = "resize"
    """How an image gets the network's size: resize the short side and crop the centre, crop, or pad."""


class SampleConfig(Settings):
    """One sampling task: `python sample.py --diffusion_config FILE`."""

    seed: Annotated[int, Field(ge=0)] = 0
    output: str
    """Folder for the run; a date and time is appended if it exists and is not empty."""
    network: Weights
    data: SampleData | None = None
    measurement: Measurement | None = None
    sampler: SamplerSettings
    start: Start = Start()
    num_images: Count | None = None
    """How many images an unconditional run makes."""
    image_size: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    """[height, width]; without it, the size that the network was trained on."""
    num_samples: Count = 1
    """Samples for each measurement."""
    batch_size: Count = 16
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Precision = "fp32"
    """Of the network; the state of the walk is always float32."""
    compile: bool = False
    """torch.compile the network."""
    animation_frames: Annotated[int, Field(ge=0)] = 24
    """Frames of the progress animation of each image; 0 writes none."""

    @model_validator(mode="after")
    def _has_its_images(self) -> SampleConfig:
        if self.measurement is not None and self.data is None:
            raise ValueError("a measurement needs data.path, the folder of the true images")
        if self.measurement is None and self.data is not None:
            raise ValueError("data is for runs with a measurement: add `measurement`, or remove `data`")
        if self.measurement is None and self.num_images is None:
            raise ValueError("an unconditional run needs num_images")
        if self.measurement is not None and self.num_images is not None:
            raise ValueError("num_images is for unconditional runs; with a measurement use data.num_images")
        return self


# --- train.py ------------------------------------------------------------------------------------------------


class TrainData(Settings):
    """The training images."""

    dataset: Literal["folder", "fashion_mnist_files", "mnist", "fashion_mnist", "cifar10"] = "folder"
    """A folder or zip of images, the four Fashion-MNIST .gz files, or a standard set through torchvision."""
    path: str
    """The folder or zip; for torchvision's sets the folder they are kept in (downloaded if absent)."""
    image_size: Count
    channels: Literal[1, 3] = 3
    fit: Literal["resize", "crop", "pad"] = "resize"
    """Resize the short side and crop the centre; crop at random; or pad with the darkest value."""
    flip: bool = True
    """Mirror half of the images, drawn anew each time."""
    num_validation: Annotated[int, Field(ge=0)] = 256
    """Images held out of the training for validation: the last ones, in a seeded order."""


class LogNormalLevels(Settings):
    """ln sigma ~ Normal(mean, std^2) (EDM)."""

    name: Literal["log_normal"]
    mean: float = -1.2
    std: Positive = 1.2


class LogUniformLevels(Settings):
    """ln sigma uniform on the range of the denoiser (VE)."""

    name: Literal["log_uniform"]


class UniformTimestepLevels(Settings):
    """sigma of a DDPM table at a uniform timestep (VP)."""

    name: Literal["uniform_timestep"]


LevelSettings = Annotated[
    LogNormalLevels | LogUniformLevels | UniformTimestepLevels, Field(discriminator="name")
]


class Objective(Settings):
    """E[w(sigma) ||X - D(X + sigma N, sigma)||^2]: a law of sigma and a weight; the denoiser's own by default."""

    levels: LevelSettings | None = None
    weight: Literal["inverse_variance", "edm", "uniform", "snr_clipped"] | None = None
    """sigma^-2 (epsilon or score matching), EDM's, 1, or min(sigma^-2, gamma)."""
    gamma: Positive = 5.0
    """The cap of snr_clipped (Hang et al. 2023, arXiv 2303.09556)."""


class Optimizer(Settings):
    """Adam."""

    learning_rate: Positive = 2e-4
    warmup_images: Annotated[int, Field(ge=0)] = 10_000
    """Images over which the learning rate rises linearly from 0."""
    decay: Literal["none", "cosine"] = "none"
    """Of the learning rate, after the warm-up, to 0 at the end."""
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    weight_decay: NonNegative = 0.0
    gradient_clip: Positive | None = 1.0
    """Largest norm of the gradient."""


class EMASettings(Settings):
    """Exponential moving average of the parameters."""

    half_life_images: Positive = 500_000
    warmup_ratio: Positive | None = 0.05
    """The half-life is at most this share of the images seen so far."""


class TrainConfig(Settings):
    """One training: `python train.py --config FILE`."""

    seed: Annotated[int, Field(ge=0)] = 0
    output: str
    data: TrainData
    network: NetworkSettings
    denoiser: DenoiserSettings
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    ema: EMASettings = EMASettings()
    batch_size: Count = 128
    """Images in one optimizer step, over all processes."""
    accumulate: Count = 1
    """Parts in which a process computes its share of the batch, to save memory."""
    num_images: Count
    """Length of the training: images seen, repeats counted."""
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False
    device: str = "auto"
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that decode images ahead."""
    log_every: Count = 50
    """Steps between two lines of log.csv."""
    checkpoint_images: Count = 100_000
    """Images between two checkpoints."""
    validate_images: Count = 100_000
    """Images between two validations and sample grids."""
    validation_sigmas: list[Positive] = [0.1, 0.25, 0.5, 1.0]
    export_raw: bool = False
    """Also put the parameters that were not averaged in the exported file."""
    export_dtype: Literal["float32", "float16"] = "float32"

    def model_post_init(self, _context: Any) -> None:
        if self.data.image_size != self.network.image_size:
            raise ValueError(
                f"data.image_size is {self.data.image_size}, but network.image_size is {self.network.image_size}"
            )


if __name__ == "__main__":
    from randomwalk.configio import main

    main()
