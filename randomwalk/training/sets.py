"""What is learned: images or points, with the examples to learn from and a way to tell how well it is known."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from randomwalk.config import PointData, TrainConfig
from randomwalk.data import to_pixels
from randomwalk.denoisers import Denoiser
from randomwalk.report import grid
from randomwalk.training.examples import Examples, split_images
from randomwalk.training.foreseen import warnings_of
from randomwalk.training.labels import settled
from randomwalk.training.validation import Validation, denoising_psnr, sample_grid

SHOWN_CLASSES = 10
"""Names of classes in a line."""


class ExampleStream(Protocol):
    """This process's parts of the batches, one after the other."""

    def next(self) -> tuple[Tensor, ...]:
        """The next part: X ``[b, C, H, W]``, u ``[b]``, N ``[b, C, H, W]``, and labels ``[b]`` if there are any."""


class TrainingSet(Protocol):
    """What is learned.

    Attributes:
        config: of the training, in which what depends on the data (``labels.auto``) is filled in.
    """

    config: TrainConfig

    @property
    def description(self) -> str:
        """How much there is of it, in words."""

    def check(self) -> None:
        """Raise InputError if the first example cannot be had."""

    def warnings(self) -> list[str]:
        """A line for each thing that ruins the training and can be seen before it."""

    def examples(self, rank: int, size: int, step: int, micro_batch: int) -> ExampleStream:
        """The examples of a process from a step on; see `randomwalk.training.examples.Examples`."""

    def validate(self, denoiser: Denoiser) -> Validation:
        """How well the denoiser knows it."""


class ImageSet:
    """Images from files."""

    def __init__(self, config: TrainConfig, bar: bool = True) -> None:
        self.split = split_images(config, bar)
        self.config = settled(config, self.split.source)

    @property
    def description(self) -> str:
        """How many images there are, and of which classes, if the network is told."""
        images = f"{len(self.split.training):,} training and {len(self.split.validation):,} validation images"
        if self.config.labels is None:
            return images
        classes = self.split.source.classes
        names = ", ".join(classes[:SHOWN_CLASSES]) + ", ..." * (len(classes) > SHOWN_CLASSES)
        return f"{images} of {len(classes)} classes ({names})"

    def check(self) -> None:
        """Read an image."""
        data = self.config.data
        assert not isinstance(data, PointData)
        self.split.source.load(0, data.channels, (data.image_size, data.image_size), data.fit)

    def warnings(self) -> list[str]:
        """See `randomwalk.training.foreseen`."""
        return warnings_of(self.config, self.split.files, len(self.split.training))

    def examples(self, rank: int, size: int, step: int, micro_batch: int) -> ExampleStream:
        """Noisy images."""
        return Examples(self.config, self.split, rank, size, step, micro_batch)

    def validate(self, denoiser: Denoiser) -> Validation:
        """PSNR of denoising on the held-out images, and a grid of samples."""
        psnr = denoising_psnr(denoiser, self.split, self.config)
        values = {f"psnr_at_{sigma:g}": value for sigma, value in psnr.items()}
        picture = grid([to_pixels(x) for x in sample_grid(denoiser, self.config)], side=64)
        return Validation(values, "denoising PSNR on held-out images (dB)", picture)


def open_training_set(config: TrainConfig, bar: bool = True) -> TrainingSet:
    """What a config learns.

    Args:
        bar: show how far it is, if it takes long.

    Raises:
        InputError: it is not there.
    """
    if isinstance(config.data, PointData):
        from randomwalk.points.training import PointTrainingSet

        return PointTrainingSet(config)
    return ImageSet(config, bar)
