"""Memory of a network evaluation, the memory available, and the tiles that fit into it."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from randomwalk import distributed
from randomwalk.config import SampleConfig
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.tiling import ALIGNMENT, Tiling
from randomwalk.errors import InputError
from randomwalk.samplers import Needs

GIB = 2**30
SHARE, MOST = 0.6, 0.9
"""Shares of the free memory: that by which tiles are chosen if no bound is given, and that with the smallest tiles."""
PROGRAM = 1.1 * GIB
"""Memory of the program without images: PyTorch with its libraries, weights, workspaces of convolutions."""
LIBRARIES = 2.0
"""Memory of an evaluation in units of its tensors: convolution libraries copy them."""
CPU_PIXELS = 1120**2
"""Most pixels that the network takes at once on a CPU, which larger tiles hardly make faster.

The network's time for a pixel does not depend on the size from 352 x 352 pixels on; what tiles cost is their overlap:
at most 12% of a picture of 1 to 24 megapixels in tiles of this size, 17% in those of 1024 x 1024.
"""
FAST_ENOUGH = "which take less memory than larger ones and are about as fast on a CPU"
"""End of the note on tiles that are small for `CPU_PIXELS`."""
TRIAL_SIDE = 128
"""Side of the image on which the network's memory is measured."""
LEAST_TILE, OVERLAP = 128, 64
"""Smallest side of a tile, and overlap of neighbouring tiles, in pixels."""


class Ledger(TorchFunctionMode):
    """Context that counts the memory of the tensors that PyTorch's functions return.

    Attributes:
        held: bytes of tensors that still exist, including those kept for a later backward pass.
        peak: maximum of ``held``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(made, Tensor):
                self._enter(made.untyped_storage())
        return out

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.held += storage.nbytes()
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._leave, key)

    def _leave(self, key: int) -> None:
        self.held -= self._sizes.pop(key)


def bytes_per_pixel(denoiser: Denoiser, device: torch.device, gradient: bool) -> float:
    """Measure the memory of an evaluation per pixel of an image (with all its channels), on a small image.

    Args:
        denoiser: takes images of any size.
        device: of the denoiser.
        gradient: whether to include a product with the transposed Jacobian.
    """
    assert denoiser.channels is not None
    x = torch.zeros((1, denoiser.channels, TRIAL_SIDE, TRIAL_SIDE), device=device)
    sigma = math.sqrt(max(denoiser.sigma_min, 1e-3) * min(denoiser.sigma_max, 1e3))
    eager: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if any(hasattr(module, "_orig_mod") for module in denoiser.modules()) and hasattr(torch.compiler, "set_stance"):
        eager = torch.compiler.set_stance("force_eager")  # else the network is compiled for the trial's size
    with eager, Ledger() as ledger:
        if gradient:
            denoiser.linearized(x, sigma)[1](x)
        else:
            with torch.inference_mode():
                denoiser(x, sigma)
    return LIBRARIES * ledger.peak / TRIAL_SIDE**2


@dataclass
class Budget:
    """Memory bound of a run, and the memory of its network.

    Attributes:
        gib: bound on the whole process, in GiB.
        cause: origin of the bound, for messages.
        per_pixel: see `bytes_per_pixel`.
        copies: of the batch outside the network, see `Needs`; `python benchmarks/memory.py` measures the process.
        most_pixels: most pixels that the network takes at once, whatever the memory.
        most_gib: bound with the smallest tiles, if it is not the same.
    """

    gib: float
    cause: str
    per_pixel: float
    copies: int
    most_pixels: int = sys.maxsize
    most_gib: float | None = None

    def tiling(self, shape: Sequence[int], rows: int) -> Tiling | None:
        """Cut a batch of images into tiles, so that sampling stays within the bound.

        Args:
            shape: ``(C, H, W)`` of an image.
            rows: number of images in the batch.

        Returns:
            None if the network takes the batch as a whole.

        Raises:
            InputError: not even the smallest tile fits.
        """
        _, height, width = shape
        pixels = min(self._fitting(shape, rows), self.most_pixels)
        if pixels >= rows * height * width:
            return None
        high, wide = (ALIGNMENT * math.ceil(max(side, LEAST_TILE) / ALIGNMENT) for side in (height, width))
        if pixels >= height * width:
            return Tiling(high, wide, OVERLAP, pixels // (height * width))
        if pixels < LEAST_TILE**2:
            least = (self._outside(shape, rows) + LEAST_TILE**2 * self.per_pixel) / GIB
            if least > (self.most_gib or self.gib):
                batch = f" in batches of {rows}" if rows > 1 else ""
                raise InputError(
                    f"{self.cause} is {self.gib:.3g} GiB, but images of {height}x{width} pixels{batch} take "
                    f"{math.ceil(10 * least) / 10:g}, even in tiles of {LEAST_TILE}x{LEAST_TILE} pixels: raise "
                    "max_memory (--max-memory), or take smaller images or batches"
                )
            pixels = LEAST_TILE**2
        side = math.isqrt(pixels)  # square tiles, or tiles across the whole image where it is narrower
        if high <= side:
            down, across = high, pixels // high
        else:
            down, across = (pixels // wide, wide) if wide <= side else (side, side)
        return Tiling(down // ALIGNMENT * ALIGNMENT, across // ALIGNMENT * ALIGNMENT, OVERLAP)

    def reason(self, shape: Sequence[int], rows: int) -> str:
        """State why `tiling` cuts a batch into no larger tiles, as the end of a sentence."""
        if self._fitting(shape, rows) < self.most_pixels:
            return f"to stay below {self.gib:g} GiB ({self.cause})"
        return FAST_ENOUGH

    def _fitting(self, shape: Sequence[int], rows: int) -> int:
        """Most pixels that the network may take at once within the bound."""
        return int((self.gib * GIB - self._outside(shape, rows)) / self.per_pixel)

    def _outside(self, shape: Sequence[int], rows: int) -> float:
        """Bytes that sampling takes without the network."""
        return PROGRAM + self.copies * 4 * math.prod(shape) * rows


def make_budget(config: SampleConfig, denoiser: Denoiser, device: torch.device, needs: Needs) -> Budget | None:
    """Budget that a config states, or a share of the free memory; None for a network that takes only one size.

    Args:
        config: of the run.
        denoiser, device: see `bytes_per_pixel`.
        needs: of the sampler.

    Raises:
        InputError: the config bounds the memory of a network that takes only one size.
    """
    if not denoiser.any_size:
        if config.max_memory is not None:
            raise InputError(
                "max_memory: is for networks that take images of any size, and so tiles of them; that of "
                f"{config.network.path} does not: lower batch_size instead"
            )
        return None
    per_pixel = bytes_per_pixel(denoiser, device, needs.gradient)
    most_pixels = CPU_PIXELS if device.type == "cpu" else sys.maxsize
    if config.max_memory is not None:
        return Budget(config.max_memory, "max_memory", per_pixel, needs.copies, most_pixels)
    free = free_memory(device, distributed.launch().local_size) / GIB
    gib, cause = math.floor(100 * free) / 100, f"{SHARE:.0%} of the free memory"
    return Budget(gib, cause, per_pixel, needs.copies, most_pixels, MOST / SHARE * gib)


# --- available memory -------------------------------------------------------------------------------------------


def free_memory(device: torch.device, processes: int = 1) -> float:
    """Bytes that this process may take: a `SHARE` of the free memory, divided among the machine's processes."""
    if device.type == "cuda":
        return SHARE * torch.cuda.mem_get_info(device)[0] / math.ceil(processes / torch.cuda.device_count())
    return SHARE * min(_available(), _left_to_group()) / processes


def _available() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return 8.0 * GIB


def _left_to_group(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes left in the container's control group, file caches counted as free; infinite without one."""
    for folder, limit, usage, cached in (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used = int((folder / usage).read_text()) - int(facts.get(cached, 0))
            return float(int((folder / limit).read_text()) - used)
    return math.inf
