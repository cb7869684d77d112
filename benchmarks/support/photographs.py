"""The photographs that denoising.py and photo_restoration.py measure on, from a folder of the user's."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from randomwalk.denoisers.checkpoints import load_denoiser
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.images.sources import ImageSource, open_images
from randomwalk.images.tensors import to_tensor
from randomwalk.rng import ImageDraws, generator
from support.common import ROOT

SETS = {"cbsd68": 68, "set5": 5}
"""The test sets: names of the subfolders of ``--data``, and how many images each has."""
BUNDLED = "photographs"
"""Photographs of the repository, on which ``--quick`` shows that everything works."""
VALIDATION, ANY = "validation", "any"
STREAMS = {"cbsd68": 0, "set5": 1, BUNDLED: 2, VALIDATION: 3, ANY: 4}
"""First number of each set's random streams, so that no photograph shares its noise with one of another set."""


@dataclass(frozen=True)
class Photograph:
    """A photograph, and the name of its random streams.

    Attributes:
        folder: the set that it is of.
        name: its own.
        number: its place among all photographs of the set, so that its draws do not depend on which are chosen.
        pixels: ``[3, H, W]``, or ``[1, H, W]`` if grey, in [-1, 1].
    """

    folder: str
    name: str
    number: int
    pixels: Tensor

    @property
    def key(self) -> str:
        """Its name in records and pictures, not shared with another of the set."""
        return f"{self.folder}/{Path(self.name).as_posix()}"

    def draws(self, *stream: int) -> ImageDraws:
        """Random numbers of this photograph's own, from the stream of these integers."""
        return ImageDraws([generator(*stream, STREAMS[self.folder], self.number)])


# --- options ---------------------------------------------------------------------------------------------------------


def add_options(made: argparse.ArgumentParser, crop: int) -> None:
    """The options that both benchmarks have."""
    made.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="holds the test images, in folders cbsd68 and set5 (benchmarks/README.md says what they are); --quick "
        "does without and takes photographs of this repository",
    )
    cut = "not cut" if crop == 0 else f"{crop} pixels"
    made.add_argument(
        "--crop", type=int, default=crop, metavar="N", help=f"cut the images at the centre to N pixels; 0: not ({cut})"
    )
    made.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the networks (fp32)")
    made.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    made.add_argument(
        "--resume", nargs="+", metavar="FOLDER", help="of an earlier run, or several: what is there is not done again"
    )
    add_network(made)


DEFAULT = ROOT / "pretrained_models" / "photo.safetensors"
"""Weights, unless an option names others."""


def add_network(made: argparse.ArgumentParser) -> None:
    """The option that names the weights."""
    made.add_argument("--network", type=Path, default=DEFAULT, metavar="FILE", help="weights (photo.safetensors)")


def check_options(options: argparse.Namespace, without_data: bool = False) -> None:
    """Raise InputError for numbers that make no sense, or without test images."""
    if options.crop != 0 and options.crop < 32:
        raise InputError(f"--crop {options.crop}: expected 32 or more, or 0 for whole images")
    if options.seed < 0:
        raise InputError(f"--seed {options.seed}: expected 0 or more")
    if options.data is None and not (options.quick or without_data):
        raise InputError(
            f"--data: is needed, a folder that holds {' and '.join(SETS)}; benchmarks/README.md says what they are "
            "(--quick does without)"
        )


# --- images ----------------------------------------------------------------------------------------------------------


def cut(x: Tensor, crop: int, multiple: int = 1) -> Tensor:
    """The middle of an image ``[C, H, W]``, at most ``crop`` pixels along each side (0: any number).

    Args:
        multiple: sides are a multiple of it; what is over at the right and at the bottom goes first.
    """
    sides = [min(side, crop) if crop else side for side in x.shape[1:]]
    sides = [side - side % multiple for side in sides]
    if min(sides) < 1:
        raise InputError(f"an image of {x.shape[1]}x{x.shape[2]} pixels is too small; expected {multiple} or more")
    top, left = ((have - want) // 2 for have, want in zip(x.shape[1:], sides, strict=True))
    return x[:, top : top + sides[0], left : left + sides[1]].contiguous()


def open_set(data: Path | None, name: str) -> ImageSource:
    """A test set, or the photographs of the repository.

    Raises:
        InputError: it is not there, or not as many images as it has.
    """
    if name == BUNDLED:
        return open_images(ROOT / "data" / BUNDLED)
    assert data is not None
    if not (data / name).is_dir():
        raise InputError(
            f"--data {data}: there is no folder {name} in it; benchmarks/README.md says what belongs there"
        )
    source = open_images(data / name)
    if len(source) != SETS[name]:
        raise InputError(f"{data / name}: has {len(source)} images; expected the {SETS[name]} of the test set")
    return source


def photographs(
    source: ImageSource, folder: str, numbers: Sequence[int], crop: int, multiple: int = 1
) -> list[Photograph]:
    """Load some images of a set, cropped; see `cut`."""
    found = []
    for number in numbers:
        pixels = cut(to_tensor(source.pixels(number, 3)), crop, multiple)
        found.append(Photograph(folder, source.names[number], number, pixels))
    return found


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` of the numbers from 0 to ``count - 1``, evenly spaced from the first; all if there are not as many."""
    wanted = min(wanted, count)
    return [k * count // wanted for k in range(wanted)]


# --- networks --------------------------------------------------------------------------------------------------------


def load_model(path: Path, device: torch.device, precision: str) -> Denoiser:
    """The denoiser in a file.

    Raises:
        InputError: it is missing, or not of colour images of any size.
    """
    denoiser = load_denoiser(path, device=device, precision=precision)
    if not denoiser.any_size or denoiser.channels != 3:
        raise InputError(
            f"{path}: takes images of {denoiser.channels} channels and "
            f"{'any size' if denoiser.any_size else f'{denoiser.image_size} pixels'}; expected a network for colour "
            "images of any size, such as pretrained_models/photo.safetensors"
        )
    return denoiser


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, by which an earlier run is known to have had the same weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def in_pixels(std: float) -> float:
    """A standard deviation that is given on the scale of 0 to 255, in [-1, 1] pixel units."""
    return 2 * std / 255
