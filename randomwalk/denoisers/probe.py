"""A look at the denoiser while a sampler runs."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from randomwalk.denoisers.adapters import CountingDenoiser, Denoiser, broadcast_sigma


class Probe(CountingDenoiser):
    """Counts, and can show the last evaluation as a denoised image without another one."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self._denoised: Callable[[], Tensor] | None = None

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        out = super().forward(x, sigma)
        self._denoised = lambda: out
        return out

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        score = super().score(x, sigma)
        self._denoised = lambda: x + broadcast_sigma(sigma, x) ** 2 * score
        return score

    def linearized(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        out, product = super().linearized(x, sigma)
        self._denoised = lambda: out  # and not the one that holds the graph
        return out, product

    def denoised(self) -> Tensor:
        """D(x, sigma) of the last evaluation."""
        if self._denoised is None:
            raise RuntimeError("nothing was denoised yet")
        return self._denoised()
