"""Generators of damaged and hostile files, by kind, and the commands that read them; see fuzz_files.py.

A kind makes a `Trial` from random draws: it writes the file into a folder, and says which command gets it. All draws
come from the generator that it is given, so that a case is a function of the seed and its number.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import gzip
import io
import json
import os
import pickle
import shutil
import socket
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tifffile
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from randomwalk.cli import sample as sample_command
from randomwalk.cli import train as train_command
from randomwalk.denoisers.checkpoints import build_network, save_denoiser
from randomwalk.images import pictures
from randomwalk.images.sources import open_images
from randomwalk.rng import generator

Draws = np.random.Generator
ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "tests" / "reference"
SIZE = 8
UNET: dict[str, Any] = {
    "name": "unet", "image_size": SIZE, "in_channels": 1, "out_channels": 1, "model_channels": 8,
    "channel_mult": [1, 2],
    "num_res_blocks": 1, "attention_resolutions": [2], "norm_groups": 4, "num_head_channels": 8,
}  # fmt: skip
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "unet": (UNET, {"name": "vp"}),
    "given": (UNET, {"name": "vp", "table": {"alphas_cumprod": [0.9, 0.5, 0.1, 0.01]}}),
    "labels": ({**UNET, "num_classes": 3}, {"name": "sde", "sde": {"name": "vp"}, "time": "discrete", "null_label": 2}),
    "photo": (
        {"name": "photo_unet", "image_size": 32, "widths": [8, 8], "num_blocks": [1, 1], "code_size": 16},
        {"name": "edm", "sigma_min": 0.005, "sigma_max": 12.0},
    ),
    "ncsnpp": (
        {"name": "ncsnpp", "image_size": SIZE, "num_channels": 1, "nf": 8, "ch_mult": [1, 1], "num_res_blocks": 1,
         "attn_resolutions": [4], "num_scales": 10},
        {"name": "ve"},
    ),
    "ddpm_unet": (
        {"name": "ddpm_unet", "image_size": SIZE, "num_channels": 1, "nf": 8, "ch_mult": [1, 1], "num_res_blocks": 1,
         "attn_resolutions": []},
        {"name": "score", "sde": {"name": "power_ve", "base": 5.0}},
    ),
    "mlp": ({"name": "mlp", "hidden": 8, "num_blocks": 1, "code_size": 4}, {"name": "edm", "sigma_data": 2.0}),
}  # fmt: skip


@dataclass
class Trial:
    """A file, and the command that reads it.

    Attributes:
        what: damage done, in words.
        names: one of them must be in the message of a refusal.
        run: the command; returns its exit status.
        canary: file that appears if code in the file is executed.
    """

    what: str
    names: list[str]
    run: Callable[[], int]
    canary: Path


@dataclass(frozen=True)
class Kind:
    """Kind of files: how they are made, and how many there are of them in a turn."""

    make: Callable[[Draws, Material, Path], Trial]
    share: int = 1


def sample(config: Path, *changes: str, resume: Path | None = None, dry_run: bool = True) -> int:
    """Run sample.py in this process."""
    return _command(sample_command, "--diffusion_config", config, changes, resume, dry_run)


def train(config: Path, *changes: str, resume: Path | None = None, dry_run: bool = True) -> int:
    """Run train.py in this process."""
    return _command(train_command, "--config", config, changes, resume, dry_run)


def _command(module: Any, option: str, config: Path, changes: tuple[str, ...], resume: Any, dry_run: bool) -> int:
    words = ["--resume", str(resume)] if resume is not None else [option, str(config)]
    words += ["--set", *changes] if changes else []
    words += ["--dry-run"] if dry_run else []
    status: int = module.main(module.parser().parse_args(words))
    return status


@contextlib.contextmanager
def nothing_drawn() -> Iterator[None]:
    """Leave out the figures, which take most of the time of a short run."""

    def save(self: Figure, out: Any, **_: Any) -> None:
        Image.new("RGB", (8, 8)).save(out, "PNG")

    with mock.patch.object(Figure, "savefig", save):
        yield


# --- material --------------------------------------------------------------------------------------------------------


class Material:
    """Good files that are to be damaged, made once: weights, a picture, configs and run folders.

    Args:
        folder: where they are made.
        runs: whether to make run folders, which takes seconds.
    """

    def __init__(self, folder: Path, runs: bool = True) -> None:
        self.folder = folder
        self.weights: dict[str, Path] = {}
        draws = torch.Generator().manual_seed(0)
        for name, (network, denoiser) in NETWORKS.items():
            with torch.random.fork_rng(devices=[]):
                state = build_network(network).state_dict()
            state = {
                key: value if value.dtype == torch.float64 else torch.randn(value.shape, generator=draws) * 0.05
                for key, value in state.items()
            }
            self.weights[name] = folder / f"{name}.safetensors"
            save_denoiser(self.weights[name], {"network": network, "denoiser": denoiser}, state, state)
        self.state = {
            key.removeprefix("ema."): value
            for key, value in load_file(self.weights["unet"]).items()
            if key.startswith("ema.")
        }
        self.good = folder / "good.png"
        Image.fromarray(_pixels(generator(1), 20, 24, 3)).save(self.good)
        sampler = {
            "name": "random_walk",
            "step_scale": 0.7,
            "schedule": {"name": "geometric", "num_steps": 3, "sigma_max": 10.0},
        }
        base = {"seed": 1, "output": str(folder / "none"), "sampler": sampler, "device": "cpu", "animation_frames": 0}
        noise, blur = {"std": 0.1}, {"name": "gaussian_blur", "std": 1.0}
        self.prior = self._config("prior", {**base, "network": self._network("unet"), "num_images": 2})
        images = {**base, "network": self._network("unet"), "data": {"path": str(self.good)}}
        self.images = self._config("images", {**images, "measurement": {"operator": blur, "noise": noise}})
        photos = {**base, "network": self._network("photo"), "data": {"path": str(self.good), "fit": "keep"}}
        self.photos = self._config(
            "photos", {**photos, "measurement": {"operator": {"name": "denoising"}, "noise": noise, "given": True}}
        )
        masked = {"operator": {"name": "inpainting", "mask": "beside"}, "noise": noise, "given": True}
        self.beside = self._config("beside", {**photos, "measurement": masked})
        self.training = self._config("training", self._training())
        self.sets = self._config(
            "sets", {**self._training(), "data": {"dataset": "mnist", "path": "", "image_size": SIZE, "channels": 1}}
        )
        self.runs: dict[str, tuple[Callable[..., int], Path]] = {}
        self.bridge = folder / "none.yaml"
        if runs:
            self._make_runs(base, images)
        self.memory = 0.0  # GiB at the start

    def _config(self, name: str, config: Mapping[str, Any]) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        return path

    def _network(self, name: str) -> dict[str, str]:
        return {"path": str(self.weights[name])}

    def _training(self) -> dict[str, Any]:
        return {
            "seed": 1, "output": str(self.folder / "none"), "device": "cpu",
            "data": {"path": str(self.good), "image_size": SIZE, "channels": 1, "num_validation": 0},
            "network": UNET, "denoiser": {"name": "vp"}, "batch_size": 2, "num_images": 4, "checkpoint_images": 2,
            "validate_images": 100,
        }  # fmt: skip

    def _make_runs(self, base: dict[str, Any], images: dict[str, Any]) -> None:
        """Make the folder of a run of every program: it is not complete, or its summary is made again."""
        photographs = self.folder / "pictures"
        photographs.mkdir()
        for i in range(3):
            Image.fromarray(_pixels(generator(2, i), 10 + i, 12, 1)[..., 0]).save(photographs / f"{i}.png")
        measured = {"operator": {"name": "inpainting", "missing": 0.5}, "noise": {"std": 0.2}}
        run = self.folder / "run_images"
        task = {**images, "output": str(run), "data": {"path": str(photographs)}, "measurement": measured}
        sample(self._config("run_images", {**task, "num_samples": 2, "batch_size": 2}), dry_run=False)
        (run / "state" / "batch_00002.json").unlink()
        self.runs["run_images"] = (sample, run)

        run = self.folder / "run_training"
        data = {"path": str(photographs), "image_size": SIZE, "channels": 1, "num_validation": 1}
        changes = {"output": str(run), "data": data, "validate_images": 4, "log_every": 1}
        train(self._config("run_training", {**self._training(), **changes}), dry_run=False)
        self.runs["run_training"] = (train, run)

        run = self.folder / "run_points"
        points = {**base, "output": str(run), "network": self._network("mlp"), "num_images": 40, "batch_size": 20}
        sample(self._config("run_points", points), dry_run=False)
        (run / "state" / "batch_00001.json").unlink()
        self.runs["run_points"] = (sample, run)

        run = self.folder / "run_bridge"
        network = {"name": "mlp", "hidden": 8, "num_blocks": 1, "time_scale": 1000.0, "code_size": 4}
        ends = {"source": {"name": "gaussian"}, "target": {"name": "moons"}}
        short = {"iterations": 2, "first_steps": 2, "steps": 2, "num_pairs": 200, "num_steps": 4}
        measures = {"num_points": 200, "num_steps": 3, "floor_repeats": 1, "num_transport": 100, "animation_frames": 0}
        bridge = {"seed": 1, "output": str(run), "device": "cpu", "network": network, "batch_size": 50}
        bridge |= {"bridge": {**ends, **short}, "evaluation": measures, "ema": {"half_life_images": 10}}
        train(self._config("run_bridge", bridge), dry_run=False)
        self.runs["run_bridge"] = (train, run)
        self.weights["bridge"] = run / "model.safetensors"
        use = {"seed": 1, "output": str(self.folder / "none"), "device": "cpu", "num_steps": 3, "animation_frames": 0}
        self.bridge = self._config("bridge", {**use, "bridge": {"path": str(self.weights["bridge"])}})

        run = self.folder / "run_embedding"
        method = {"name": "score_embedding", "base": 2.0, "num_levels": 3, "density": {"name": "intensity"}}
        network = {"name": "ddpm_unet", "image_size": 16, "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1,
                   "attn_resolutions": [], "num_classes": 2}  # fmt: skip
        embedding = {
            "output": str(run), "device": "cpu", "method": method, "network": network, "batch_size": 2, "num_steps": 2,
            "data": {"path": str(ROOT / "data" / "photographs"), "image_size": 16, "num_images": 2},
        }  # fmt: skip
        train(self._config("run_embedding", embedding), dry_run=False)
        self.runs["run_embedding"] = (train, run)


def _pixels(draws: Draws, height: int, width: int, channels: int) -> np.ndarray:
    return draws.integers(0, 256, (height, width, channels), dtype=np.uint8)


# --- damage to bytes -------------------------------------------------------------------------------------------------


def pick(draws: Draws, choices: Any) -> Any:
    """One of several things, without making an array of them."""
    choices = list(choices)
    return choices[int(draws.integers(len(choices)))]


def damage(draws: Draws, data: bytes) -> tuple[str, bytes]:
    """Damage bytes in one of the ways of disks, copies and downloads."""
    how = pick(draws, ("cut", "bits", "bits", "zeros", "noise", "longer", "shifted", "swapped", "head", "text"))
    size = len(data)
    place = int(draws.integers(max(size, 1)))
    end = min(size, place + int(draws.integers(1, 200)))
    block = bytearray(data)
    match how:
        case "cut":
            data = data[: pick(draws, (place, place, size - 1, size // 2, min(size, place % 64)))]
        case "bits":
            for _ in range(int(draws.integers(1, 9))):
                if size:
                    block[pick(draws, (draws.integers(size), draws.integers(min(size, 300))))] ^= 1 << int(
                        draws.integers(8)
                    )
            data = bytes(block)
        case "zeros":
            block[place:end] = bytes(end - place)
            data = bytes(block)
        case "noise":
            block[place:end] = draws.bytes(end - place)
            data = bytes(block)
        case "longer":
            data = data + pick(draws, (draws.bytes(100), bytes(5000), data[:50]))
        case "shifted":
            data = data[:place] + draws.bytes(3) + data[place:]
        case "swapped":
            data = data[end:] + data[:end]
        case "head":
            data = draws.bytes(16) + data[16:]
        case "text":
            data = pick(draws, (b"", b"\0", b"<html>", b"{}", b"hello", b"\x80", b"PK", b"[" * 9000, bytes(100)))
    return f"{how} at {place} of {size}", data


def special(draws: Draws, path: Path) -> str:
    """Put something that is not a plain file at a path."""
    path.unlink(missing_ok=True)
    how = pick(draws, ("folder", "fifo", "socket", "zero", "null", "random", "dangling", "loop", "empty", "locked"))
    match how:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            here = os.open(path.parent, os.O_RDONLY)
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(f"/proc/self/fd/{here}/{path.name}")  # the path may be too long for a socket
            os.close(here)
        case "zero" | "null" | "random":
            path.symlink_to(f"/dev/{how}")
        case "dangling":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(path.name)
        case "empty":
            path.touch()
        case "locked":
            path.write_bytes(b"\0" * 600)
            path.chmod(0)
    return f"special file: {how}"


# --- damage to descriptions ------------------------------------------------------------------------------------------


def hostile(draws: Draws) -> Any:
    """A value that no setting expects."""
    return pick(
        draws,
        (-1, 0, 1, 2, 3, 0.5, -0.5, 10**9, 10**18, 10**400, 1e308, 1e-308, float("nan"), float("inf"), -float("inf"),
         "text", "", "10", [], [[]], [1], [0], [-1], [10**9], [1.5], ["a"], [1] * 1000, {}, {"name": "unet"}, {"a": 1},
         None, True, False, "x" * 10_000, "\x00\n\x1b[31m", 10**6, 10**4, 64, _deep(50), _deep(900), {"name": []},
         list(range(100, 0, -1)), [0.9, 0.95], [1e-9] * 5, [1.0, 0.0]),
    )  # fmt: skip


def _deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def mutated(draws: Draws, tree: Any, times: int = 1) -> tuple[str, Any]:
    """Change JSON at random places: another value, a missing key, another key."""
    tree, told = copy.deepcopy(tree), []
    for _ in range(times):
        places = list(_places(tree))
        path = pick(draws, places)
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        how = pick(draws, ("value", "value", "value", "number", "remove", "rename"))
        if how == "number" and isinstance(parent[path[-1]], int | float) and not isinstance(parent[path[-1]], bool):
            parent[path[-1]] = pick(draws, (-1, 2, 0.5, 10, 1000, 10**6, 10**9)) * parent[path[-1]]
        elif how == "remove":
            del parent[path[-1]]
        elif how == "rename" and isinstance(parent, dict):
            parent[pick(draws, ("", "name", "nf", "other", "a" * 300))] = parent.pop(path[-1])
        else:
            parent[path[-1]] = hostile(draws)
        told.append(f"{how} {path}")
        if not isinstance(tree, dict | list) or not list(_places(tree)):
            break
    return ", ".join(told), tree


def _places(tree: Any, path: tuple[Any, ...] = (), depth: int = 0) -> Any:
    """Paths of all values in JSON."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield (*path, key)
        if depth < 6:
            yield from _places(value, (*path, key), depth + 1)


def safetensors_of(header: bytes, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


# --- weights ---------------------------------------------------------------------------------------------------------


def weights(draws: Draws, material: Material, folder: Path) -> Trial:
    """A file with weights, for network.path, initial_weights or bridge.path."""
    path = folder / f"weights{pick(draws, ('.safetensors', '.pt', '.pth', '.ckpt', '.bin', ''))}"
    canary = folder / "canary"
    makers = (_damaged_weights, _described, _described, _described, _header, _tensors, _tensors, _objects, _objects,
              _malicious, _archive)  # fmt: skip
    make = pick(draws, makers)
    name = pick(draws, material.weights)
    if draws.random() < 0.06:
        what = special(draws, path)
    else:
        what = f"{make.__name__[1:]}: {make(draws, material, path, canary, name)}"
    architecture = {key: value for key, value in UNET.items() if key != "name"}
    described = [f"network.architecture={json.dumps({'name': 'unet', **architecture})}", "network.denoiser={name: vp}"]
    use = "bridge" if name == "bridge" else pick(draws, ("network", "network", "described", "initial", "raw"))

    def run() -> int:
        if use == "bridge":
            return sample(material.bridge, f"bridge.path={path}")
        if use == "initial":
            return train(material.training, f"initial_weights={path}")
        changes = [f"network.path={path}"] + (described if use == "described" else [])
        return sample(material.prior, *changes, *(["network.weights=raw"] if use == "raw" else []))

    # A changed range of noise levels is good, but not for the schedule of this task, whose message names that.
    return Trial(f"{name}, {use}, {path.name}: {what}", [path.name], run, canary)


def _damaged_weights(draws: Draws, material: Material, path: Path, canary: Path, name: str) -> str:
    kind = pick(draws, ("safetensors", "zip", "legacy", "unet", "ncsnpp"))
    data = material.weights[name].read_bytes()
    if kind in ("zip", "legacy"):
        out = io.BytesIO()
        torch.save(material.state, out, _use_new_zipfile_serialization=kind == "zip")
        data = out.getvalue()
    elif kind != "safetensors":
        file = {"unet": "unet_tinyA_weights.pt", "ncsnpp": "ncsnpp_tiny_checkpoint.pth"}[kind]
        data = (REFERENCE / file).read_bytes()
    what, data = damage(draws, data)
    path.write_bytes(data)
    return f"{kind}, {what}"


def _split(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _described(draws: Draws, material: Material, path: Path, canary: Path, name: str) -> str:
    """Change the description in a file."""
    header, data = _split(material.weights[name])
    config = json.loads(header["__metadata__"]["config"])
    if draws.random() < 0.1:
        config["classes"] = pick(draws, (["a"], [1], "abc", {"a": 1}, [["a"]], ["a"] * 10_000, [""], ["a\nb"], None))
    part = pick(draws, ("network", "network", "denoiser", "all"))
    if part == "all":
        what, config = mutated(draws, config, int(draws.integers(1, 4)))
    else:
        what, config[part] = mutated(draws, config[part], int(draws.integers(1, 3)))
    text = json.dumps(config)
    if draws.random() < 0.05:
        text = pick(draws, ("[" * 100_000, "{", "", "null", "[]", '{"network": {"name": "unet"}}', "NaN", '"a"'))
        what = f"text {text[:20]}"
    header["__metadata__"]["config"] = text
    path.write_bytes(safetensors_of(json.dumps(header).encode(), data))
    return what


def _header(draws: Draws, material: Material, path: Path, canary: Path, name: str) -> str:
    """Change the table of the tensors in a file."""
    header, data = _split(material.weights[name])
    key = pick(draws, [key for key in header if key != "__metadata__"])
    how = pick(draws, ("tree", "tree", "shape", "offsets", "dtype", "length", "deep", "metadata", "alias", "name"))
    entry, what = header[key], key
    match how:
        case "tree":
            what, header = mutated(draws, header, int(draws.integers(1, 3)))
        case "shape":
            entry["shape"] = pick(draws, ([0], [10**9, 10**9], [-1], [], [2**63], [*entry["shape"], 1], "a", [0.5]))
        case "offsets":
            entry["data_offsets"] = pick(draws, ([0, 0], [0, 10**12], [-4, 4], [4, 0], [1, 2], [], [0], ["a", "b"]))
        case "dtype":
            entry["dtype"] = pick(draws, ("F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "C64", "X", "", 3, "F4"))
        case "length":
            text = json.dumps(header).encode()
            length = pick(draws, (0, 1, 2**63, 2**64 - 1, len(text) - 1, len(text) + 1, 10**9))
            path.write_bytes(safetensors_of(text, data, length))
            return f"header of {length} bytes"
        case "deep":
            path.write_bytes(safetensors_of(b'{"a":' + b"[" * 100_000, data))
            return "deep header"
        case "metadata":
            header["__metadata__"] = pick(draws, ({"format": "randomwalk"}, {}, [], "a", {"format": 1}, None))
        case "alias":
            header[key + ".alias"] = entry
        case "name":
            header[pick(draws, ("", "ema.", "ema", "\u0000", "a" * 70_000, "ema." + "x." * 2000))] = header.pop(key)
    path.write_bytes(safetensors_of(json.dumps(header).encode(), data))
    return f"{how} {what[:100]}"


def _odd(draws: Draws, value: Tensor) -> tuple[str, Any]:
    """Something else than a tensor of weights of that shape."""
    flat = value.reshape(-1)
    odd: dict[str, Callable[[], Any]] = {
        "sparse": lambda: value.to_sparse(),
        "csr": lambda: value.reshape(value.shape[0], -1).to_sparse_csr(),
        "meta": lambda: value.to("meta"),
        "float8": lambda: value.to(torch.float8_e4m3fn),
        "float8_e5m2": lambda: value.to(torch.float8_e5m2),
        "complex": lambda: value.to(torch.complex64),
        "quantized": lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        "half": lambda: value.half(),
        "bfloat16": lambda: value.bfloat16(),
        "double": lambda: value.double(),
        "int": lambda: value.long(),
        "int8": lambda: value.to(torch.int8),
        "uint16": lambda: torch.zeros(value.shape, dtype=torch.uint16),
        "bool": lambda: value > 0,
        "nan": lambda: value * float("nan"),
        "inf": lambda: value / 0,
        "huge": lambda: value.double() * 1e300,
        "flat": lambda: flat,
        "scalar": lambda: flat[0].clone(),
        "none": lambda: torch.empty(0),
        "longer": lambda: torch.cat([value, value]),
        "more dimensions": lambda: value[None, None, None],
        "expanded": lambda: torch.zeros(1).expand(value.shape),
        "enormous": lambda: torch.zeros(1).expand(10**6, 10**6),
        "transposed": lambda: value.transpose(0, -1),
        "conjugated": lambda: value.to(torch.complex64).conj(),
        "parameter": lambda: nn.Parameter(value),
        "nested": lambda: torch.nested.nested_tensor([flat, flat[:1]]),
        "array": lambda: value.numpy(),
        "list": lambda: value.tolist(),
        "text": lambda: "weights",
        "nothing": lambda: None,
        "dictionary": lambda: {"weight": value},
        "number": lambda: 1.0,
        "storage": lambda: value.untyped_storage(),
        "bits16": lambda: torch.zeros(value.shape, dtype=torch.int16).view(torch.bits16),
    }
    name = pick(draws, odd)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return name, odd[name]()


def _tensors(draws: Draws, material: Material, path: Path, canary: Path, name: str) -> str:
    """Tensors of other kinds and shapes in a good state dict."""
    state: dict[Any, Any] = dict(material.state)
    key = pick(draws, state)
    how = pick(draws, ("odd", "odd", "odd", "odd", "all odd", "missing", "extra", "renamed", "alias", "key", "views"))
    match how:
        case "odd":
            what, state[key] = _odd(draws, state[key])
            how += f" {what}"
        case "all odd":
            seed = int(draws.integers(1000))
            for each, value in state.items():
                what, state[each] = _odd(np.random.default_rng(seed), value)
            how += f" {what}"
        case "missing":
            for each in list(state)[:: int(draws.integers(1, 9))]:
                del state[each]
        case "extra":
            state["extra." + "a" * int(draws.integers(1, 5000))] = torch.zeros(pick(draws, ((), (0,), (1, 0, 3), (5,))))
        case "renamed":
            state = {pick(draws, ("module.", "model.", "ema.", "x.")) + each: value for each, value in state.items()}
        case "alias":
            state = {each: state[key].expand(value.shape) if state[key].numel() == 1 else value.view(-1)[:1].expand(
                value.shape) for each, value in state.items()}  # fmt: skip
        case "key":
            state[pick(draws, (1, None, ("a",), b"a", 1.5, "\n", ""))] = state.pop(key)
        case "views":
            pool = torch.zeros(sum(value.numel() for value in state.values()))
            state = {each: pool[: value.numel()].view(value.shape) for each, value in state.items()}
    wrapped = _wrapped(draws, material, state)
    if draws.random() < 0.2:
        safe = {str(each): value for each, value in state.items() if isinstance(value, Tensor)}
        try:
            save_file(safe, path, {"format": "pt"})
            return f"{how} of {key} as safetensors"
        except Exception:  # not every tensor can be written so
            pass
    try:
        torch.save(wrapped, path, _use_new_zipfile_serialization=bool(draws.random() < 0.8))
    except Exception:
        torch.save(wrapped, path)
    return f"{how} of {key}"


def _wrapped(draws: Draws, material: Material, state: Any) -> Any:
    good = material.state
    return pick(
        draws,
        (state, state, state, {"model": state}, {"state_dict": state}, {"model": good, "ema": state},
         {"model": state, "ema": {"shadow_params": list(state.values())}}, OrderedDict(state),
         {"model": good, "ema": {"shadow_params": [0]}}, {"model": good, "ema": {}}, {"model": good, "ema": [1]},
         {"model": good, "ema": {"shadow_params": [torch.zeros(3)] * len(good)}}),
    )  # fmt: skip


def _objects(draws: Draws, material: Material, path: Path, canary: Path, name: str) -> str:
    """Other objects than state dicts."""
    good = material.state
    cyclic: dict[str, Any] = {}
    cyclic["model"] = cyclic
    deep: Any = {}
    for _ in range(300):
        deep = {"model": deep}
    odd, value = _odd(draws, good[pick(draws, good)])
    objects: dict[str, Any] = {
        odd: value, "list": list(good.values()), "tuple": (1, good), "text": "hello", "none": None, "number": 3,
        "cyclic": cyclic, "deep": deep, "empty": {}, "no tensors": {"model": 1}, "bytes": b"abc", "array": np.zeros(3),
        "set": {1, 2}, "two": {"model": good, "ema": None}, "names": dict.fromkeys(good, 1.0), "keys": {1: good},
        "many": {str(i): i for i in range(5000)}, "long": {"k" * 100_000: 1}, "control": {"\x1b[31m\n": 1, "model": 2},
        "optimizer": torch.optim.Adam([nn.Parameter(torch.zeros(2))]).state_dict(),
        "size": torch.Size([2]), "dtype": torch.float32, "device": torch.device("cpu"),
    }  # fmt: skip
    what = pick(draws, objects)
    how = pick(draws, ("zip", "legacy", "pickle"))
    try:
        if how == "pickle":
            path.write_bytes(pickle.dumps(objects[what], protocol=int(draws.integers(0, 6))))
        else:
            torch.save(objects[what], path, _use_new_zipfile_serialization=how == "zip")
    except Exception as error:
        path.write_bytes(pickle.dumps(str(error)))
    return f"{what} as {how}"


class _Code:
    """Pickles to a call."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


class _Program(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def _malicious(draws: Draws, material: Material, path: Path, canary: Path, name: str) -> str:
    """Files that call something as they are unpickled, which would leave a file behind."""
    touch = f"open({str(canary)!r}, 'w').close()"
    calls: dict[str, Callable[[], Any]] = {
        "system": lambda: _Code(os.system, f"touch {canary}"),
        "mkdir": lambda: _Code(os.mkdir, str(canary)),
        "exec": lambda: _Code(exec, touch),
        "eval": lambda: _Code(eval, touch),
        "open": lambda: _Code(open, str(canary), "w"),
        "path": lambda: _Code(Path.touch, canary),
        "tofile": lambda: _Code(np.ndarray.tofile, np.zeros(1), str(canary)),
        "save": lambda: _Code(torch.save, {}, str(canary)),
        "getattr": lambda: _Code(getattr, os, "system"),
        "module": lambda: _Program(),
    }
    what = pick(draws, calls)
    content = _wrapped(draws, material, {**material.state, "code": calls[what]()})
    how = pick(draws, ("zip", "legacy", "pickle", "raw", "script"))
    try:
        if how == "script":
            torch.jit.script(_Program()).save(str(path))
        elif how == "pickle":
            path.write_bytes(pickle.dumps(calls[what](), protocol=int(draws.integers(0, 6))))
        elif how == "raw":
            path.write_bytes(f"cos\nsystem\n(S'touch {canary}'\ntR.".encode())
            if draws.random() < 0.5:
                path.write_bytes(b"\x80\x02" + path.read_bytes())
        else:
            torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    except Exception as error:
        path.write_bytes(pickle.dumps(str(error)))
    if what == "save" or canary.exists():
        canary.unlink(missing_ok=True)
    return f"{what} as {how}"


def _archive(draws: Draws, material: Material, path: Path, canary: Path, name: str) -> str:
    """Zips: bombs, other members, members outside."""
    out = io.BytesIO()
    torch.save(material.state, out)
    with zipfile.ZipFile(out) as good:
        members = {info.filename: good.read(info) for info in good.infolist()}
    how = pick(draws, ("bomb", "compressed", "missing", "outside", "foreign", "twice", "nested", "empty", "damaged"))
    some = pick(draws, members)
    match how:
        case "bomb":
            members[pick(draws, (some, "archive/data.pkl", "archive/data/99"))] = bytes(1 << 30)
        case "missing":
            del members[some]
        case "outside":
            members = {pick(draws, ("../", "/tmp/", "a/../../")) + key: value for key, value in members.items()}
        case "foreign":
            members = {"a.txt": b"hello", "b.png": b"\x89PNG"}
        case "nested":
            members = {"weights.pt": out.getvalue()}
        case "empty":
            members = {}
        case "damaged":
            members[some] = damage(draws, members[some])[1]
    how += f" {some}"
    kind = zipfile.ZIP_DEFLATED if how.split()[0] in ("bomb", "compressed") else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", kind, compresslevel=1) as archive:
        warnings.simplefilter("ignore")
        for key, value in members.items():
            archive.writestr(key, value)
            if how.startswith("twice"):
                archive.writestr(key, value[::-1])
    return how


# --- arrays ----------------------------------------------------------------------------------------------------------


def npy(draws: Draws, good: np.ndarray, canary: Path) -> tuple[str, bytes]:
    """A .npy file with an array near a good one, or far from it."""
    odd: dict[str, Callable[[], np.ndarray]] = {
        "good": lambda: good,
        "empty": lambda: good[:0],
        "number": lambda: np.array(3.0),
        "fortran": lambda: np.asfortranarray(good),
        "big endian": lambda: good.astype(">f8"),
        "half": lambda: good.astype(np.float16),
        "long double": lambda: good.astype(np.longdouble),
        "complex": lambda: good.astype(complex),
        "bool": lambda: good > 0,
        "int8": lambda: (good * 100).astype(np.int8),
        "uint64": lambda: np.full(good.shape, 2**64 - 1, np.uint64),
        "text": lambda: good.astype("U8"),
        "bytes": lambda: good.astype("S8"),
        "time": lambda: np.zeros(good.shape, "M8[s]"),
        "void": lambda: np.zeros(good.shape, "V8"),
        "structured": lambda: np.zeros(good.shape, [("a", "f4"), ("b", "i4")]),
        "object": lambda: np.array([_Code(os.mkdir, str(canary)), None], object),
        "nan": lambda: np.where(good > good.mean(), np.nan, good),
        "inf": lambda: good / 0,
        "zero": lambda: good * 0,
        "negative": lambda: -good,
        "tiny": lambda: good * 1e-320,
        "huge": lambda: good * 1e308,
        "more dimensions": lambda: good[None, None],
        "flat": lambda: good.ravel(),
        "three columns": lambda: np.zeros((5, 3)),
        "one": lambda: np.ones((1,) * good.ndim),
        "large": lambda: np.ones((700, 700)),
        "many dimensions": lambda: np.zeros((1,) * 60),
    }
    what = pick(draws, odd)
    out = io.BytesIO()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        array = odd[what]()
    np.save(out, array, allow_pickle=True)
    data = out.getvalue()
    how = pick(draws, ("plain", "plain", "plain", "damage", "header", "npz", "named", "text"))
    if how == "damage":
        how, data = damage(draws, data)
    elif how == "header":
        shape = pick(draws, ("(1000000000, 1000000000)", "(-1, 5)", "()", "(3,)", "'a'", "(2.5,)", "(0, 99999999999)",
                             "(" * 300, "(9999999999,)", "[5, 5]", "(True, 5)", "(10000000, 100)"))  # fmt: skip
        kind = pick(draws, ("<f8", "|O", "<f4", "a", "", "<f99", "|V0", "<U0"))
        text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
        data = b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + data[128:]
        how = f"header {shape[:30]} {kind}"
    elif how == "npz":
        out = io.BytesIO()
        np.savez(out, array)
        data = out.getvalue()
    elif how == "named":
        data = data[128:]
    elif how == "text":
        data = pick(draws, (b"1 2 3", b"1,2\n3", b"a b", b"1e999 0", b"nan nan", b"\xff\xfe", b"", b"0.9\n0.5\n0.1",
                            b"1 2\n3", b"9" * 10_000, b"# only a comment", b"0.5," * 30_000 + b"0.4", b"\0" * 50))  # fmt: skip  # noqa: E501
    return f"{what}, {how}", data


def arrays(draws: Draws, material: Material, folder: Path) -> Trial:
    """An array: a kernel, a table of alphas or betas, or points for a bridge."""
    use = pick(draws, ("kernel", "table", "table", "points") if material.runs else ("kernel", "table"))
    canary = folder / "canary"
    good = {
        "kernel": np.outer([1, 2, 1], [1.0, 3, 1]),
        "table": np.linspace(0.99, 0.01, 20),
        "points": draws.normal(size=(30, 2)),
    }[use]
    path = folder / f"array{pick(draws, ('.npy', '.npy', '.npy', '.txt', '.pt', '.npz', '.mat', '.h5', '.png', ''))}"
    if draws.random() < 0.06:
        what = special(draws, path)
    elif path.suffix == ".pt" and draws.random() < 0.7:
        what, value = _odd(draws, torch.from_numpy(good))
        try:
            torch.save(value, path)
        except Exception:
            torch.save(0, path)
        if draws.random() < 0.2:
            torch.save(_Code(os.mkdir, str(canary)), path)
    else:
        what, data = npy(draws, good, canary)
        path.write_bytes(data)

    def run() -> int:
        if use == "points":
            return sample(material.bridge, f"points={path}", "direction=forward")
        if use == "kernel":
            given = f"measurement.operator={{name: blur, file: {json.dumps(str(path))}, boundary: circular}}"
            return sample(material.images, given)
        key = "betas" if path.name.endswith("y") else "alphas_cumprod"
        plain = folder / "plain.pt"
        torch.save(material.state, plain)
        return sample(
            material.prior, f"network.path={plain}", f"network.architecture={json.dumps(UNET)}",
            f"network.denoiser={{name: vp, table: {{{key}: {json.dumps(str(path))}}}}}",
        )  # fmt: skip

    names = [path.name, "sampler.schedule: sigma = "] if use == "table" else [path.name]  # a good table of other levels
    return Trial(f"{use}, {path.name}: {what}", names, run, canary)


# --- pictures --------------------------------------------------------------------------------------------------------


def picture(draws: Draws) -> tuple[str, bytes]:
    """A good picture in one of many formats; its suffix and bytes."""
    height, width = (int(n) for n in draws.integers(1, 40, 2))
    height, width = pick(draws, ((1, 1), (1, width), (height, 1), *[(height, width)] * 6))
    grey, colour = _pixels(draws, height, width, 1)[..., 0], _pixels(draws, height, width, 3)
    image, out = Image.fromarray(colour), io.BytesIO()
    formats = ("png", "png", "jpg", "jpg", "tif", "tif", "tifffile", "tifffile", "webp", "gif", "bmp", "ppm", "other")
    match pick(draws, formats):
        case "png":
            mode = pick(draws, ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"))
            other = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
            exif = Image.Exif()
            exif[0x0112] = pick(draws, (1, 3, 6, 8, 0, 99))
            info = PngInfo()
            info.add_itxt("XML:com.adobe.xmp", _XMP.decode(), zip=bool(draws.integers(2)))
            info.add(b"gAMA", bytes(4))
            about = ({}, {"exif": exif}, {"icc_profile": draws.bytes(200)}, {"exif": _camera(draws), "pnginfo": info})
            frames = [other] * int(draws.integers(0, 2))
            other.save(out, "PNG", save_all=bool(frames), append_images=frames, **pick(draws, about))
            return ".png", out.getvalue()
        case "jpg":
            other = image.convert(pick(draws, ("L", "RGB", "CMYK")))
            profile = pick(draws, (None, draws.bytes(300)))
            about = pick(draws, ({}, {"exif": _camera(draws), "xmp": _XMP, "comment": draws.bytes(9), "dpi": (9, 300)}))
            other.save(out, "JPEG", progressive=bool(draws.integers(2)), icc_profile=profile, **about)
            return ".jpg", out.getvalue()
        case "tif":
            mode = pick(draws, ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "F", "I", "I;16"))
            other = Image.fromarray(grey.astype(np.uint16)) if mode == "I;16" else image
            if mode == "LAB":
                other = Image.merge("LAB", image.split())
            elif mode != "I;16":
                other = image.convert(mode)
            kinds = (None, "tiff_lzw", "tiff_deflate", "packbits")
            pages = [other] * int(draws.integers(0, 3))
            other.save(out, "TIFF", compression=pick(draws, kinds), save_all=True, append_images=pages)
            return ".tif", out.getvalue()
        case "tifffile":
            kind = pick(draws, ("uint16", "uint16", "uint8", "float32", "float64", "int16", "uint32", "complex64"))
            shape = pick(draws, ((height, width), (height, width, 3), (height, width, 4), (2, height, width, 3),
                                 (3, height, width)))  # fmt: skip
            array = (draws.random(shape) * (60_000 if kind == "uint16" else 100)).astype(kind)
            colours = shape[-1] in (3, 4) and len(shape) > 2
            meaning = pick(draws, ("unassalpha", "assocalpha", "unspecified"))
            apart = shape == (3, height, width) and bool(draws.integers(2))
            tifffile.imwrite(
                out, array, byteorder=pick(draws, "<>"), compression=pick(draws, (None, "zlib")),
                photometric="rgb" if colours or apart else pick(draws, (None, "miniswhite")),
                planarconfig="separate" if apart else None, bigtiff=bool(draws.integers(2)),
                rowsperstrip=pick(draws, (None, 1, 5)),
                extrasamples=[meaning] if colours and shape[-1] == 4 else None,
            )  # fmt: skip
            return ".tiff", out.getvalue()
        case "webp":
            frames = [image] * int(draws.integers(0, 3))
            image.save(out, "WEBP", lossless=bool(draws.integers(2)), save_all=True, append_images=frames)
            return ".webp", out.getvalue()
        case "gif":
            frames = [image.transpose(Image.Transpose.ROTATE_180)] * int(draws.integers(0, 3))
            image.save(out, "GIF", save_all=True, append_images=frames)
            return ".gif", out.getvalue()
        case "bmp":
            image.convert(pick(draws, ("1", "L", "P", "RGB"))).save(out, "BMP")
            return ".bmp", out.getvalue()
        case "other":
            suffix, kind = pick(draws, _OTHERS)
            image.convert({"XBM": "1", "PCX": "RGB"}.get(kind, pick(draws, ("RGB", "RGBA")))).save(out, kind)
            return suffix, out.getvalue()
    image.convert(pick(draws, ("L", "RGB"))).save(out, "PPM")
    return pick(draws, (".ppm", ".pgm")), out.getvalue()


_OTHERS = ((".tga", "TGA"), (".pcx", "PCX"), (".jp2", "JPEG2000"), (".avif", "AVIF"), (".sgi", "SGI"), (".dds", "DDS"),
           (".ico", "ICO"), (".xbm", "XBM"))  # fmt: skip
_XMP = b"""<x:xmpmeta tiff:Orientation="6" exif:GPSLatitude="48,8N"><exif:GPSMapDatum/></x:xmpmeta>"""


def _camera(draws: Draws) -> Image.Exif:
    """EXIF data with directories in them."""
    made = Image.Exif()
    made[0x0112], made[0x010F] = pick(draws, (1, 3, 6, 8)), "maker"
    made.get_ifd(0x8769)[0x927C] = draws.bytes(int(draws.integers(0, 90)))
    made.get_ifd(0x8825)[1] = "N"
    return made


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, depth: int, colour: int, data: bytes, interlaced: int = 0, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + b"".join(extra) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    )


def hostile_picture(draws: Draws) -> tuple[str, str, bytes]:
    """A picture whose header lies, or that is far larger than its file; what it is, its suffix and bytes."""
    side = pick(draws, (0, 1, 2**16, 2**31 - 1, 2**32 - 1, 20_000, 100_000))
    other = pick(draws, (0, 1, 8, side))
    sizes = f"{side} x {other}"
    match pick(draws, ("png", "png16", "bomb", "bomb16", "text", "bmp", "gif", "tif", "ppm", "jpg", "pgm", "webp")):
        case "png":
            depth, colour = pick(draws, (1, 2, 4, 8, 3, 255)), pick(draws, (0, 2, 3, 4, 6, 5))
            return f"png {sizes} {depth} {colour}", ".png", _png(side, other, depth, colour, zlib.compress(bytes(100)))
        case "png16":
            colour, interlaced = pick(draws, (0, 2, 3, 4, 6, 5)), pick(draws, (0, 1, 2))
            return f"png16 {sizes}", ".png", _png(side, other, 16, colour, zlib.compress(bytes(100)), interlaced)
        case "bomb":
            side = pick(draws, (4_000, 14_000, 30_000))
            return f"bomb {side}", ".png", _png(side, side, 1, 0, _zeros((side // 8 + 1) * side))
        case "bomb16":
            side = pick(draws, (1_000, 4_000, 14_000, 30_000))
            return f"bomb of 16 bits {side}", ".png", _png(side, side, 16, 2, _zeros(1 << 28))
        case "text":
            text = _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 27), 1))
            return "text bomb", ".png", _png(1, 1, 8, 0, zlib.compress(b"\0\0"), 0, text)
        case "bmp":
            head = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 100, 0, 0, 54, 40, min(side, 2**31 - 1),
                               -min(other, 2**31 - 1), 1, pick(draws, (0, 1, 8, 24, 32, 99)), 0, 0, 0, 0, 0, 0)  # fmt: skip  # noqa: E501
            return f"bmp {sizes}", ".bmp", head + bytes(50)
        case "gif":
            head = b"GIF89a" + struct.pack("<HHBBB", side & 0xFFFF, other & 0xFFFF, 0x80, 0, 0) + bytes(6)
            frame = b"," + struct.pack("<HHHHB", 0, 0, other & 0xFFFF, side & 0xFFFF, 0) + b"\x02\x02\x44\x01\x00;"
            return f"gif {sizes}", ".gif", head + frame
        case "tif":
            tags = [(256, 4, side), (257, 4, other), (258, 3, pick(draws, (1, 8, 16, 64, 0))), (259, 3, 1),
                    (262, 3, pick(draws, (1, 2, 9))), (273, 4, pick(draws, (8, 0, 2**32 - 1))),
                    (277, 3, pick(draws, (0, 1, 3, 60000))), (278, 4, pick(draws, (0, 1, 2**31))),
                    (279, 4, pick(draws, (0, 100, 2**32 - 1)))]  # fmt: skip
            body = b"".join(struct.pack("<HHII", tag, kind, 1, value & 0xFFFFFFFF) for tag, kind, value in tags)
            following = pick(draws, (0, 8, 9999))
            return (
                f"tif {sizes}",
                ".tif",
                (struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + body + struct.pack("<I", following) + bytes(200)),
            )
        case "ppm" | "pgm":
            kind, top = pick(draws, ("P6", "P5", "P4", "P1", "P3", "Pf")), pick(draws, (255, 65535, 0, 10**9, "a"))
            return f"ppm {sizes} {top}", ".ppm", f"{kind} {side} {other} {top}\n".encode() + bytes(100)
        case "jpg":
            out = io.BytesIO()
            Image.new("RGB", (8, 8)).save(out, "JPEG")
            data = bytearray(out.getvalue())
            place = data.index(b"\xff\xc0") + 5
            data[place : place + 4] = struct.pack(">HH", side & 0xFFFF, other & 0xFFFF)
            return f"jpg {sizes}", ".jpg", bytes(data)
    frame = struct.pack("<I", 0x9D012A) + struct.pack("<HH", side & 0x3FFF, other & 0x3FFF)
    return f"webp {sizes}", ".webp", b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8 " + struct.pack("<I", 18) + frame


def _zeros(count: int) -> bytes:
    """Zeros, compressed, without holding all of them."""
    packer, parts = zlib.compressobj(1), []
    for _ in range(count >> 20):
        parts.append(packer.compress(bytes(1 << 20)))
    return b"".join([*parts, packer.compress(bytes(count & 0xFFFFF)), packer.flush()])


def any_picture(draws: Draws) -> tuple[str, str, bytes]:
    """A good, damaged or hostile picture."""
    if draws.random() < 0.25:
        return hostile_picture(draws)
    suffix, data = picture(draws)
    what = "good"
    if draws.random() < 0.75:
        what, data = damage(draws, data)
    if draws.random() < 0.08:
        suffix = pick(draws, (".png", ".jpg", ".tif", ".gif", ".webp", ".bmp", ".npy", ".PNG", ""))
    return f"{suffix} {what}", suffix, data


def images(draws: Draws, material: Material, folder: Path) -> Trial:
    """A picture as the only one, in a folder or zip with good ones, or among those of a training."""
    what, suffix, data = any_picture(draws)
    inside = folder / "inside"
    inside.mkdir()
    path = inside / f"picture{suffix}"
    if draws.random() < 0.06:
        what = special(draws, path)
    else:
        path.write_bytes(data)
    place = pick(draws, ("alone", "folder", "folder", "zip", "broken zip", "training"))
    names = [path.name]
    given = inside
    if place == "alone":
        given = path
    else:
        shutil.copy(material.good, inside / "a_good.png")
    if "zip" in place:
        given = folder / "pictures.zip"
        with zipfile.ZipFile(given, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("a_good.png", path.name):
                if (inside / name).is_file():
                    archive.write(inside / name, name)
        names.append(given.name)
        if place == "broken zip":
            how, broken = damage(draws, given.read_bytes())
            what += f", zip {how}"
            given.write_bytes(broken)
    config = pick(draws, (material.images, material.photos))
    fit = pick(draws, ("resize", "crop", "pad"))
    page = pick(draws, (1, 1, 2, "all")) if place == "alone" else pick(draws, (1, "all"))

    def run() -> int:
        if place == "training":
            return train(material.training, f"data.path={given}", f"data.fit={fit}")
        changes = [f"data.fit={fit}"] if config == material.images else []
        changes += [f"data.page={page}", f"data.gps={str(page == 1).lower()}"]
        status = sample(config, f"data.path={given}", *changes)
        source = open_images(given).of_page(page)
        for i in range(len(source)) if status == 0 else ():
            x = source.load(i, 3, source.size(i), "keep")
            if x.numel() < 2**16:  # not a bomb, whose result takes seconds
                written = pictures.encode(x, source.picture(i), gps=page == 1)
                assert pictures.read(written, "the result").pixels.shape[:2] == source.size(i)
            assert x.shape[1:] == source.size(i) and bool((x.abs() <= 1).all()), (x.shape, x.min(), x.max())
        return status

    return Trial(f"{place}, {config.stem}: {what}", names, run, folder / "canary")


def masks(draws: Draws, material: Material, folder: Path) -> Trial:
    """A picture as mask, as mask beside another, or as kernel."""
    what, suffix, data = any_picture(draws)
    use = pick(draws, ("mask", "beside", "kernel"))
    photo = folder / "photo.png"
    shutil.copy(material.good, photo)
    if draws.random() < 0.3 and use != "kernel":  # of the right size
        out = io.BytesIO()
        side = (24, 20) if use == "beside" else (SIZE, SIZE)
        Image.fromarray(_pixels(draws, side[1], side[0], 1)[..., 0]).save(out, "PNG")
        what, data = damage(draws, out.getvalue())
        suffix = ".png"
    path = folder / (f"photo_mask{suffix}" if use == "beside" else f"file{suffix}")
    if draws.random() < 0.06:
        what = special(draws, path)
    else:
        path.write_bytes(data)
    operator = {"mask": "{name: inpainting, mask: file, file: %s}", "kernel": "{name: blur, file: %s}"}.get(use, "")

    def run() -> int:
        if use == "beside":
            return sample(material.beside, f"data.path={photo}")
        return sample(material.images, f"measurement.operator={operator % json.dumps(str(path))}")

    names = [path.name, "photo_mask"] if use == "beside" else [path.name]
    return Trial(f"{use}, {path.name}: {what}", names, run, folder / "canary")


# --- standard sets ---------------------------------------------------------------------------------------------------


def sets(draws: Draws, material: Material, folder: Path) -> Trial:
    """The files of MNIST, one of them damaged."""
    places = folder / "MNIST" / "raw"
    places.mkdir(parents=True)
    count = 300
    for part in ("train", "t10k"):
        for name, array in (
            ("images-idx3", draws.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
            ("labels-idx1", np.arange(count, dtype=np.uint8) % 10),
        ):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (places / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes(), 1))
    path = places / pick(draws, ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"))
    how = pick(draws, ("packed", "unpacked", "unpacked", "header", "header", "bomb", "plain", "special"))
    raw, what = gzip.decompress(path.read_bytes()), ""
    match how:
        case "packed":
            what, data = damage(draws, path.read_bytes())
            path.write_bytes(data)
        case "unpacked":
            what, data = damage(draws, raw)
            path.write_bytes(gzip.compress(data, 1))
        case "header":
            sizes = [int(pick(draws, (0, 1, 28, 300, 2**32 - 1, 65536))) for _ in range(int(draws.integers(0, 5)))]
            kind = pick(draws, (8, 8, 8, 13, 0))
            head = struct.pack(f">HBB{len(sizes)}I", 0, kind, pick(draws, (len(sizes), 1, 3, 255)), *sizes)
            path.write_bytes(gzip.compress(head + raw[16:], 1))
            what = str(sizes)
        case "bomb":
            path.write_bytes(gzip.compress(raw[:4], 1) + gzip.compress(bytes(1 << 29), 1) * 8)
        case "plain":
            path.unlink()
            path = path.with_suffix("")
            what, data = damage(draws, raw)
            path.write_bytes(data)
        case "special":
            what = special(draws, path)

    def run() -> int:
        offline, downloads = "randomwalk.images.standard_sets.getproxies", "socket.create_connection"
        with mock.patch(offline, return_value={}), mock.patch(downloads, side_effect=OSError("no network")):
            return train(material.sets, f"data.path={folder}")

    return Trial(
        f"{how} {path.name}: {what}",
        [path.name, "mnist"],
        run,
        folder / "canary",
    )


# --- run folders -----------------------------------------------------------------------------------------------------


def runs(draws: Draws, material: Material, folder: Path) -> Trial:
    """The folder of a run, one of whose files is damaged."""
    name = pick(draws, material.runs)
    command, origin = material.runs[name]
    run = folder / origin.name
    shutil.copytree(origin, run)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    often = [path for path in files if path.suffix in (".json", ".pt", ".csv", ".safetensors", ".npy", ".yaml")]
    path = pick(draws, pick(draws, (files, often, often)))
    canary = folder / "canary"
    how = pick(draws, ("bytes", "special", "other", "other", "other"))
    if how == "special":
        what = special(draws, path)
    elif how == "bytes" or path.suffix not in (".json", ".npy", ".pt", ".csv", ".safetensors"):
        what, data = damage(draws, path.read_bytes())
        path.write_bytes(data)
    elif path.suffix == ".json":
        what, value = mutated(draws, json.loads(path.read_text()), int(draws.integers(1, 4)))
        if draws.random() < 0.3:
            value = pick(draws, ({}, [], None, "a", 1, {"inputs": {}}, {"rows": []}, _deep(900)))
        path.write_text(json.dumps(value))
    elif path.suffix == ".npy":
        what, data = npy(draws, np.load(path), canary)
        path.write_bytes(data)
    elif path.suffix == ".csv":
        rows = list(csv.reader(path.read_text().splitlines()))
        for _ in range(2):
            row = pick(draws, rows)
            if row:
                row[int(draws.integers(len(row)))] = pick(
                    draws, ("", "a", "nan", "1e999", "-5", "\0", '"', "é" * 200_000)
                )
        what, text = "cells", io.StringIO()
        csv.writer(text).writerows(rows)
        path.write_text(text.getvalue())
    elif path.suffix == ".pt":
        what = _checkpoint(draws, path, canary)
    else:
        what = _described(draws, material, path, canary, pick(draws, material.weights))
    return Trial(
        f"{name}/{path.relative_to(run)}: {what}",
        [path.name, str(run)],
        lambda: command(run, resume=run, dry_run=False),
        canary,
    )


def _checkpoint(draws: Draws, path: Path, canary: Path) -> str:
    """Change what is in a checkpoint."""
    content = torch.load(path, weights_only=True)
    places = [place for place in _places(content) if len(place) < 5]
    place = pick(draws, places)
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    value = parent[place[-1]]
    how = pick(draws, ("odd", "odd", "hostile", "remove", "whole", "code"))
    if how == "odd" and isinstance(value, Tensor) and value.ndim:
        odd, parent[place[-1]] = _odd(draws, value)
        how += f" {odd}"
    elif how == "remove":
        del parent[place[-1]]
    elif how == "whole":
        content = pick(draws, ({}, [], None, 3, {"step": 1}, {"network": {}}, torch.zeros(3)))
    elif how == "code":
        content["code"] = _Code(os.mkdir, str(canary))
    else:
        parent[place[-1]] = pick(draws, (-1, 0, 10**9, 0.5, float("nan"), "a", None, [], {}, 10**30))
    try:
        torch.save(content, path)
    except Exception:
        torch.save({}, path)
    return f"{how} {place}"


KINDS: dict[str, Kind] = {
    "weights": Kind(weights, 8),
    "images": Kind(images, 6),
    "masks": Kind(masks, 3),
    "arrays": Kind(arrays, 3),
    "sets": Kind(sets, 1),
    "runs": Kind(runs, 4),
}
