"""Networks by name, and what a state dict tells about the network it came from.

The settings of a network are ``{"name": "unet" | "ncsnpp" | "ddpm_unet" | "mlp", **arguments of its class}``. Most of
them can be read off the names and shapes of the tensors, if it is one that others publish; those that cannot are listed
in `NOT_IN_FILE`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from randomwalk.errors import InputError

# name -> (module, class, setting with the number of image channels); imported when used.
NETWORKS = {
    "unet": ("guided_diffusion", "UNet", "in_channels"),
    "photo_unet": ("guided_diffusion", "PhotoUNet", "num_channels"),
    "ncsnpp": ("score_sde", "NCSNpp", "num_channels"),
    "ddpm_unet": ("score_sde", "DDPMUNet", "num_channels"),
    "mlp": ("score_sde", "TimeMLP", "num_channels"),
}
PUBLISHER = {"unet": "UNet of guided-diffusion", "ncsnpp": "NCSN++ of score_sde"}
FILL_IN = "FILL_IN"

# Settings that leave no trace in the names and shapes, and what to say about them.
NOT_IN_FILE: dict[str, dict[str, str]] = {
    "unet": {
        "image_size": "side of the training images in pixels",
        "num_head_channels": "channels of an attention head, often 64; or -1 and num_heads",
        "use_new_attention_order": "layout of the attention, mostly false",
    },
    "ncsnpp": {
        "image_size": "side of the training images in pixels",
        "attn_resolutions": "image_size divided by the rate at which there is attention: {rates}",
    },
}
_KEPT_DEFAULTS = {  # not in the file either, but the same in all public networks
    "unet": "",
    "ncsnpp": "fir: true, skip_rescale: true, scale_by_sigma: true, centered: false",
}

Shapes = dict[str, list[int]]


def build_network(settings: Mapping[str, Any]) -> nn.Module:
    """A fresh network, untrained, from ``{"name": "unet" | "ncsnpp", **settings of its class}``.

    Raises:
        InputError: an unknown name, or settings that its class refuses.
    """
    kwargs = dict(settings)
    cls = _network_class(kwargs.pop("name", None))
    try:
        network: nn.Module = cls(**kwargs)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise InputError(f"the settings of network {settings['name']!r} cannot be used: {error}") from error
    return network


def scratch_network(settings: Mapping[str, Any]) -> nn.Module:
    """As `build_network`, without a trace in the caller's random numbers: to compare with, or to load weights into."""
    with torch.random.fork_rng(devices=[]):
        return build_network(settings)


def _network_class(name: Any) -> type[nn.Module]:
    if name not in NETWORKS:
        raise InputError(f"network {name!r} is unknown; known are {', '.join(NETWORKS)}")
    module, class_name, _ = NETWORKS[name]
    found: type[nn.Module] = getattr(importlib.import_module(module), class_name)
    return found


def full_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the defaults of the network's class filled in."""
    cls = _network_class(settings.get("name"))
    if settings["name"] == "ncsnpp":
        from score_sde.settings import NCSNppSettings

        fields = dataclasses.fields(NCSNppSettings)
        defaults = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    else:
        parameters = inspect.signature(cls).parameters
        defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    return {**defaults, **settings}


# --- reading the settings off a state dict ---------------------------------------------------------------------


def infer_settings(state: Mapping[str, Tensor], image_size: int | None = None) -> dict[str, Any] | None:
    """What the state dict tells about its network, or None if it is of none that we know.

    Args:
        state: names and tensors (only the shapes and NCSN++'s `sigmas` are looked at).
        image_size: for NCSN++, which states where it attends in pixels.
    """
    try:
        if "time_embed.0.weight" in state and any(key.startswith("output_blocks.") for key in state):
            return infer_unet_settings(state)
        if any(key.startswith("all_modules.0.") for key in state):
            return infer_ncsnpp_settings(state, image_size)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        pass  # tensors are missing, or the network is another variant: the comparison with a network will say which
    return None


def infer_unet_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of `guided_diffusion.UNet` as far as names and shapes tell.

    They do not tell `image_size`, the attention heads (`num_heads`, `num_head_channels`, `num_heads_upsample`),
    `use_new_attention_order` and `dropout`.

    Raises:
        KeyError, IndexError, ValueError: it is no such state dict.
    """
    shapes = _shapes(state)
    decoder = _grouped(shapes, "output_blocks")
    # The last stage of a level, but for the highest resolution, ends with a change of resolution.
    ends = [i for i, stage in enumerate(decoder) if any(re.match(r"[1-9]\.(conv|in_layers)\.", key) for key in stage)]
    stages_per_level = ends[0] + 1 if ends else len(decoder)
    levels = len(decoder) // stages_per_level
    if len(decoder) % stages_per_level:
        raise ValueError("the levels have different numbers of residual blocks")
    first_stages = [decoder[level * stages_per_level] for level in range(levels)][::-1]  # highest resolution first
    model_channels = shapes["time_embed.0.weight"][1]
    block = first_stages[0]
    return {
        "name": "unet",
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "model_channels": model_channels,
        "out_channels": shapes["out.2.weight"][0],
        "num_res_blocks": stages_per_level - 1,
        "channel_mult": [_ratio(stage["0.in_layers.2.weight"][0], model_channels) for stage in first_stages],
        "attention_resolutions": [2**level for level, stage in enumerate(first_stages) if "1.qkv.weight" in stage],
        "num_classes": shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else None,
        "use_scale_shift_norm": block["0.emb_layers.1.weight"][0] == 2 * block["0.in_layers.2.weight"][0],
        "resblock_updown": bool(ends) and any(re.match(r"[1-9]\.in_layers\.", key) for key in decoder[ends[0]]),
    }


def infer_ncsnpp_settings(state: Mapping[str, Tensor], image_size: int | None = None) -> dict[str, Any]:
    """Settings of `score_sde.NCSNpp` as far as names and shapes tell, for networks of several levels with residual
    blocks that resample, an input and an output pyramid (all public ones for the variance-exploding SDE).

    They do not tell `image_size` (and without it `attn_resolutions`), `fir`, `fir_kernel`, `skip_rescale`,
    `scale_by_sigma`, `centered` and `dropout`.

    Raises:
        KeyError, IndexError, ValueError: it is no such state dict.
    """
    modules = _grouped(_shapes(state), "all_modules")
    kinds = [_kind(module) for module in modules]
    heads = [i for i in range(len(kinds) - 1) if kinds[i : i + 2] == ["norm", "conv"]][::-1]  # highest resolution first
    num_blocks, levels = kinds.count("block"), len(heads)
    if levels < 2 or num_blocks % levels or kinds.count("combine") != levels - 1:
        raise ValueError("another variant of NCSN++")
    nf, num_channels = modules[kinds.index("conv")]["weight"][:2]
    combine = kinds.index("combine")
    concatenates = modules[combine + 1]["GroupNorm_0.weight"][0] == 2 * modules[combine]["Conv_0.weight"][0]
    settings: dict[str, Any] = {
        "name": "ncsnpp",
        "num_channels": num_channels,
        "nf": nf,
        "ch_mult": [_ratio(modules[i]["weight"][0], nf) for i in heads],
        # A level has n blocks on the way down and n + 1 up; changes of level and the middle add up to 2 per level.
        "num_res_blocks": (num_blocks // levels - 3) // 2,
        "embedding_type": "fourier" if "fourier" in kinds else "positional",
        "conditional": "linear" in kinds,
        "resblock_type": "biggan",
        "progressive": "output_skip",
        "progressive_input": "input_skip",
        "progressive_combine": "cat" if concatenates else "sum",
    }
    if image_size is not None:
        settings["attn_resolutions"] = [image_size // rate for rate in _attention_rates(kinds, heads)]
    if "sigmas" in state:
        settings |= {"sigma_min": float(state["sigmas"][-1]), "sigma_max": float(state["sigmas"][0])}
        if "fourier" not in kinds:
            settings["num_scales"] = len(state["sigmas"])
    return settings


def _attention_rates(kinds: list[str], heads: list[int]) -> list[int]:
    return [2**level for level, head in enumerate(heads) if kinds[head - 1] == "attention"]


def _kind(module: Shapes) -> str:
    """What an entry of NCSN++'s flat list of modules is, by the names and shapes in it."""
    if "NIN_3.W" in module:
        return "attention"
    if "GroupNorm_0.weight" in module and "NIN_0.W" not in module:
        return "block"
    if module.get("Conv_0.weight", [])[2:] == [1, 1]:
        return "combine"
    return "fourier" if "W" in module else {1: "norm", 2: "linear", 4: "conv"}[len(module["weight"])]


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {key: list(value.shape) for key, value in state.items()}


def _grouped(shapes: Shapes, name: str) -> list[Shapes]:
    """Entries of ``name.0.``, ``name.1.``, ... each with the rest of the key."""
    groups: dict[int, Shapes] = {}
    for key, shape in shapes.items():
        if match := re.fullmatch(rf"{name}\.(\d+)\.(.+)", key):
            groups.setdefault(int(match[1]), {})[match[2]] = shape
    return [groups[i] for i in range(len(groups))]


def _ratio(a: int, b: int) -> float:
    return a // b if a % b == 0 else a / b


# --- comparing -------------------------------------------------------------------------------------------------


def first_difference(network: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """The first tensor, in the network's order, in which a state dict differs from the network; None if it fits."""
    expected = network.state_dict()
    differences: list[tuple[float, str]] = []
    place = {key: float(i) for i, key in enumerate(expected)}
    last = -1.0
    for key, value in state.items():
        last = place.get(key, last)
        if key not in expected:  # its place is behind the one before it in the file
            differences.append((last + 0.5, f"{key} {list(value.shape)} is in the file and not in the network"))
    for key, value in expected.items():
        if key not in state:
            differences.append((place[key], f"{key} {list(value.shape)} is missing in the file"))
        elif state[key].shape != value.shape:
            shapes = f"{list(state[key].shape)} in the file and {list(value.shape)} in the network"
            differences.append((place[key], f"{key} is {shapes}"))
    return min(differences, key=lambda difference: difference[0])[1] if differences else None


def differing_settings(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> list[str]:
    """The settings that contradict the state dict, one text for each: key, the file's value, the given value.

    Empty too if the file cannot tell.
    """
    given = full_settings(given)
    told = infer_settings(state, given["image_size"])
    if told is None:
        return []
    if told["name"] != given["name"]:
        told = {"name": told["name"]}
    return [
        f"network.architecture.{key}: the file says {_yaml(value)}, the config {_yaml(given.get(key))}"
        for key, value in told.items()
        if _comparable(key, given.get(key), given) != _comparable(key, value, given)
    ]


def _comparable(key: str, value: Any, given: Mapping[str, Any]) -> Any:
    if key in ("attention_resolutions", "attn_resolutions") and isinstance(value, list | tuple):
        levels = len(given.get("channel_mult", given.get("ch_mult", ())))
        rates = [2**level for level in range(levels)]
        reached = rates if key == "attention_resolutions" else [given["image_size"] // rate for rate in rates]
        return sorted(set(value) & set(reached))  # the others have no effect
    if key in ("sigma_min", "sigma_max"):
        return float(f"{value:.4g}")
    return list(value) if isinstance(value, tuple) else value


# --- a description to paste ------------------------------------------------------------------------------------


def describe(state: Mapping[str, Tensor], architecture: bool, denoiser: bool) -> str:
    """What is missing in a config for this state dict, as YAML to paste, with `FILL_IN` where the file cannot tell.

    Raises:
        InputError: it is the state dict of no network that we know.
    """
    settings = infer_settings(state)
    if settings is None:
        first = next(iter(state), "nothing")
        raise InputError(
            f"it does not hold a {PUBLISHER['unet']} or a usual {PUBLISHER['ncsnpp']} (its first tensor is {first!r}); "
            "if it is one all the same, describe it in network.architecture and network.denoiser"
        )
    _check_supported(state, settings)
    lines = ["network:"]
    if architecture:
        lines += ["  architecture:", *_architecture_lines(state, settings)]
    if denoiser:
        lines += ["  denoiser:  # not in the file", *_denoiser_lines(settings)]
    return "\n".join(lines)


def _architecture_lines(state: Mapping[str, Tensor], settings: dict[str, Any]) -> list[str]:
    name = settings["name"]
    rates = ""
    if name == "ncsnpp":
        at_16 = infer_ncsnpp_settings(state, 2**16)["attn_resolutions"]
        rates = ", ".join(str(2**16 // resolution) for resolution in at_16) or "nowhere, []"
    lines = [f"    name: {name}"]
    lines += [
        f"    {key}: {FILL_IN}  # not in the file: {why.format(rates=rates)}" for key, why in NOT_IN_FILE[name].items()
    ]
    lines += [f"    {key}: {_yaml(value)}" for key, value in settings.items() if key != "name"]
    if _KEPT_DEFAULTS[name]:
        lines.append(f"    # not in the file either, and by default: {_KEPT_DEFAULTS[name]}")
    return lines


def _denoiser_lines(settings: dict[str, Any]) -> list[str]:
    if settings["name"] == "unet":
        return ["    name: vp  # predicts the noise", f"    table: {FILL_IN}  # not in the file: {TABLES}"]
    low, high = settings.get("sigma_min", FILL_IN), settings.get("sigma_max", FILL_IN)
    lines = ["    name: ve  # predicts the score; sigma in units of [0, 1] pixels"]
    return [*lines, f"    sigma_min: {_yaml(low)}", f"    sigma_max: {_yaml(high)}"]


TABLES = """how the noise grew in its training. See the flag
    # --noise_schedule of that training (guided-diffusion, improved-diffusion), or beta_schedule, beta_start and
    # beta_end in scheduler_config.json (diffusers):
    #   linear         DDPM's; diffusers: linear
    #   cosine         improved DDPM's; diffusers: squaredcos_cap_v2
    #   scaled_linear  latent diffusion's; diffusers: scaled_linear
    #   {alphas_cumprod: FILE} or {betas: FILE}, .npy or text, for any other
    # with beta_min, beta_max and num_timesteps if they are not the published ones. A wrong table denoises badly."""
"""What to say of a network whose noise table is not known."""


def _check_supported(state: Mapping[str, Tensor], settings: dict[str, Any]) -> None:
    """Build the inferred network and compare."""
    trial = {"image_size": 2**16, **(infer_settings(state, 2**16) or {})}
    if "sigmas" in state:
        trial["num_scales"] = len(state["sigmas"])
    if difference := first_difference(scratch_network(trial), state):
        raise InputError(
            f"it looks like a {PUBLISHER[settings['name']]}, but is incomplete or of a variant that is not known here: "
            f"{difference}"
        )


def _yaml(value: Any) -> str:
    """A setting as YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
