"""Denoisers to and from files: `save_denoiser` and `load_denoiser`.

The format of `save_denoiser` is safetensors whose metadata describe the network and the denoiser around it:

    metadata  {"format": "randomwalk", "config": JSON of {"network": {"name": ..., **settings},
              "denoiser": {"name": ..., **settings}, "training": {...}, "classes": [names, if there are any]}}
    tensors   "ema.<name>" and optionally "raw.<name>", <name> as in the state dict of the network
"""

from __future__ import annotations

import contextlib
import json
import reprlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from randomwalk.config import validate
from randomwalk.config.base import named
from randomwalk.config.networks import DenoiserSettings, NetworkSettings, Weights
from randomwalk.denoisers import adapters
from randomwalk.denoisers.ddpm_table import with_numbers
from randomwalk.denoisers.deepinv_models import load_deepinv
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.denoisers.diffusers_folders import is_diffusers_folder, load_diffusers
from randomwalk.denoisers.networks import (
    NETWORKS,
    blank_network,
    build_network,
    describe,
    differing_settings,
    first_difference,
    full_settings,
    scratch_network,
    unknown_variant,
)
from randomwalk.denoisers.precision import choose_precision
from randomwalk.denoisers.published import alike
from randomwalk.denoisers.published import published as settings_of
from randomwalk.denoisers.weight_files import WeightFile, read_config, read_weights
from randomwalk.errors import InputError, RunError
from randomwalk.runs.folder import RunFolder

__all__ = ["build_network", "load_denoiser", "make_denoiser", "read_config", "resolve_device", "save_denoiser"]

# Settings that only concern training: a config may differ from the file in them.
_TRAINING_ONLY = {"dropout", "use_checkpoint", "init_scale"}


def make_denoiser(network: Mapping[str, Any], denoiser: Mapping[str, Any]) -> NetworkDenoiser:
    """An untrained denoiser with its channels and image size.

    Args:
        network: ``{"name": ..., **settings}`` as for `networks.build_network`.
        denoiser: ``{"name": ..., **settings}`` as for `adapters.make`.

    Raises:
        InputError: an unknown name or setting, or a denoiser and a network that do not fit.
    """
    full, wrapper = full_settings(network), validate.complete("denoiser", DenoiserSettings, denoiser)
    if (full["name"] == "ncsnpp") != (wrapper["name"] == "ve"):
        raise InputError(
            f"denoiser {wrapper['name']} around network {full['name']}: ncsnpp takes sigma and predicts the score, as "
            "denoiser ve expects; the other networks take a time, as the other denoisers expect"
        )
    made = adapters.make(network=build_network(full), **wrapper)
    made.channels = full["in_channels"] if full["name"] == "unet" else full["num_channels"]
    made.image_size = full["image_size"]
    made.num_classes = full.get("num_classes")
    made.any_size = getattr(named(NetworkSettings)[full["name"]], "any_size", False)
    return made


# --- saving ----------------------------------------------------------------------------------------------------


def save_denoiser(
    path: str | Path,
    config: Mapping[str, Any],
    ema: Mapping[str, Tensor],
    raw: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write weights and their description to one safetensors file, which appears whole or not at all.

    Args:
        path: the file.
        config: ``{"network": {"name": ..., **settings}, "denoiser": {"name": ..., **settings}, "training": {...}}``,
            all of it JSON; "training" is free. Optional names of the classes: "classes": [...].
        ema: full state dict of the network (with buffers) with averaged parameters.
        raw: the same with the parameters before averaging.
        dtype: float32 or float16, for floating-point tensors; float64 ones (tables) stay float64.

    Raises:
        RunError: a weight that is NaN or infinite, or is too large for ``dtype``.
        ValueError: the weights are not those of the network in ``config``, or another ``dtype``.
    """
    path = Path(path)
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"weights are stored as float32 or float16, not {dtype}")
    description = {key: config.get(key, {}) for key in ("network", "denoiser", "training")}
    description["network"] = full_settings(config["network"])
    # The numbers of a table belong in the file, which must not need another one.
    description["denoiser"] = with_numbers(validate.complete("denoiser", DenoiserSettings, config["denoiser"]))
    if config.get("classes"):
        description["classes"] = list(config["classes"])
    network = scratch_network(description["network"])
    tensors = {}
    for prefix, state in (("ema.", ema), ("raw.", raw)):
        if state is None:
            continue
        if difference := first_difference(network, state):
            raise ValueError(f"the weights do not fit config['network']: {difference}")
        for key, value in state.items():
            # A copy, since safetensors refuses tensors that share memory, as the buffers of `ema` and `raw` may.
            stored = value.detach().to("cpu", copy=True).contiguous()
            if stored.is_floating_point() and stored.dtype != torch.float64:
                stored = stored.to(dtype)
            if not torch.isfinite(stored).all():
                raise RunError(f"{path} was not written: {prefix}{key} has values that are not finite in {dtype}")
            tensors[prefix + key] = stored
    data = save(tensors, {"format": "randomwalk", "config": json.dumps(description)})
    RunFolder(path.parent).write(path.name, lambda file: file.write(data), sync=True)


# --- loading ---------------------------------------------------------------------------------------------------


def load_denoiser(
    path: str | Path,
    *,
    network: Mapping[str, Any] | None = None,
    denoiser: Mapping[str, Any] | None = None,
    published: str | None = None,
    weights: str = "ema",
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    compile: bool = False,
    null_label: int | None = None,
    pickles: bool = False,
) -> NetworkDenoiser:
    """The denoiser in a file or folder, ready to use: evaluation mode, no gradients to its weights, channels-last.

    Files: those of `save_denoiser`, and state dicts and checkpoints of others in any nesting, see `state_dicts`. The
    latter do not describe the denoiser and parts of the architecture: then give ``network`` and ``denoiser``. Without
    them, the error message has the description to paste, as far as the file determines it. Folders are those of
    diffusers, see `diffusers_folders`.

    Args:
        path: the file, or the folder of a pipeline of diffusers.
        network: ``{"name": ..., **settings}``. It must agree with the description in the file, if there is one.
        denoiser: ``{"name": ..., **settings}``, likewise.
        published: instead of both, the name of published weights, see `randomwalk.denoisers.published`.
        weights: "ema", the moving average of the parameters; "raw", the parameters themselves; or the path of a set
            in the file, such as "state_dict.model". A plain state dict has one set of weights, which is loaded for
            both.
        device: "cpu", "mps", "cuda", "cuda:N", or "auto": a GPU if there is one.
        precision: "fp32", "bf16" for autocasting the network (parameters stay float32), or "auto": bf16 where the
            device has units for it.
        compile: ``torch.compile`` the network.
        null_label, pickles: of folders of diffusers, see `diffusers_folders.load_diffusers`.

    Raises:
        InputError: the file is missing, damaged, refused (it would run code), not described, or does not fit the
            network; or the device is not available. Weights are never left at random.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise InputError(f"precision: {precision!r} is not known; 'auto', 'fp32' or 'bf16'")
    target = resolve_device(device)
    if is_diffusers_folder(path):
        if network is not None:
            raise InputError(f"{path}: a folder of diffusers describes its network; remove network")
        made = load_diffusers(path, denoiser=denoiser, null_label=null_label, pickles=pickles)
    else:
        if published is not None:
            network, denoiser = settings_of(published)
        made = _load_file(read_weights(path, weights), network, denoiser)
    return ready(made, target, precision, compile)


def _load_file(
    file: WeightFile, network: Mapping[str, Any] | None, denoiser: Mapping[str, Any] | None
) -> NetworkDenoiser:
    """The denoiser in a file, on the CPU."""
    network, denoiser, notes = _settings(file, network, denoiser)
    with _about(file, network):
        blank = blank_network(network, file.tensors)
    _check_fit(file, blank, network)
    with _about(file, network), torch.random.fork_rng(devices=[]):  # no draw from the caller's random numbers
        made = make_denoiser(network, denoiser)
    made.network.load_state_dict(_fitted(file, made.network, network), strict=True)
    made.classes = tuple((file.config or {}).get("classes", ()))
    made.notes = (*notes, *file.notes)
    made.of_cameras = _trained_on_cameras(file.config)
    return made


def _trained_on_cameras(described: Any) -> bool:
    """Whether ``data.camera`` of the training in a file's description is 1/2 or more."""
    for key in ("training", "config", "data", "camera"):
        described = described.get(key) if isinstance(described, Mapping) else None
    return isinstance(described, (int, float)) and described >= 0.5


def load_prior(
    network: Weights, device: torch.device, precision: str = "fp32", compile: bool = False
) -> NetworkDenoiser:
    """The denoiser that the section ``network`` of a sampling config names, ready to use.

    Raises:
        InputError: as `load_denoiser`.
    """
    # Where the file describes its network, only settings that were written in the config count, not their defaults.
    described = network.name == "file" and read_config(network.path) is not None
    architecture, adapter = (
        None if section is None else section.model_dump(exclude_none=True, exclude_unset=described)
        for section in (network.architecture, network.denoiser)
    )
    if network.name == "deepinv":
        made = load_deepinv(
            str(network.model), network.path, network.settings, network.noise_range, weights=network.weights
        )
        return ready(made, device, precision, compile)
    if network.name == "diffusers":
        made = load_diffusers(network.path, denoiser=adapter, null_label=network.null_label, pickles=network.pickles)
        return ready(made, device, precision, compile)
    made = load_denoiser(
        network.path,
        network=architecture,
        denoiser=adapter,
        published=network.published,
        weights=network.weights,
        device=device,
        precision=precision,
        compile=compile,
    )
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    return made


def ready(
    made: NetworkDenoiser, device: torch.device, precision: str = "fp32", compile: bool = False
) -> NetworkDenoiser:
    """The denoiser on a device, in evaluation mode, without gradients to its weights, channels-last."""
    made.autocast_dtype = torch.bfloat16 if choose_precision(precision, device)[0] == "bf16" else None
    made.eval().requires_grad_(False).to(device)
    made.network.to(memory_format=torch.channels_last)
    if compile:
        made.network = torch.compile(made.network)  # type: ignore[assignment]
    return made


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device of that name; "auto" is the first CUDA GPU, or else Apple's, or else the CPU.

    Raises:
        InputError: an unknown name, or a GPU that is not there.
    """
    if device == "auto":
        kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(kind for kind, there in kinds.items() if there))
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "mps", "cuda"):
        raise InputError(f"device: {str(device)!r} is not known; auto, cpu, mps, cuda or cuda:N")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device: mps is not available, it is for Apple's processors with macOS; use cpu or auto")
    if found.type == "cuda" and not torch.cuda.is_available():
        no_cuda = torch.version.cuda is None
        why = "this PyTorch was built without CUDA" if no_cuda else "no usable GPU or driver was found"
        raise InputError(f"device: {device} is not available, {why}; use cpu or auto")
    if found.type == "cuda" and (found.index or 0) >= (count := torch.cuda.device_count()):
        raise InputError(f"device: {device} is not there; this machine has cuda:0 to cuda:{count - 1}")
    return found


def _settings(
    file: WeightFile, network: Mapping[str, Any] | None, denoiser: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], Mapping[str, Any], Sequence[str]]:
    """Settings of the network and denoiser, and remarks: the file's own if it describes itself, else the given ones,
    else those of published weights with the same tensors."""
    if file.config is not None:
        try:
            own_network = full_settings(file.config["network"])
            own_denoiser = validate.complete("denoiser", DenoiserSettings, file.config["denoiser"])
        except InputError as error:
            raise InputError(f"{file.path}: its description cannot be used: {error}") from error
        _check_agreement(file.path, "architecture", network, own_network)
        _check_agreement(file.path, "denoiser", denoiser and with_numbers(denoiser), own_denoiser)
        return own_network, own_denoiser, ()
    if network is not None and denoiser is not None:
        return network, denoiser, ()
    if network is None and (names := alike(file.example())):
        theirs, around = settings_of(names[0])
        taken = {key: theirs[key] for key in ("image_size", "num_head_channels", "num_heads")}
        note = (
            f"{file.path}: has the tensors of the published {' or '.join(names)}, whose settings were taken: {taken}, "
            f"denoiser {denoiser or around}; if it was trained differently, give network.architecture and .denoiser"
        )
        return theirs, denoiser or around, (note,)
    try:
        snippet = describe(file.example(), architecture=network is None, denoiser=denoiser is None)
    except InputError as error:
        raise InputError(f"{file.path}: {error}") from error
    raise InputError(
        f"{file.path} does not describe how to use it. Add this to the config, with FILL_IN replaced:\n\n{snippet}\n"
        f"{_own_table(file) if denoiser is None else ''}"
    )


def _own_table(file: WeightFile) -> str:
    """Hint at the noise table in a training checkpoint, where the diffusion around the network keeps it."""
    for kind in ("betas", "alphas_cumprod"):  # in float32, betas have more digits
        if paths := [path for path, value in file.tensors.items() if path.split(".")[-1] == kind and value.ndim == 1]:
            return f"\nThe file has the table of its training ({paths[0]}): table: {{{kind}: {file.path}}}\n"
    return ""


def _check_agreement(path: Path, section: str, given: Mapping[str, Any] | None, own: Mapping[str, Any]) -> None:
    for key, value in (given or {}).items():
        if key in _TRAINING_ONLY or (key in own and _plain(value) == _plain(own[key])):
            continue
        unknown = f"is unknown to {own['name']!r}, which the file names"
        says = f"is {reprlib.repr(own[key])} in the file" if key in own else unknown
        raise InputError(
            f"{path}: network.{section}.{key} {says}, and {reprlib.repr(value)} in the config. The file describes "
            f"itself: remove network.{section} from the config"
        )


def _plain(value: Any) -> Any:
    """A value without the type of its lists, and without the keys of a section that are not set."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return list(value) if isinstance(value, tuple) else value


@contextlib.contextmanager
def _about(file: WeightFile, network: Mapping[str, Any]) -> Iterator[None]:
    """Add to the error of a network that cannot be built the file, and the settings that the file contradicts."""
    try:
        yield
    except InputError as error:
        named = network.get("name") in NETWORKS and file.config is None
        hints = differing_settings(file.example(), network) if named else []
        raise InputError("\n  ".join([f"{file.path}: {error}", *hints])) from error


def _check_fit(file: WeightFile, network: nn.Module, settings: Mapping[str, Any]) -> None:
    """Raise InputError unless the names and shapes of the tensors in the file are those of the network."""
    found = file.example(network)
    if difference := first_difference(network, _with_sigmas(found, network.state_dict(), settings)):
        raise InputError(_misfit(file, found, difference, settings))


def _with_sigmas(
    state: Mapping[str, Tensor], fresh: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The state dict with the network's own table of noise levels where nothing is computed from it.

    Its length is an arbitrary number of steps.
    """
    is_unused = settings.get("embedding_type", "fourier") == "fourier" and "sigmas" in fresh
    return {**state, "sigmas": fresh["sigmas"]} if is_unused else dict(state)


def _fitted(file: WeightFile, network: nn.Module, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict to load: checked against the network, averaged parameters in place, finite."""
    fresh, state = network.state_dict(), {}
    # A file of another network is told so first, by whichever of its sets is the fullest.
    for find in (file.example, file.state_for):
        found = find(network)
        state = _with_sigmas(found, fresh, settings)
        if difference := first_difference(network, state) or _sigmas_difference(found, fresh):
            raise InputError(_misfit(file, found, difference, settings))
    for key, value in state.items():
        if value.is_floating_point() != fresh[key].is_floating_point():
            raise InputError(f"{file.path}: {key} is of type {value.dtype}, expected {fresh[key].dtype}")
        file.check_finite(key, value)
    return state


def _misfit(file: WeightFile, state: Mapping[str, Tensor], difference: str, settings: Mapping[str, Any]) -> str:
    if file.config is not None:
        return f"{file.path} is damaged, it contradicts its own description: {difference}"
    hints = differing_settings(state, settings)
    unexplained = (
        unknown_variant(state)
        or "No setting explains it: the file is incomplete, or of an unknown variant of the network"
    )
    advice = "\n  ".join(["Correct in the config:", *hints]) if hints else unexplained
    return f"{file.path} does not fit the network in the config: {difference}. {advice}"


def _sigmas_difference(state: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> str | None:
    """Difference between the ranges of NCSN++'s noise levels in the file and in the network, if any."""
    if "sigmas" not in state or "sigmas" not in fresh or state["sigmas"].ndim != 1 or not len(state["sigmas"]):
        return None
    theirs, ours = ((float(t["sigmas"][0]), float(t["sigmas"][-1])) for t in (state, fresh))
    if all(abs(a / b - 1) < 1e-4 for a, b in zip(theirs, ours, strict=True)):
        return None
    return "sigmas runs from {:g} to {:g} in the file and from {:g} to {:g} in the network".format(*theirs, *ours)
