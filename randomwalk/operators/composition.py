"""One operator after another."""

from __future__ import annotations

import copy

from torch import Tensor
from typing_extensions import Self

from randomwalk.errors import InputError
from randomwalk.operators.operator import Operator


class Composition(Operator):
    """``A(x) = second(first(x))``, linear if both are.

    Args:
        first: its measurement is an image, ``[C, H, W]``.
        second: acts on such images.

    Raises:
        InputError: the two do not fit.
    """

    def __init__(self, first: Operator, second: Operator) -> None:
        super().__init__(first.image_shape)
        if first.measurement_shape != second.image_shape:
            raise InputError(
                f"composition: the first operator, {type(first).__name__}, gives {first.measurement_shape}, but the "
                f"second, {type(second).__name__}, takes images of shape {second.image_shape}"
            )
        self.first, self.second = first, second
        self.linear = first.linear and second.linear
        above, below, before, after = first.margins
        _, height, width = first.image_shape
        scale = ((height - above - below) // second.image_shape[1], (width - before - after) // second.image_shape[2])
        top, bottom, left, right = second.margins
        self.margins = (
            above + top * scale[0], below + bottom * scale[0], before + left * scale[1], after + right * scale[1]
        )  # fmt: skip
        self.notes = (*first.notes, *second.notes)

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.second.measurement_shape

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        if not self.linear:
            return super().adjoint(y)
        return self.first.adjoint(self.second.adjoint(y))

    def norm(self) -> float:
        """Norm of the composition if it is linear, and otherwise the product of the bounds of the two."""
        return super().norm() if self.linear else self.first.norm() * self.second.norm()

    def repeated(self, num: int) -> Self:
        other = copy.copy(self)
        other._modules = {"first": self.first.repeated(num), "second": self.second.repeated(num)}
        return other
