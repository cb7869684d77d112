"""Class labels of the training examples, of the validation images and of the grids of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

import torch
from torch import Tensor

from randomwalk.config import TrainConfig
from randomwalk.denoisers.denoiser import Denoiser, NetworkDenoiser
from randomwalk.denoisers.guidance import GuidedDenoiser
from randomwalk.errors import InputError
from randomwalk.images.sources import ImageSource, in_order
from randomwalk.rng import Stream, generator

PARTS = ("train", "training", "val", "valid", "validation", "test", "testing")
"""Names of folders that are parts of a set of images, not classes."""


class TrainingLabels:
    """Labels of the training examples: their class, or for a share of them the null label.

    The choice is drawn from (seed, position), so that it is the same in a resumed run and on any number of processes.

    Args:
        source: the images, with labels.
        dropout: share of the labels that are dropped.
        null_label: stands for a dropped label.
        seed: of the draws.
    """

    def __init__(self, source: ImageSource, dropout: float, null_label: int | None, seed: int) -> None:
        assert source.labels is not None
        self.labels, self.dropout, self.null_label, self.seed = source.labels, dropout, null_label, seed

    def at(self, position: int, image: int) -> int:
        """Label of the example at ``position``, which is made from ``image``."""
        draws = generator(self.seed, Stream.LABEL_DROPOUT, position)
        if self.null_label is not None and draws.random() < self.dropout:
            return self.null_label
        return int(self.labels[image])


def settled(config: TrainConfig, source: ImageSource) -> TrainConfig:
    """Config with ``labels.auto`` resolved: the classes of the images, or none if there are fewer than two."""
    if config.labels is None or not config.labels.auto:
        return config
    settings, classes = config.model_dump(), len(source.classes) if source.labels is not None else 0
    if classes < 2:
        return TrainConfig.model_validate(settings | {"labels": None})
    dropped = config.labels.dropout > 0
    settings["labels"]["auto"] = False
    settings["network"]["num_classes"] = classes + dropped  # the last is "none"
    settings["denoiser"]["null_label"] = classes if dropped else None
    return TrainConfig.model_validate(settings)


def check_parts(config: TrainConfig, sources: Sequence[ImageSource]) -> None:
    """Raise InputError if folders called train, test or val would be taken for classes, or trained on together."""
    for source in sources:
        folders = in_order({parts[0] for name in source.names if len(parts := PurePath(name).parts) > 1})
        named = [name for name in folders if name.lower() in PARTS]
        if not named or (config.labels is None and len(named) < 2):
            continue
        whole = Path(source.where)
        first = min(named, key=lambda name: PARTS.index(name.lower()))
        rest = [name for name in named if name != first and not name.lower().startswith("train")]
        what = f"data.path={whole / first}" + (f" data.validation_path={whole / rest[0]}" if rest else "")
        where = f"{whole} has folders called {' and '.join(named)}"
        how = f"use --set {what}" if whole.is_dir() else f"unpack it, and use --set {what.replace('.zip/', '/')}"
        why = "would be classes; if they are, rename them" if config.labels else "would all be used for training"
        raise InputError(f"data.path: {where}, which {why}. If they are parts of the data, {how}")


def check_validation_classes(config: TrainConfig, training: ImageSource, validation: ImageSource) -> None:
    """Raise InputError if the validation images have no labels, or classes that are not trained on."""
    if config.labels is None or training.labels is None:
        return
    if validation.labels is None:
        raise InputError(
            f"data.validation_path: the images of {validation.where} are not all in folders of their classes; expected "
            f"folders with the names of those in data.path: {', '.join(training.classes[:10])}"
        )
    if unknown := [name for name in validation.classes if name not in training.classes]:
        raise InputError(
            f"data.validation_path: {validation.where} has the class {unknown[0]}, which data.path does not have; "
            f"known are {', '.join(training.classes[:30])}"
        )


def check_classes(config: TrainConfig, source: ImageSource) -> None:
    """Raise InputError if the data have no labels, or another number of classes than the config."""
    if config.labels is None or config.labels.auto:
        return
    if source.labels is None:
        raise InputError(
            f"labels: the images of {source.where} have none: put each into a subfolder, whose name is its class, or "
            "remove the section labels"
        )
    dropped = int(config.labels.dropout > 0)
    found, classes = config.network.num_classes, len(source.classes)  # type: ignore[union-attr]
    if found != classes + dropped:
        null = ' and 1 for "none", since labels.dropout is not 0' * dropped
        why = f"for the {classes} classes of {source.where}{null}"
        raise InputError(
            f"network.num_classes: found {found}; allowed: {classes + dropped}, {why}"
            + (f" (then denoiser.null_label is {classes})" if dropped else "")
        )


def make_labels(config: TrainConfig, source: ImageSource) -> TrainingLabels | None:
    """Make the labels of a training; None without the section ``labels``."""
    if config.labels is None:
        return None
    return TrainingLabels(source, config.labels.dropout, getattr(config.denoiser, "null_label", None), config.seed)


def conditioned_on(denoiser: Denoiser, labels: Tensor | None) -> Denoiser:
    """Denoiser of images of given classes ``[B]``; the denoiser itself if there are no labels."""
    if labels is None:
        return denoiser
    assert isinstance(denoiser, NetworkDenoiser)
    return GuidedDenoiser(denoiser, labels)


def labels_of(config: TrainConfig, source: ImageSource, images: Sequence[int]) -> Tensor | None:
    """Classes of some images, ``[len(images)]``; None for an unconditional network."""
    if config.labels is None:
        return None
    assert source.labels is not None
    return torch.from_numpy(source.labels[list(images)])


def classes_in_turn(config: TrainConfig, num: int) -> Tensor | None:
    """Classes in turn, over and over, ``[num]``; None for an unconditional network."""
    if config.labels is None:
        return None
    known: int = config.network.num_classes  # type: ignore[union-attr, assignment]
    return torch.arange(num) % (known - (config.labels.dropout > 0))
