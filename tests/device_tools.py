"""A device without float64 (as Apple's mps) that computes: tensors on "meta" whose values are on the CPU.

It refuses what that device refuses: a float64 tensor, and an operation on tensors of two devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from score_sde import devices

DEVICE = torch.device("meta")
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_INDEXED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)  # by indices that may be on the CPU


class DeviceTensor(Tensor):
    """Tensor on the device; ``values`` is on the CPU."""

    @staticmethod
    def __new__(cls, values: Tensor) -> DeviceTensor:
        assert values.device.type == "cpu" and not isinstance(values, DeviceTensor)
        if values.dtype in (torch.float64, torch.complex128):
            raise TypeError("the device has no float64")
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device=DEVICE,
        )
        return made

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({self.values})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Result of an operation: on the device if it is asked for there, or else if an argument is there."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with _Operations():  # in inference mode these come whole
            return func.decompose(*args, **kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [t for t in tensors if isinstance(t, DeviceTensor)]
    asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    here = bool(ours) if asked is None else asked == DEVICE
    if ours and func not in (*_COPIES, *_INDEXED) and any(t.ndim for t in tensors if not isinstance(t, DeviceTensor)):
        raise RuntimeError(f"{func}: tensors on two devices")
    if ours and not here and kwargs.get("dtype") == torch.float64:
        raise TypeError("the device has no float64: convert after the move")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    out = func(*tree_map(_values, args), **tree_map(_values, kwargs))
    known = {id(t.values): t for t in ours}  # results in place

    def placed(value: Any) -> Any:
        if isinstance(value, Tensor) and here:
            return known.get(id(value)) if id(value) in known else DeviceTensor(value)
        return value

    return tree_map(placed, out)


def _values(value: Any) -> Any:
    return value.values if isinstance(value, DeviceTensor) else value


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Functions that PyTorch answers for "meta" without an operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") not in (None, "cpu", torch.device("cpu")):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(args[0].device)
        if func is Tensor.tolist and isinstance(args[0], DeviceTensor):
            return args[0].values.tolist()
        return func(*args, **kwargs)


@contextmanager
def stand_in() -> Iterator[torch.device]:
    """The device, while it is there."""
    devices.WITHOUT_FLOAT64.add(DEVICE.type)
    try:
        with patch.object(torch, "autocast", lambda *_, **__: nullcontext()), _Operations(), _Functions():
            yield DEVICE  # without autocast, which meta does not have
    finally:
        devices.WITHOUT_FLOAT64.remove(DEVICE.type)
