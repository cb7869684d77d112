"""Low-rank differences of a network's convolutions: a small file that adapts weights which stay as they are.

A kernel ``W [out, in, h, w]`` becomes ``W + (alpha / r) B A`` with ``A [r, in h w]`` and ``B [out, r]`` (Hu et al.
2021, arXiv 2106.09685, eq. 3). B starts at 0, so that a training starts from the network itself. Merged into the
kernels, a difference costs nothing in use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialized
from torch import Tensor, nn

from guided_diffusion.blocks import without_autocast
from randomwalk.errors import InputError, RunError
from randomwalk.runs.folder import RunFolder

FORMAT = "randomwalk difference"
"""Format of a file with factors, in its metadata."""
UP, DOWN = "low_rank_b", "low_rank_a"
"""Names of the factors B and A beside the kernel that they change."""


class LowRankConv2d(nn.Conv2d):
    """Convolution with the kernel ``W + scale B A``, where W and the bias are those of another one and are frozen.

    Args:
        conv: the other convolution.
        rank: r, the rank of the difference.
        scale: alpha / r.
    """

    def __init__(self, conv: nn.Conv2d, rank: int, scale: float) -> None:
        super().__init__(
            conv.in_channels, conv.out_channels,
            conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]  # tuples of two
            conv.groups, conv.bias is not None, conv.padding_mode, device="meta",
        )  # fmt: skip
        self.weight, self.bias, self.scale = conv.weight, conv.bias, scale
        size = conv.weight[0].numel()
        self.low_rank_a = nn.Parameter(torch.randn(rank, size) / size**0.5)
        self.low_rank_b = nn.Parameter(torch.zeros(conv.out_channels, rank))

    def forward(self, input: Tensor) -> Tensor:
        with without_autocast(input):  # a product in bfloat16 would be another one than that of the merged kernel
            kernel = changed(self.weight, self.low_rank_b, self.low_rank_a, self.scale)
        return self._conv_forward(input, kernel, self.bias)


def changed(kernel: Tensor, b: Tensor, a: Tensor, scale: float) -> Tensor:
    """Return ``W + scale B A``.

    Args:
        kernel: W, ``[out, in, h, w]``.
        b: ``[out, r]``.
        a: ``[r, in h w]``.
        scale: alpha / r.
    """
    return kernel + scale * (b @ a).view_as(kernel)


def add_factors(network: nn.Module, rank: int, alpha: float) -> None:
    """Freeze a network and give each of its 2-D convolutions factors to train; A is drawn from PyTorch's generator.

    Args:
        network: it is changed in place.
        rank: r.
        alpha: the difference is (alpha / r) B A.

    Raises:
        InputError: it has no 2-D convolutions.
    """
    network.requires_grad_(False)
    found = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    if not found:
        raise InputError("low_rank: the network has no 2-D convolutions, which are what it adapts; remove low_rank")
    for name in found:
        parent, _, own = name.rpartition(".")
        conv = network.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        setattr(network.get_submodule(parent), own, LowRankConv2d(conv, rank, alpha / rank))


def split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split the state dict of a network with factors into the weights that it began with, and the factors."""
    factors = {key: value for key, value in state.items() if key.rpartition(".")[2] in (UP, DOWN)}
    return {key: value for key, value in state.items() if key not in factors}, factors


def merged(state: Mapping[str, Tensor], factors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Add a difference to the kernels of a state dict, in float32.

    Args:
        state: of the network, with the weights that the factors were trained for.
        factors: by their names in the state dict of the network with factors.
        alpha: as in training.

    Raises:
        InputError: the factors do not fit the kernels.
    """
    found = dict(state)
    for name in dict.fromkeys(key.rpartition(".")[0] for key in factors):
        kernel, b, a = state.get(f"{name}.weight"), *(factors.get(f"{name}.{factor}") for factor in (UP, DOWN))
        if kernel is None or a is None or b is None:
            raise InputError(f"{name} has not both a kernel and two factors")
        if kernel.ndim != 4 or b.shape != (len(kernel), len(a)) or a.shape[1:] != kernel[0].flatten().shape:
            shapes = f"{list(b.shape)} and {list(a.shape)}"
            raise InputError(f"{name} has factors {shapes} for the kernel {list(kernel.shape)}")
        found[f"{name}.weight"] = changed(kernel.float(), b.float(), a.float(), alpha / len(a))
    return found


def checksum(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights as float32, whatever the file and the type in which they are stored."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().to("cpu", torch.float32).contiguous() + 0.0  # averaging turns -0 into 0
        digest.update(f"{key} {list(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def save(
    path: Path, state: Mapping[str, Tensor], base: Mapping[str, Any], alpha: float, training: Any, dtype: torch.dtype
) -> None:
    """Write the averaged factors of a network to one safetensors file, which appears whole or not at all.

    Args:
        path: the file.
        state: state dict of the network with factors.
        base: "path" of the weights that it began with, and "weights", the set in that file.
        alpha: as in training.
        training: what the file says of it, JSON.
        dtype: of the factors in the file.

    Raises:
        RunError: a factor is NaN or infinite, or is too large for ``dtype``.
    """
    weights, factors = split(state)
    tensors = {f"ema.{key}": value.detach().to("cpu", dtype, copy=True).contiguous() for key, value in factors.items()}
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise RunError(f"{path} was not written: {key} has values that are not finite in {dtype}")
    description = {"base": {**base, "checksum": checksum(weights)}, "alpha": alpha, "training": training}
    data = serialized(tensors, {"format": FORMAT, "config": json.dumps(description)})
    RunFolder(path.parent).write(path.name, lambda file: file.write(data), sync=True)
