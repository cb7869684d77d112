"""Networks, and the denoisers around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from randomwalk.config.base import (
    MOST_LEVELS,
    WHOLE,
    Blocks,
    Levels,
    Natural,
    NonNegative,
    Number,
    Pair,
    PathText,
    Positive,
    Settings,
    Share,
    Side,
    TableSize,
    Text,
    Width,
    check_order,
)

MOST_PARAMETERS = 4_000_000_000
OpenFraction = Annotated[float, Field(ge=1e-6, le=1 - 1e-6)]
Classes = Annotated[int, Field(ge=1, le=1_000_000), WHOLE]
Weight = Annotated[int, Field(ge=1, le=1_000_000), WHOLE]


def _check_parameters(
    key: str, widths: Sequence[int], blocks: Sequence[int], classes: int | None = None, per_block: int = 46
) -> None:
    """Refuse a network that no machine could hold, before it is built.

    Args:
        key: the key with the widths.
        widths: channels of each resolution level.
        blocks: residual blocks of each level, in the encoder and again in the decoder.
        classes: number of embedded classes.
        per_block: parameters of a block in the encoder and its like in the decoder, in squares of the width. Each has
            two 3x3 convolutions; one of the decoder's has twice the channels, because of the skip connections.
    """
    parameters = sum(per_block * count * width**2 for count, width in zip(blocks, widths, strict=True))
    parameters += 4 * (classes or 0) * widths[0]
    if parameters > MOST_PARAMETERS:
        raise ValueError(
            f"{key}: makes a network of about {parameters:.0e} parameters; allowed: at most {MOST_PARAMETERS:.0e}, "
            "with fewer channels, blocks or classes"
        )


def _check_image_size(image_size: int, levels_key: str, levels: int) -> None:
    """Refuse a size that cannot be halved at each resolution level but the first."""
    divisor = 2 ** (levels - 1)
    if image_size % divisor:
        raise ValueError(
            f"image_size: found {image_size}; allowed: a multiple of {divisor}, for the {levels} levels of {levels_key}"
        )


class UNetSettings(Settings):
    """ADM UNet of guided-diffusion (Dhariwal & Nichol 2021, arXiv 2105.05233)."""

    name: Literal["unet"]
    image_size: Side
    in_channels: Width = 3
    model_channels: Width = 128
    out_channels: Width = 3
    """Twice `in_channels` for networks that also learned the variance; the extra half is ignored."""
    num_res_blocks: Blocks = 2
    attention_resolutions: Annotated[list[Side], Field(max_length=MOST_LEVELS)] = Field(default=[])
    """Downsampling rates at which attention is used: 16 means at `image_size / 16`."""
    dropout: Share = 0.0
    channel_mult: Annotated[list[Width | Annotated[float, Field(gt=0, lt=64)]], Levels] = Field(default=[1, 2, 4, 8])
    """Channels of each resolution level, in multiples of `model_channels`."""
    num_classes: Classes | None = None
    use_checkpoint: bool = False
    """Recompute activations in the backward pass, which saves memory in training."""
    num_heads: Width = 1
    num_head_channels: Literal[-1] | Width = -1
    """Channels per head; -1 uses `num_heads` instead."""
    num_heads_upsample: Literal[-1] | Width = -1
    """Heads in the decoder; -1 means `num_heads`."""
    use_scale_shift_norm: bool = True
    """The time embedding scales and shifts features instead of being added to them."""
    resblock_updown: bool = False
    """Resample in residual blocks instead of separate convolutions."""
    use_new_attention_order: bool = False
    norm_groups: Width = 32
    """Groups of the normalisations, 32 in the public weights; a narrow network needs fewer, to keep means."""

    @model_validator(mode="after")
    def _fits_its_images(self) -> UNetSettings:
        _check_image_size(self.image_size, "channel_mult", len(self.channel_mult))
        for multiple in self.channel_mult:
            if multiple * self.model_channels % self.norm_groups:
                raise ValueError(
                    f"norm_groups: found {self.norm_groups}; allowed: a divisor of the channels of every level "
                    f"(model_channels {self.model_channels} times channel_mult {self.channel_mult})"
                )
        widths = [int(multiple * self.model_channels) for multiple in self.channel_mult]
        _check_parameters("model_channels", widths, [self.num_res_blocks] * len(widths), self.num_classes)
        n = self.in_channels
        if self.out_channels not in (n, 2 * n):
            raise ValueError(
                f"out_channels: found {self.out_channels}; allowed: {n}, or {2 * n} for a network that also learned "
                f"the variance (in_channels is {n})"
            )
        return self


class NCSNppSettings(Settings):
    """NCSN++ of score-SDE (Song et al. 2021, arXiv 2011.13456)."""

    name: Literal["ncsnpp"]
    image_size: Side
    num_channels: Width = 3
    nf: Width = 128
    """Channels of the first resolution level."""
    ch_mult: Annotated[list[Width], Levels] = Field(default=[1, 2, 2, 2])
    """Channels of each resolution level, in multiples of `nf`."""
    num_res_blocks: Blocks = 2
    attn_resolutions: Annotated[list[Side], Field(max_length=MOST_LEVELS)] = Field(default=[16])
    """Feature-map widths at which attention is used."""
    sigma_min: Positive = 0.01
    sigma_max: Positive = 348.0
    num_scales: TableSize = 1000
    dropout: Share = 0.0
    fourier_scale: Positive = 16.0
    conv_size: Literal[3] = 3
    init_scale: NonNegative = 0.0
    skip_rescale: bool = True
    fir: bool = True
    fir_kernel: Annotated[list[Weight], Field(min_length=2, max_length=64)] = Field(default=[1, 3, 3, 1])
    resamp_with_conv: bool = True
    resblock_type: Literal["biggan", "ddpm"] = "biggan"
    progressive: Literal["none", "output_skip", "residual"] = "output_skip"
    progressive_input: Literal["none", "input_skip", "residual"] = "input_skip"
    progressive_combine: Literal["sum", "cat"] = "sum"
    embedding_type: Literal["fourier", "positional"] = "fourier"
    scale_by_sigma: bool = True
    """The network's output is divided by sigma."""
    conditional: bool = True
    """Condition the network on sigma."""
    centered: bool = False
    """Images are in [-1, 1] already; otherwise the network takes [0, 1] and centres them itself."""
    use_checkpoint: bool = False
    """Recompute activations in the backward pass, which saves memory in training."""

    @model_validator(mode="after")
    def _fits_its_images(self) -> NCSNppSettings:
        _check_image_size(self.image_size, "ch_mult", len(self.ch_mult))
        _check_parameters("nf", [m * self.nf for m in self.ch_mult], [self.num_res_blocks] * len(self.ch_mult))
        check_order("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        return self


class DDPMUNetSettings(Settings):
    """U-Net of DDPM (Ho et al. 2020, arXiv 2006.11239), as score embedding uses it."""

    name: Literal["ddpm_unet"]
    image_size: Side
    num_channels: Width = 3
    nf: Annotated[int, Field(ge=4, le=16_384), WHOLE] = 128
    """Channels of the first resolution level."""
    ch_mult: Annotated[list[Width], Levels] = Field(default=[1, 2, 2, 2])
    """Channels of each resolution level, in multiples of `nf`."""
    num_res_blocks: Blocks = 2
    """Residual blocks of each level in the encoder; one more in the decoder."""
    attn_resolutions: Annotated[list[Side], Field(max_length=MOST_LEVELS)] = Field(default=[16])
    """Feature-map widths at which attention is used."""
    dropout: Share = 0.1
    resamp_with_conv: bool = True
    """Change levels with a 3x3 convolution instead of averages and repeated pixels."""
    embedding: Literal["linear", "fourier"] = "linear"
    """Input of the time: the time itself, or its sines and cosines."""
    max_positions: Annotated[float, Field(gt=1, le=1e9)] = 10_000.0
    """Inverse of the lowest frequency of the sines and cosines."""
    num_classes: Classes | None = None
    """Number of classes, or of training images for a network conditioned on the image to make."""
    centered: bool = False
    """Images are in [-1, 1] already; otherwise the network takes [0, 1] and centres them itself."""

    @model_validator(mode="after")
    def _fits_its_images(self) -> DDPMUNetSettings:
        _check_image_size(self.image_size, "ch_mult", len(self.ch_mult))
        widths = [multiple * self.nf for multiple in self.ch_mult]
        _check_parameters("nf", widths, [self.num_res_blocks] * len(widths), self.num_classes)
        return self


class PhotoUNetSettings(Settings):
    """U-Net for photographs of any size: convolutions only, half the resolution from the start."""

    any_size: ClassVar[bool] = True

    name: Literal["photo_unet"]
    image_size: Side = 64
    """Side of the training images; other sizes work too."""
    num_channels: Width = 3
    widths: Annotated[list[Width], Field(min_length=2, max_length=MOST_LEVELS)] = Field(default=[64, 96, 128, 128])
    """Channels of each resolution level; the first has half the resolution of the image."""
    num_blocks: Annotated[list[Blocks], Field(min_length=2, max_length=MOST_LEVELS)] = Field(default=[3, 2, 1, 2])
    """Residual blocks of each level, in the encoder and again in the decoder; the lowest level has them once."""
    code_size: Annotated[int, Field(ge=2, le=16_384, multiple_of=2), WHOLE] = 128
    """Size of the positional code of the noise level."""
    time_scale: Positive = 1.0
    """Factor of time before the code, which suits times up to about 1000: about 250 for denoiser edm."""
    block: Literal["modulated", "gated"] = "modulated"
    """Residual block: SiLU with scale and shift by the noise level, or ReLU with a gain."""

    @model_validator(mode="after")
    def _blocks_of_each_level(self) -> PhotoUNetSettings:
        if len(self.num_blocks) != len(self.widths):
            raise ValueError(
                f"num_blocks: found {len(self.num_blocks)} numbers; allowed: one for each of the {len(self.widths)} "
                "levels of widths"
            )
        _check_parameters("widths", self.widths, self.num_blocks)
        return self


class MLPSettings(Settings):
    """A small network for points: residual blocks, with a positional code of time."""

    name: Literal["mlp"]
    num_channels: Width = 2
    """Coordinates of a point."""
    image_size: Literal[1] = 1
    hidden: Width = 128
    """Width."""
    num_blocks: Blocks = 3
    code_size: Annotated[int, Field(ge=2, le=16_384, multiple_of=2), WHOLE] = 64
    """Size of the positional code of time."""
    time_scale: Positive = 1.0
    """Factor of time before the code, which suits times up to about 1000: about 250 for denoiser edm."""
    num_classes: Classes | None = None

    @model_validator(mode="after")
    def _can_be_built(self) -> MLPSettings:
        _check_parameters("hidden", [self.hidden], [self.num_blocks], self.num_classes, per_block=4)
        return self


NetworkSettings = Annotated[
    UNetSettings | PhotoUNetSettings | NCSNppSettings | DDPMUNetSettings | MLPSettings, Field(discriminator="name")
]


VP_TABLES: dict[str, dict[str, float]] = {
    "linear": {"beta_min": 1e-4, "beta_max": 0.02, "num_timesteps": 1000},
    "scaled_linear": {"beta_min": 0.00085, "beta_max": 0.012, "num_timesteps": 1000},
    "cosine": {"num_timesteps": 1000},
}
"""The named noise tables of variance-preserving networks, with their published settings."""


class GivenTable(Settings):
    """A noise table as numbers: one of its two keys."""

    alphas_cumprod: PathText | Annotated[list[Number], Field(max_length=1_000_000)] | None = None
    """alpha_bar of every timestep, falling: numbers, or a file of them (.npy, .pt or text; or a training checkpoint
    that has them under this name)."""
    betas: PathText | Annotated[list[Number], Field(max_length=1_000_000)] | None = None
    """beta of every timestep: numbers, or a file of them."""

    @model_validator(mode="after")
    def _one_of_two(self) -> GivenTable:
        if self.alphas_cumprod is None and self.betas is None:
            raise ValueError("alphas_cumprod: missing; expected alphas_cumprod or betas, numbers or a file of them")
        if self.alphas_cumprod is not None and self.betas is not None:
            raise ValueError("betas: found beside alphas_cumprod; allowed: one of the two")
        return self


class VPDenoiserSettings(Settings):
    """Epsilon network on a DDPM table: D(x, sigma) = x - sigma * eps(sqrt(alpha_bar) x, t(sigma))."""

    name: Literal["vp"]
    table: Literal["linear", "cosine", "scaled_linear"] | GivenTable = "linear"
    """Noise table of the network's training: DDPM's linear betas, Nichol and Dhariwal's cosine, latent
    diffusion's betas with linear square roots, or the numbers."""
    beta_min: Positive | None = None
    """First per-step beta; 1e-4 (linear) or 0.00085 (scaled_linear) by default."""
    beta_max: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Last per-step beta; 0.02 (linear) or 0.012 (scaled_linear) by default."""
    num_timesteps: TableSize | None = None
    """Length of a named table; 1000 by default."""
    time_scale: Positive = 1.0
    """Factor of the timestep that the network sees: 0.25 for improved-diffusion's 4000 timesteps shown as 1000."""
    null_label: Natural | None = None
    """The class that means "any class", if the network has one."""

    @model_validator(mode="after")
    def _settings_of_the_table(self) -> VPDenoiserSettings:
        named = isinstance(self.table, str)
        usual = VP_TABLES[self.table] if isinstance(self.table, str) else {}
        for key in ("beta_min", "beta_max", "num_timesteps"):
            if key in usual:
                # Past pydantic, for which the key would then be one that the user has written.
                self.__dict__[key] = usual[key] if getattr(self, key) is None else getattr(self, key)
            elif getattr(self, key) is not None:
                why = f"the table {self.table} has none" if named else "the numbers of the table determine it"
                raise ValueError(f"{key}: found {getattr(self, key)}, but {why}; remove it")
        check_order("beta_min", self.beta_min, "beta_max", self.beta_max)
        return self


class VEDenoiserSettings(Settings):
    """NCSN++ score network, which sees images in [0, 1] and sigma in those units (half of that on [-1, 1])."""

    name: Literal["ve"]
    sigma_min: Positive = 0.01
    """Lowest noise level, in the network's own [0, 1] units."""
    sigma_max: Positive = 348.0
    """Highest noise level, in the network's own [0, 1] units."""

    @model_validator(mode="after")
    def _range(self) -> VEDenoiserSettings:
        check_order("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        return self


class EDMDenoiserSettings(Settings):
    """EDM preconditioning (Karras et al. 2022, arXiv 2206.00364): D = c_skip x + c_out F(c_in x, c_noise)."""

    name: Literal["edm"]
    sigma_data: Positive = 0.5
    """Standard deviation of the clean pixels."""
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    null_label: Natural | None = None
    """The class that means "any class", if the network has one."""

    @model_validator(mode="after")
    def _range(self) -> EDMDenoiserSettings:
        check_order("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        return self


class OUSettings(Settings):
    """Ornstein-Uhlenbeck: dz = -z/2 dt + dw until the time `end_time`."""

    name: Literal["ou"]
    end_time: Annotated[float, Field(gt=0, le=50)] = 10.0


class VPSettings(Settings):
    """Variance preserving: beta(t) rises linearly."""

    name: Literal["vp"]
    beta_min: Positive = 0.1
    beta_max: Annotated[float, Field(gt=0, le=80)] = 20.0

    @model_validator(mode="after")
    def _range(self) -> VPSettings:
        check_order("beta_min", self.beta_min, "beta_max", self.beta_max)
        return self


class SubVPSettings(VPSettings):
    """Sub-VP: the drift of VP with less noise."""

    name: Literal["sub_vp"]  # type: ignore[assignment]


class VESettings(Settings):
    """Variance exploding: sigma(t) rises geometrically."""

    name: Literal["ve"]
    sigma_min: Positive = 0.01
    sigma_max: Positive = 50.0

    @model_validator(mode="after")
    def _range(self) -> VESettings:
        check_order("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        return self


class PowerVESettings(Settings):
    """Variance exploding: dz = base^t dw, without noise at t = 0."""

    name: Literal["power_ve"]
    base: Annotated[float, Field(ge=1, le=1e6)] = 25.0


class EDMSettings(Settings):
    """EDM's (Karras et al. 2022, arXiv 2206.00364): sigma(t) = t."""

    name: Literal["edm"]
    sigma_max: Positive = 80.0


SDESettings = Annotated[
    OUSettings | VPSettings | SubVPSettings | VESettings | PowerVESettings | EDMSettings, Field(discriminator="name")
]


class SDEDenoiserSettings(Settings):
    """Network conditioned on the time of an SDE, which sees x / sqrt(1 + sigma^2)."""

    name: Literal["sde"]
    sde: SDESettings
    prediction: Literal["epsilon", "x0", "v", "score"] = "epsilon"
    """Prediction of the network: the noise, the image, v = alpha N - beta X, or the score."""
    time: Literal["continuous", "log_sigma", "discrete"] = "continuous"
    """Time that the network sees: 999 t / T, ln(sigma) / 4, or the index in a table of noise levels."""
    num_levels: TableSize = 1000
    """Length of the discrete table."""
    null_label: Natural | None = None
    """The class that means "any class", if the network has one."""


class FlowDenoiserSettings(Settings):
    """Network of flow matching, which sees (1 - t) X + t N and predicts N - X; sigma = t / (1 - t)."""

    name: Literal["flow"]
    t_min: OpenFraction = 0.001
    """Lowest time."""
    t_max: OpenFraction = 0.999
    """Highest time: 0.999 is sigma = 999."""
    time_scale: Positive = 999.0
    """Factor of the time that the network sees."""
    shift: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Even times u are taken as shift u / (1 + (shift - 1) u) (Esser et al. 2024, arXiv 2403.03206)."""
    null_label: Natural | None = None
    """The class that means "any class", if the network has one."""

    @model_validator(mode="after")
    def _range(self) -> FlowDenoiserSettings:
        check_order("t_min", self.t_min, "t_max", self.t_max)
        return self


class ScoreDenoiserSettings(Settings):
    """Network that predicts the score of [0, 1] pixels at the time of an SDE without drift (score embedding)."""

    name: Literal["score"]
    sde: Annotated[VESettings | PowerVESettings | EDMSettings, Field(discriminator="name")]
    """SDE in units of [0, 1] pixels."""
    time_scale: Positive = 1.0
    """Factor of the time that the network sees."""
    eps: Positive = 1e-3
    """Lowest time."""
    null_label: Natural | None = None
    """The class that means "any class", if the network has one."""


DenoiserSettings = Annotated[
    VPDenoiserSettings
    | VEDenoiserSettings
    | EDMDenoiserSettings
    | SDEDenoiserSettings
    | FlowDenoiserSettings
    | ScoreDenoiserSettings,
    Field(discriminator="name"),
]


class Weights(Settings):
    """Weights of the denoiser, with a description if the file has none; or a network of another library."""

    name: Literal["file", "diffusers", "deepinv"] = "file"
    """Format: a file with weights; a folder or repository of diffusers; or a denoiser of deepinv."""
    path: PathText
    """File with the weights: .safetensors of train.py, or a state dict or training checkpoint of others. With name:
    diffusers, the folder of a pipeline, or the id of a repository, which the library downloads. With name: deepinv, the
    file of a state dict, or download (the default) for the weights that the library publishes."""
    camera_path: PathText | None = None
    """File with the weights for a picture whose noise is estimated (`measurement.noise.std: auto`) and found to be that
    of a camera: it has been through demosaicking, smoothing or JPEG, and is not white. Others take `path`."""
    weights: Text = "ema"
    """ema, the moving average of the parameters; raw, the parameters themselves; or, in a file of others, the path of
    a set of weights, such as `state_dict.model`."""
    architecture: NetworkSettings | None = None
    """Network, for files without a description."""
    denoiser: DenoiserSettings | None = None
    """Denoiser around the network, for files without a description and pipelines without a scheduler."""
    published: Text | None = None
    """Name of the published weights that a file holds, instead of architecture and denoiser: imagenet64, imagenet128,
    imagenet256, imagenet256_uncond, imagenet512, lsun_bedroom, lsun_cat, lsun_horse (guided-diffusion), ffhq_10m (DPS),
    improved_imagenet64_uncond, improved_imagenet64_cond, improved_cifar10_uncond or improved_lsun_bedroom."""
    model: Text | None = None
    """Class of deepinv.models, such as DRUNet."""
    settings: dict[str, Any] | None = None
    """Arguments of the class of deepinv.models, such as in_channels."""
    noise_range: Annotated[list[Positive], Pair] | None = None
    """[lowest, highest] noise level of the training of a deepinv denoiser, in units of [0, 1] pixels; known for those
    that the library publishes."""
    null_label: Natural | None = None
    """The class that means "any class" of a diffusers network, if it has one."""
    pickles: bool = False
    """Whether diffusers may read weights in pickles (.bin), if there are no safetensors."""

    @model_validator(mode="before")
    @classmethod
    def _published_by_default(cls, data: Any) -> Any:
        return {"path": "download", **data} if isinstance(data, dict) and data.get("name") == "deepinv" else data

    @model_validator(mode="after")
    def _only_its_own_settings(self) -> Weights:
        owners = {
            "camera_path": ("file",), "weights": ("file", "deepinv"), "architecture": ("file",), "published": ("file",),
            "denoiser": ("file", "diffusers"),
            "model": ("deepinv",), "settings": ("deepinv",), "noise_range": ("deepinv",),
            "null_label": ("diffusers",), "pickles": ("diffusers",),
        }  # fmt: skip
        for key, names in owners.items():
            if getattr(self, key) != type(self).model_fields[key].default and self.name not in names:
                raise ValueError(f"{key}: is for name: {' and '.join(names)}, but name is {self.name}; remove it")
        if self.published is not None and (self.architecture is not None or self.denoiser is not None):
            raise ValueError("published: already sets architecture and denoiser; remove it, or them")
        if self.name == "deepinv" and self.model is None:
            raise ValueError("model: missing; expected a class of deepinv.models, such as DRUNet")
        if self.noise_range is not None:
            check_order("noise_range", self.noise_range[0], "its second number", self.noise_range[1])
        return self
