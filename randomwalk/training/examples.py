"""Batches of training examples: a clean image, the quantile of its noise level, unit noise, and a label."""

from __future__ import annotations

import hashlib
import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from randomwalk.config import TrainConfig
from randomwalk.config.objective import LogNormalLevels
from randomwalk.config.training import TrainData
from randomwalk.errors import InputError
from randomwalk.images.array_source import ArraySource, open_arrays
from randomwalk.images.sources import ImageSource, open_dataset
from randomwalk.rng import Stream, generator
from randomwalk.training.cameras import STRONGEST, photographed
from randomwalk.training.images import TrainingImages, cached, check_apart, check_some_decode, joined, largest_side
from randomwalk.training.labels import TrainingLabels, check_classes, check_parts, check_validation_classes, make_labels

GOLDEN = 0.6180339887498949


@dataclass
class Split:
    """Images, and the indices of those for training and for validation.

    Attributes:
        files: the training images as they are in their files.
        own: the validation images, if they are in files of their own.
        damaged: indices of the images that were skipped, since they do not decode.
    """

    source: ImageSource
    training: np.ndarray
    validation: np.ndarray
    files: list[ImageSource]
    own: ImageSource | None = None
    damaged: set[int] = field(default_factory=set, init=False)

    def fingerprint(self) -> str:
        """SHA-256 of the names, sizes and ends of all files, which tells whether they are the same as before."""
        digest = hashlib.sha256()
        for source in (*self.files, *([] if self.own is None else [self.own])):
            for i, name in enumerate(source.names):
                digest.update(f"{name} {source.stamp(i)}\n".encode())
        return digest.hexdigest()

    def skip(self, image: int) -> None:
        """Report a damaged image, the first time."""
        if image in self.damaged:
            return
        self.damaged.add(image)
        try:
            self.source.picture(image)
        except InputError as error:
            tqdm.write(f"warning: {error}; it is skipped ({len(self.damaged)} so far)", file=sys.stderr)


def split_images(config: TrainConfig, bar: bool = True) -> Split:
    """Open the data, and set the validation images aside.

    These are in a folder of their own, or the first ones of an order drawn from the seed.

    Args:
        config: of the training.
        bar: show a progress bar where this takes long.

    Raises:
        InputError: the images cannot be used.
    """
    data = config.data
    assert isinstance(data, TrainData)
    paths = [data.path] if isinstance(data.path, str) else data.path
    sources = [_opened(data, path) for path in paths]
    check_parts(config, sources)
    source = joined(sources, data.channels)
    order, held_out = generator(config.seed, Stream.SPLIT).permutation(len(source)), data.num_validation
    own = None if data.validation_path is None else _opened(data, data.validation_path)
    if own is not None:
        check_apart(sources, own)
        check_validation_classes(config, source, own)
        order = np.r_[len(source) + np.arange(len(own)), order]
        source, held_out = joined([source, own], data.channels), len(own)
    if held_out >= len(order):
        raise InputError(f"data.num_validation is {held_out}, but {source.where} has {len(source)} images in all")
    check_classes(config, source)
    if data.cache:
        source = cached(source, data.channels, bar, largest_side(data))
    split = Split(source, np.sort(order[held_out:]), np.sort(order[:held_out]), sources, own)
    check_some_decode(source, split.training.tolist(), "data.path")
    check_some_decode(source, split.validation.tolist(), "the validation images")
    return split


def _opened(data: TrainData, path: str) -> ImageSource:
    if data.range is None:
        return open_dataset(data.dataset, path)
    source = open_arrays(path, data.array, data.axis)
    if data.range != "auto":
        source.range = (data.range[0], data.range[1])
    return source


def with_range(config: TrainConfig) -> TrainConfig:
    """The config with ``data.range: auto`` replaced by the extent of the training files.

    Raises:
        InputError: they cannot be read, or have no range.
    """
    data = config.data
    if not isinstance(data, TrainData) or data.range != "auto":
        return config
    sources = [_opened(data, path) for path in ([data.path] if isinstance(data.path, str) else data.path)]
    lows, highs = zip(*(source.extent() for source in sources if isinstance(source, ArraySource)), strict=True)
    found = config.model_copy(deep=True)
    assert isinstance(found.data, TrainData)
    found.data.range = [min(lows), max(highs)]
    return found


class _NoisyImages(Dataset[tuple[Tensor, ...]]):
    """Example at a position: X, u, N, the label if there are labels, and the index of the image.

    Each is a function of (seed, position). The values of u are a low-discrepancy sequence (multiples of the golden
    ratio), so that every batch covers the noise levels evenly, which lowers the variance of the loss (Kingma et al.
    2021, arXiv 2107.00630). A share of the images may be photographed, see `photographed`; u is then that of the level
    of their noise.

    Args:
        images: X.
        seed: of all draws.
        labels: if there are any.
        levels: mean and standard deviation of ln sigma; None without photographed images.
    """

    def __init__(
        self,
        images: TrainingImages,
        seed: int,
        labels: TrainingLabels | None,
        levels: tuple[float, float] | None = None,
    ) -> None:
        self.images, self.seed, self.labels, self.levels = images, seed, labels, levels
        self.offset = float(generator(seed, Stream.OFFSET).random())

    def __getitem__(self, position: int) -> tuple[Tensor, ...]:
        x, image = self.images.example(position)
        noise = generator(self.seed, Stream.NOISE, position).standard_normal(tuple(x.shape), dtype=np.float32)
        u = (self.offset + position * GOLDEN) % 1.0
        if self.images.data.grey and bool((x == x[:1]).all()):
            noise = np.broadcast_to(noise.mean(0), noise.shape).copy()  # a grey picture's noise is grey
        elif self.levels is not None:
            draws, (mean, std) = generator(self.seed, Stream.CAMERA, position), self.levels
            sigma = math.exp(mean + std * ndtri(u))
            if draws.random() < self.images.data.camera and sigma < STRONGEST:
                error, level = photographed(x.numpy(), sigma, draws)
                noise, u = (error / level).astype(np.float32), float(ndtr((math.log(level) - mean) / std))
        example = (x, torch.tensor(u, dtype=torch.float32), torch.from_numpy(noise))
        label = () if self.labels is None else (torch.tensor(self.labels.at(position, image)),)
        return *example, *label, torch.tensor(image)


class Examples:
    """Parts of the batches for this process, from a given position on.

    Args:
        config: of the training.
        split: its images.
        rank, size: this process takes the ``rank``-th of ``size`` equal parts of every batch.
        first: position of the first example of all processes.
        micro_batch: examples in one part; ``accumulate`` parts make this process's share of a batch.
    """

    def __init__(self, config: TrainConfig, split: Split, rank: int, size: int, first: int, micro_batch: int) -> None:
        data = config.data
        assert isinstance(data, TrainData)
        images = TrainingImages(split.source, split.training, data, config.seed)
        levels = config.objective.levels
        camera = (levels.mean, levels.std) if data.camera and isinstance(levels, LogNormalLevels) else None
        share = config.batch_size // size

        def parts() -> Iterator[list[int]]:
            for batch in itertools.count(first + rank * share, config.batch_size):
                for start in range(batch, batch + share, micro_batch):
                    yield list(range(start, start + micro_batch))

        loader = DataLoader(
            _NoisyImages(images, config.seed, make_labels(config, split.source), camera),
            batch_sampler=parts(),
            num_workers=config.workers,
            pin_memory=torch.cuda.is_available() and config.device != "cpu",
        )
        self._split, self._images, self._batches, self._positions = split, images, iter(loader), parts()

    def next(self) -> tuple[Tensor, ...]:
        """The next part: X ``[b, C, H, W]``, u ``[b]``, N ``[b, C, H, W]``, and labels ``[b]`` if there are any.

        A damaged image, for which another one stands in, is reported the first time.
        """
        *part, taken = next(self._batches)
        for position, image in zip(next(self._positions), taken.tolist(), strict=True):
            for candidate in self._images.candidates(position):
                if candidate == image:
                    break
                self._split.skip(candidate)
        return tuple(part)
