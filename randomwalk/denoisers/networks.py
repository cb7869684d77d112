"""Networks by name, and the settings that a state dict reveals of its network.

A network is described by ``{"name": ..., **settings}`` with the keys of :mod:`randomwalk.config.networks`. State dicts
of others come without a description; most settings can be read off the names and shapes of their tensors, so that the
message of a missing or wrong description can name them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from guided_diffusion import PhotoUNet, UNet
from randomwalk.config import validate
from randomwalk.config.base import named
from randomwalk.config.networks import NetworkSettings
from randomwalk.errors import InputError
from score_sde import DDPMUNet, NCSNpp, TimeMLP

NETWORKS: dict[str, type[nn.Module]] = {
    "unet": UNet,
    "photo_unet": PhotoUNet,
    "ncsnpp": NCSNpp,
    "ddpm_unet": DDPMUNet,
    "mlp": TimeMLP,
}


def full_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a network, checked, with the declared defaults filled in.

    Raises:
        InputError: an unknown name or setting, or an impossible value.
    """
    return validate.complete("network", NetworkSettings, settings)


def build_network(settings: Mapping[str, Any]) -> nn.Module:
    """A fresh network, untrained.

    Args:
        settings: ``{"name": ..., **settings}``, see `full_settings`.

    Raises:
        InputError: an unknown name or setting, or values that its class refuses.
    """
    arguments = full_settings(settings)
    name = arguments.pop("name")
    try:
        return NETWORKS[name](**arguments)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"the settings of network {name!r} cannot be used: {error}") from error


def scratch_network(settings: Mapping[str, Any]) -> nn.Module:
    """A network as of `build_network`, without a draw from the caller's random numbers."""
    with torch.random.fork_rng(devices=[]):
        return build_network(settings)


def blank_network(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """A network whose weights take no memory (they are on the device meta), to compare with the tensors of a file.

    A description is not to be trusted before it fits the file that it is for: it could ask for any size.

    Args:
        settings: as for `build_network`.
        state: tensors of the file; building stops where the network has several times as many.

    Raises:
        InputError: as `build_network`, or the network has far more tensors than the file.
    """
    most, made = 4 * len(state) + 1000, itertools.count(1)

    def count(*_: object) -> None:
        if next(made) > most:
            raise InputError(f"the network has more than {most:,} tensors, and the file {len(state):,}")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"), _WithoutDraws():
            return build_network(settings)
    except (RuntimeError, OverflowError) as error:  # sizes that no tensor can have
        raise InputError(f"the network cannot be built ({str(error).splitlines()[0]})") from error
    finally:
        hook.remove()


def first_difference(network: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """The first tensor, in the network's order, in which a state dict differs from the network; None if it fits."""
    expected = network.state_dict()
    extra: dict[str, str] = {}  # the first unknown tensor after each known one of the file, or at its beginning
    previous = ""
    for key, value in state.items():
        if key in expected:
            previous = key
        else:
            extra.setdefault(previous, f"{key} {list(value.shape)} is in the file and not in the network")
    if "" in extra:
        return extra[""]
    for key, value in expected.items():
        if key not in state:
            return f"{key} {list(value.shape)} is missing in the file"
        if state[key].shape != value.shape:
            return f"{key} is {list(state[key].shape)} in the file and {list(value.shape)} in the network"
        if key in extra:
            return extra[key]
    return None


# --- settings in a state dict ----------------------------------------------------------------------------------------


def infer_settings(state: Mapping[str, Tensor], image_size: int | None = None) -> dict[str, Any] | None:
    """Settings of a public network as far as names and shapes determine them; None for other state dicts.

    Not determined are: of both, `image_size` and `dropout`; of the UNet, the attention heads and
    `use_new_attention_order`; of NCSN++, `fir`, `fir_kernel`, `skip_rescale`, `scale_by_sigma` and `centered`.

    Args:
        state: names and tensors (only the shapes and NCSN++'s `sigmas` are read).
        image_size: gives `attn_resolutions` of NCSN++, which are in pixels.
    """
    if unknown_variant(state):
        return None
    try:
        if "time_embed.0.weight" in state and any(key.startswith("output_blocks.") for key in state):
            return _infer_unet(state)
        if any(key.startswith("all_modules.0.") for key in state):
            return _infer_ncsnpp(state, image_size)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        pass  # tensors are missing, or it is another variant: the comparison with a network will say which
    return None


def unknown_variant(state: Mapping[str, Tensor]) -> str | None:
    """The variant of a public network that there is not here, if the names of its tensors tell."""
    if "time_embed.0.weight" in state and not any(key.startswith("output_blocks.") for key in state):
        return (
            "it is a classifier of noisy images (guided-diffusion's EncoderUNetModel), which is "
            "not a prior of images; give the weights of the diffusion model, such as 256x256_diffusion.pt"
        )
    first, last = state.get("input_blocks.0.0.weight"), state.get("out.2.weight")
    if first is not None and last is not None and first.ndim == 4 and first.shape[1] == 6 and last.shape[0] in (3, 6):
        return (
            "it is an upsampler (guided-diffusion's SuperResModel), which also takes the small image and is not a "
            "prior on its own; give the weights of the diffusion model"
        )
    blocks = {int(match[1]) for key in state if (match := re.match(r"input_blocks\.(\d{1,4})\.", key))}
    if missing := sorted(set(range(max(blocks, default=0))) - blocks):
        return (
            f"input_blocks.{missing[0]} has no weights: it seems to be a UNet with conv_resample: false, which changes "
            "the resolution without a convolution and is not known here; or the file is incomplete"
        )
    return None


def _infer_unet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of `guided_diffusion.UNet`."""
    decoder = _modules(state, "output_blocks")
    # The last stage of a level, except at the highest resolution, ends with a change of resolution.
    ends = [i for i, stage in enumerate(decoder) if any(re.match(r"[1-9]\.(conv|in_layers)\.", key) for key in stage)]
    stages_per_level = ends[0] + 1 if ends else len(decoder)
    levels, rest = divmod(len(decoder), stages_per_level)
    if rest:
        raise ValueError("the levels have different numbers of residual blocks")
    first_stages = [decoder[level * stages_per_level] for level in range(levels)][::-1]  # highest resolution first
    width = state["time_embed.0.weight"].shape[1]
    block = first_stages[0]
    return {
        "name": "unet",
        "in_channels": state["input_blocks.0.0.weight"].shape[1],
        "model_channels": width,
        "out_channels": state["out.2.weight"].shape[0],
        "num_res_blocks": stages_per_level - 1,
        "channel_mult": [_ratio(stage["0.in_layers.2.weight"][0], width) for stage in first_stages],
        "attention_resolutions": [2**level for level, stage in enumerate(first_stages) if "1.qkv.weight" in stage],
        "num_classes": state["label_emb.weight"].shape[0] if "label_emb.weight" in state else None,
        "use_scale_shift_norm": block["0.emb_layers.1.weight"][0] == 2 * block["0.in_layers.2.weight"][0],
        "resblock_updown": bool(ends) and any(re.match(r"[1-9]\.in_layers\.", key) for key in decoder[ends[0]]),
    }


def _infer_ncsnpp(state: Mapping[str, Tensor], image_size: int | None) -> dict[str, Any]:
    """Settings of `score_sde.NCSNpp` with several levels, resampling residual blocks, and an input and an output
    pyramid (all public networks of the variance-exploding SDE)."""
    modules = _modules(state, "all_modules")
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
        attends = [kinds[head - 1] == "attention" for head in heads]
        settings["attn_resolutions"] = [image_size // 2**level for level in range(levels) if attends[level]]
    if "sigmas" in state:
        settings |= {"sigma_min": float(state["sigmas"][-1]), "sigma_max": float(state["sigmas"][0])}
        if "fourier" not in kinds:
            settings["num_scales"] = len(state["sigmas"])
    return settings


def _modules(state: Mapping[str, Tensor], name: str) -> list[dict[str, list[int]]]:
    """Shapes of the tensors in ``name.0``, ``name.1``, ... by the rest of the key."""
    groups: dict[int, dict[str, list[int]]] = {}
    for key, value in state.items():
        if match := re.fullmatch(rf"{name}\.(\d+)\.(.+)", key):
            groups.setdefault(int(match[1]), {})[match[2]] = list(value.shape)
    return [groups[i] for i in range(len(groups))]


def _kind(module: Mapping[str, list[int]]) -> str:
    """Kind of an entry of NCSN++'s flat list of modules."""
    if "NIN_3.W" in module:
        return "attention"
    if "GroupNorm_0.weight" in module and "NIN_0.W" not in module:
        return "block"
    if module.get("Conv_0.weight", [])[2:] == [1, 1]:
        return "combine"
    return "fourier" if "W" in module else {1: "norm", 2: "linear", 4: "conv"}[len(module["weight"])]


def _ratio(a: int, b: int) -> float:
    return a // b if a % b == 0 else a / b


# --- messages --------------------------------------------------------------------------------------------------------

_NOT_IN_FILE = {
    "unet": """\
    image_size: FILL_IN  # not in the file: side of the training images in pixels
    num_head_channels: FILL_IN  # not in the file: channels of an attention head, often 64; or -1 and num_heads
    use_new_attention_order: FILL_IN  # not in the file: layout of the attention, mostly false""",
    "ncsnpp": """\
    image_size: FILL_IN  # not in the file: side of the training images in pixels
    attn_resolutions: FILL_IN  # not in the file: image_size divided by the rate at which there is attention: {rates}
    # not in the file either, and by default: fir: true, skip_rescale: true, scale_by_sigma: true, centered: false""",
}
"""Settings to fill in by hand, with an explanation of each."""
_TABLES = """how the noise grew during training. See the flag
    # --noise_schedule of that training (guided-diffusion, improved-diffusion), or beta_schedule, beta_start and
    # beta_end in scheduler_config.json (diffusers):
    #   linear         DDPM's; diffusers: linear
    #   cosine         improved DDPM's; diffusers: squaredcos_cap_v2
    #   scaled_linear  latent diffusion's; diffusers: scaled_linear
    #   {alphas_cumprod: FILE} or {betas: FILE}, .npy or text, for any other
    # with beta_min, beta_max and num_timesteps if they are not the published ones. A wrong table denoises badly."""


def differing_settings(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> list[str]:
    """One line for each setting that contradicts the state dict; none if the file does not determine it.

    Args:
        state: names and tensors.
        given: a description with a known name.
    """
    found = infer_settings(state, given.get("image_size"))
    if found is None:
        return []
    if found["name"] != given["name"]:
        found = {"name": found["name"]}
    defaults = {key: field.default for key, field in named(NetworkSettings)[given["name"]].model_fields.items()}
    given = {**defaults, **given}
    return [
        f"network.architecture.{key}: the file says {_yaml(value)}, the config {_yaml(given.get(key))}"
        for key, value in found.items()
        if _comparable(key, given.get(key), given) != _comparable(key, value, given)
    ]


def _comparable(key: str, value: Any, given: Mapping[str, Any]) -> Any:
    if key in ("attention_resolutions", "attn_resolutions"):  # entries that no level reaches have no effect
        rates = [2**level for level in range(len(given.get("channel_mult", given.get("ch_mult", ()))))]
        reached = rates if key == "attention_resolutions" else [given["image_size"] // rate for rate in rates]
        return sorted(set(value or ()) & set(reached))
    if key in ("sigma_min", "sigma_max"):
        return float(f"{value:.4g}")
    return list(value) if isinstance(value, tuple) else value


def describe(state: Mapping[str, Tensor], architecture: bool, denoiser: bool) -> str:
    """The missing sections of a config for this state dict, as YAML to paste, with FILL_IN for undetermined values.

    Raises:
        InputError: the state dict is that of no known network.
    """
    settings, at_65536 = infer_settings(state), infer_settings(state, 2**16)
    if variant := unknown_variant(state):
        raise InputError(variant)
    if settings is None or at_65536 is None:
        raise InputError(
            "it does not hold a UNet of guided-diffusion or a usual NCSN++ of score_sde (its first tensor is "
            f"{next(iter(state), 'nothing')!r}); if it is one nevertheless, describe it in network.architecture and "
            "network.denoiser"
        )
    name = settings["name"]
    trial = {"image_size": 2**16, **at_65536} | ({"num_scales": len(state["sigmas"])} if "sigmas" in state else {})
    if difference := first_difference(blank_network(trial, state), state):
        publisher = {"unet": "UNet of guided-diffusion", "ncsnpp": "NCSN++ of score_sde"}[name]
        raise InputError(
            f"it looks like a {publisher}, but is incomplete or of a variant that is not known here: {difference}"
        )
    lines = ["network:"]
    if architecture:
        rates = ", ".join(str(2**16 // width) for width in at_65536.get("attn_resolutions", ())) or "nowhere, []"
        lines += ["  architecture:", f"    name: {name}", _NOT_IN_FILE[name].format(rates=rates)]
        lines += [f"    {key}: {_yaml(value)}" for key, value in settings.items() if key != "name"]
    if denoiser and name == "unet":
        lines += ["  denoiser:  # not in the file", "    name: vp  # predicts the noise"]
        lines.append(f"    table: FILL_IN  # not in the file: {_TABLES}")
    elif denoiser:
        lines += ["  denoiser:  # not in the file"]
        lines.append("    name: ve  # predicts the score; sigma in units of [0, 1] pixels")
        lines += [f"    {key}: {_yaml(settings.get(key, 'FILL_IN'))}" for key in ("sigma_min", "sigma_max")]
    return "\n".join(lines)


def _yaml(value: Any) -> str:
    """A setting as YAML has it."""
    if isinstance(value, float):
        value = float(f"{value:.6g}")
    return value if isinstance(value, str) else json.dumps(value)


class _WithoutDraws(TorchFunctionMode):
    """Leave out normal draws, for which PyTorch would import its compiler on the device meta: 1.6 s."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__.endswith("normal_"):  # those of nn.init, and the tensor's own
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)
