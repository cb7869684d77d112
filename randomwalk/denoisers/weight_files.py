"""Reading files with weights, without running code in them.

Formats: safetensors of `save_denoiser`, low-rank differences to them (`low_rank.save`), safetensors of others, and
files of torch.save with a state dict somewhere in them, see `state_dicts`. Any other content is an `InputError` that
names the file.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import reprlib
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from randomwalk.config.weights import kind_of_weights, shards_of
from randomwalk.denoisers import low_rank, state_dicts
from randomwalk.errors import InputError
from randomwalk.lookup import find_file

_LARGEST_RATIO = 4
"""Largest ratio of an archive's contents to its size; files of torch.save are not compressed, and a bomb is."""
_LONGEST_NAME, _MOST_TENSORS = 300, 100_000
_SETTINGS = (
    r"argparse\.Namespace|pathlib\.\w*Path|typing\.Any|omegaconf\.[\w.]+|ml_collections\.[\w.]+|easydict\.EasyDict|"
    r"(pytorch_lightning|lightning|lightning_fabric)\.[\w.]*(AttributeDict|ModelCheckpoint|EarlyStopping)"
)
"""Classes in which trainings keep their settings."""
_MOST_STANDS = 50
_TYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip


@dataclass
class WeightFile:
    """Content of a file with weights.

    Attributes:
        path: of the file.
        tensors: by their paths in the file; in a file of `save_denoiser`, those of the requested weights by the names
            of the network.
        weights: which weights are requested, see `state_dicts.choose`.
        setting: name of the setting that requests them, for messages.
        config: "network", "denoiser", "training" and "classes", if the file describes itself.
        empty: sections that are called averaged and hold no tensors.
        left: remarks on what was not read.
        notes: remarks on what was found and taken, after `state_for`.
    """

    path: Path
    tensors: dict[str, Tensor]
    weights: str = "ema"
    setting: str = "network.weights"
    config: dict[str, Any] | None = None
    empty: Sequence[str] = ()
    left: Sequence[str] = ()
    notes: Sequence[str] = ()

    def example(self, network: nn.Module | None = None) -> dict[str, Tensor]:
        """State dict of some set of weights, which shows whether the file is of a network (None: of a public one)."""
        return self.tensors if self.config is not None else state_dicts.fullest(self.tensors, network)

    def state_for(self, network: nn.Module) -> dict[str, Tensor]:
        """State dict of the requested weights.

        Raises:
            InputError: there are none or several, some are missing, or the averages are in a file beside.
        """
        if self.config is not None:
            return self.tensors
        try:
            state, taken = state_dicts.choose(self.tensors, network, self.weights, self.setting, self.empty)
            self.notes = (*(f"{self.path}: {said}" for said in [taken] if said), *self.left)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error
        has_averages = any(s.averaged for s in state_dicts.find_sets(self.tensors, network))
        if self.weights == "ema" and not has_averages and (beside := _averages_beside(self.path)):
            raise InputError(
                f"{self.path}: holds weights that were not averaged; the averaged ones are in {beside}. Give that "
                f"file, or {self.setting}: raw"
            )
        return state

    def check_finite(self, name: str, value: Tensor) -> None:
        """Raise InputError if a tensor of the file has a value that is not finite."""
        if not value.isfinite().all():
            raise InputError(f"{self.path}: {name} has values that are NaN or infinite; these weights cannot be used")


def read_weights(path: str | Path, weights: str = "ema", setting: str = "network.weights") -> WeightFile:
    """Read a file of any format; the suffix of its name does not matter.

    Args:
        path: the file.
        weights: "ema", "raw" or the path of a set of weights in the file, see `state_dicts.choose`.
        setting: name of the setting that has ``weights``, for messages.

    Raises:
        InputError: the file is missing, damaged or holds no weights.
    """
    path = Path(find_file(path))
    kind = kind_of_weights(path)
    if kind == "shards":
        file = _read_shards(path, weights, setting)
    elif kind == "safetensors":
        file = _read_safetensors(path, weights, setting)
        if (difference := read_difference(path)) is not None:
            file = _with_base(file, difference)
    else:
        content, left = _load_pickle(path, zipped=kind == "zip")
        tensors = {} if isinstance(content, Tensor) else state_dicts.flatten(content)
        if not tensors:
            found = type(content).__name__
            if isinstance(content, Mapping):
                found = f"a dictionary with {', '.join(map(reprlib.repr, list(content)[:8])) or 'nothing in it'}"
            raise InputError(
                f"{path} holds {found}; expected a state dict (names and tensors), alone or in a checkpoint"
            )
        said = [f"{path}: ignored its training settings, which are objects of {', '.join(left)}"] if left else []
        file = WeightFile(path, tensors, weights, setting, empty=state_dicts.empty_averages(content), left=said)
    if len(file.tensors) > _MOST_TENSORS:
        raise InputError(f"{path}: holds {len(file.tensors):,} tensors; expected at most {_MOST_TENSORS:,}")
    for name, value in file.tensors.items():
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
    if (difference := read_difference(path)) is not None:
        return read_config(_base_of(path, difference))
    with _opened(path) as file:
        return _config(path, file.metadata() or {})


# --- low-rank differences --------------------------------------------------------------------------------------


def read_difference(path: str | Path) -> dict[str, Any] | None:
    """The description in a file of `low_rank.save`, {"base": ..., "alpha": ..., "training": ...}; None for other files.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = Path(find_file(path))
    if kind_of_weights(path) != "safetensors":
        return None
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != low_rank.FORMAT:
        return None
    try:
        found = json.loads(metadata["config"])
        base, alpha = found["base"], found["alpha"]
        is_whole = all(isinstance(base[key], str) for key in ("path", "weights", "checksum")) and 0 < alpha < math.inf
    except (KeyError, TypeError, ValueError, RecursionError):
        is_whole = False
    if not is_whole:
        raise InputError(f"{path} is damaged: it does not describe the weights that it is a difference to")
    return dict(found)


def _base_of(path: Path, difference: Mapping[str, Any]) -> Path:
    """File with the weights that a difference is to: of the name that it states, beside it or else where it was."""
    stated = Path(difference["base"]["path"])
    beside = path.with_name(stated.name)
    base = beside if beside.is_file() and beside != path else Path(find_file(stated))
    if not base.is_file():
        raise InputError(f"{path} is a difference to {stated}, which is not there: put it beside {path}")
    if read_difference(base) is not None:
        raise InputError(f"{path} is a difference to {base}, which is a difference itself; expected whole weights")
    return base


def _with_base(file: WeightFile, difference: Mapping[str, Any]) -> WeightFile:
    """The weights that a file of factors makes of those that they were trained for.

    Raises:
        InputError: these are not there, or others are.
    """
    path = _base_of(file.path, difference)
    base = read_weights(path, difference["base"]["weights"], file.setting)
    if base.config is None or low_rank.checksum(base.tensors) != difference["base"]["checksum"]:
        raise InputError(
            f"{file.path} is a difference to other weights than those in {path} (their checksums differ): put the "
            f"weights it was trained from, {difference['base']['path']}, beside it"
        )
    try:
        tensors = low_rank.merged(base.tensors, file.tensors, difference["alpha"])
    except InputError as error:
        raise InputError(f"{file.path} is damaged: {error}") from error
    config = {**base.config, "training": difference.get("training")}
    return WeightFile(file.path, tensors, file.weights, file.setting, config)


# --- safetensors -----------------------------------------------------------------------------------------------


def open_safetensors(path: Path, framework: str = "pt") -> Any:
    """Open a safetensors file, also one whose name is not UTF-8, which the library cannot take."""
    if str(path) == str(path).encode(errors="replace").decode():
        return safe_open(path, framework=framework)
    with path.open("rb") as file:
        return safe_open(f"/dev/fd/{file.fileno()}", framework=framework)


def _opened(path: Path) -> Any:
    try:
        return open_safetensors(path)
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
        raise InputError(f"{path} is damaged: the classes in its description are not a list of names")
    return dict(config)


def _read_safetensors(path: Path, weights: str, setting: str) -> WeightFile:
    with _opened(path) as file:
        metadata = file.metadata() or {}
        config, names = _config(path, metadata), list(file.keys())
        is_ours = config is not None or metadata.get("format") == low_rank.FORMAT
        prefix = f"{weights}." if is_ours else ""
        chosen = [name for name in names if name.startswith(prefix)]
        if not chosen:
            held = ", ".join(sorted({name.split(".")[0] for name in names})) or "none"
            raise InputError(f"{path} has no weights called {weights!r}; it has: {held}")
        state = {name.removeprefix(prefix): file.get_tensor(name) for name in chosen}
    return WeightFile(path, state, weights, setting, config)


def _read_shards(path: Path, weights: str, setting: str) -> WeightFile:
    """Tensors of several safetensors files, which an index lists (accelerate, diffusers)."""
    state: dict[str, Tensor] = {}
    for name in shards_of(path):
        state |= _read_safetensors(path.with_name(name), weights, setting).tensors
    return WeightFile(path, state, weights, setting)


# --- files of torch.save ---------------------------------------------------------------------------------------


def _load_pickle(path: Path, zipped: bool) -> tuple[Any, list[str]]:
    """The object in the file, and what was left out of it.

    A pickle of anything but tensors, plain containers and settings of trainings is refused, not executed.
    """
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
            raise InputError(f"{path} is damaged: {broken} in it has a wrong checksum; fetch it again")
    try:
        return _read_tensors(path, zipped)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # so can a damaged pickle
        reason = _reason(error)
        if not zipped and b"torch_utils.persistence" in _head(path):
            raise InputError(
                f"{path} is a pickle of EDM or StyleGAN, which holds its own source code; it is not run. Convert it "
                f"once, without running it: python -m randomwalk.denoisers.edm_pickles {path} OUT.safetensors"
            ) from error
        wanted = re.search(r"GLOBAL (\S+)", reason) if isinstance(error, pickle.UnpicklingError) else None
        if wanted or "TorchScript" in reason:
            what = f"it asks for {wanted[1]}" if wanted else "it is a TorchScript program"
            raise InputError(
                f"{path} is refused: loading it would run code that the file chooses ({what}). Use a file that "
                "holds nothing but tensors, for example one written by torch.save(model.state_dict(), ...)"
            ) from error
        raise InputError(f"{path} is damaged, or not a file of torch.save ({reason})") from error


def _read_tensors(path: Path, zipped: bool) -> tuple[Any, list[str]]:
    """The content of a file, and the kinds of settings in it that were not read.

    Trainings keep their settings beside the weights, in classes of other libraries. Empty classes of our own stand for
    them, so that nothing of those libraries is imported or run; all other classes stay refused.
    """
    stands: dict[str, Any] = {}
    while True:
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(list(stands.values())):
                warnings.simplefilter("ignore")  # of archives that are refused
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped), sorted(stands)
        except pickle.UnpicklingError as error:
            wanted = re.search(r"GLOBAL (\S+)", _reason(error))
            name = wanted[1] if wanted else ""
            if name in stands or not re.fullmatch(_SETTINGS, name) or len(stands) == _MOST_STANDS:
                raise
            module, _, own = name.rpartition(".")
            is_dictionary = own in ("AttributeDict", "EasyDict")
            made = type(own, (_Inert,), {"__module__": module, "__qualname__": own})
            stands[name] = (dict, name) if is_dictionary else made


class _Inert:
    """Stands for an object of settings, and does nothing."""

    def __setstate__(self, state: Any) -> None:
        pass


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 20)


def _reason(error: Exception) -> str:
    """The line with the reason in a message of torch.load, without its advice, which does not apply here."""
    lines = str(error).split("Check the documentation")[0].strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[-1].strip() if isinstance(error, pickle.UnpicklingError) else lines[0]


def _averages_beside(path: Path) -> Path | None:
    """The file with the averages, where a training writes them beside: guided-diffusion ``model000100.pt`` and
    ``ema_0.9999_000100.pt``, diffusers ``unet/`` and ``unet_ema/`` or ``ema_unet/``."""
    if match := re.fullmatch(r"model(\d+)\.pt", path.name):
        return next(iter(sorted(path.parent.glob(f"ema_*_{match[1]}.pt"))), None)
    folder = path.absolute().parent  # a file in the current folder has a parent without a name
    beside = (folder.with_name(name) / path.name for name in (f"{folder.name}_ema", f"ema_{folder.name}"))
    return next((file for file in beside if folder.name and file.is_file()), None)


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
