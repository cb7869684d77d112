"""The precision in which a network computes, and whether it is compiled, where the settings leave that open."""

from __future__ import annotations

import importlib.util
import platform

import torch

COMPILED_FROM = 5000
"""Evaluations of a run from which a network is compiled on a GPU: a minute, for a hundredth of a second at each."""


def has_bf16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16; without them it is slower than float32, or as slow.

    They are AMX or AVX-512 BF16 of x86 processors, those of ARM processors, and those of NVIDIA GPUs from Ampere on.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # The names are PyTorch's own, and begin with _: where they are missing, nothing is known of such units.
    if platform.machine().lower() in ("arm64", "aarch64"):
        library = getattr(torch.ops, "mkldnn", None)
        supported = getattr(library, "_is_mkldnn_bf16_supported", None)
        return torch.backends.mkldnn.is_available() and supported is not None and bool(supported())
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in names)


def choose_precision(precision: str, device: torch.device, exact: str = "") -> tuple[str, str]:
    """The precision, "fp32" or "bf16", and why it was chosen; an empty reason where the settings say it.

    Args:
        precision: "auto", "fp32" or "bf16".
        device: of the network.
        exact: why rounding would change the results, if it would.
    """
    if precision != "auto":
        return precision, ""
    if not has_bf16(device):
        return "fp32", f"this {'GPU' if device.type == 'cuda' else 'processor'} has no units for bf16"
    if exact:
        return "fp32", exact
    return "bf16", f"this {'GPU' if device.type == 'cuda' else 'processor'} has units for bf16"


def pays_to_compile(device: torch.device, evaluations: int) -> bool:
    """Whether compiling a network is likely to save more time than it takes, and can be done.

    On a CPU it is not: the bundled network of photographs took 57 seconds of processor time to compile in bf16, and was
    no faster then; in fp32 38 seconds, for 10% less time.
    """
    return device.type == "cuda" and evaluations >= COMPILED_FROM and importlib.util.find_spec("triton") is not None
