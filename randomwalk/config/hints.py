"""Pointers for unknown keys: where they belong, or their name here."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

Schema = dict[str, Any]

_DEEPEST = 4
_MOST = 3

_SYNONYMS = {
    "device": "gpu gpu_idx gpu_id cuda",
    "schedule.num_steps num_steps num_images": "steps n_steps iters num_iters n_iters iterations num_iterations "
    "sampling_steps timesteps diffusion_steps nfe",
    "num_images num_steps": "epochs num_epochs n_epochs max_steps train_steps",
    "network.path bridge.path initial_weights": "weights checkpoint ckpt checkpoint_path model_path weights_path "
    "pretrained pretrained_model pretrained_check_point model",
    "output": "out outdir out_dir output_dir output_path save_dir save_path log_dir results",
    "data.path": "root data_dir data_root dataset_path images input folder",
    "noise.std": "sigma noise_std noise_level noise_sigma",
    "learning_rate": "lr base_lr",
    "batch_size": "bs batch",
    "image_size": "size resolution img_size image_resolution",
    "num_samples num_images": "n_samples samples num",
    "guidance.labels labels": "label class classes class_labels class_cond",
    "guidance.scale": "cfg cfg_scale guidance_scale",
    "precision": "fp16 bf16 amp half dtype use_fp16 mixed_precision",
    "half_life_images": "ema_decay ema_rate",
    "denoiser.table": "noise_schedule beta_schedule",
    "operator.file": "kernel kernel_path mask_path",
    "measurement.operator": "task",
    "initial_temperature": "temperature",
    "workers": "num_workers",
    "gradient_clip": "grad_clip",
    "warmup_images": "warmup",
    "beta_min": "beta_start",
    "beta_max": "beta_end",
    "num_timesteps": "num_train_timesteps",
    "prediction": "prediction_type",
    "factor": "scale_factor",
}
"""Ends of our keys, of which the first that the config can have is meant, and their names in other programs."""


def resolve(node: Schema, schema: Schema) -> Schema:
    """``node`` with its references followed, and without the null of an optional key."""
    while True:
        branches = [branch for branch in node.get("anyOf", []) if branch.get("type") != "null"]
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        elif len(branches) == 1:
            node = branches[0]
        else:
            return node


def keys_of(schema: Schema, data: Any) -> list[str]:
    """The dotted keys that a config of this schema can have; only those of the chosen name where it has chosen one."""
    return list(dict.fromkeys(_keys(schema, schema, data, "")))


def _keys(node: Schema, schema: Schema, data: Any, prefix: str) -> Iterator[str]:
    data = data if isinstance(data, dict) else {}
    node = resolve(node, schema)
    branches = [node]
    if "discriminator" in node:
        mapping, tag = node["discriminator"]["mapping"], data.get(node["discriminator"]["propertyName"])
        chosen = [mapping[tag]] if isinstance(tag, str) and tag in mapping else list(mapping.values())
        branches = [resolve({"$ref": reference}, schema) for reference in chosen]
    elif "anyOf" in node:
        branches = [resolve(branch, schema) for branch in node["anyOf"]]
    for branch in branches:
        for key, value in branch.get("properties", {}).items():
            yield prefix + key
            if prefix.count(".") + 1 < _DEEPEST:
                yield from _keys(value, schema, data.get(key), f"{prefix}{key}.")


def elsewhere(path: str, value: Any, known: list[str], keys: list[str]) -> str:
    """A pointer for the unknown key ``path``, as in ``"did you mean a.b? "``; empty if none is known.

    Args:
        path: dotted.
        value: its value.
        known: keys of its section.
        keys: all keys of the config.
    """
    if isinstance(value, dict):
        for leaf in _leaves(path, value):
            if found := [k for k in keys if k.endswith(f".{leaf}")]:
                return f"did you mean {found[0]}? "
    section, _, key = path.rpartition(".")
    synonyms = [end for ends, names in _SYNONYMS.items() if key in names.split() for end in ends.split()]
    for wanted in (*synonyms, key):
        ends = [k for k in keys if k == wanted or k.endswith(f".{wanted}")]
        if inside := [k for k in ends if section and k.startswith(f"{section}.")]:
            ends = inside
        if ends:
            fewest = min(k.count(".") for k in ends)
            found = [k for k in ends if k.count(".") == fewest][:_MOST]
            near = f"{section}." if section and all(k.startswith(f"{section}.") for k in found) else ""
            shown = [k.removeprefix(near) if "." not in k.removeprefix(near) else k for k in found]
            return f"did you mean {' or '.join(shown)}? "
    if close := difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6):
        return f"did you mean {close[0]}? "
    last = {k.rpartition(".")[2]: k for k in reversed(keys)}
    far = difflib.get_close_matches(key.lower(), last, n=1, cutoff=0.8)
    return f"did you mean {last[far[0]]}? " if far else ""


def renamed(path: str, value: Any, names: Mapping[str, str]) -> str:
    """A pointer for a key, or for the keys of a section, of another layout, as in ``"here it is a.b; "``.

    Args:
        path: dotted.
        value: its value.
        names: our names of the keys of the other layout.
    """
    found = [leaf for leaf in _leaves(path, value) if leaf in names] or ([path] if path in names else [])
    if found == [path]:
        return f"here it is {names[path]}; "
    return f"here {', '.join(f'{leaf} is {names[leaf]}' for leaf in found)}; " if found else ""


def _leaves(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    else:
        yield path
