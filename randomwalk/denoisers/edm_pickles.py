"""Conversion of EDM's published pickles to safetensors, without running the code in them.

    python -m randomwalk.denoisers.edm_pickles edm-cifar10-32x32-uncond-vp.pkl OUT.safetensors

A pickle of EDM (Karras et al. 2022, arXiv 2206.00364, github.com/NVlabs/edm) holds the source code of its network,
which its loader runs. Here classes of our own, which only keep what they are given, stand for everything in the file:
tensors and the arguments of the networks are read, and nothing is run. The result is read by ``network: {name: deepinv,
...}`` with the settings that this program prints, since deepinv has EDM's networks.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from randomwalk.errors import InputError

_PLAIN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("builtins", "set"): set,
}
"""Functions that may be called: they make tensors and containers."""
_MODELS = {"SongUNet": "NCSNpp", "DhariwalUNet": "ADMUNet"}
_ARGUMENTS = {
    "img_resolution", "in_channels", "out_channels", "label_dim", "augment_dim", "model_channels", "channel_mult",
    "channel_mult_emb", "num_blocks", "attn_resolutions", "dropout", "label_dropout",
}  # fmt: skip


class Kept(dict[str, Any]):
    """Stands for an object of any class: keeps its state, and runs nothing."""

    def __init__(self, *arguments: Any, **_: Any) -> None:
        super().__init__()
        if len(arguments) == 1 and isinstance(arguments[0], dict):
            self.update(arguments[0])

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda data: torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return _PLAIN.get((module, name), Kept)

    def persistent_load(self, key: Any) -> Any:
        raise pickle.UnpicklingError(f"unexpected reference {key!r}")


def read_pickle(path: Path) -> Any:
    """The content of a pickle, with `Kept` in the place of every object.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file).load()
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path} cannot be read as a pickle of EDM ({error})") from error


def _state(meta: Any) -> dict[str, Any]:
    """State of a persistent object: ``(meta,)`` of its constructor became a dictionary with ``state``."""
    state = meta.get("state", meta) if isinstance(meta, dict) else {}
    return state if isinstance(state, dict) else {}


def tensors_of(module: Any, prefix: str = "") -> dict[str, Tensor]:
    """State dict of a kept module: its parameters and persistent buffers, and those of its parts."""
    state, found = _state(module), {}
    left = state.get("_non_persistent_buffers_set") or ()
    for name, value in [*(state.get("_parameters") or {}).items(), *(state.get("_buffers") or {}).items()]:
        if isinstance(value, Tensor) and name not in left:
            found[prefix + name] = value.detach().float().contiguous()
    for name, part in (state.get("_modules") or {}).items():
        found |= tensors_of(part, f"{prefix}{name}.")
    return found


def convert(source: Path, target: Path) -> dict[str, Any]:
    """Write the averaged network of a pickle as safetensors.

    Returns:
        The section ``network`` of a config that uses it.

    Raises:
        InputError: the file is none of EDM, or of a network that deepinv does not have.
    """
    content = read_pickle(source)
    precond = content.get("ema") if isinstance(content, dict) else None
    network = (_state(precond).get("_modules") or {}).get("model")
    kind = str((network or {}).get("class_name"))
    if precond is None or network is None or kind not in _MODELS:
        raise InputError(f"{source}: holds no network of EDM under 'ema' (found {kind}); expected {', '.join(_MODELS)}")
    if (wrapper := str(precond.get("class_name"))) != "EDMPrecond":
        raise InputError(f"{source}: its network is preconditioned by {wrapper}; only EDMPrecond can be converted")
    given, around = dict(_state(network).get("_init_kwargs") or {}), _state(precond)
    settings = {"augment_dim": 0} | {key: _plain(value) for key, value in given.items() if key in _ARGUMENTS}
    if kind == "SongUNet":
        settings["model_type"] = "ncsn" if given.get("embedding_type") == "fourier" else "ddpm"
    data = float(around.get("sigma_data", 0.5))
    settings |= {"pixel_std": data, "_was_trained_on_minus_one_one": True}
    save_file(tensors_of(network), target)
    return {"name": "deepinv", "model": _MODELS[kind], "path": str(target), "settings": settings}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def main() -> int:
    """Convert the pickle that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m randomwalk.denoisers.edm_pickles", description=__doc__)
    parser.add_argument("source", type=Path, help="the pickle (.pkl)")
    parser.add_argument("target", type=Path, help="the safetensors file to write")
    chosen = parser.parse_args()
    try:
        print("network: " + json.dumps(convert(chosen.source, chosen.target)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
