"""Sampling tasks in the YAML layout of the paper's own code, translated into ours.

:func:`translate` turns a file whose keys :mod:`randomwalk.config.legacy_layout` has checked into our layout and says
which of its keys are not used.

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
from randomwalk.config import legacy_layout as layout
from randomwalk.config.hints import keys_of
from randomwalk.config.networks import NCSNppSettings, UNetSettings
from randomwalk.config.validate import schema_of, validate
from randomwalk.config.yamltext import Document
from randomwalk.errors import InputError

_SCHEDULES = {"sigmoid": "sigmoid", "linear": "linear", "denoiser": "pretrained"}
_THEIRS = {"machinesetup", "langevin_hyperparam", "model", "vp_diffusion", "imagedetail"}
_OURS = {"sampler", "network", "output", "denoiser", "bridge", "method"}
_README_NAMES = {
    ("gpu",): ("machinesetup", "gpu_idx"),
    ("machinesetup", "gpu"): ("machinesetup", "gpu_idx"),
    ("pretrained_check_point",): ("model", "pretrained_check_point"),
}
"""Keys that the README of the paper's code names differently."""
_Task = layout.VPTask | layout.VETask


# --- translation -----------------------------------------------------------------------------------------------------


def is_legacy(data: dict[str, Any]) -> bool:
    """Whether a file is in the layout of the paper's code, for the most part if it has keys of both."""
    return len(_THEIRS & data.keys()) > len(_OURS & data.keys())


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """``key=value`` overrides of a file in this layout, split into those with its own keys and those with ours."""
    sections = {*layout.VPTask.model_fields, *layout.VETask.model_fields} - SampleConfig.model_fields.keys()
    theirs, ours = [], []
    for override in overrides:
        dotted, equals, value = override.partition("=")
        path = tuple(dotted.strip().split("."))
        dotted = ".".join(_README_NAMES.get(path, path))
        bare = "." not in dotted and dotted not in SampleConfig.model_fields
        known = any(key == dotted or (bare and key.endswith(f".{dotted}")) for key in _keys_of_layout())
        if known or dotted.split(".")[0] in sections:
            theirs.append(f"{dotted}{equals}{value}")
        else:
            ours.append(override)
    return theirs, ours


@cache
def _keys_of_layout() -> set[str]:
    return {key for task in (layout.VPTask, layout.VETask) for key in keys_of(schema_of(task), {})}


def _use_own_names(document: Document) -> None:
    """Move keys with the names of the README to their places in the layout."""
    for path, own in _README_NAMES.items():
        (name, key), section = own, document.data.get(path[0]) if path[1:] else document.data
        if not isinstance(section, dict) or path[-1] not in section:
            continue
        target = document.data.setdefault(name, {})
        if not isinstance(target, dict):
            continue
        if key in target:
            said = f"{'.'.join(own)}{document.origin(own)}"
            raise InputError(
                f"{document.where}: {'.'.join(path)}{document.origin(path)}: is another name for {said}, "
                "which is also given; remove one of them"
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
    own = set(keys_of(schema_of(SampleConfig), {})) - _keys_of_layout()
    pointers = {key: f"given as --set {key}=VALUE" for key in own}
    pointers |= {ours: theirs for theirs, ours in layout.NATIVE_NAMES.items()}
    task: _Task
    if kind == "ve":
        task = validate(layout.VETask, document, pointers)
        data = _from_ve(task)
    else:
        task = validate(layout.VPTask, document, pointers)
        data = _from_vp(task)
    _check_sizes(task, data["network"]["architecture"]["image_size"], document)

    langevin, gpu, operator = task.langevin_hyperparam, task.machinesetup.gpu_idx, task.measurement.operator.name
    what = "uncond" if operator == "uncondition" else operator
    schedule, pixel_range = data.pop("schedule") | {"num_steps": langevin.num_iters}, data.pop("pixel_range")
    data |= {
        "seed": task.seed,
        "output": f"{task.machinesetup.save_dir.rstrip('/')}/{task.model.noise_perturbation_type}_{what}",
        "batch_size": 1,
        "device": f"cuda:{gpu}" if gpu else "auto",
        "animation_frames": 24 if langevin.save_image else 0,
        "sampler": {
            "name": "random_walk",
            "step_scale": langevin.scaling_constant_of_step_size,
            "initial_temperature": langevin.temperature,
            "schedule": schedule,
        },
    }
    if operator == "uncondition":
        data |= {"num_images": 1}
    else:
        noise = {"name": "gaussian", "std": task.measurement.noise.sigma, "pixel_range": pixel_range}
        data |= {
            "data": {"path": task.data.root, "fit": "resize"},
            "measurement": {"operator": _operator(task.measurement), "noise": noise},
        }
    return Document(data, f"{document.where}, translated into the keys of this program"), _notes(task)


def _from_vp(task: layout.VPTask) -> dict[str, Any]:
    """The parts that depend on the kind of network: those of a variance-preserving one."""
    model = task.model
    table = {"beta_min": task.vp_diffusion.beta_at_clean, "beta_max": layout.BETA_MAX, "num_timesteps": 1000}
    listed = [int(n) for n in model.channel_mult.split(",") if n]
    architecture = {
        **model.model_dump(include=UNetSettings.model_fields.keys() - {"use_checkpoint"}),
        "name": "unet",
        "model_channels": model.num_channels,
        "out_channels": 6 if model.learn_sigma else 3,
        "attention_resolutions": [model.image_size // width for width in model.attention_widths],
        "channel_mult": listed or layout.UNET_LEVELS[model.image_size],
    }
    denoiser = {"name": "vp", **table}
    return {
        "network": {"path": model.pretrained_check_point, "architecture": architecture, "denoiser": denoiser},
        "schedule": {"name": _SCHEDULES[task.langevin_hyperparam.schedule], **table},
        "start": {"mean": 0.0, "std": 1.0},
        "pixel_range": [-1.0, 1.0],
    }


def _from_ve(task: layout.VETask) -> dict[str, Any]:
    """The parts that depend on the kind of network: those of a variance-exploding one."""
    model = task.model
    shared = model.model_dump(include=NCSNppSettings.model_fields.keys() - {"init_scale", "conv_size"})
    return {
        "network": {
            "path": model.pretrained_check_point,
            "weights": "raw",  # the paper's code loads the "model" entry, not the averages
            "architecture": {**task.imagedetail.model_dump(), **shared},
            "denoiser": {"name": "ve", "sigma_min": model.sigma_min, "sigma_max": model.sigma_max},
        },
        "schedule": {"name": "geometric", "sigma_min": 2 * model.sigma_min, "sigma_max": 2 * model.sigma_max},
        "start": {"mean": -1.0, "std": 2.0},
        "pixel_range": [0.0, 1.0],
    }


def _operator(measurement: layout.Measurement) -> dict[str, Any]:
    operator, options = measurement.operator, measurement.mask_opt
    if isinstance(operator, layout.SuperResolution):
        return {"name": "super_resolution", "factor": operator.scale_factor, "downsampling": "bicubic_mirrored"}
    if isinstance(operator, layout.Denoising):
        return {"name": "denoising"}
    assert options is not None  # the validators of Measurement and MaskOptions
    if options.mask_type == "random":
        assert options.mask_prob_range is not None
        return {"name": "inpainting", "mask": "random", "missing": options.mask_prob_range[0]}
    assert options.mask_len_range is not None
    low, high = options.mask_len_range  # numpy's randint: high is excluded, unless both are equal
    size = low if high - 1 <= low else [low, high - 1]
    return {"name": "inpainting", "mask": "box", "box_size": size, "margin": options.margin[0]}


def _check_sizes(task: _Task, size: int, document: Document) -> None:
    """Check that the size of the operator's images is the network's."""
    operator, mask = task.measurement.operator, task.measurement.mask_opt
    if isinstance(operator, layout.SuperResolution) and operator.in_shape is not None:
        path, value, allowed = "operator.in_shape", operator.in_shape, f"a shape that ends in {size}, {size}"
        agrees = isinstance(value, list) and len(value) in (2, 4) and value[-2:] == [size, size]
    elif isinstance(operator, layout.Inpainting) and mask is not None and mask.image_size is not None:
        path, value, allowed = "mask_opt.image_size", mask.image_size, str(size)
        agrees = value == size
    else:
        return
    if not agrees:
        origin = document.origin(("measurement", *path.split(".")))
        raise InputError(
            f"{document.where}: measurement.{path}{origin}: found {value!r}; allowed: {allowed}, the network's size"
        )


# --- notes for the user ----------------------------------------------------------------------------------------------


def _notes(task: _Task) -> tuple[str, ...]:
    measurement, mask = task.measurement, task.measurement.mask_opt
    unconditional = measurement.operator.name == "uncondition"
    # Keys without an effect in this task, although they have one in others.
    unused = ["measurement.noise"] if unconditional else []
    if mask is not None and measurement.operator.name != "inpainting":
        unused.append("measurement.mask_opt")
    elif mask is not None:
        other = {"random": {"mask_len_range", "margin"}, "box": {"mask_prob_range"}}[mask.mask_type]
        unused += [f"measurement.mask_opt.{key}" for key in other & mask.model_fields_set]
    marked = [(path, mark) for path, mark in _given(task) if not path.startswith(tuple(f"{u}." for u in unused))]
    dead = [*unused, *(path for path, mark in marked if mark == layout.NO_EFFECT)]
    spare = [path for path, mark in marked if mark == layout.NOT_NEEDED]
    notes = [
        (True, "the file is in the layout of the paper's own code; --dry-run prints it in ours"),
        (dead, f"keys without effect, here and in the paper's code: {_grouped(dead)}"),
        (spare, f"keys not needed here: {_grouped(spare)}"),
        ("seed" in task.model_fields_set, "seed was not read by the paper's code; here all draws depend on it"),
        (unconditional, "one image is made, whatever data.root holds; more with --set num_images=N"),
    ]
    return tuple(note for applies, note in notes if applies)


def _given(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Marked keys that a file sets, and their marks."""
    for key in section.model_fields_set:
        marks = type(section).model_fields[key].metadata
        yield from ((prefix + key, mark) for mark in (layout.NO_EFFECT, layout.NOT_NEEDED) if mark in marks)
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            yield from _given(value, f"{prefix}{key}.")


def _grouped(paths: list[str]) -> str:
    """``a.b, a.c, d.e`` as ``a.(b, c), d.e``."""
    sections: dict[str, list[str]] = {}
    for path in sorted(paths):
        section, dot, key = path.rpartition(".")
        sections.setdefault(section + dot, []).append(key)
    return ", ".join(
        f"{section}({', '.join(keys)})" if section and len(keys) > 1 else section + ", ".join(keys)
        for section, keys in sections.items()
    )
