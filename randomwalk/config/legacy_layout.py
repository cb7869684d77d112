"""The YAML layout of the paper's own code (Park et al. 2025, github.com/wustl-cig/randomwalk_diffusion).

All keys of that layout. ``NoEffect`` keys were not read there, or did not change results; this program determines the
values of ``NotNeeded`` keys itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, create_model, model_validator

from randomwalk.config.base import (
    MOST_LEVELS,
    WHOLE,
    Blocks,
    Fraction,
    Levels,
    NonNegative,
    Pair,
    Positive,
    Seed,
    Settings,
    Share,
    Side,
    Steps,
    Text,
    Width,
    check_order,
)

NO_EFFECT, NOT_NEEDED = "no effect", "not needed"
NoEffect = Annotated[Any, NO_EFFECT]
NotNeeded = Annotated[Any, NOT_NEEDED]
Section = TypeVar("Section", bound=Settings)
Numbers = Annotated[
    str, Field(pattern=r"^ *[1-9][0-9]{0,4} *(, *[1-9][0-9]{0,4} *){0,15}$", examples=["16", "32,16", "32,16,8"])
]

BETA_MAX = 0.02  # fixed in the paper's code
NATIVE_NAMES = {
    "gpu": "device",
    "pretrained_check_point": "network.path",
    "machinesetup.gpu": "device",
    "machinesetup.gpu_idx": "device",
    "machinesetup.save_dir": "output",
    "data.root": "data.path",
    "langevin_hyperparam.schedule": "sampler.schedule.name",
    "langevin_hyperparam.num_iters": "sampler.schedule.num_steps",
    "langevin_hyperparam.temperature": "sampler.initial_temperature",
    "langevin_hyperparam.scaling_constant_of_step_size": "sampler.step_scale",
    "langevin_hyperparam.save_image": "animation_frames",
    "measurement.noise.sigma": "measurement.noise.std",
    "measurement.operator.scale_factor": "measurement.operator.factor",
    "measurement.operator.in_shape": "image_size",
    "measurement.mask_opt.mask_type": "measurement.operator.mask",
    "measurement.mask_opt.mask_prob_range": "measurement.operator.missing",
    "measurement.mask_opt.mask_len_range": "measurement.operator.box_size",
    "measurement.mask_opt.margin": "measurement.operator.margin",
    "measurement.mask_opt.image_size": "image_size",
    "model.pretrained_check_point": "network.path",
    "model.noise_perturbation_type": "network.denoiser.name",
    "model.name": "network.architecture.name",
    "model.image_size": "network.architecture.image_size",
    "model.num_channels": "network.architecture.model_channels",
    "model.learn_sigma": "network.architecture.out_channels",
    "model.sigma_min": "network.denoiser.sigma_min",
    "model.sigma_max": "network.denoiser.sigma_max",
    **{
        f"model.{key}": f"network.architecture.{key}"
        for key in (
            "num_res_blocks", "channel_mult", "attention_resolutions", "num_heads", "num_head_channels",
            "num_heads_upsample", "use_scale_shift_norm", "dropout", "resblock_updown", "use_new_attention_order",
            "scale_by_sigma", "nf", "ch_mult", "attn_resolutions", "resamp_with_conv", "conditional", "fir",
            "fir_kernel", "skip_rescale", "resblock_type", "progressive", "progressive_input", "progressive_combine",
            "fourier_scale", "embedding_type",
        )
    },
    "imagedetail.num_channels": "network.architecture.num_channels",
    "imagedetail.image_size": "network.architecture.image_size",
    "vp_diffusion.beta_at_clean": "network.denoiser.beta_min",
    "vp_diffusion.steps": "network.denoiser.num_timesteps",
    "vp_diffusion.noise_schedule": "network.denoiser.table",
}  # fmt: skip
"""Our names of the keys of this layout."""
UNET_LEVELS = {64: [1, 2, 3, 4], 128: [1, 1, 2, 3, 4], 256: [1, 1, 2, 2, 4, 4]}  # for channel_mult: ""


def without_effect(keys: str) -> Callable[[type[Section]], type[Section]]:
    """Class decorator that adds ``NoEffect`` keys, separated by spaces."""
    fields: Any = dict.fromkeys(keys.split(), (NoEffect, None))
    return lambda section: create_model(section.__name__, __base__=section, **fields)


# --- sections of both networks' tasks --------------------------------------------------------------------------------


class Machine(Settings):
    """Device and output folder."""

    gpu_idx: Annotated[int, Field(ge=0, le=1023), WHOLE] = 0
    save_dir: Text


class Data(Settings):
    """Folder of the images."""

    name: NotNeeded = None  # one kind of data set exists: PNG files in a folder
    root: Text


class Uncondition(Settings):
    """Sampling without a measurement."""

    name: Literal["uncondition"]


class Denoising(Settings):
    """A x = x."""

    name: Literal["noise"]


class Inpainting(Settings):
    """A x = x with missing pixels, see `MaskOptions`."""

    name: Literal["inpainting"]


class SuperResolution(Settings):
    """A x = downsampling."""

    name: Literal["super_resolution"]
    scale_factor: Annotated[int, Field(ge=2, le=1024), WHOLE]
    in_shape: NotNeeded = None


class Noise(Settings):
    """Gaussian measurement noise."""

    name: Literal["gaussian"] = "gaussian"
    sigma: NonNegative


class MaskOptions(Settings):
    """Random or box masks of inpainting."""

    mask_type: Literal["random", "box"]
    mask_len_range: Annotated[list[Side], Pair] | None = None
    mask_prob_range: Annotated[list[Share], Pair] | None = None
    image_size: NotNeeded = None
    margin: Annotated[list[Annotated[int, Field(ge=0, le=32_768), WHOLE]], Pair] = Field(default=[16, 16])
    randomize_box: Literal[True] = True
    fix_location_factor: NoEffect = None

    @model_validator(mode="after")
    def _what_its_type_needs(self) -> MaskOptions:
        if self.mask_type == "random":
            if self.mask_prob_range is None:
                raise ValueError("mask_prob_range: missing; expected [p, p], the share of missing pixels")
            if self.mask_prob_range[0] != self.mask_prob_range[1]:
                raise ValueError(f"mask_prob_range: found {self.mask_prob_range}; allowed: two equal shares, [p, p]")
            return self
        if self.mask_len_range is None:
            raise ValueError("mask_len_range: missing; expected [lowest, highest + 1], the side of the box")
        if self.mask_len_range[0] > self.mask_len_range[1]:
            raise ValueError(f"mask_len_range: found {self.mask_len_range}; allowed: [lowest, highest + 1]")
        if self.margin[0] != self.margin[1]:
            raise ValueError(f"margin: found {self.margin}; allowed: two equal margins")
        return self


class Measurement(Settings):
    """Operator, noise and mask."""

    operator: Annotated[Uncondition | Denoising | Inpainting | SuperResolution, Field(discriminator="name")]
    noise: Noise
    mask_opt: MaskOptions | None = None

    @model_validator(mode="after")
    def _what_its_operator_needs(self) -> Measurement:
        if self.operator.name != "uncondition" and self.noise.sigma == 0:
            raise ValueError("noise.sigma: found 0; allowed: a number above 0, since the likelihood is divided by it")
        if self.operator.name == "inpainting" and self.mask_opt is None:
            raise ValueError("mask_opt: missing; inpainting needs mask_type and its options")
        return self


class Langevin(Settings):
    """Steps and temperature of the walk."""

    num_iters: Steps
    temperature: NonNegative
    scaling_constant_of_step_size: Positive
    save_image: bool = True


class Task(Settings):
    """Sections of every task."""

    machinesetup: Machine
    data: Data
    measurement: Measurement
    seed: Seed = 0


# --- variance preserving ---------------------------------------------------------------------------------------------


class VPLangevin(Langevin):
    """Walk of a variance-preserving task, with its schedule."""

    schedule: Literal["sigmoid", "denoiser", "linear"]


class VPModel(Settings):
    """ADM UNet."""

    noise_perturbation_type: Literal["vp"]
    pretrained_check_point: Text
    image_size: Side
    num_channels: Width
    num_res_blocks: Blocks
    channel_mult: Numbers | Literal[""] = ""
    learn_sigma: bool = False
    class_cond: Literal[False] = False
    use_checkpoint: NoEffect = False
    attention_resolutions: Side | Numbers = "16"
    num_heads: Width = 1
    num_head_channels: Literal[-1] | Width = -1
    num_heads_upsample: Literal[-1] | Width = -1
    use_scale_shift_norm: bool = False
    dropout: Annotated[Fraction, NO_EFFECT] = 0.0
    resblock_updown: bool = False
    use_fp16: Literal[False] = False
    use_new_attention_order: bool = False

    @model_validator(mode="after")
    def _has_levels(self) -> VPModel:
        if self.channel_mult == "" and self.image_size not in UNET_LEVELS:
            sizes = ", ".join(map(str, UNET_LEVELS))
            raise ValueError(f'channel_mult: found ""; for an image_size other than {sizes} list the multipliers')
        for width in self.attention_widths:
            if self.image_size % width:
                raise ValueError(f"attention_resolutions: found {width}; allowed: divisors of {self.image_size}")
        return self

    @property
    def attention_widths(self) -> list[int]:
        """Widths of the feature maps with attention."""
        return [int(width) for width in str(self.attention_resolutions).split(",")]


@without_effect(
    "sampler timestep_respacing noise_schedule model_mean_type model_var_type dynamic_threshold clip_denoised "
    "rescale_timesteps"
)
class VPDiffusion(Settings):
    """Noise table of DDPM."""

    beta_at_clean: Annotated[float, Field(gt=0, lt=BETA_MAX)]
    steps: Literal[1000]


@without_effect("imagedetail training sampling eval optim")
class VPTask(Task):
    """Task with a variance-preserving network."""

    langevin_hyperparam: VPLangevin
    model: VPModel
    vp_diffusion: VPDiffusion


# --- variance exploding ----------------------------------------------------------------------------------------------


class VELangevin(Langevin):
    """Walk of a variance-exploding task."""

    schedule: NoEffect = None


@without_effect("init_scale pretrained_model beta_min beta_max ema_rate normalization attention_type conv_size")
class VEModel(Settings):
    """NCSN++."""

    noise_perturbation_type: Literal["ve"]
    pretrained_check_point: Text
    name: Literal["ncsnpp"]
    sigma_max: Positive
    sigma_min: Positive
    scale_by_sigma: bool
    nonlinearity: Literal["swish"]
    nf: Width
    ch_mult: Annotated[list[Width], Levels]
    num_res_blocks: Blocks
    attn_resolutions: Annotated[list[Side], Field(max_length=MOST_LEVELS)]
    resamp_with_conv: bool
    conditional: bool
    fir: bool
    fir_kernel: Annotated[list[Width], Field(max_length=64)]
    skip_rescale: bool
    resblock_type: Literal["biggan", "ddpm"]
    progressive: Literal["none", "output_skip", "residual"]
    progressive_input: Literal["none", "input_skip", "residual"]
    progressive_combine: Literal["sum", "cat"]
    fourier_scale: Positive
    embedding_type: Literal["fourier", "positional"]
    dropout: Annotated[Fraction, NO_EFFECT] = 0.0

    @model_validator(mode="after")
    def _range(self) -> VEModel:
        check_order("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        return self


class ImageDetail(Settings):
    """Size and range of the images."""

    num_channels: Width
    image_size: Side
    centered: Literal[False]


@without_effect(
    "batch_size n_iters snapshot_freq log_freq eval_freq snapshot_freq_for_preemption snapshot_sampling "
    "likelihood_weighting reduce_mean"
)
class Training(Settings):
    """Settings of the training; two of them say which network it is."""

    continuous: Literal[True]
    sde: Literal["vesde"]


@without_effect("n_steps_each noise_removal probability_flow snr method predictor corrector")
class Sampling(Settings):
    """Settings of score_sde's sampler, which have no effect."""


@without_effect("begin_ckpt end_ckpt enable_sampling num_samples enable_loss enable_bpd bpd_dataset")
class Eval(Settings):
    """Settings of score_sde's evaluation, which have no effect."""

    batch_size: NotNeeded = None


@without_effect("weight_decay optimizer lr beta1 eps warmup grad_clip")
class Optim(Settings):
    """Settings of score_sde's optimizer, which have no effect."""


class VETask(Task):
    """Task with a variance-exploding network."""

    langevin_hyperparam: VELangevin
    model: VEModel
    imagedetail: ImageDetail
    training: Training
    sampling: Sampling = Sampling()
    eval: Eval = Eval()
    optim: Optim = Optim()
    vp_diffusion: NoEffect = None
