"""Training sets: examples to learn from, and a validation of what has been learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from randomwalk.config import TrainConfig
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.images.sheets import Row, grid, overview
from randomwalk.images.tensors import to_pixels
from randomwalk.training.examples import Examples, split_images, with_range
from randomwalk.training.foreseen import warnings_of
from randomwalk.training.images import damage
from randomwalk.training.labels import settled
from randomwalk.training.validation import Validation, denoising_psnr, sample_grid

CHECKED = 5000
"""Largest number of images that a dry run decodes."""
SHOWN_CLASSES = 10
"""Largest number of class names in a description."""


class ExampleStream(Protocol):
    """Parts of the batches for this process, one after the other."""

    def next(self) -> tuple[Tensor, ...]:
        """The next part: X ``[b, C, H, W]``, u ``[b]``, N ``[b, C, H, W]``, and labels ``[b]`` if there are any."""


class TrainingSet(Protocol):
    """Training set.

    Attributes:
        config: of the training, with the settings filled in that depend on the data (``labels.auto``).
        unit: plural name of the examples.
    """

    config: TrainConfig
    unit: str

    @property
    def description(self) -> str:
        """Size of the set, in words."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty for an unconditional network."""

    def facts(self) -> dict[str, Any]:
        """State what must be the same when the training is resumed, for run.json."""

    def check(self) -> list[str]:
        """Find problems in the data that do not stop a training, one line each."""

    def warnings(self) -> list[str]:
        """Find settings that are likely to spoil the training, one line each."""

    def examples(self, rank: int, size: int, first: int, micro_batch: int) -> ExampleStream:
        """Examples of a process from a position on; see `randomwalk.training.examples.Examples`."""

    def validate(self, denoiser: Denoiser) -> Validation:
        """Validate a denoiser."""


class ImageSet:
    """Training set of images in files.

    Args:
        config: of the training.
        bar: show a progress bar where opening takes long.

    Raises:
        InputError: the images cannot be used.
    """

    unit = "images"

    def __init__(self, config: TrainConfig, bar: bool = True) -> None:
        config = with_range(config)
        self.split = split_images(config, bar)
        self.config = settled(config, self.split.source)

    @property
    def description(self) -> str:
        """Number of images, and the classes if there are any."""
        images = f"{len(self.split.training):,} training and {len(self.split.validation):,} validation images"
        if (found := getattr(self.config.data, "range", None)) is not None:
            images += f" with [{found[0]:.6g}, {found[1]:.6g}] as [-1, 1]"
        if not self.classes:
            return images
        names = ", ".join(self.classes[:SHOWN_CLASSES]) + ", ..." * (len(self.classes) > SHOWN_CLASSES)
        return f"{images} of {len(self.classes)} classes ({names})"

    @property
    def classes(self) -> list[str]:
        """Names of the classes: those of a standard set, or of the folders."""
        return [] if self.config.labels is None else self.split.source.classes

    def facts(self) -> dict[str, Any]:
        """The classes, if there are any, and the fingerprint of the files."""
        return {**({"classes": self.classes} if self.classes else {}), "images": self.split.fingerprint()}

    def check(self) -> list[str]:
        """Decode the images, at most `CHECKED` of them, evenly chosen."""
        indices = np.concatenate([self.split.training, self.split.validation])
        chosen = indices[np.unique(np.linspace(0, len(indices) - 1, CHECKED).astype(int))].tolist()
        found = damage(self.split.source, chosen)
        lines = [f"warning: {why}" for why in found.values()]
        if len(chosen) < len(indices):
            lines.append(f"note: {len(chosen):,} of the {len(indices):,} images were decoded, evenly chosen")
        if found:
            lines.append(f"warning: {len(found)} of {len(chosen):,} images do not decode; training skips them")
        return lines

    def warnings(self) -> list[str]:
        """See `randomwalk.training.foreseen`."""
        return warnings_of(self.config, self.split.files, len(self.split.training))

    def examples(self, rank: int, size: int, first: int, micro_batch: int) -> ExampleStream:
        """Examples of a process from a position on."""
        return Examples(self.config, self.split, rank, size, first, micro_batch)

    def validate(self, denoiser: Denoiser) -> Validation:
        """Measure the PSNR of denoising held-out images, and draw a grid of samples."""
        psnr = denoising_psnr(denoiser, self.split, self.config)
        values = {f"psnr_at_{sigma:g}": value for sigma, value in psnr.items()}
        picture = sheet([to_pixels(x) for x in sample_grid(denoiser, self.config)], self.classes)
        return Validation(values, "denoising PSNR on held-out images (dB)", picture, self.unit)


def sheet(images: Sequence[np.ndarray], classes: Sequence[str]) -> Image.Image:
    """Sheet of images whose classes take turns: a row for each class, or a square grid for none or more than 12."""
    if not 1 < len(classes) <= 12:
        return grid(images, side=64)
    return overview([Row(name, images[k :: len(classes)]) for k, name in enumerate(classes)], side=64)


OpenSet = Callable[[TrainConfig, bool], TrainingSet]
"""Opener of the training set of a config; the flag shows a bar where that takes long. `ImageSet` is one."""
