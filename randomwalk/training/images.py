"""Training images by position: choice, cut, scale and orientation are functions of (seed, position)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from randomwalk.config.training import TrainData
from randomwalk.errors import InputError
from randomwalk.images.sources import ImageSource, in_order
from randomwalk.images.tensors import LUMA, fit_to, resized, to_tensor
from randomwalk.progress import progress_bar
from randomwalk.rng import Stream, generator


def joined(sources: Sequence[ImageSource], channels: int) -> ImageSource:
    """Join sources in their order. The result has labels if all of them have; its classes are those of all."""
    if len(sources) == 1:
        return sources[0]
    places = [(source, i) for source in sources for i in range(len(source))]
    labels, classes = None, in_order(set().union(*(source.classes for source in sources)))
    if all(source.classes == sources[0].classes for source in sources):  # in the order of a standard set, perhaps
        classes = sources[0].classes
    if all(source.labels is not None for source in sources):
        place = {name: k for k, name in enumerate(classes)}
        labels = np.array([place[source.classes[k]] for source in sources for k in cast(np.ndarray, source.labels)])

    def read(i: int) -> np.ndarray:
        source, k = places[i]
        return _plain(source.pixels(k, channels))

    names = [name for source in sources for name in source.names]
    return ImageSource(names, read, ", ".join(source.where for source in sources), labels, classes)


def cached(source: ImageSource, channels: int, bar: bool = True, cover: int | None = None) -> ImageSource:
    """Decode the images now and keep their pixels.

    An image that does not decode raises its error whenever it is read.

    Args:
        source: the images.
        channels: 1 or 3.
        bar: show a progress bar where this takes long.
        cover: largest short side; larger images are scaled down to it, so that photographs fit into memory.
    """

    def decode(i: int) -> np.ndarray | InputError:
        try:
            pixels = source.pixels(i, channels)
        except InputError as error:
            return error
        height, width = pixels.shape[:2]
        if cover is not None and (short := min(height, width)) > cover:
            size = (round(height * cover / short), round(width * cover / short))
            pixels = fit_to(pixels, size, "resize")
        return _plain(pixels)

    numbers = progress_bar(range(len(source)), desc="decoding", unit="img", disable=not bar, delay=2, leave=False)
    decoded = [decode(i) for i in numbers]

    def read(i: int) -> np.ndarray:
        found = decoded[i]
        if isinstance(found, InputError):
            raise found
        return found

    return ImageSource(source.names, read, source.where, source.labels, source.classes)


def damage(source: ImageSource, indices: Sequence[int], bar: bool = True) -> dict[int, str]:
    """Find images that do not decode, with several threads.

    Args:
        source: the images.
        indices: of the images to decode.
        bar: show a progress bar where this takes long.

    Returns:
        The reason by index.
    """

    def look(i: int) -> str | None:
        try:
            source.picture(i)
        except InputError as error:
            return str(error)
        return None

    with ThreadPool(os.cpu_count()) as pool:
        looks = pool.imap(look, indices, chunksize=16)
        reasons = progress_bar(
            looks, desc="checking", total=len(indices), unit="img", disable=not bar, delay=2, leave=False
        )
        return {i: why for i, why in zip(indices, reasons, strict=True) if why is not None}


def check_some_decode(source: ImageSource, indices: Sequence[int], what: str) -> None:
    """Raise InputError, which begins with ``what``, if none of the images ``indices`` decodes."""
    first: InputError | None = None
    for i in indices:
        try:
            source.picture(i)
            return
        except InputError as error:
            first = first or error
    if first is not None:
        raise InputError(f"{what}: none of the {len(indices)} images decodes; the first: {first}")


def largest_side(data: TrainData) -> int | None:
    """Short side to which images can be scaled down without loss for the training; None if they keep their size."""
    if data.fit != "resize":
        return None
    return max(math.ceil(data.image_size * max(data.rescale or [1.0])), data.validation_size or 0)


def check_apart(training: Sequence[ImageSource], validation: ImageSource) -> None:
    """Raise InputError if validation images are also trained on, as when their folder is inside the other one."""
    both = _files(validation) & set().union(*map(_files, training))
    if both:
        raise InputError(
            f"data.validation_path: {len(both)} of the {len(validation)} images of {validation.where} are in data.path "
            f"too, such as {min(both)}; expected images that are not trained on"
        )


def _files(source: ImageSource) -> set[Path]:
    """Resolved paths of the files of a source."""
    return {(Path(source.where) / name).resolve() for name in source.names}


def _plain(pixels: np.ndarray) -> np.ndarray:
    """Pixels ``[H, W, C]`` without the channel axis if they are 8-bit and grey."""
    return pixels[..., 0] if pixels.shape[2] == 1 and pixels.dtype == np.uint8 else pixels


class TrainingImages(Dataset[Tensor]):
    """Training examples by position, each a function of (seed, position).

    Position p is image p mod n of an order that is shuffled every n positions; its cut, scale, flip, rotation and loss
    of colours are drawn from (seed, p). A run can therefore start anywhere, on any number of processes.

    An image that does not decode is replaced by the next one in the order that does.

    Args:
        source: the images.
        indices: of the training images.
        data: how they are cut, scaled, flipped, rotated and turned grey.
        seed: of the order and of the draws.
    """

    def __init__(self, source: ImageSource, indices: np.ndarray, data: TrainData, seed: int) -> None:
        self.source, self.indices, self.data, self.seed = source, indices, data, seed
        self._order: tuple[int, np.ndarray] | None = None

    def image_at(self, position: int) -> int:
        """Index of the image from which the example at a position is made."""
        epoch, offset = divmod(position, len(self.indices))
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, generator(self.seed, Stream.ORDER, epoch).permutation(self.indices))
        return int(self._order[1][offset])

    def candidates(self, position: int) -> Iterator[int]:
        """Indices of the image at a position and of its replacements, in the order in which they are tried."""
        yield self.image_at(position)
        assert self._order is not None
        order = self._order[1]
        for k in range(1, len(order)):
            yield int(order[(position + k) % len(order)])

    def _decoded(self, position: int) -> tuple[np.ndarray, int]:
        """Pixels and index of the first candidate that decodes."""
        failed: InputError | None = None
        for image in self.candidates(position):
            try:
                return self.source.pixels(image, self.data.channels), image
            except InputError as error:
                failed = failed or error
        raise InputError(f"data.path: none of the {len(self.indices)} images decodes; the first: {failed}")

    def __getitem__(self, position: int) -> Tensor:
        return self.example(position)[0]

    def example(self, position: int) -> tuple[Tensor, int]:
        """Example at a position, and the index of its image."""
        data, draws = self.data, generator(self.seed, Stream.AUGMENTATION, position)
        pixels, image = self._decoded(position)
        if data.rescale is not None:
            cover = data.image_size / min(pixels.shape[:2]) if data.fit == "resize" else 1.0
            pixels = rescaled_cut(pixels, data.image_size, [cover * scale for scale in data.rescale], draws)
        size = (data.image_size, data.image_size)
        x = to_tensor(fit_to(pixels, size, data.fit, draws if data.fit == "crop" else None))
        if data.flip and draws.random() < 0.5:
            x = x.flip(-1)
        if data.turn:
            x = torch.rot90(x, int(draws.integers(4)), (-2, -1))
        if data.grey and draws.random() < data.grey:
            x = (torch.tensor(LUMA)[:, None, None] * x).sum(0).expand(3, -1, -1)
        return x, image


def rescaled_cut(pixels: np.ndarray, size: int, scales: list[float], draws: np.random.Generator) -> np.ndarray:
    """Cut a random square of ``pixels [h, w, C]``, scaled to ``size`` by a random factor between the two ``scales``.

    The square is cut first, so that only its pixels are scaled. It is at most as large as the image.
    """
    side = min(round(size / draws.uniform(scales[0], scales[1])), *pixels.shape[:2])
    cut = fit_to(pixels, (side, side), "crop", draws)
    if side == size:
        return cut
    return resized(cut, (size, size), Image.Resampling.BICUBIC)
