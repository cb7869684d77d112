"""Files with weights, in and out: `save_denoiser` and `load_denoiser`.

Our own format is safetensors whose metadata describes the network and how it denoises.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from randomwalk import denoisers
from randomwalk.denoisers import NetworkDenoiser
from randomwalk.errors import InputError, RunError

# name -> (module, class, setting that holds the number of image channels); imported when used.
NETWORKS = {
    "unet": ("guided_diffusion", "UNet", "in_channels"),
    "ncsnpp": ("score_sde", "NCSNpp", "num_channels"),
}


def build_network(settings: Mapping[str, Any]) -> nn.Module:
    """A fresh network, untrained, from ``{"name": "unet" | "ncsnpp", **settings of its class}``.

    Raises:
        InputError: an unknown name, or settings that its class refuses.
    """
    kwargs = dict(settings)
    name = kwargs.pop("name", None)
    if name not in NETWORKS:
        raise InputError(f"network {name!r} is unknown; known are {', '.join(NETWORKS)}")
    module, class_name, _ = NETWORKS[name]
    try:
        network: nn.Module = getattr(importlib.import_module(module), class_name)(**kwargs)
    except (TypeError, ValueError) as error:
        raise InputError(f"network {name!r}: {error}") from error
    return network


def make_denoiser(network: Mapping[str, Any], denoiser: Mapping[str, Any]) -> NetworkDenoiser:
    """An untrained denoiser that knows its channels and image size.

    Args:
        network: settings as for `build_network`.
        denoiser: ``{"name": "vp" | "ve" | "edm", **settings}`` as for `denoisers.make`.

    Raises:
        InputError: an unknown name or setting.
    """
    built = build_network(network)
    settings = dict(denoiser)
    made = denoisers.make(settings.pop("name", None), built, **settings)
    made.channels = network.get(NETWORKS[network["name"]][2], 3)
    made.image_size = network["image_size"]
    return made


def save_denoiser(
    path: str | Path,
    config: Mapping[str, Any],
    ema: Mapping[str, Tensor],
    raw: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write weights and their description to one safetensors file, atomically.

    Args:
        path: the file; its folder exists.
        config: ``{"network": {"name": ..., **settings}, "denoiser": {"name": ..., **settings}, "training": {...}}``,
            all of it JSON; "training" is free.
        ema: state dict of the network with averaged parameters; all parameters and persistent buffers.
        raw: the same with the parameters that were not averaged.
        dtype: float32 or float16, for floating-point tensors; float64 ones (tables) stay float64.

    Raises:
        RunError: a weight that is NaN or infinite, or does not fit in ``dtype``.
    """
    path = Path(path)
    tensors = {}
    for prefix, state in (("ema.", ema), ("raw.", raw or {})):
        for key, value in state.items():
            stored = _stored(value, dtype)
            if not torch.isfinite(stored).all():
                raise RunError(f"{path} was not written: {prefix}{key} has values that are not finite in {dtype}")
            tensors[prefix + key] = stored
    metadata = {"format": "randomwalk", "config": json.dumps(config)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(save(tensors, metadata))  # save_file would make a file that only its owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.to(dtype) if value.is_floating_point() and value.dtype != torch.float64 else value.clone()


def load_denoiser(
    path: str | Path,
    *,
    network: Mapping[str, Any] | None = None,
    denoiser: Mapping[str, Any] | None = None,
    weights: str = "ema",
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    compile: bool = False,
) -> NetworkDenoiser:
    """The denoiser in a file."""
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads(file.metadata()["config"])
            prefix = weights + "."
            state = {k.removeprefix(prefix): file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: {error}") from error
    made = make_denoiser(config["network"], config["denoiser"])
    made.network.load_state_dict(state, strict=True)
    made.autocast_dtype = torch.bfloat16 if precision == "bf16" else None
    made.eval().requires_grad_(False).to(device=device)
    made.network.to(memory_format=torch.channels_last)
    if compile:
        made.network = torch.compile(made.network)  # type: ignore[assignment]
    return made
