"""Files that a config names: what can be known of them in a moment, without PyTorch."""

from __future__ import annotations

import difflib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from randomwalk.config.base import Settings
from randomwalk.config.bridge import BridgeConfig, BridgeSampleConfig
from randomwalk.config.measurement import BlurSettings, InpaintingSettings, parts_of
from randomwalk.config.networks import DenoiserSettings, VPDenoiserSettings
from randomwalk.config.sampling import SampleConfig
from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.config.training import PointData, TrainConfig
from randomwalk.errors import InputError

_FEW_FILES = 50
"""So many files of a folder are looked into; one with more of them is taken to hold images."""
_NOT_OF_PILLOW = (".npy", ".npz", ".zip", ".heic", ".heif", ".avif", ".jxl", ".dng", ".gz")
"""Files that may hold images although Pillow alone does not read them."""
_MASK = "_mask"

Check = Callable[[], object]


def check_files(config: Settings, new: bool = True) -> None:
    """See that what a config names is there, and what it looks like.

    Args:
        config: of any of the programs.
        new: whether the run is to make its folder.

    Raises:
        InputError: one message with a line for each thing that is missing.
    """
    problems = []
    for check in _checks(config, new):
        try:
            check()
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n  ".join(problems))


def _checks(config: Settings, new: bool) -> Iterator[Check]:
    if new:
        yield partial(_check_output, Path(config.output))  # type: ignore[attr-defined]
    if isinstance(config, SampleConfig):
        yield partial(kind_of_weights, Path(config.network.path))
        yield from _checks_of_denoiser("network.denoiser", config.network.denoiser)
        yield from _checks_of_measurement(config)
    elif isinstance(config, TrainConfig):
        yield from _checks_of_training(config)
    elif isinstance(config, ScoreEmbeddingConfig):
        if config.data.dataset == "folder":
            yield partial(_check_images, "data.path", Path(config.data.path))
        else:
            yield partial(_check_standard_set, config.data.dataset, config.data.path)
    elif isinstance(config, BridgeSampleConfig):
        yield partial(kind_of_weights, Path(config.bridge.path), "bridge.path")
        if config.points is not None:
            yield partial(_check_file, "points", Path(config.points), "a .npy file of points")
    else:
        assert isinstance(config, BridgeConfig)


def _checks_of_training(config: TrainConfig) -> Iterator[Check]:
    data = config.data
    if not isinstance(data, PointData) and data.dataset == "folder":
        for path in data.path if isinstance(data.path, list) else [data.path]:
            yield partial(_check_images, "data.path", Path(path))
        if data.validation_path is not None:
            yield partial(_check_images, "data.validation_path", Path(data.validation_path))
    elif not isinstance(data, PointData):
        assert isinstance(data.path, str)
        yield partial(_check_standard_set, data.dataset, data.path)
    if config.initial_weights is not None:
        yield partial(kind_of_weights, Path(config.initial_weights), "initial_weights")
    yield from _checks_of_denoiser("denoiser", config.denoiser)


def _checks_of_denoiser(key: str, denoiser: DenoiserSettings | None) -> Iterator[Check]:
    if not isinstance(denoiser, VPDenoiserSettings) or isinstance(denoiser.table, str):
        return
    for kind, value in denoiser.table.model_dump(exclude_none=True).items():
        if isinstance(value, str):
            yield partial(_check_file, f"{key}.table.{kind}", Path(value), "a file of numbers (.npy, .pt or text)")


def _checks_of_measurement(config: SampleConfig) -> Iterator[Check]:
    if config.data is not None:
        yield partial(_check_images, "data.path", Path(config.data.path))
        if config.masks_beside:
            yield partial(_check_masks_beside, Path(config.data.path))
    for part in [] if config.measurement is None else parts_of(config.measurement.operator):
        if isinstance(part, InpaintingSettings) and part.file is not None:
            yield partial(_check_image, "measurement.operator.file", Path(part.file), "the mask")
        if isinstance(part, BlurSettings):
            yield partial(_check_image, "measurement.operator.file", Path(part.file), "the kernel")


# --- one file --------------------------------------------------------------------------------------------------------


def near(path: Path) -> str:
    """A pointer to what has almost the name of a path that is not there; empty if nothing has."""
    there = path.parent
    try:
        names = [entry.name for entry in islice(os.scandir(there), 10_000)] if there.is_dir() else []
    except OSError:
        return ""
    if not there.is_dir():
        return f"; there is no folder {there} (relative paths start in {Path.cwd()})"
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {there / close[0]}?" if close else ""


def _check_output(output: Path) -> None:
    """The nearest of its parents that exists can hold the run folder."""
    parent = next((folder for folder in output.absolute().parents if os.path.lexists(folder)), Path("/"))
    if not parent.is_dir():
        raise InputError(f"output: {output} cannot be made, since {parent} is a file; choose another folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"output: {output} cannot be made, since {parent} is not writable; choose another folder")


def _check_file(key: str, path: Path, what: str) -> None:
    if not path.exists():
        raise InputError(f"{key}: {path} does not exist; expected {what}{near(path)}")
    if path.is_dir():
        raise InputError(f"{key}: {path} is a folder; expected {what}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{key}: {path} may not be read; change its permissions")
    if not path.stat().st_size:
        raise InputError(f"{key}: {path} is empty; expected {what}")


def _check_image(key: str, path: Path, what: str) -> None:
    _check_file(key, path, f"{what}, an image" + (" or a .npy file" if what == "the kernel" else ""))
    if path.suffix != ".npy" and not _is_image(path):
        raise InputError(f"{key}: {path}, {what}, cannot be read as an image")


def _is_image(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path):
            return True
    except Exception:  # a damaged image can raise anything
        return False


def _may_be_image(path: Path) -> bool:
    return path.suffix.lower() in _NOT_OF_PILLOW or _is_image(path)


def _check_images(key: str, path: Path) -> None:
    if not path.exists():
        raise InputError(f"{key}: {path}: there is no such folder, zip or image{near(path)}")
    if path.is_file():
        _check_file(key, path, "a folder, a zip or an image")
        if not (zipfile.is_zipfile(path) or _may_be_image(path)):
            raise InputError(f"{key}: {path} is neither a zip nor an image that can be read")
        return
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"{key}: {path} may not be read; change its permissions")
    files = list(islice(_files(path), _FEW_FILES))
    if len(files) < _FEW_FILES and not any(map(_may_be_image, files)):
        found = f"{len(files)} other files, such as {files[0].name}" if files else "nothing"
        raise InputError(f"{key}: {path}: no images in it; found {found}")


def _check_standard_set(name: str, path: str) -> None:
    from randomwalk.images.standard_sets import check_standard_set  # whose NumPy few of the programs' starts need

    check_standard_set(name, path)


def _files(path: Path) -> Iterator[Path]:
    """The files of a folder and its subfolders that are not hidden."""
    seen = set()
    for folder, subfolders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a loop of links
            subfolders.clear()
            continue
        seen.add(real)
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _check_masks_beside(path: Path) -> None:
    if path.is_dir() and not any(file.stem.endswith(_MASK) for file in _files(path)):
        raise InputError(
            f"data.path: {path}: no image has its mask beside it (mask: beside); that of photo.jpg is photo{_MASK}.png"
        )


# --- weights ---------------------------------------------------------------------------------------------------------


def kind_of_weights(path: Path, key: str = "network.path") -> str:
    """The kind of a file with weights: 'safetensors', 'zip' (torch.save) or 'pickle' (torch.save before PyTorch 1.6).

    Raises:
        InputError: there is no such file, or it is none with weights, or the end of it is missing.
    """
    if not path.exists():
        raise InputError(_missing(path, key))
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the file with the weights that is in it{_weights_in(path)}")
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
        f"{path} is no file with weights; known are .safetensors and files of torch.save (.pt, .pth). "
        f"It begins with {head[:16]!r}"
    )


def _weights_in(folder: Path) -> str:
    found = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".pt", ".pth"))
    return f", {folder / found[0]}" if len(found) == 1 else f": {', '.join(found[:4])}" if found else ""


def _check_length(path: Path) -> None:
    """See that a safetensors file is as long as its header says."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length < path.stat().st_size else b""
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        whole = path.stat().st_size >= 8 + length + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise InputError(f"{path} is damaged or incomplete (it is shorter than its header says); fetch it again")


def _missing(path: Path, key: str) -> str:
    from randomwalk.config.files import describe_missing_weights  # here, since few need it

    if key != "network.path":
        return f"{key}: {path} does not exist{near(path)}"
    return describe_missing_weights(path) + near(path)
