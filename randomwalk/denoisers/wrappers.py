"""Wrappers around a denoiser: counting evaluations, and keeping the last denoised images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser, broadcast_sigma


class Wrapper(Denoiser):
    """Base of denoisers around another one, ``inner``, with its noise levels, images and cost."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.inner = denoiser
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        self.channels, self.image_size, self.any_size = denoiser.channels, denoiser.image_size, denoiser.any_size
        self.cost, self.response = denoiser.cost, denoiser.response

    def own_levels(self, u: Tensor) -> Tensor:
        return self.inner.own_levels(u)


class CountingDenoiser(Wrapper):
    """Denoiser that counts the evaluations of another one (``cost`` for each batch).

    Attributes:
        evaluations: number of network evaluations.
        vjps: number of products with the transposed Jacobian of the network.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.evaluations = 0
        self.vjps = 0

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.evaluations += self.cost
        out: Tensor = self.inner(x, sigma)
        return out

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.evaluations += self.cost
        return self.inner.score(x, sigma)

    def linearized(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        self.evaluations += self.cost
        out, product = self.inner.linearized(x, sigma)

        def counted(v: Tensor) -> Tensor:
            self.vjps += self.cost
            return product(v)

        return out, counted


class TurningDenoiser(Wrapper):
    """Denoiser that sees images turned and mirrored, in the next of the eight ways R at each evaluation.

        D'(x, sigma) = R^-1 D(R x, sigma)

    Over the steps of a walk it is the mean over R, for which a single image takes eight evaluations, as a network that
    is not exactly equivariant is then closer to one.

    Source: the periodical self-ensemble of Zhang et al. 2021, arXiv 2008.13751, section 4.2.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.evaluations = 0

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self._turned(self.inner.forward, x, sigma)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self._turned(self.inner.score, x, sigma)

    def _turned(self, evaluate: Callable[[Tensor, float | Tensor], Tensor], x: Tensor, sigma: float | Tensor) -> Tensor:
        quarters, mirrored = divmod(self.evaluations % 8, 2)
        self.evaluations += 1
        x = (x.flip(-1) if mirrored else x).rot90(quarters, (-2, -1))
        out = evaluate(x, sigma).rot90(-quarters, (-2, -1))
        return out.flip(-1) if mirrored else out


@contextmanager
def turning(denoiser: Denoiser) -> Iterator[Denoiser]:
    """The denoiser with images turned as by :class:`TurningDenoiser`; one that counts sees them as they are."""
    if not isinstance(denoiser, CountingDenoiser):
        yield TurningDenoiser(denoiser)
        return
    inner = denoiser.inner
    denoiser.inner = TurningDenoiser(inner)
    try:
        yield denoiser
    finally:
        denoiser.inner = inner


class Probe(CountingDenoiser):
    """Counting denoiser that keeps its last denoised image.

    Attributes:
        shown: part of an image that `denoised` returns; all of it by default.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.shown: Callable[[Tensor], Tensor] = lambda x: x
        self._denoised: Callable[[], Tensor] | None = None

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self._denoised = None  # frees it before the next one is made
        out = super().forward(x, sigma)
        self._denoised = lambda: out
        return out

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self._denoised = None
        score = super().score(x, sigma)
        self._denoised = lambda: x + broadcast_sigma(sigma, x) ** 2 * score
        return score

    def linearized(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        self._denoised = None
        out, product = super().linearized(x, sigma)
        self._denoised = lambda: out  # not the tensor that holds the graph
        return out, product

    def denoised(self) -> Tensor:
        """D(x, sigma) of the last evaluation."""
        if self._denoised is None:
            raise RuntimeError("no image has been denoised yet")
        return self.shown(self._denoised())
