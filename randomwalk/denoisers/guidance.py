"""Classifier-free guidance: a class-conditional network as a denoiser of given classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser, NetworkDenoiser
from randomwalk.denoisers.wrappers import Wrapper
from randomwalk.errors import InputError


class GuidedDenoiser(Wrapper):
    """Denoiser of images of given classes, with the guidance scale w:

        D(x, sigma) = D(x, sigma, none) + w (D(x, sigma, label) - D(x, sigma, none))

    The score is affine in D, hence ``score = (1 - w) score(x) + w score(x | label)``, the score of
    ``p_sigma(x) (p_sigma(x | label) / p_sigma(x))^w`` at every sigma. w = 1 is the network's denoiser of the class and
    w = 0 that of any class, each with one evaluation; any other w takes two, in one batch. Samples with w above 1 do
    not follow ``p(x) p(label | x)^w``: these products at different sigma are not noisy versions of one density.

    Source: Ho and Salimans 2022, arXiv 2207.12598, eq. 6, whose w is smaller by 1.

    Args:
        denoiser: around a class-conditional network.
        labels: ``[B]`` classes. If x has n times as many rows, each label is for n consecutive rows.
        scale: w.

    Raises:
        InputError: the network has no classes or not this label, or the scale needs a class "none" that is missing.
    """

    inner: NetworkDenoiser

    def __init__(self, denoiser: NetworkDenoiser, labels: Tensor, scale: float = 1.0) -> None:
        super().__init__(denoiser)
        check_guidance(denoiser, labels.tolist(), scale)
        self.scale = float(scale)
        self.cost = 1 if scale in (0, 1) else 2
        self.register_buffer("labels", labels.long(), persistent=False)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self._combined(self.inner.forward, x, sigma)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self._combined(self.inner.score, x, sigma)

    def _combined(self, function: Callable[..., Tensor], x: Tensor, sigma: float | Tensor) -> Tensor:
        labels = self.labels_of(x)
        if self.scale == 1:
            return function(x, sigma, labels)
        assert self.inner.null_label is not None
        none = torch.full_like(labels, self.inner.null_label)
        if self.scale == 0:
            return function(x, sigma, none)
        levels = sigma.repeat(2) if isinstance(sigma, Tensor) and sigma.ndim else sigma
        without, given = function(torch.cat([x, x]), levels, torch.cat([none, labels])).chunk(2)
        return torch.lerp(without, given, self.scale)

    def labels_of(self, x: Tensor) -> Tensor:
        """The label of each row of x."""
        labels: Tensor = self.get_buffer("labels")
        times, rest = divmod(len(x), len(labels))
        if rest or not times:
            raise ValueError(f"{len(x)} images cannot share {len(labels)} labels evenly")
        return labels.to(x.device).repeat_interleave(times)


def guided(denoiser: Denoiser, labels: Sequence[int | str] | None, scale: float = 1.0) -> Denoiser:
    """The denoiser of images of these classes, or, without labels, of any class.

    Args:
        denoiser: around any network.
        labels: as for `GuidedDenoiser`, or names of classes.
        scale: guidance scale.

    Raises:
        InputError: the network does not have these classes, or needs labels.
    """
    numbers = None if labels is None else [number_of_class(denoiser, label) for label in labels]
    if numbers is not None:
        check_guidance(denoiser, numbers, scale)
    elif getattr(denoiser, "num_classes", None) is None:
        return denoiser
    else:
        check_unguided(denoiser)
    assert isinstance(denoiser, NetworkDenoiser)
    if numbers is None:
        return GuidedDenoiser(denoiser, torch.tensor(_classes(denoiser)[:1]), 0.0)
    return GuidedDenoiser(denoiser, torch.tensor(numbers), scale)


def number_of_class(denoiser: Denoiser, label: int | str) -> int:
    """The label of a class. A number is its own label, unless all names are numbers: then it is a name.

    Raises:
        InputError: no class of the denoiser's network has this name.
    """
    names = list(getattr(denoiser, "classes", ()))
    if isinstance(label, int) and not (names and all(name.isdecimal() for name in names)):
        return label
    found = [k for k, name in enumerate(names) if name == label or (isinstance(label, int) and int(name) == label)]
    if found:
        return found[0]
    check_guidance(denoiser, [], 1.0)
    if not names:
        raise InputError(
            f"guidance.labels: found {label!r}, but the file with the weights does not name its classes; give numbers "
            f"from {_classes(denoiser)[0]} to {_classes(denoiser)[-1]}"
        )
    raise InputError(f"guidance.labels: found {label!r}; known are {_listed(names)}")


def name_of_class(denoiser: Denoiser, label: int) -> str:
    """The name of a class for display; its number if it has none."""
    names = getattr(denoiser, "classes", ())
    return names[label] if label < len(names) else f"class {label}"


def _listed(names: Sequence[str], most: int = 30) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _classes(denoiser: Denoiser) -> list[int]:
    """The labels of classes, without the label for any class."""
    null = getattr(denoiser, "null_label", None)
    return [label for label in range(getattr(denoiser, "num_classes", None) or 0) if label != null]


def check_guidance(denoiser: Denoiser, labels: Sequence[int], scale: float) -> None:
    """Raise InputError unless the network supports these classes at this scale."""
    classes, null = _classes(denoiser), getattr(denoiser, "null_label", None)
    if not classes:
        raise InputError("guidance: the network has no classes; remove this section")
    for label in labels:
        if label not in classes:
            gap = f" but {null}" if null is not None and classes[0] < null < classes[-1] else ""
            names = list(getattr(denoiser, "classes", ()))
            raise InputError(
                f"guidance.labels: found {label}; allowed: {classes[0]} to {classes[-1]}{gap}, the network's classes"
                + (f": {_listed(names)}" if names else "")
            )
    if scale != 1 and null is None:
        raise InputError(
            f"guidance.scale: found {scale:g}; allowed: 1, since the network has no class that means "
            '"of any class" (denoiser.null_label)'
        )


def check_unguided(denoiser: Denoiser) -> None:
    """Raise InputError if the network needs a class."""
    classes = _classes(denoiser)
    if classes and getattr(denoiser, "null_label", None) is None:
        raise InputError(
            f'guidance: missing; the network has {len(classes)} classes and none that means "of any class". Say '
            f"which images to make: guidance: {{labels: 0}}, with a class from 0 to {classes[-1]} or a list of them"
        )
