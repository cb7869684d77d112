"""Quick checks of the files that a config names, without PyTorch."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from randomwalk.config.base import Settings
from randomwalk.config.bridge import BridgeSampleConfig
from randomwalk.config.networks import DenoiserSettings, VPDenoiserSettings, Weights
from randomwalk.config.operators import (
    BlurSettings,
    InpaintingSettings,
    RegionalBlurSettings,
    SuperResolutionSettings,
    parts_of,
)
from randomwalk.config.sampling import SampleConfig
from randomwalk.config.score_embedding import EmbeddingData, ScoreEmbeddingConfig
from randomwalk.config.training import PointData, TrainConfig, TrainData
from randomwalk.config.weights import kind_of_weights
from randomwalk.errors import InputError
from randomwalk.lookup import near

_FEW_FILES = 50
"""Number of files of a folder to look into; a folder with more is assumed to hold images."""
_NOT_OF_PILLOW = (".npy", ".npz", ".zip", ".gz")
"""Suffixes of files that may hold images although Pillow does not read them."""
_MASK = "_mask"

Check = Callable[[], object]


def check_files(config: Settings, new: bool = True) -> None:
    """Check that the files a config names exist and look as expected.

    Args:
        config: config of any command.
        new: whether the run will create its folder.

    Raises:
        InputError: something is missing; the message has a line for each file.
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
        yield partial(_check_network, config.network)
        if config.intervals is not None:
            yield partial(_check_file, "intervals", Path(config.intervals), "a file written by randomwalk calibrate")
        yield from _checks_of_table("network.denoiser", config.network.denoiser)
        if config.data is not None:
            checked = _check_images if config.data.range is None else _check_arrays
            yield partial(checked, "data.path", Path(config.data.path))
            if config.masks_beside:
                yield partial(_check_masks_beside, Path(config.data.path))
        for part in [] if config.measurement is None else parts_of(config.measurement.operator):
            if isinstance(part, InpaintingSettings | BlurSettings | SuperResolutionSettings) and part.file is not None:
                what = "the mask" if isinstance(part, InpaintingSettings) else "the kernel"
                yield partial(_check_image, "measurement.operator.file", Path(part.file), what)
            if isinstance(part, RegionalBlurSettings):
                for file in part.files:
                    yield partial(_check_image, "measurement.operator.files", Path(file), "a kernel")
    elif isinstance(config, TrainConfig):
        if not isinstance(config.data, PointData):
            yield from _checks_of_images(config.data)
            if config.data.validation_path is not None:
                yield partial(_check_images, "data.validation_path", Path(config.data.validation_path))
        if config.initial_weights is not None:
            yield partial(kind_of_weights, Path(config.initial_weights), "initial_weights")
        yield from _checks_of_table("denoiser", config.denoiser)
    elif isinstance(config, ScoreEmbeddingConfig):
        yield from _checks_of_images(config.data)
    elif isinstance(config, BridgeSampleConfig):
        yield partial(kind_of_weights, Path(config.bridge.path), "bridge.path")
        if config.points is not None:
            yield partial(_check_file, "points", Path(config.points), "a .npy file of points")


def _check_network(network: Weights) -> None:
    path = Path(network.path)
    if network.name == "file" or (network.name == "deepinv" and network.path != "download"):
        kind_of_weights(path)
        if network.camera_path is not None:
            kind_of_weights(Path(network.camera_path), "network.camera_path")
    elif network.name == "diffusers" and not path.is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", network.path):
        raise InputError(
            f"network.path: {path} is neither a folder nor the id of a repository (owner/name){near(path)}"
        )


def _checks_of_images(data: TrainData | EmbeddingData) -> Iterator[Check]:
    for path in data.path if isinstance(data.path, list) else [data.path]:
        if data.dataset == "folder":
            yield partial(_check_images, "data.path", Path(path))
        else:
            from randomwalk.images.standard_sets import check_standard_set  # imports NumPy: most starts need none

            yield partial(check_standard_set, data.dataset, path)


def _checks_of_table(key: str, denoiser: DenoiserSettings | None) -> Iterator[Check]:
    if isinstance(denoiser, VPDenoiserSettings) and not isinstance(denoiser.table, str):
        for kind, value in denoiser.table.model_dump(exclude_none=True).items():
            if isinstance(value, str):
                yield partial(_check_file, f"{key}.table.{kind}", Path(value), "a file of numbers (.npy, .pt or text)")


# --- one file --------------------------------------------------------------------------------------------------------


def _check_output(output: Path) -> None:
    """Check that the nearest existing parent of the run folder is a writable folder."""
    parent = next((folder for folder in output.absolute().parents if os.path.lexists(folder)), Path("/"))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        state = "not writable" if parent.is_dir() else "a file"
        raise InputError(f"output: {output} cannot be created because {parent} is {state}; choose another folder")


def _check_file(key: str, path: Path, what: str) -> None:
    if not path.exists():
        raise InputError(f"{key}: {path} does not exist; expected {what}{near(path)}")
    if path.is_dir():
        raise InputError(f"{key}: {path} is a folder; expected {what}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{key}: {path} cannot be read; change its permissions")
    if not path.stat().st_size:
        raise InputError(f"{key}: {path} is empty; expected {what}")


def _check_image(key: str, path: Path, what: str) -> None:
    _check_file(key, path, f"{what}, an image" + (" or a .npy file" if what == "the kernel" else ""))
    if path.suffix != ".npy" and not _is_image(path):
        raise InputError(f"{key}: {path}, {what}, cannot be read as an image")


def _is_image(path: Path) -> bool:
    from randomwalk.images import kinds

    if not path.is_file():  # reading a pipe would wait for its writer
        return False
    try:
        with path.open("rb") as file, kinds.open_picture(file, path.name):
            return True
    except Exception:  # a damaged image can raise anything
        return False


def _foreign_kind(path: Path) -> str:
    """Kind of a file that is no picture, and how to convert it; empty for pictures and unknown kinds."""
    from randomwalk.images import kinds

    with path.open("rb") as file:
        kind = kinds.foreign_kind(path.name, file.read(kinds.BEGINNING))
    return "" if kind is None else f"{kind.what}: {kind.advice}"


def _may_be_image(path: Path) -> bool:
    return path.suffix.lower() in _NOT_OF_PILLOW or _is_image(path)


def _check_images(key: str, path: Path) -> None:
    if not path.exists():
        raise InputError(f"{key}: {path}: there is no such folder, zip or image{near(path)}")
    if path.is_file():
        _check_file(key, path, "a folder, a zip or an image")
        if foreign := _foreign_kind(path):
            raise InputError(f"{key}: {path} is {foreign}")
        if not (zipfile.is_zipfile(path) or _may_be_image(path)):
            raise InputError(f"{key}: {path} is neither a zip nor an image that can be read")
        return
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"{key}: {path} cannot be read; change its permissions")
    files = list(islice(_files(path), _FEW_FILES))
    if len(files) < _FEW_FILES and not any(map(_may_be_image, files)):
        from randomwalk.images.kinds import left_out_notes

        found = f"{len(files)} other files, such as {files[0].name}" if files else "nothing"
        notes = left_out_notes(str(path), [str(file.relative_to(path)) for file in files])
        raise InputError("\n  ".join([f"{key}: {path}: no images in it; found {found}", *notes[1:]]))


def _check_arrays(key: str, path: Path) -> None:
    """Check that there is a file or a folder; DICOM files have any name, so that only reading tells what they are."""
    if not path.exists():
        raise InputError(f"{key}: {path}: there is no such folder or file of arrays{near(path)}")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise InputError(f"{key}: {path} cannot be read; change its permissions")


def _files(path: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, without hidden ones."""
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
            f"data.path: {path}: no image has its mask beside it (mask: beside); the mask of photo.jpg is "
            f"photo{_MASK}.png"
        )
