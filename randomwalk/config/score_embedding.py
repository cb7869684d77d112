"""A training with score embedding, or the DDPM training it is compared with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from randomwalk.config.base import (
    WHOLE,
    Batch,
    Count,
    Device,
    Fit,
    Fraction,
    Natural,
    OutputPath,
    PathText,
    Positive,
    Precision,
    Seed,
    Settings,
    Side,
    Steps,
    TableSize,
    Text,
    check_order,
)
from randomwalk.config.networks import DDPMUNetSettings
from randomwalk.config.training import EMASettings, Optimizer, renamed

Boundary = Literal["neumann", "dirichlet", "periodic"]


class EmbeddingData(Settings):
    """The few images that a network memorises."""

    dataset: Annotated[Literal["folder", "mnist", "fashion_mnist", "cifar10"], BeforeValidator(renamed)] = "folder"
    """A folder, a zip or one file of images, or a standard set."""
    path: PathText
    """The folder, zip or file; for standard sets the folder they are kept in, or downloaded into."""
    image_size: Side
    channels: Literal[1, 3] = 3
    fit: Fit = "resize"
    num_images: Annotated[int, Field(ge=1, le=10_000), WHOLE]
    indices: Annotated[list[Natural], Field(max_length=10_000)] | None = None
    """Indices of the images in the set; the first ones without this and `draw_seed`."""
    class_name: Text | None = None
    """Use only images of this class of the set; `indices` count them from 0."""
    draw_seed: Annotated[int, Field(ge=0, lt=2**32), WHOLE] | None = None
    """Draw the images without replacement with NumPy's RandomState of this seed, as in the paper's code."""

    @model_validator(mode="after")
    def _which(self) -> EmbeddingData:
        if self.indices is not None and self.draw_seed is not None:
            raise ValueError("draw_seed: the images are named by indices already; remove one of the two")
        if self.indices is not None and len(self.indices) != self.num_images:
            raise ValueError(
                f"indices: found {len(self.indices)} of them; allowed: num_images, which is {self.num_images}"
            )
        return self


# --- density and solver ----------------------------------------------------------------------------------------------


class ValuePairSettings(Settings):
    """The paper's density, of pairs of values (I[k, j], I[j, k]) at each pixel's own pair. Square images."""

    name: Literal["value_pair_kde"]
    estimator: Literal["histogram", "gaussian", "published"] = "histogram"
    """Smoothed histogram; Gaussian kernels, exact and slow; or the published code's estimator, which smooths more."""


class IntensitySettings(Settings):
    """The intensity of each channel, as a density on the grid of pixels."""

    name: Literal["intensity"]
    offset: Positive = 0.1
    """Added to the intensities in [0, 1], so that the logarithm of black is finite."""


class PositionSettings(Settings):
    """Kernel density of pixel positions drawn by intensity (arXiv 2511.17634), shared by all channels."""

    name: Literal["position_kde"]
    num_points: Annotated[int, Field(ge=3, le=1_000_000), WHOLE] = 2000
    offset: Positive = 0.1
    """Added to the mean intensity in [0, 1]."""


DensitySettings = Annotated[ValuePairSettings | IntensitySettings | PositionSettings, Field(discriminator="name")]


class ExactSettings(Settings):
    """The logarithm of the heat flow (Cole-Hopf transform), without iterations or time steps."""

    name: Literal["exact"]
    method: Literal["matrix", "dct"] = "matrix"
    boundary: Boundary = "neumann"
    spacing: Positive = 1.0
    """Spacing of the pixel grid."""


class SemiImplicitSettings(Settings):
    """Backward Euler with a lagged gradient, as the paper intends: a consistent finite-difference scheme."""

    name: Literal["semi_implicit"]
    linear_solver: Literal["lu", "bicgstab", "adi"] = "bicgstab"
    boundary: Boundary = "neumann"
    spacing: Positive = 1.0
    """Spacing of the pixel grid."""
    linearisation: Literal["lagged", "newton"] = "lagged"
    """Linearisation of the quadratic term: one factor from the previous iteration, as in the paper; or Newton's, with
    the same solution in fewer iterations."""
    tolerance: Positive = 1e-8
    """Relative change of the log density at which the fixed-point iteration stops."""
    max_iterations: Steps = 100
    quadratic: Literal["gradient", "scalar"] = "gradient"
    """|grad m|^2, or the preprint's (m_x + m_y)^2, which is not the Fokker-Planck equation."""


class LegacySettings(Settings):
    """The published matrix with its defects, for reproduction; it is not a discretisation of the equation."""

    name: Literal["legacy"]
    spacing: Positive = 1.0
    """Spacing of the pixel grid."""
    tolerance: Positive = 1e-6
    """Relative change of the log density at which the fixed-point iteration stops; its float32 resolves 2e-8."""
    max_iterations: Steps = 100


SolverSettings = Annotated[ExactSettings | SemiImplicitSettings | LegacySettings, Field(discriminator="name")]


# --- methods ---------------------------------------------------------------------------------------------------------


class EmbeddingMethod(Settings):
    """Score embedding (Na, Gao and Wan 2024, arXiv 2404.06661): dx = base^t dw, a network that predicts the score."""

    name: Literal["score_embedding"]
    base: Annotated[float, Field(ge=1, le=1e6)]
    """Base of the diffusion coefficient, sigma in the paper."""
    num_levels: Annotated[int, Field(ge=2, le=10_000), WHOLE]
    """Levels at which the field is computed, and parts of [0, 1] from which training times are drawn."""
    embedding: Literal["score", "random", "none"] = "score"
    """Field that moves the images: that of the Fokker-Planck equation; a random one of the same norm at every level; or
    none, which leaves plain denoising score matching."""
    component: Literal["sum", "rows", "columns"] = "sum"
    """Component of the gradient, which has two where a pixel has one value; the paper adds them."""
    density: DensitySettings = ValuePairSettings(name="value_pair_kde")
    solver: SolverSettings = ExactSettings(name="exact")
    times: Literal["full", "published"] = "full"
    """Training times: from every part of [eps, 1], or from the lower half of each, as in the published code."""
    batches: Literal["by_image", "mixed"] = "by_image"
    """Batches of all levels of one image, as published; or of random images and levels."""
    eps: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Lowest time."""
    time_scale: Positive = 1.0
    """Factor of the time that the network sees."""


class DDPMMethod(Settings):
    """Baseline: epsilon prediction on a linear table (Ho et al. 2020, arXiv 2006.11239)."""

    name: Literal["ddpm"]
    beta_min: Positive = 1e-4
    beta_max: Annotated[float, Field(gt=0, lt=1)] = 0.02
    num_timesteps: TableSize = 1000
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """Ancestral, or deterministic (Song et al. 2021, arXiv 2010.02502, eta = 0); the training is the same."""
    num_steps: TableSize | None = None
    """Sampling steps, evenly spread over the table; all timesteps by default."""

    @model_validator(mode="after")
    def _range(self) -> DDPMMethod:
        check_order("beta_min", self.beta_min, "beta_max", self.beta_max)
        if self.num_steps is not None and self.num_steps > self.num_timesteps:
            raise ValueError(f"num_steps: found {self.num_steps}; allowed: at most num_timesteps, {self.num_timesteps}")
        return self


Method = Annotated[EmbeddingMethod | DDPMMethod, Field(discriminator="name")]


class EmbeddedSampling(Settings):
    """Sampling, for the curves and at the end."""

    start: Literal["normal", "prior", "truth"] = "prior"
    """Start of score_embedding: N(0, I), as published; the distribution at the end of the SDE; or a mixture of noise
    and the true image, the published "conditional" sampling, which sees the answer. For ddpm the first two agree."""
    truth_weight: Fraction = 0.6
    """Share of the true image in the start `truth`."""
    tolerance: Positive = 1e-3
    """Relative and absolute tolerance of the Dormand-Prince solver of score_embedding."""
    tweedie: bool = True
    """End with a denoising step; otherwise the noise of the lowest time, 0.03, stays in the image."""
    num_samples: Annotated[int, Field(ge=1, le=10_000), WHOLE] = 1
    """Samples per image."""
    minmax: bool = False
    """Stretch samples to [0, 1] before measuring, as published, which hides errors of brightness and contrast."""


class Profile(Settings):
    """Measurements of samples during the training (`--profile`), during which the clock stops."""

    enabled: bool = False
    every_seconds: Positive | None = None
    """Seconds of training between two measurements."""
    every_steps: Count | None = None
    levels: Annotated[list[Fraction], Field(max_length=100)] = Field(default=[0.9, 0.95])
    """SSIM levels whose crossings are reported."""
    hold: Count = 5
    """Measurements in a row above a level for a sustained crossing."""
    stop_at: Fraction | None = None
    """Mean SSIM that ends the training once it has been exceeded for `hold` measurements."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Profile:
        if self.every_seconds is not None and self.every_steps is not None:
            raise ValueError("every_steps: every_seconds is given too; remove one of the two")
        if self.stop_at is not None and not self.enabled:
            raise ValueError("stop_at: nothing is measured unless profile.enabled (--profile)")
        return self


class ScoreEmbeddingConfig(Settings):
    """One training of few images: `python train.py --config FILE [--profile] [--no-train]`."""

    seed: Seed = 0
    output: OutputPath
    """Folder for the run; a date and time is appended if it exists and is not empty."""
    data: EmbeddingData
    method: Method
    network: DDPMUNetSettings
    optimizer: Optimizer = Optimizer(learning_rate=1e-4, warmup_images=0, gradient_clip=None)
    ema: EMASettings | None = None
    """Average of the parameters, used for sampling; none without this section."""
    batch_size: Batch
    num_steps: Count
    """Optimizer steps."""
    time_limit: Positive | None = None
    """Seconds of density, solver and training together, after which the training ends."""
    sampling: EmbeddedSampling = EmbeddedSampling()
    profile: Profile = Profile()
    precision: Precision = "fp32"
    """Precision of the network; auto: bf16 where the device has units for it."""
    device: Device = "auto"
    """auto, cpu, mps, cuda or cuda:N."""
    checkpoint_steps: Count = 100
    """Steps between two checkpoints."""

    @model_validator(mode="after")
    def _network_fits_data(self) -> ScoreEmbeddingConfig:
        network, data = self.network, self.data
        pairs = (
            ("data.image_size", data.image_size, "network.image_size", network.image_size),
            ("data.channels", data.channels, "network.num_channels", network.num_channels),
        )
        for key, found, other, allowed in pairs:
            if found != allowed:
                raise ValueError(f"{key}: found {found}; allowed: {allowed}, which is {other}")
        if network.num_classes not in (None, data.num_images):
            raise ValueError(
                f"network.num_classes: found {network.num_classes}; allowed: data.num_images, which is "
                f"{data.num_images}, for a network conditioned on the image; or none"
            )
        return self
