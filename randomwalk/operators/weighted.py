"""A measurement whose entries have different noise."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from randomwalk.operators.operator import Operator


class Weighted(Operator):
    """``W A``, W diagonal: where entry i of y has noise of standard deviation ``eta / w_i``, W y has noise eta.

    Args:
        operator: A, linear.
        weights: the diagonal of W, positive, ``[B or 1, *measurement_shape]``.
    """

    per_image = ("weights",)
    weights: Tensor

    def __init__(self, operator: Operator, weights: Tensor) -> None:
        super().__init__(operator.image_shape)
        self.operator = operator
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.weights * self.operator(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.operator.adjoint(self.weights * y)

    def preconditioner(self, damping: float, like: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Preconditioner of A, with the mean of the squared weights."""
        power = float(self.weights.square().mean())
        found = self.operator.preconditioner(damping / power, like)
        return None if found is None else lambda v: found(v) / power

    def interpolated(self, y: Tensor) -> Tensor:
        return self.operator.interpolated(y / self.weights)
