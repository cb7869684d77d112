"""A linear operator as a matrix, with its singular value decomposition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.operators.operator import Operator
from randomwalk.operators.sensing import times
from randomwalk.operators.separable import reciprocal

MEMORY_LIMIT = 2**30
"""Most bytes that the matrix of a :class:`Dense` operator may take."""


class Dense(Operator):
    """``A x = M x`` of the image as one vector, with everything in closed form from the SVD of M.

    For small images: M takes ``8 B m d`` bytes (with d = C H W entries of an image and m of a measurement), at most
    ``MEMORY_LIMIT``, 1 GiB; the singular vectors take up to twice as much again, and the time of the decomposition
    grows like ``m d min(m, d)``.

    Args:
        image_shape: ``(C, H, W)``.
        matrix: M, ``[m, d]``, or ``[B, m, d]`` with one for each image of the batch.
        measurement_shape: shape of one image's measurement; ``(m,)`` if None.
    """

    per_image = ("matrix", "left", "singular_values", "basis")
    matrix: Tensor
    left: Tensor
    singular_values: Tensor
    basis: Tensor

    def __init__(
        self, image_shape: Sequence[int], matrix: Tensor, measurement_shape: Sequence[int] | None = None
    ) -> None:
        super().__init__(image_shape)
        matrix = matrix.double()
        matrix = matrix[None] if matrix.ndim == 2 else matrix
        self._measurement_shape = tuple(matrix.shape[1:2] if measurement_shape is None else measurement_shape)
        expected = (prod(self._measurement_shape), prod(self.image_shape))
        if matrix.ndim != 3 or matrix.shape[1:] != expected:
            raise InputError(f"dense operator: the matrix has shape {tuple(matrix.shape)}; expected {expected}")
        left, values, basis = torch.linalg.svd(matrix, full_matrices=False)
        for name, value in (("matrix", matrix), ("left", left), ("singular_values", values), ("basis", basis)):
            self.register_buffer(name, value)

    @classmethod
    def of(cls, operator: Operator) -> Dense:
        """The same operator as a matrix, column by column, from its ``forward`` alone.

        Raises:
            InputError: it is not linear, or its matrix would be larger than ``MEMORY_LIMIT``.
        """
        if not operator.linear:
            raise InputError(f"{type(operator).__name__} is not linear and has no matrix")
        blank = operator._exact_blank()
        with torch.no_grad():
            y = operator(blank)
            rows, size = len(y), blank.numel()
            if (needed := 8 * rows * size * y[0].numel()) > MEMORY_LIMIT:
                raise InputError(
                    f"{type(operator).__name__}: as a matrix it takes {needed / 2**30:.1f} GiB, more than "
                    f"{MEMORY_LIMIT / 2**30:g}; dense is for small images"
                )
            # One pixel at a time, so that an operator with a state for each image gets a batch of its own size.
            columns = []
            for pixel in range(size):
                image = torch.zeros_like(blank)
                image.view(-1)[pixel] = 1
                columns.append(operator(image.expand(rows, *operator.image_shape)).flatten(1))
        made = cls(operator.image_shape, torch.stack(columns, 2), y.shape[1:])
        made.margins, made.notes = operator.margins, operator.notes
        return made

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self._measurement_shape

    def forward(self, x: Tensor) -> Tensor:
        return times(self.matrix, x.flatten(1)).reshape(-1, *self._measurement_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        return times(self.matrix.mT, y.flatten(1)).reshape(-1, *self.image_shape)

    def pinv(self, y: Tensor) -> Tensor:
        inverse = reciprocal(self.singular_values, dim=1).to(y.dtype)
        inside = inverse * times(self.left.mT, y.flatten(1))
        return times(self.basis.mT, inside).reshape(-1, *self.image_shape)

    def norm(self) -> float:
        return float(self.singular_values.max())

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        at_zero = f(self.singular_values.new_zeros(()))
        change = (f(self.singular_values**2) - at_zero).to(x.dtype)
        inside = times(self.basis.mT, change * times(self.basis, x.flatten(1)))
        return at_zero.to(x.dtype) * x + inside.reshape(-1, *self.image_shape)
