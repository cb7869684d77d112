"""Pipelines of the library diffusers as denoisers: a folder or the id of a repository (``pip install diffusers``).

The network is built and its weights are read by the library. What its scheduler says of the training (the noise table,
what is predicted, the range of pixels) becomes the denoiser; the scheduler's own sampling is not used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from randomwalk.config.weights import kind_of_weights
from randomwalk.denoisers import adapters
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.denoisers.wrap import Called, wrap
from randomwalk.errors import InputError
from randomwalk.lookup import optional_library

MODEL_INDEX, CONFIG, SCHEDULER_CONFIG = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS, HALF_WEIGHTS = (f"diffusion_pytorch_model.{kind}safetensors" for kind in ("", "fp16."))
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}
_NOT_HERE = {
    "UNet2DConditionModel": "is conditioned on a text",
    "DiTTransformer2DModel": "works on latents of an autoencoder",
    "UNet1DModel": "is for sequences",
    "VQModel": "is an autoencoder",
}


def is_diffusers_folder(path: str | Path) -> bool:
    """Whether a path is a folder with a pipeline or a model of diffusers."""
    return Path(path).is_dir() and any((Path(path) / name).is_file() for name in (MODEL_INDEX, CONFIG))


def load_diffusers(
    path: str | Path,
    *,
    denoiser: Mapping[str, Any] | None = None,
    null_label: int | None = None,
    pickles: bool = False,
) -> NetworkDenoiser:
    """The network of a pipeline as a denoiser, on the CPU.

    Args:
        path: folder of a pipeline, or of a ``UNet2DModel`` alone, or the id of a repository (``owner/name``), which the
            library downloads.
        denoiser: settings of the denoiser, ``{"name": ..., **settings}``, instead of what the scheduler says; needed
            where there is none.
        null_label: the class that means "any class", if the network has one.
        pickles: read weights in ``.bin`` files too, by the library, if there is no safetensors file.

    Raises:
        InputError: the library or a file is missing or damaged, or the pipeline is of another kind.
    """
    library = optional_library("diffusers", "diffusers", "a diffusers pipeline")
    where = str(path)
    if not Path(path).is_dir() and not _REPOSITORY.fullmatch(where):
        raise InputError(f"{where}: neither an existing folder nor the id of a repository (owner/name)")
    folder = Path(path) if Path(path).is_dir() else _downloaded(library, where, pickles)
    index = _index(where, folder)
    unet = _network(library, where, folder, index, pickles)
    config: Any = unet.config
    classes = config.num_class_embeds
    if config.class_embed_type is not None:
        raise InputError(f"{where}: the network is conditioned on numbers instead of classes, which is not supported")
    if null_label is not None and null_label not in range(classes or 0):
        found = f"{classes} classes, from 0 to {classes - 1}" if classes else "no classes"
        raise InputError(f"{where}: null_label is {null_label}, but the network has {found}")
    if denoiser is None:
        made = _by_scheduler(library, where, _scheduler(where, folder, index), unet, null_label)
    else:
        told = {**denoiser} if null_label is None else {**denoiser, "null_label": null_label}
        made = adapters.make(network=Called(unet), **told)
    size = config.sample_size
    made.channels = config.in_channels
    made.image_size = size if isinstance(size, int) else size[0] if size and len(set(size)) == 1 else None
    made.num_classes = classes
    return made


# --- files -----------------------------------------------------------------------------------------------------------


def _by_library(where: str, what: str, load: Callable[[], Any]) -> Any:
    """Result of the library, or its error, and the one from which that came, in one line."""
    try:
        return load()
    except Exception as error:  # of a damaged file or config the library can raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:300].rstrip(".")
        reason += f"; {str(error.__cause__).splitlines()[0][:200]}" if str(error.__cause__ or "") else ""
        raise InputError(f"{where}: {what} cannot be read by diffusers ({reason})") from error


def _downloaded(library: Any, where: str, pickles: bool) -> Path:
    """Folder of a repository in the library's cache, downloaded if it is not there."""
    download, safe = library.DiffusionPipeline.download, None if pickles else True
    try:
        return Path(_by_library(where, "the pipeline", lambda: download(where, use_safetensors=safe)))
    except InputError as error:
        raise InputError(f"{error}: there is no such folder, and a repository is downloaded once, online") from error


def _index(where: str, folder: Path) -> dict[str, Any]:
    """Components of the pipeline; empty for a model alone."""
    if (folder / MODEL_INDEX).is_file():
        return _json(folder / MODEL_INDEX)
    if (folder / CONFIG).is_file():
        return {}
    raise InputError(f"{where}: is not a diffusers folder: it has neither {MODEL_INDEX} nor {CONFIG}")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: expected a dictionary")
    return content


def _component(index: Mapping[str, Any], suffix: str) -> tuple[str, str] | None:
    """Name and class of the first component whose class ends so."""
    parts = {key: value[1] for key, value in index.items() if isinstance(value, list) and len(value) == 2 and value[1]}
    return next(((key, str(kind)) for key, kind in parts.items() if str(kind).endswith(suffix)), None)


def _place(folder: Path, name: str | None) -> Path:
    """Folder of a component: its own, or that of the pipeline, where all files of the first pipelines lie."""
    return folder / name if name is not None and (folder / name).is_dir() else folder


def _network(library: Any, where: str, folder: Path, index: Mapping[str, Any], pickles: bool) -> nn.Module:
    """The pipeline's ``UNet2DModel``."""
    found = _component(index, "UNet2DModel") if index else (None, str(_json(folder / CONFIG).get("_class_name")))
    parts = [str(value[1]) for value in index.values() if isinstance(value, list) and len(value) == 2 and value[1]]
    autoencoder = next((kind for kind in parts if "Autoencoder" in kind or kind == "VQModel"), None)
    if found is None or found[1] != "UNet2DModel" or autoencoder is not None:
        raise InputError(
            f"{where}: only pipelines of images with a UNet2DModel are priors of images here, but "
            f"{_reason(parts if found is None else [found[1]], autoencoder)}; a function of (z, t) around it can be "
            "given to randomwalk.wrap"
        )
    place = _place(folder, found[0])
    pickle = next(place.glob("*.bin"), None)
    if not pickles and pickle is not None and not any(place.glob("*.safetensors")):
        raise InputError(
            f"{where}: its weights are a pickle ({pickle.name}), which is read only on request: network.pickles: true, "
            "or load_denoiser(..., pickles=True); or save the pipeline again, which makes safetensors"
        )
    for file in sorted(place.glob("*.safetensors")):
        kind_of_weights(file)  # which tells a damaged one
    given: dict[str, Any] = {
        "use_safetensors": None if pickles else True,
        "torch_dtype": torch.float32,
        "low_cpu_mem_usage": False,
    }
    if not (place / WEIGHTS).is_file() and (place / HALF_WEIGHTS).is_file():
        given["variant"] = "fp16"
    load = library.UNet2DModel.from_pretrained
    unet: nn.Module = _by_library(where, "the UNet2DModel", lambda: load(place, **given))
    for name, value in unet.state_dict().items():
        if not value.isfinite().all():
            raise InputError(f"{where}: the weights {name} have values that are not finite")
    return unet


def _reason(kinds: Sequence[str], autoencoder: str | None) -> str:
    """Reason why a pipeline of these classes is no prior of images."""
    if autoencoder is not None:
        return f"it works on latents of {autoencoder}"
    known = next((kind for kind in kinds if kind in _NOT_HERE), None)
    return f"{known} {_NOT_HERE[known]}" if known is not None else f"it has {', '.join(kinds) or 'no network'}"


def _scheduler(where: str, folder: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    """Config of the pipeline's scheduler."""
    found = _component(index, "Scheduler")
    if found is None:
        raise InputError(
            f"{where}: has no scheduler, which would say how the network was trained: give the folder of the whole "
            "pipeline, or network.denoiser (denoiser= in Python), such as {name: vp, table: linear}"
        )
    return {"_class_name": found[1], **_json(_place(folder, found[0]) / SCHEDULER_CONFIG)}


# --- conventions -----------------------------------------------------------------------------------------------------


def _by_scheduler(
    library: Any, where: str, config: Mapping[str, Any], unet: nn.Module, null_label: int | None
) -> NetworkDenoiser:
    """The denoiser that the config of a scheduler describes."""
    kind = str(config["_class_name"])
    predicts = str(config.get("prediction_type", "epsilon"))
    about = f"{where}: scheduler {kind}"
    if kind in ("ScoreSdeVeScheduler", "KarrasVeScheduler"):
        # Both see pixels in [0, 1]; the range of the second is in units of [-1, 1].
        unit, low, high = (1.0, 0.01, 1348.0) if kind == "ScoreSdeVeScheduler" else (0.5, 0.02, 100.0)
        ends = unit * _number(config, "sigma_min", low, about), unit * _number(config, "sigma_max", high, about)
        return wrap(unet, "score", sigmas=ends, time="sigma", pixels=(0.0, 1.0), null_label=null_label)
    if kind.startswith("EDM"):
        if predicts not in ("epsilon", "v_prediction"):
            raise InputError(f"{about}: prediction_type {predicts!r} is not known; epsilon or v_prediction")
        network = Called(unet) if predicts == "epsilon" else Negated(unet)
        keys = [key for key in ("sigma_data", "sigma_min", "sigma_max") if key in config]
        settings = {key: _number(config, key, math.nan, about) for key in keys}
        return adapters.make("edm", network, null_label=null_label, **settings)
    flows = kind.startswith("FlowMatch") or predicts == "flow_prediction" or config.get("use_flow_sigmas")
    if predicts not in _PREDICTIONS:
        raise InputError(f"{about}: prediction_type {predicts!r} is not known; one of {', '.join(_PREDICTIONS)}")
    network_config: Any = unet.config
    whole = network_config.time_embedding_type == "learned"
    if flows:
        steps = _number(config, "num_train_timesteps", 1000.0, about)
        shift = _number(config, "shift" if "shift" in config else "flow_shift", 1.0, about)
        return wrap(unet, "flow", time_scale=steps, shift=shift, null_label=null_label)
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        raise InputError(f"{about} has no noise table that is known here; give network.denoiser")
    if config.get("timestep_type", "discrete") != "discrete":
        raise InputError(f"{about}: timestep_type {config['timestep_type']!r} is not known; give network.denoiser")
    table = _table(library, about, config)
    return wrap(unet, _PREDICTIONS[predicts], alphas_cumprod=table, whole_times=whole, null_label=null_label)  # type: ignore[arg-type]


def _number(config: Mapping[str, Any], key: str, default: float, about: str) -> float:
    """A positive number of a scheduler's config."""
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{about}: {key} is {value!r}; expected a positive number")
    return float(value)


def _table(library: Any, about: str, config: Mapping[str, Any]) -> Tensor:
    """alpha_bar as the library makes it, by which its trainings add noise."""
    made = getattr(library, str(config["_class_name"]), None)
    if made is None:
        raise InputError(
            f"{about} is not known to the installed diffusers {library.__version__}; give network.denoiser"
        )
    scheduler = _by_library(about, "its settings", lambda: made.from_config(dict(config)))
    if not isinstance(table := getattr(scheduler, "alphas_cumprod", None), Tensor):
        raise InputError(f"{about} has no noise table that is known here; give network.denoiser")
    # A last level of pure noise (of zero terminal SNR), for which some schedulers put 2^-24, is no noisy image.
    return table.double()[(table != 0) & (table != 2**-24)]


class Negated(Called):
    """A network whose output has the other sign, as EDM's with v_prediction."""

    def forward(self, z: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        return -super().forward(z, t, *labels)
