"""Devices without float64 (Apple's mps): what is in float64 elsewhere is on the CPU, or in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}
"""Types of devices that have no float64."""


def with_float64(device: torch.device) -> torch.device:
    """The device, or the CPU if it has no float64."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def exact_type(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device without it."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def exact(value: Tensor) -> Tensor:
    """The tensor in float64, on the CPU if its device has no float64."""
    return value.to(with_float64(value.device)).double()


def on_device(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, in float32 if that has no float64."""
    return value.float().to(device) if device.type in WITHOUT_FLOAT64 else value.to(device)


def fitting(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A move of tensors, as of ``Module.to``, that makes float64 ones float32 where the device has no float64."""

    def move(tensor: Tensor) -> Tensor:
        if (
            tensor.dtype == torch.float64
            and fn(tensor.new_zeros((), dtype=torch.float32)).device.type in WITHOUT_FLOAT64
        ):
            tensor = tensor.float()
        return fn(tensor)

    return move
