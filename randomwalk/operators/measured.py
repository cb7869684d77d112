"""Measurements in files of arrays: complex numbers, shapes and the order of axes, as each operator takes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.operators.operator import Operator
from randomwalk.operators.tomography import Tomography

COLOURS = 3
"""Channels of a network of colours, which takes projections of one channel as three equal ones."""


def as_measurement(operator: Operator, values: np.ndarray, where: str, name: str) -> Tensor:
    """A measurement ``[*measurement_shape]``, float64 in the units of its file.

    Complex numbers become two real ones along :attr:`Operator.parts_axis`. An axis of one channel may be missing.

    Args:
        operator: A.
        values: array of the file, real or complex.
        where: beginning of the message.
        name: of the operator, for the message.

    Raises:
        InputError: its shape is not that of a measurement, or it is complex where measurements are real.
    """
    expected, parts = operator.measurement_shape, operator.parts_axis
    found = values
    if np.iscomplexobj(values):
        if parts is None:
            raise InputError(f"{where}: is complex, but {name} measures real numbers")
        found = np.stack([values.real, values.imag], parts)
    if found.ndim == len(expected) - 1 and expected[0] in (1, COLOURS):
        found = found[None]
    if isinstance(operator, Tomography) and len(found) == 1 and expected[0] == COLOURS:
        found = found.repeat(COLOURS, 0)
    if found.shape != expected:
        raise InputError(_refusal(operator, values, f"{where}: has the shape", name))
    return torch.from_numpy(found.astype(np.float64))


def _refusal(operator: Operator, values: np.ndarray, start: str, name: str) -> str:
    """Message that an array has not the shape of a measurement."""
    expected, parts = operator.measurement_shape, operator.parts_axis
    kind = "complex" if np.iscomplexobj(values) else "real"
    wanted = list(expected)
    if parts is not None:
        del wanted[parts]
    axes = list(operator.axes)
    if len(axes) == len(wanted) and parts is None and wanted[0] in (1, COLOURS) and axes[0] == "channels":
        axes, wanted = axes[1:], wanted[1:]
    names = f" [{', '.join(axes)}]" if axes else ""
    text = f"{start} {_times(values.shape)}, {kind}; {name} measures{names} {_times(wanted)}"
    text += ", complex" if parts is not None else ""
    order = _order(values.shape, wanted)
    if order is not None and (kind == "complex") == (parts is not None):
        text += f": its axes are in another order, which numpy's transpose({', '.join(map(str, order))}) changes"
    return text


def _order(shape: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...] | None:
    """Order of the axes in which an array has the shape that is wanted; None if there is none."""
    if len(shape) != len(wanted):
        return None
    return next((p for p in permutations(range(len(shape))) if [shape[k] for k in p] == list(wanted)), None)


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
