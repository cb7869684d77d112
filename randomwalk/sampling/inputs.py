"""Everything besides the config on which the results of a run depend: noted in run.json, and compared on resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from randomwalk.config.base import PATH_KEYS, Settings
from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling.task import Task

ELSEWHERE = ("network.path", "data.path", "output")
"""Paths in a config that are no further inputs: weights and images have entries of their own."""


def inputs_of(task: Task) -> dict[str, Any]:
    """Digests of all files that the task reads, and what its batches and tiles are formed by."""
    path = Path(task.config.network.path)
    digest = _sha256(path) if path.is_file() else _sha256_of(task.denoiser.state_dict())
    found: dict[str, Any] = {"weights": path.name, "weights_sha256": digest, "images": [], "digests": []}
    found["precision"] = task.precision[0]
    found["files"] = {name: _sha256(Path(name)) for name in sorted(set(_other_files(task.config)))}
    if task.images.source is not None:
        masks = task.config.masks_beside
        found["images"] = task.images.names
        found["digests"] = [task.images.source.digest(i, masks) for i in range(len(task.images))]
    if task.budget is not None:
        found["memory"] = task.budget.gib
    if task.images.sizes is not None:
        found |= {"sizes": [size and list(size) for size in task.images.sizes], "grey": task.images.greys}
    return found


def read_inputs(folder: RunFolder, has_sizes: bool) -> dict[str, Any]:
    """Read what `inputs_of` said when the run in the folder began.

    Args:
        folder: of the run.
        has_sizes: whether images keep their own sizes, which are then among the inputs.

    Raises:
        InputError: run.json is not what a run writes.
    """
    inputs = folder.facts().get("inputs")
    if not (isinstance(inputs, dict) and _is_whole(inputs) and (inputs.get("sizes") or not has_sizes)):
        raise InputError(
            f"{folder.file('run.json')}: does not say what the run began with; if the weights and images have not "
            "changed since, remove this file to continue without it; else start a new run"
        )
    return inputs


def _is_whole(inputs: Mapping[str, Any]) -> bool:
    names, digests, sizes = inputs.get("images"), inputs.get("digests", []), inputs.get("sizes", [])
    return (
        isinstance(inputs.get("weights_sha256"), str)
        and isinstance(names, list)
        and isinstance(digests, list)
        and isinstance(inputs.get("files", {}), dict)
        and isinstance(inputs.get("memory", 1.0), int | float)
        and inputs.get("precision", "fp32") in ("fp32", "bf16")
        and isinstance(sizes, list)
        and len(sizes) in (0, len(names))
        and len(digests) in (0, len(names))
        and all(isinstance(text, str) for text in names)
        and all(size is None or _is_size(size) for size in sizes)
    )


def _is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)


def check_unchanged(task: Task, folder: RunFolder, skipped: set[int]) -> dict[str, Any]:
    """Compare the files with those with which the run began.

    Args:
        task: that is resumed.
        folder: of its run.
        skipped: images that could not be read, which may have been replaced since.

    Returns:
        What `inputs_of` says now.

    Raises:
        InputError: a file is not the one with which the run began.
    """
    now = inputs_of(task)
    if not folder.has("run.json"):
        return now
    then = read_inputs(folder, task.images.sizes is not None)
    data = task.config.data.path if task.config.data else ""
    changed = ""
    if then["weights_sha256"] != now["weights_sha256"]:
        changed = f"{task.config.network.path}: is not the file with which {folder.path} began"
    elif then["images"] != now["images"]:
        names = sorted(set(then["images"]) ^ set(now["images"]))
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        changed = f"{data}: the images are not those with which {folder.path} began ({shown})"
    else:
        changed = _changed_image(then, now, skipped, folder) or next(
            (f"{name}: is not the file with which {folder.path} began"
             for name, digest in now["files"].items() if then.get("files", now["files"]).get(name) != digest), ""
        )  # fmt: skip
        if not changed and then.get("grey") != now.get("grey") and then.get("sizes") == now.get("sizes"):
            changed = f"{data}: the images that are grey have changed since {folder.path} began"
    if changed:
        raise InputError(f"{changed}; restore what was there, or start a new run")
    return {**then, "digests": now["digests"], "files": now["files"]}


def _changed_image(then: Mapping[str, Any], now: Mapping[str, Any], skipped: set[int], folder: RunFolder) -> str:
    """Message about the first image that has changed; empty if none has."""
    for name, old, new in zip(now["images"], then.get("sizes", []), now.get("sizes", []), strict=False):
        if old and new and old != new:
            was, has = "{}x{}".format(*old), "{}x{}".format(*new)
            return f"{name}: has {has} pixels, but had {was} when {folder.path} began"
    before, after = then.get("digests", []), now["digests"]
    for i, (name, old, new) in enumerate(zip(now["images"], before, after, strict=False)):
        if old is not None and old != new and i not in skipped:
            return f"{name}: its contents have changed since {folder.path} began"
    return ""


def _other_files(section: Settings, prefix: str = "") -> Iterator[str]:
    """Paths in a config of existing files, besides those of weights and images: masks, kernels, arrays, tables."""
    for key in type(section).model_fields:
        value, dotted = getattr(section, key), f"{prefix}{key}"
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Settings):
                yield from _other_files(one, f"{dotted}.")
            elif key in PATH_KEYS and isinstance(one, str) and dotted not in ELSEWHERE and Path(one).is_file():
                yield one


def _sha256_of(state: Mapping[str, Tensor]) -> str:
    """Digest of weights that are in no file of their own, such as those of a folder or a download."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
