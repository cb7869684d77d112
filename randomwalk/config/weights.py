"""Kinds of files with weights, and messages for missing or damaged ones. Imports no PyTorch."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

from randomwalk.errors import InputError
from randomwalk.lookup import HOME, near, program

_BUNDLED = {
    "fashion_vp.safetensors": "the bundled ADM UNet, trained on Fashion-MNIST by python train.py --config "
    "configs/vp_train.yaml",
    "fashion_ve.safetensors": "the bundled NCSN++, trained on Fashion-MNIST by python train.py --config "
    "configs/ve_train.yaml",
    "fashion_labels.safetensors": "the bundled class-conditional UNet, trained on Fashion-MNIST by python train.py "
    "--config configs/fashion/vp_continuous_train.yaml",
}


_PUBLISHED = {
    "ffhq_10m.pt": "an ADM UNet for 256x256 faces (FFHQ) that saw 10 million images in training. Its authors, "
    "Choi et al. (ILVR, 2021), publish it in the README of github.com/jychoi118/ilvr_adm; DPS (Chung et al. 2023, "
    "github.com/DPS2022/diffusion-posterior-sampling) and the paper's own code "
    "(github.com/wustl-cig/randomwalk_diffusion) use the same file and link to it",
    "checkpoint_48.pth": "the variance-exploding NCSN++ for 256x256 faces (FFHQ). Its authors, Song et al. "
    "(score-SDE, 2021), publish it as ve/ffhq_256_ncsnpp_continuous in the README of "
    "github.com/yang-song/score_sde_pytorch; the paper's own code (github.com/wustl-cig/randomwalk_diffusion) links "
    "to it too",
}


def describe_missing_weights(path: str | Path) -> str:
    """Message for a missing ``network.path``: which file it is and how to get it."""
    path = Path(path)
    missing = f"{path}: does not exist (network.path)."
    if path.name in _PUBLISHED:
        return (
            f"{missing} It is {_PUBLISHED[path.name]}. Download it and save it as {path}, or say where it is with "
            "--set network.path=FILE"
        )
    if path.name in _BUNDLED:
        return (
            f"{missing} It is {_BUNDLED[path.name]}. It comes with this program but is gone from {HOME}: "
            "restore the file with git checkout, or install the program again"
        )
    training = Path("configs", path.parent.parent.name, f"{path.parent.name}_train.yaml")
    if training.is_file():  # results/toy/moons/model.safetensors
        return f"{missing} This training makes it: {program('train')} --config {training}"
    return (
        f"{missing} Expected a file with weights: .safetensors of train.py, a guided-diffusion state dict "
        "or a score_sde checkpoint; relative paths are taken from the current folder"
    )


def kind_of_weights(path: Path, key: str = "network.path") -> str:
    """The kind of a file with weights: 'safetensors', 'shards' (an index of several of those), 'zip' (torch.save) or
    'pickle' (torch.save before PyTorch 1.6).

    Raises:
        InputError: the file is missing, holds no weights or is incomplete.
    """
    if not path.exists():
        raise InputError(_missing(path, key))
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the file with the weights in it{_weights_in(path)}")
    if not path.is_file():  # reading a pipe would wait for its writer
        raise InputError(f"{path} is a device or a pipe; give a file with weights")
    _refuse_checkpoint(path)
    if path.name.endswith(".safetensors.index.json"):
        for name in shards_of(path):
            kind_of_weights(path.with_name(name), key)
        return "shards"
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise InputError(f"{path} is empty: the download or the copy did not finish; fetch it again")
    if re.match(rb"\s*<(!doctype|html|\?xml|head|body)", head, re.IGNORECASE):
        raise InputError(
            f"{path} is a web page, not weights: the download led to a page for signing in, confirming or an error; "
            "open the address in a browser and save the file itself"
        )
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a placeholder of Git LFS, not the weights: run `git lfs pull`")
    if head[8:9] == b"{":  # after the length of the header, 8 bytes
        _check_length(path)
        return "safetensors"
    if head.startswith(b"PK"):
        if not zipfile.is_zipfile(path):  # whose index is at its end
            raise InputError(f"{path} is damaged or incomplete (its end is missing); fetch it again")
        return "zip"
    if head.startswith(b"\x80"):
        return "pickle"
    raise InputError(
        f"{path} is not a file with weights; expected .safetensors or a file of torch.save (.pt, .pth). "
        f"It begins with {head[:16]!r}"
    )


def shards_of(path: Path) -> list[str]:
    """Names of the files that an index of safetensors lists, beside it."""
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is not an index of safetensors files ({error})") from error
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InputError(f"{path} is damaged: it lists files that are not beside it")
    return names


def _refuse_checkpoint(path: Path) -> None:
    """Refuse the file from which a training of this program goes on, in the folder of its run."""
    weights, config = path.with_name("model.safetensors"), path.with_name("config.yaml")
    if re.fullmatch(r"(checkpoint|validated).*\.pt", path.name) and weights.is_file() and config.is_file():
        raise InputError(f"{path} is a checkpoint for --resume; the weights to use are in {weights}")


def _weights_in(folder: Path) -> str:
    if (folder / "model_index.json").is_file():
        return f"; or, for the diffusers pipeline in it, network: {{name: diffusers, path: {folder}}}"
    if (folder / "scheduler").is_dir():
        return "; a diffusers pipeline also has a model_index.json, which is missing"
    found = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".pt", ".pth", ".ckpt"))
    return f", {folder / found[0]}" if len(found) == 1 else f": {', '.join(found[:4])}" if found else ""


def _check_length(path: Path) -> None:
    """Refuse a safetensors file that is shorter than its header says."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length < path.stat().st_size else b""
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        whole = path.stat().st_size >= 8 + length + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise InputError(f"{path} is damaged or incomplete (it is shorter than its header says); fetch it again")


def _missing(path: Path, key: str) -> str:
    if key != "network.path":
        return f"{key}: {path} does not exist{near(path)}"
    return describe_missing_weights(path) + near(path)
