"""Reading files with weights, without running code in them.

Formats: safetensors of `save_denoiser`, the plain state dict of guided-diffusion (also wrapped or with a prefix) and
the checkpoint of score_sde. Any other content is an `InputError` that names the file.
"""

from __future__ import annotations

import json
import pickle
import re
import reprlib
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from randomwalk.config.weights import kind_of_weights
from randomwalk.errors import InputError
from randomwalk.lookup import find_file

_PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, of Lightning, of torch.compile
_WRAPPERS = ("model", "state_dict")
_AVERAGED = ("ema_model.", "model_ema.", "ema.")
"""Prefixes of an averaged set in one state dict with the other, as in Lightning's checkpoints."""
_LARGEST_RATIO = 4
"""Largest ratio of an archive's contents to its size; files of torch.save are not compressed, and a bomb is."""
_LONGEST_NAME = 300
_TYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip
_COUNTERS = {"n_averaged", "num_updates", "decay", "initted", "step"}
"""Entries of averaging modules beside the averages."""


@dataclass
class WeightFile:
    """The requested weights of a file.

    Attributes:
        state: state dict of the network.
        shadow: averaged parameters without names (score_sde), in the order of the trainable parameters.
        not_averaged: names in ``state`` without an average, such as buffers.
        config: "network", "denoiser", "training" and "classes", if the file describes itself.
    """

    path: Path
    state: dict[str, Tensor]
    shadow: list[Tensor] | None = None
    config: dict[str, Any] | None = None
    not_averaged: frozenset[str] = frozenset()


def read_weights(path: str | Path, weights: str = "ema") -> WeightFile:
    """Read a file of any format; the suffix of its name does not matter.

    Args:
        path: the file.
        weights: "ema" or "raw". A file with a single set of weights gives that one for both, since a plain state dict
            does not say which it is (the public ones are averaged).

    Raises:
        InputError: the file is missing, damaged or holds no weights.
    """
    path = Path(find_file(path))
    kind = kind_of_weights(path)
    if kind == "safetensors":
        file = _read_safetensors(path, weights)
    else:
        file = _from_pickle(path, _load_pickle(path, zipped=kind == "zip"), weights)
    for name, value in [*file.state.items(), *(("ema.shadow_params", value) for value in file.shadow or ())]:
        _check_tensor(path, name, value)
    return file


def read_config(path: str | Path) -> dict[str, Any] | None:
    """The description in a file of `save_denoiser`, {"network": ..., "denoiser": ..., "training": ...}, without its
    weights; None for other files.

    Raises:
        InputError: as `read_weights`.
    """
    path = Path(find_file(path))
    if kind_of_weights(path) != "safetensors":
        return None
    with _opened(path) as file:
        return _config(path, file.metadata() or {})


# --- safetensors -----------------------------------------------------------------------------------------------


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or incomplete ({error}); fetch it again") from error


def _config(path: Path, metadata: dict[str, str]) -> dict[str, Any] | None:
    if metadata.get("format") != "randomwalk":
        return None
    try:
        config = json.loads(metadata["config"])
        names, classes = [config["network"]["name"], config["denoiser"]["name"]], config.get("classes", [])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: its description cannot be read ({error!r})") from error
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} is damaged: its description does not name a network and a denoiser")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{path} is damaged: the classes in its description are no list of names")
    return dict(config)


def _read_safetensors(path: Path, weights: str) -> WeightFile:
    with _opened(path) as file:
        config = _config(path, file.metadata() or {})
        names = list(file.keys())
        prefix = "" if config is None else f"{weights}."
        chosen = [name for name in names if name.startswith(prefix)]
        if not chosen:
            held = ", ".join(sorted({name.split(".")[0] for name in names})) or "none"
            raise InputError(f"{path} has no weights called {weights!r}; it has: {held}")
        state = {name.removeprefix(prefix): file.get_tensor(name) for name in chosen}
    return _of_state(path, state, weights) if config is None else WeightFile(path, state, config=config)


# --- files of torch.save ---------------------------------------------------------------------------------------


def _load_pickle(path: Path, zipped: bool) -> Any:
    """The object in the file; a pickle of anything but tensors and plain containers is refused, not executed."""
    if zipped:  # compare the checksums, which torch.load does not: an incomplete download has plausible tensors
        try:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(info.file_size for info in archive.infolist())
                broken = archive.testzip() if unpacked <= _LARGEST_RATIO * path.stat().st_size else None
        except Exception as error:  # a damaged archive can raise anything
            raise InputError(f"{path} is damaged or incomplete ({_reason(error)}); fetch it again") from error
        if unpacked > _LARGEST_RATIO * path.stat().st_size:
            raise InputError(
                f"{path} is refused: it would unpack to {unpacked:,} bytes; torch.save, whose files are expected, does "
                "not compress"
            )
        if broken:
            raise InputError(f"{path} is damaged: {broken} in it does not have its checksum; fetch it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of archives that are refused below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # so can a damaged pickle
        reason = _reason(error)
        wanted = re.search(r"GLOBAL (\S+)", reason) if isinstance(error, pickle.UnpicklingError) else None
        if wanted or "TorchScript" in reason:
            what = f"it asks for {wanted[1]}" if wanted else "it is a TorchScript program"
            raise InputError(
                f"{path} is refused: loading it would run code that the file chooses ({what}). Use a file that "
                "holds nothing but tensors, for example one written by torch.save(model.state_dict(), ...)"
            ) from error
        raise InputError(f"{path} is damaged, or not a file of torch.save ({reason})") from error


def _reason(error: Exception) -> str:
    """The line with the reason in a message of torch.load, without its advice, which does not apply here."""
    lines = str(error).split("Check the documentation")[0].strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[-1].strip() if isinstance(error, pickle.UnpicklingError) else lines[0]


def _from_pickle(path: Path, content: Any, weights: str) -> WeightFile:
    if _is_state(content):
        return _of_state(path, content, weights)
    wrapper = next((key for key in _WRAPPERS if isinstance(content, Mapping) and _is_state(content.get(key))), None)
    if wrapper is None:
        found = type(content).__name__
        if isinstance(content, Mapping):
            found = f"a dictionary with {', '.join(map(reprlib.repr, list(content)[:8])) or 'nothing in it'}"
        raise InputError(f"{path} holds {found}; expected a state dict (names and tensors), or one under 'model'")
    state, ema = content[wrapper], content.get("ema")
    if weights == "raw" or ema is None:
        return _of_state(path, state, weights)
    if _is_state(ema):
        return _averaged(path, state, ema)
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(shadow, list) or not all(isinstance(value, Tensor) for value in shadow):
        raise InputError(f"{path}: the averaged weights under 'ema' have a layout that is not known; try weights: raw")
    return WeightFile(path, _without_prefix(state), shadow=shadow)


def _of_state(path: Path, state: Mapping[str, Tensor], weights: str) -> WeightFile:
    """The only set of weights, or the requested one of two under prefixes."""
    prefix = next((prefix for prefix in _AVERAGED if any(key.startswith(prefix) for key in state)), None)
    if prefix is None:
        return WeightFile(path, _without_prefix(state))
    raw = {key: value for key, value in state.items() if not key.startswith(prefix)}
    if weights == "raw" and raw:
        return WeightFile(path, _without_prefix(raw))
    return _averaged(path, raw, {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})


def _averaged(path: Path, raw: Mapping[str, Tensor], averages: Mapping[str, Tensor]) -> WeightFile:
    """The averages, completed from the other set; the network decides whether missing entries are allowed."""
    state = _without_prefix(raw)
    averages = _without_prefix({key: value for key, value in averages.items() if key not in _COUNTERS})
    return WeightFile(path, {**state, **averages}, not_averaged=frozenset(state) - averages.keys())


def _check_tensor(path: Path, name: str, value: Tensor) -> None:
    """Raise InputError unless a tensor is an ordinary one: dense, with values, of a type that networks have."""
    if len(name) > _LONGEST_NAME:
        raise InputError(f"{path}: the name of a tensor has {len(name):,} characters ({reprlib.repr(name)})")
    if value.is_nested or value.layout != torch.strided:
        kind = "a nested or sparse tensor"
    elif value.is_meta:
        kind = "a tensor without values (on the device meta)"
    elif value.dtype not in _TYPES:
        kind = f"of type {value.dtype}"
    else:
        return
    raise InputError(f"{path}: {name} is {kind}; expected plain numbers, such as float32, float16 or bfloat16")


def _is_state(value: Any) -> bool:
    """Whether a value is a non-empty mapping of names to tensors."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the prefixes that wrappers give to every name."""
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)
