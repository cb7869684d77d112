"""Class labels: of a training, and of a sampling task."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from randomwalk.config.base import Natural, NonNegative, Settings, Text, named
from randomwalk.config.networks import NetworkSettings


class Labels(Settings):
    """Train a class-conditional network.

    Its `num_classes` is the number of classes in the data, plus one for "none" if labels are dropped.
    """

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the examples whose label is replaced by "none", which classifier-free guidance needs."""
    auto: bool = False
    """Use labels only if the data have classes (images in two or more subfolders), and set network.num_classes and
    denoiser.null_label to match."""


class Guidance(Settings):
    """Samples of given classes, and classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598):

    D = D(x, none) + scale (D(x, label) - D(x, none)), with two evaluations of the network unless the scale is 0 or 1.
    """

    labels: Natural | Text | Annotated[list[Natural | Text], Field(min_length=1, max_length=100_000)]
    """A class for all images, or a list that is repeated: image i gets `labels[i mod length]`. A class is its name in
    the weights or its number from 0; where the names are numbers, a number is a name."""
    scale: NonNegative = 1.0
    """Guidance scale: 1 samples the class, more exaggerates its features, 0 ignores it."""


def check_labels(labels: Labels | None, data: Any, network: Any, denoiser: Any) -> None:
    """Refuse a training whose labels do not fit the classes of its network.

    Args:
        labels, data, network, denoiser: sections of the training.
    """
    classes, null = getattr(network, "num_classes", None), getattr(denoiser, "null_label", None)
    if labels is None:
        if classes is not None:
            raise ValueError(f"labels: missing; network.num_classes is {classes}: add the section labels, or remove it")
        if null is not None:
            raise ValueError(f"denoiser.null_label: found {null}; it is for networks with classes; remove it")
        return
    if data.dataset == "points":
        raise ValueError("labels: points have no labels; remove this section")
    if "num_classes" not in type(network).model_fields:
        *some, last = (name for name, made in named(NetworkSettings).items() if "num_classes" in made.model_fields)
        others = f"{', '.join(some)} or {last}"
        raise ValueError(f"labels: network {network.name} has no classes; remove them, or use {others}")
    if labels.auto:
        for key, found in (("network.num_classes", classes), ("denoiser.null_label", null)):
            if found is not None:
                raise ValueError(f"{key}: found {found}; with labels.auto the data determine it; remove it")
        return
    if classes is None:
        raise ValueError(
            'network.num_classes: missing; with labels it is the number of classes in the data, and 1 for "none" if '
            "labels.dropout is above 0"
        )
    if labels.dropout > 0 and null != classes - 1:
        raise ValueError(
            f"denoiser.null_label: found {'nothing' if null is None else null}; with labels.dropout above 0 it is "
            f"{classes - 1}, the last of the {classes} classes of network.num_classes"
        )
    if labels.dropout == 0 and null is not None:
        raise ValueError(f"denoiser.null_label: found {null}; labels.dropout is 0, so it is never used; remove it")
