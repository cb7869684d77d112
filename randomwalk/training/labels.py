"""Class labels of the training examples, of the validation images and of the grids of samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from randomwalk.config import TrainConfig
from randomwalk.data import ImageSource
from randomwalk.denoisers import Denoiser, NetworkDenoiser
from randomwalk.errors import InputError
from randomwalk.guidance import GuidedDenoiser
from randomwalk.rng import generator


class TrainingLabels:
    """What the network is told of the examples: their class, or in a share of them that there is none.

    Whether it is dropped is drawn from (seed, 9, position), so that it is the same in a resumed run and on any number
    of processes.

    Args:
        source: the images, with labels.
        dropout: the share.
        null_label: what stands for a dropped label.
        seed: of the draws.
    """

    def __init__(self, source: ImageSource, dropout: float, null_label: int | None, seed: int) -> None:
        assert source.labels is not None
        self.labels, self.dropout, self.null_label, self.seed = source.labels, dropout, null_label, seed

    def at(self, position: int, image: int) -> int:
        """The label of the example at ``position``, which is made from ``image``."""
        if self.null_label is not None and generator(self.seed, 9, position).random() < self.dropout:
            return self.null_label
        return int(self.labels[image])


def settled(config: TrainConfig, source: ImageSource) -> TrainConfig:
    """The config with ``labels.auto`` replaced by what the images have: two or more classes, or none."""
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


def check_classes(config: TrainConfig, source: ImageSource) -> None:
    """Raise InputError if the config asks for labels that the data don't have, or has another number of classes."""
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
    """The labels of a training; None without the section ``labels``."""
    if config.labels is None:
        return None
    return TrainingLabels(source, config.labels.dropout, getattr(config.denoiser, "null_label", None), config.seed)


def told(denoiser: Denoiser, labels: Tensor | None) -> Denoiser:
    """The denoiser of images of these classes ``[B]``; the denoiser itself without labels."""
    if labels is None:
        return denoiser
    assert isinstance(denoiser, NetworkDenoiser)
    return GuidedDenoiser(denoiser, labels)


def labels_of(config: TrainConfig, source: ImageSource, images: Sequence[int]) -> Tensor | None:
    """The classes of these images, ``[len(images)]``; None if the network is told none."""
    if config.labels is None:
        return None
    assert source.labels is not None
    return torch.from_numpy(source.labels[list(images)])


def classes_in_turn(config: TrainConfig, num: int) -> Tensor | None:
    """The classes one after the other and again, ``[num]``; None if the network is told none."""
    if config.labels is None:
        return None
    known: int = config.network.num_classes  # type: ignore[union-attr, assignment]
    return torch.arange(num) % (known - (config.labels.dropout > 0))
