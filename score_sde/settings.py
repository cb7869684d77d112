"""Settings of NCSN++: their defaults, their validation, and their translation from the public layout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

CHOICES: dict[str, tuple[str, ...]] = {
    "resblock_type": ("biggan", "ddpm"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "embedding_type": ("fourier", "positional"),
}


@dataclass(frozen=True, kw_only=True)
class NCSNppSettings:
    """Flat settings of `NCSNpp`; the defaults are those of the public FFHQ-256 VE network.

    `fir_kernel` and `resamp_with_conv` keep their public meaning: the filter is used if `fir`, and
    `resamp_with_conv` concerns only "ddpm" residual blocks ("biggan" blocks resample themselves).
    `sigma_min`, `sigma_max` are in network units ([0, 1] pixels).

    Raises:
        ValueError: a value is not supported; the message says which are.
    """

    image_size: int = 256
    num_channels: int = 3
    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 2, 2, 2)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    sigma_min: float = 0.01
    sigma_max: float = 348.0
    num_scales: int = 2000
    dropout: float = 0.0
    fourier_scale: float = 16.0
    conv_size: int = 3
    init_scale: float = 0.0
    skip_rescale: bool = True
    fir: bool = True
    fir_kernel: tuple[float, ...] = (1, 3, 3, 1)
    resamp_with_conv: bool = True
    resblock_type: str = "biggan"
    progressive: str = "output_skip"
    progressive_input: str = "input_skip"
    progressive_combine: str = "sum"
    embedding_type: str = "fourier"
    scale_by_sigma: bool = True
    conditional: bool = True
    centered: bool = False
    use_checkpoint: bool = False

    def __post_init__(self) -> None:
        for name in ("ch_mult", "attn_resolutions", "fir_kernel"):
            value = getattr(self, name)
            if isinstance(value, str) or not hasattr(value, "__iter__"):
                raise ValueError(f"{name} must be a list of numbers, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        for name, supported in CHOICES.items():
            value = str(getattr(self, name)).lower()
            if value not in supported:
                raise ValueError(f"{name} {getattr(self, name)!r} is not supported; one of {', '.join(supported)}")
            object.__setattr__(self, name, value)
        self._check_numbers()
        self._check_sizes()

    def _check_numbers(self) -> None:
        counts = {name: getattr(self, name) for name in ("image_size", "num_channels", "nf", "num_res_blocks")}
        counts |= {f"ch_mult[{i}]": value for i, value in enumerate(self.ch_mult)}
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if not self.ch_mult:
            raise ValueError("ch_mult must have at least one entry")
        if self.conv_size != 3:
            raise ValueError(f"conv_size {self.conv_size!r} is not supported; only 3 is")
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"need 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")
        if not isinstance(self.num_scales, int) or self.num_scales < 2:
            raise ValueError(f"num_scales must be an integer of at least 2, got {self.num_scales!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.init_scale < 0:
            raise ValueError(f"init_scale must not be negative, got {self.init_scale}")
        if len(self.fir_kernel) < 2 or sum(self.fir_kernel) == 0:
            raise ValueError(f"fir_kernel needs two or more taps with a nonzero sum, got {self.fir_kernel}")

    def _check_sizes(self) -> None:
        if self.image_size % self.size_divisor:
            raise ValueError(
                f"image_size {self.image_size} is not divisible by {self.size_divisor}, as {len(self.ch_mult)} "
                "levels (entries of ch_mult) require"
            )

    @property
    def size_divisor(self) -> int:
        """Divisor of heights and widths, 2^(levels - 1)."""
        return int(2 ** (len(self.ch_mult) - 1))

    @property
    def filter_taps(self) -> tuple[float, ...] | None:
        """Taps of the resampling filter, or None for pixel repetition and averaging."""
        return self.fir_kernel if self.fir else None

    def attends(self, level: int) -> bool:
        """Whether the blocks at this level (0 is the full size) are followed by attention."""
        return self.image_size // 2**level in self.attn_resolutions


NETWORK_KEYS = frozenset(field.name for field in fields(NCSNppSettings))
# Keys of the public "model" section that do not concern the network: its name, the VP schedule and the EMA.
DROPPED_MODEL_KEYS = frozenset({"name", "beta_min", "beta_max", "ema_rate", "t_min", "t_max"})
# Keys that only ever have one supported value.
FIXED_MODEL_KEYS = {"normalization": "groupnorm", "nonlinearity": "swish", "attention_type": "ddpm"}


def _section(config: Any, *names: str) -> dict[str, Any]:
    """First of the named sections as a dict ({} if there is none)."""
    for name in names:
        if name in config and config[name] is not None:
            section = config[name]
            return dict(section if hasattr(section, "keys") else vars(section))
    return {}


def ncsnpp_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings of `NCSNpp` from the nested layout of the public configurations.

    Sections read: `model`; `imagedetail` or `data` (image_size, num_channels, centered); `training`
    (continuous, sde: only checked); and `num_scales` at the top or in `model`.
    Dropped: in `model` the keys name, beta_min, beta_max, t_min, t_max, ema_rate; in the other sections
    everything not named here, and every other section (optimiser, sampling, evaluation, seed, ...).
    Checked, then dropped: normalization ("GroupNorm"), nonlinearity ("swish"), attention_type ("ddpm").

    Raises:
        ValueError: a section is missing, or a key of `model` or a value is not supported.
    """
    model = _section(config, "model")
    image = _section(config, "imagedetail", "data")
    training = _section(config, "training")
    if not model or not image:
        raise ValueError("the configuration needs the sections 'model' and 'imagedetail' (or 'data')")
    if str(model.get("name", "ncsnpp")).lower() != "ncsnpp":
        raise ValueError(f"model.name {model['name']!r} is not supported; only 'ncsnpp' is")
    for key, supported in FIXED_MODEL_KEYS.items():
        if str(model.pop(key, supported)).lower() != supported:
            raise ValueError(f"model.{key} must be {supported!r} (in any case); nothing else is supported")
    if str(training.get("sde", "vesde")).lower() != "vesde":
        raise ValueError(f"training.sde {training['sde']!r} is not supported; only 'vesde' networks are")

    settings = {key: value for key, value in model.items() if key not in DROPPED_MODEL_KEYS}
    unknown = sorted(set(settings) - NETWORK_KEYS)
    if unknown:
        supported = ", ".join(sorted(NETWORK_KEYS))
        raise ValueError(f"model keys not supported: {', '.join(unknown)}; supported: {supported}")
    settings |= {key: image[key] for key in ("image_size", "num_channels", "centered") if key in image}
    if config.get("num_scales") is not None:
        settings["num_scales"] = config["num_scales"]
    for key in ("ch_mult", "attn_resolutions", "fir_kernel"):
        if key in settings:
            settings[key] = tuple(settings[key])
    fourier = settings.get("embedding_type", "fourier") == "fourier"
    if fourier and not training.get("continuous", True):
        raise ValueError("the Fourier embedding needs training.continuous = true")
    return settings
