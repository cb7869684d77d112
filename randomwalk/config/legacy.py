"""Sampling tasks in the YAML layout of the paper's own code, translated into ours.

:func:`translate` turns a file whose keys :mod:`randomwalk.config.legacy_layout` has checked into our layout and says
which of its keys are not used; :func:`keys_without_effect` lists those that never had an effect.

Units: VP tasks work in [-1, 1] pixels, as we do. VE tasks work in [0, 1]; with x = 2u - 1 their sigma doubles, the
start u ~ Normal(0, I) becomes Normal(-1, 4 I), and noise of 0.2 is declared on [0, 1]. Step scale c (tau = c sigma^2)
and temperatures are the same in both. One difference is left: images that are not square are cut, not squeezed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel

from randomwalk.config import SampleConfig
from randomwalk.config.hints import keys_of
from randomwalk.config.legacy_layout import (
    BETA_MAX,
    NATIVE_NAMES,
    NO_EFFECT,
    NOT_NEEDED,
    UNET_LEVELS,
    Denoising,
    Inpainting,
    Langevin,
    MaskOptions,
    Measurement,
    SuperResolution,
    Uncondition,
    VETask,
    VPModel,
    VPTask,
)
from randomwalk.config.validate import schema_of, validate
from randomwalk.config.yamltext import Document
from randomwalk.errors import InputError

_SCHEDULES = {"sigmoid": "sigmoid", "linear": "linear", "denoiser": "pretrained"}
_THEIRS = {"machinesetup", "langevin_hyperparam", "model", "vp_diffusion", "imagedetail"}
_OURS = {"sampler", "network", "output", "denoiser", "bridge", "method"}
_README_NAMES: dict[tuple[str, ...], tuple[str, str]] = {
    ("gpu",): ("machinesetup", "gpu_idx"),
    ("machinesetup", "gpu"): ("machinesetup", "gpu_idx"),
    ("pretrained_check_point",): ("model", "pretrained_check_point"),
}
"""Keys that the README of the paper's code names differently."""
_SAME_IN_UNET = {
    "image_size",
    "num_res_blocks",
    "num_heads",
    "num_head_channels",
    "num_heads_upsample",
    "use_scale_shift_norm",
    "dropout",
    "resblock_updown",
    "use_new_attention_order",
}
_NOT_IN_NCSNPP = {
    "noise_perturbation_type",
    "pretrained_check_point",
    "name",
    "nonlinearity",
    "init_scale",
    "pretrained_model",
    "beta_min",
    "beta_max",
    "ema_rate",
    "normalization",
    "attention_type",
    "conv_size",
}


# --- translation -----------------------------------------------------------------------------------------------------


def is_legacy(data: dict[str, Any]) -> bool:
    """Whether a file is in the layout of the paper's code, for the most part if it has keys of both."""
    return len(_THEIRS & data.keys()) > len(_OURS & data.keys())


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """``key=value`` overrides of a file in this layout, split into those with its own keys and those with ours."""
    theirs, ours = [], []
    for override in overrides:
        dotted, equals, value = override.partition("=")
        path = tuple(dotted.strip().split("."))
        dotted = ".".join(_README_NAMES.get(path, path))
        bare = "." not in dotted and dotted not in SampleConfig.model_fields
        if (
            dotted in _keys_of_layout()
            or dotted.split(".")[0] in _sections_of_layout()
            or (bare and any(key.endswith(f".{dotted}") for key in _keys_of_layout()))
        ):
            theirs.append(f"{dotted}{equals}{value}")
        else:
            ours.append(override)
    return theirs, ours


@cache
def _keys_of_layout() -> set[str]:
    return {key for task in (VPTask, VETask) for key in keys_of(schema_of(task), {})}


@cache
def _sections_of_layout() -> set[str]:
    return (VPTask.model_fields.keys() | VETask.model_fields.keys()) - SampleConfig.model_fields.keys()


@cache
def _names_in_layout() -> dict[str, str]:
    """Names in this layout of our keys, or how to set those without one."""
    own = set(keys_of(schema_of(SampleConfig), {})) - _keys_of_layout()
    return {key: f"given as --set {key}=VALUE" for key in own} | {ours: key for key, ours in NATIVE_NAMES.items()}


def _use_own_names(document: Document) -> None:
    """Move keys with the names of the README to their places in the layout."""
    for path, own in _README_NAMES.items():
        section, (name, key) = document.data, own
        for part in path[:-1]:
            section = section.get(part, {}) if isinstance(section, dict) else {}
        if not isinstance(section, dict) or path[-1] not in section:
            continue
        target = document.data.setdefault(name, {})
        if not isinstance(target, dict):
            continue
        if key in target:
            said = f"{'.'.join(own)}{document.origin(own)}"
            raise InputError(
                f"{document.where}: {'.'.join(path)}{document.origin(path)}: is another name of {said}, "
                "which is there too; remove one of them"
            )
        target[key] = section.pop(path[-1])
        if path in document.origins:
            document.origins[own] = document.origins.pop(path)


def translate(document: Document) -> tuple[Document, tuple[str, ...]]:
    """The same task in our layout, and notes for the user on the keys that are not used.

    Raises:
        InputError: one message that lists the problems by the keys of the file.
    """
    _use_own_names(document)
    model = document.data.get("model")
    kind = model.get("noise_perturbation_type") if isinstance(model, dict) else None
    if isinstance(model, dict) and kind not in ("vp", "ve"):
        origin = document.origin(("model", "noise_perturbation_type") if kind is not None else ("model",))
        state = f"found {kind!r}; allowed" if kind is not None else "missing; expected"
        raise InputError(f"{document.where}: model.noise_perturbation_type{origin}: {state}: one of vp, ve")
    task: VPTask | VETask
    if kind == "ve":
        task = validate(VETask, document, _names_in_layout())
        data = _from_ve(task)
    else:
        task = validate(VPTask, document, _names_in_layout())
        data = _from_vp(task)
    _check_sizes(task, data["network"]["architecture"]["image_size"], document)
    data = _common(task) | data
    return Document(data, f"{document.where}, translated into the keys of this program"), _notes(task)


def _common(task: VPTask | VETask) -> dict[str, Any]:
    """The sections that do not depend on the kind of network, in the order of our files."""
    operator, gpu = task.measurement.operator.name, task.machinesetup.gpu_idx
    what = "uncond" if operator == "uncondition" else operator
    common: dict[str, Any] = {
        "seed": task.seed,
        "output": f"{task.machinesetup.save_dir.rstrip('/')}/{task.model.noise_perturbation_type}_{what}",
        "network": {},
        "batch_size": 1,
        "device": f"cuda:{gpu}" if gpu else "auto",
        "animation_frames": 24 if task.langevin_hyperparam.save_image else 0,
    }
    if operator == "uncondition":
        return common | {"num_images": 1}
    return common | {"data": {"path": task.data.root, "fit": "resize"}}


def _from_vp(task: VPTask) -> dict[str, Any]:
    table = {"beta_min": task.vp_diffusion.beta_at_clean, "beta_max": BETA_MAX, "num_timesteps": 1000}
    schedule = {"name": _SCHEDULES[task.langevin_hyperparam.schedule], **table}
    return {
        "network": {
            "path": task.model.pretrained_check_point,
            "architecture": _unet(task.model),
            "denoiser": {"name": "vp", **table},
        },
        **_measurement(task.measurement, [-1.0, 1.0]),
        "sampler": _sampler(task.langevin_hyperparam, schedule),
        "start": {"mean": 0.0, "std": 1.0},
    }


def _from_ve(task: VETask) -> dict[str, Any]:
    model = task.model
    schedule = {"name": "geometric", "sigma_min": 2 * model.sigma_min, "sigma_max": 2 * model.sigma_max}
    return {
        "network": {
            "path": model.pretrained_check_point,
            "weights": "raw",  # the paper's code loads the "model" entry, not the averages
            "architecture": {
                "name": "ncsnpp",
                **task.imagedetail.model_dump(),
                **model.model_dump(exclude=_NOT_IN_NCSNPP),
            },
            "denoiser": {"name": "ve", "sigma_min": model.sigma_min, "sigma_max": model.sigma_max},
        },
        **_measurement(task.measurement, [0.0, 1.0]),
        "sampler": _sampler(task.langevin_hyperparam, schedule),
        "start": {"mean": -1.0, "std": 2.0},
    }


def _unet(model: VPModel) -> dict[str, Any]:
    return {
        "name": "unet",
        **model.model_dump(include=_SAME_IN_UNET),
        "model_channels": model.num_channels,
        "out_channels": 6 if model.learn_sigma else 3,
        "attention_resolutions": [model.image_size // width for width in model.attention_widths],
        "channel_mult": [int(n) for n in model.channel_mult.split(",")]
        if model.channel_mult
        else UNET_LEVELS[model.image_size],
    }


def _sampler(langevin: Langevin, schedule: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "random_walk",
        "step_scale": langevin.scaling_constant_of_step_size,
        "initial_temperature": langevin.temperature,
        "schedule": {**schedule, "num_steps": langevin.num_iters},
    }


def _measurement(measurement: Measurement, pixel_range: list[float]) -> dict[str, Any]:
    operator = measurement.operator
    if isinstance(operator, Uncondition):
        return {}
    if isinstance(operator, SuperResolution):
        translated: dict[str, Any] = {"name": "super_resolution", "factor": operator.scale_factor}
    elif isinstance(operator, Denoising):
        translated = {"name": "denoising"}
    else:
        assert measurement.mask_opt is not None  # _what_its_operator_needs
        translated = {"name": "inpainting", **_mask(measurement.mask_opt)}
    noise = {"name": "gaussian", "std": measurement.noise.sigma, "pixel_range": pixel_range}
    return {"measurement": {"operator": translated, "noise": noise}}


def _mask(options: MaskOptions) -> dict[str, Any]:
    if options.mask_type == "random":
        assert options.mask_prob_range is not None  # _what_its_type_needs
        return {"mask": "random", "missing": options.mask_prob_range[0]}
    assert options.mask_len_range is not None
    low, high = options.mask_len_range  # numpy's randint: high is excluded, unless both are equal
    largest = max(low, high - 1)
    return {"mask": "box", "box_size": low if largest == low else [low, largest], "margin": options.margin[0]}


def _check_sizes(task: VPTask | VETask, image_size: int, document: Document) -> None:
    """Check that the places of the layout with the image size agree."""
    places: dict[tuple[str | int, ...], Any] = {}
    operator, mask = task.measurement.operator, task.measurement.mask_opt
    if isinstance(operator, SuperResolution) and operator.in_shape is not None:
        places[("measurement", "operator", "in_shape")] = operator.in_shape
    if isinstance(operator, Inpainting) and mask is not None and mask.image_size is not None:
        places[("measurement", "mask_opt", "image_size")] = mask.image_size
    for path, value in places.items():
        size = value[-2:] if isinstance(value, list) and len(value) == 4 else value
        expected = [image_size, image_size] if path[-1] == "in_shape" else image_size
        if size != expected:
            shape = f"a shape that ends in {image_size}, {image_size}" if path[-1] == "in_shape" else image_size
            key = ".".join(map(str, path)) + document.origin(path)
            raise InputError(f"{document.where}: {key}: found {value!r}; allowed: {shape}, the network's size")


# --- notes for the user ----------------------------------------------------------------------------------------------


def keys_without_effect() -> dict[str, list[str]]:
    """Keys that changed nothing in the paper's code, as dotted paths, by kind of network."""
    return {
        kind: [path for path, mark in _marked_fields(task) if mark == NO_EFFECT]
        for kind, task in (("vp", VPTask), ("ve", VETask))
    }


def _mark(model: type[BaseModel], key: str) -> str | None:
    return next((m for m in model.model_fields[key].metadata if m in (NO_EFFECT, NOT_NEEDED)), None)


def _marked_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """All marked keys of a class and its sections."""
    for key, info in model.model_fields.items():
        if mark := _mark(model, key):
            yield prefix + key, mark
        for section in (info.annotation, *getattr(info.annotation, "__args__", ())):
            if isinstance(section, type) and issubclass(section, BaseModel):
                yield from _marked_fields(section, f"{prefix}{key}.")


def _given(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Marked keys that a file sets."""
    for key in section.model_fields_set:
        if mark := _mark(type(section), key):
            yield prefix + key, mark
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            yield from _given(value, f"{prefix}{key}.")


def _unused_here(task: VPTask | VETask) -> list[str]:
    """Keys without an effect in this task, although they have one in others."""
    measurement = task.measurement
    unused = ["measurement.noise"] if measurement.operator.name == "uncondition" else []
    if measurement.mask_opt is None:
        return unused
    if measurement.operator.name != "inpainting":
        return [*unused, "measurement.mask_opt"]
    other = {"random": ("mask_len_range", "margin"), "box": ("mask_prob_range",)}[measurement.mask_opt.mask_type]
    return unused + [f"measurement.mask_opt.{key}" for key in other if key in measurement.mask_opt.model_fields_set]


def _grouped(paths: list[str]) -> str:
    """``a.b, a.c, d.e`` as ``a.(b, c), d.e``."""
    sections: dict[str, list[str]] = {}
    for path in sorted(paths):
        section, _, key = path.rpartition(".")
        sections.setdefault(section, []).append(key)
    words = [
        f"{section}.({', '.join(keys)})" if section and len(keys) > 1 else f"{section}.{', '.join(keys)}".lstrip(".")
        for section, keys in sections.items()
    ]
    return ", ".join(words)


def _notes(task: VPTask | VETask) -> tuple[str, ...]:
    unused = _unused_here(task)
    marked = [(path, mark) for path, mark in _given(task) if not path.startswith(tuple(f"{u}." for u in unused))]
    dead = [*unused, *(path for path, mark in marked if mark == NO_EFFECT)]
    spare = [path for path, mark in marked if mark == NOT_NEEDED]
    notes = ["the file is in the layout of the paper's own code; --dry-run prints it in ours"]
    if dead:
        notes.append(f"keys without effect, here and in the paper's code: {_grouped(dead)}")
    if spare:
        notes.append(f"keys not needed here: {_grouped(spare)}")
    if "seed" in task.model_fields_set:
        notes.append("seed was not read by the paper's code; here all draws depend on it")
    if task.measurement.operator.name == "uncondition":
        notes.append("one image is made, whatever data.root holds; more with --set num_images=N")
    return tuple(notes)
