"""Noise of instruments: magnitudes of complex numbers, speckle, rounding, and photons behind an absorber.

Each is a density of y, or a probability of whole numbers, for any exact measurement. Draws come from Normal(0, 1)
through the distribution function, so that they depend on the stream of an image alone.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from typing_extensions import Self

from randomwalk.errors import InputError
from randomwalk.operators.noise_base import MeasuresOnes, Noise, normal, require_pixels
from randomwalk.rng import Draws, TorchDraws
from score_sde.devices import exact


class SharedNoise(Noise):
    """Noise whose log-likelihood is shared out among the copies of a measurement, see :meth:`Noise.of_copies`."""

    def of_copies(self, count: int) -> Self:
        noise = copy.copy(self)
        noise.copies = count
        return noise

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        return self.log_density(y, clean).flatten(1).sum(1) / self.copies

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        return self.slope(y, clean) / self.copies

    def log_density(self, y: Tensor, clean: Tensor) -> Tensor:
        """``log f`` of each entry of y."""
        raise NotImplementedError

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        """Derivative of :meth:`log_density` by ``A(x)``."""
        raise NotImplementedError


class RicianNoise(SharedNoise):
    """Magnitudes of complex numbers: ``y + 1 = |v + std (n1 + i n2)|``, ``v = A(x) + 1``, as of magnetic resonance.

    Black (-1) is the magnitude 0, and so is what is darker. With ``r = y + 1`` the density is
    ``r / std^2 exp(-(r^2 + v^2) / (2 std^2)) I_0(r v / std^2)``, which is Rayleigh's where v = 0, and its logarithm has
    the derivative ``(r I_1 / I_0 - v) / std^2``.

    Source: Rice 1944; Gudbjartsson and Patz 1995, doi 10.1002/mrm.1910340618.

    Args:
        std: standard deviation of each part, positive, in [-1, 1] pixel units; that of y far above black.
    """

    name = "rician"

    def __init__(self, std: float) -> None:
        self.std = std

    @property
    def stable_std(self) -> float:
        return self.std * math.sqrt(self.copies)

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        require_pixels(y, self.name, "no magnitude")
        draws = TorchDraws(len(y), device=y.device, dtype=y.dtype) if draws is None else draws
        real, imaginary = ((self.std * normal(y, draws)).to(y) for _ in range(2))
        return torch.hypot(_above_black(y) + real, imaginary) - 1

    def brightened(self, gain: float) -> RicianNoise:
        return RicianNoise(self.std * gain)

    def log_density(self, y: Tensor, clean: Tensor) -> Tensor:
        r, v, variance = y + 1, _above_black(clean), self.std**2
        bessel = torch.special.i0e(r * v / variance).log()
        return (r / variance).clamp_min(torch.finfo(y.dtype).tiny).log() - (r - v).square() / (2 * variance) + bessel

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        r, v, variance = y + 1, _above_black(clean), self.std**2
        z = r * v / variance
        slope = (r * torch.special.i1e(z) / torch.special.i0e(z) - v) / variance
        return torch.where(clean > -1, slope, 0.0)


class GammaNoise(SharedNoise):
    """Speckle: ``y + 1 = v g``, ``g ~ Gamma(L, 1 / L)`` of mean 1 and variance 1 / L, as of L looks of a radar.

    ``v = max(A(x) + 1, lowest)`` is the intensity: darker than ``lowest`` is taken to be that dark, since the
    log-likelihood has no bound on its curvature at 0. With ``r = y + 1`` the density is
    ``L^L r^(L - 1) exp(-L r / v) / (Gamma(L) v^L)``, and its logarithm has the derivative ``L (r - v) / v^2``.

    Source: Goodman 1976, doi 10.1364/JOSA.66.001145.

    Args:
        looks: L, positive.

    Attributes:
        std: at mid-grey, ``1 / sqrt(L)``.
    """

    name = "gamma"
    lowest = 0.1
    """Intensity, black being 0 and white 2, below which all are alike."""

    def __init__(self, looks: float) -> None:
        self.looks, self.std = looks, 1 / math.sqrt(looks)

    @property
    def stable_std(self) -> float:
        """For twice the intensity where ``lowest`` is expected; the curvature is ``L (2 r / v^3 - 1 / v^2)``."""
        return self.lowest / math.sqrt(3 * self.looks / self.copies)

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        from scipy.stats import gamma

        require_pixels(y, self.name, "no intensity")
        uniform = torch.special.ndtr(exact(normal(y, draws))).cpu().numpy()
        speckle = torch.from_numpy(gamma.ppf(uniform, self.looks) / self.looks).to(y)
        return self._intensity(y) * speckle - 1

    def brightened(self, gain: float) -> GammaNoise:
        return GammaNoise(self.looks)

    def log_density(self, y: Tensor, clean: Tensor) -> Tensor:
        r, v, count = (y + 1).clamp_min(torch.finfo(y.dtype).tiny), self._intensity(clean), self.looks
        return count * (math.log(count) - v.log() - r / v) + (count - 1) * r.log() - math.lgamma(count)

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        v = self._intensity(clean)
        return torch.where(clean + 1 > self.lowest, self.looks * (y + 1 - v) / v.square(), 0.0)

    def _intensity(self, clean: Tensor) -> Tensor:
        return (clean + 1).clamp_min(self.lowest)


class QuantizedNoise(SharedNoise):
    """Rounding of ``A(x) + std n`` to ``2^bits`` values, evenly from -1 to 1: those of a coarse converter.

    The first and the last take all that is darker or brighter. A value between a and b has the probability
    ``P = Phi((b - A(x)) / std) - Phi((a - A(x)) / std)``, whose logarithm is concave with a curvature of at most
    ``1 / std^2`` and the derivative ``(phi((a - A(x)) / std) - phi((b - A(x)) / std)) / (std P)``.

    Args:
        bits: of the converter.
        std: standard deviation of the noise before it, positive, in [-1, 1] pixel units.

    Attributes:
        std: ``sqrt(std^2 + step^2 / 12)``, where nothing is cut off.
    """

    name = "quantized"
    far = 1e3
    """Where the values of the first and the last begin and end."""

    def __init__(self, bits: int, std: float) -> None:
        self.bits, self.before, self.step = bits, std, 2 / (2**bits - 1)
        self.std = math.sqrt(std**2 + self.step**2 / 12)

    @property
    def stable_std(self) -> float:
        return self.before * math.sqrt(self.copies)

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        return self._codes(y + (self.before * normal(y, draws)).to(y)) * self.step - 1

    def log_density(self, y: Tensor, clean: Tensor) -> Tensor:
        low, high = self._ends(y, clean)
        low, high = torch.where(low + high > 0, -high, low), torch.where(low + high > 0, -low, high)
        whole = torch.special.log_ndtr(high)
        return whole + torch.log(-torch.expm1(torch.special.log_ndtr(low) - whole))

    def slope(self, y: Tensor, clean: Tensor) -> Tensor:
        low, high = self._ends(y, clean)
        shift = math.log(self.before * math.sqrt(2 * math.pi)) + self.log_density(y, clean)
        return (-low.square() / 2 - shift).exp() - (-high.square() / 2 - shift).exp()

    def _codes(self, y: Tensor) -> Tensor:
        """Numbers of the values, from 0 to ``2^bits - 1``."""
        return ((y + 1) / self.step).round().clamp(0, 2**self.bits - 1)

    def _ends(self, y: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Ends a and b of what is rounded to y, less ``A(x)``, in units of the noise before."""
        codes = self._codes(y)
        low = torch.where(codes == 0, -self.far, (codes - 0.5) * self.step - 1)
        high = torch.where(codes == 2**self.bits - 1, self.far, (codes + 0.5) * self.step - 1)
        return (low - clean) / self.before, (high - clean) / self.before


class BeerLambertNoise(Noise):
    """Photons behind an absorber: ``k ~ Poisson(photons exp(-p))`` with the line integral p of the attenuation.

    Attenuations of ``low`` and ``high`` per unit of length are the pixels -1 and 1, so that

        p = h A x + c A 1,      h = (high - low) / 2,   c = (high + low) / 2

    and y, in the unit of A x, is what the photons say: ``y = (-log(k / photons) - c A 1) / h``. Where none was counted,
    half a photon stands for it. Where an image has a negative p, ``log f = k log(lambda) - lambda - log(k!)``
    goes on with ``lambda = photons (1 - p)`` in the second term, so that its curvature by A x is at most
    ``h^2 photons``. Its derivative by A x is ``h (photons exp(-p) - k)``.

    Source: Beer 1852; Snyder and Miller 1991 for the noise.

    Args:
        photons: of a ray through nothing, positive.
        low, high: attenuation per unit of length of -1 and 1.

    Attributes:
        std: where an image of zeros is behind the mean ray.
    """

    name = "beer_lambert"
    NONE = 0.5
    """Photons in place of none."""

    def __init__(self, photons: float, low: float, high: float) -> None:
        self.photons, self.half, self.middle = photons, (high - low) / 2, (high + low) / 2
        self.offset: Tensor | None = None

    @property
    def std(self) -> float:  # type: ignore[override]
        shift = 0.0 if self.offset is None else float(self.offset.mean())
        return math.exp(shift / 2) / (self.half * math.sqrt(self.photons))

    @property
    def stable_std(self) -> float:
        return 1 / (self.half * math.sqrt(self.photons))

    def of_operator(self, operator: MeasuresOnes) -> BeerLambertNoise:
        if self.offset is not None:
            return self
        noise = copy.copy(self)
        noise.offset = self.middle * operator.of_ones()
        return noise

    def of_copies(self, count: int) -> BeerLambertNoise:
        noise = copy.copy(self)
        noise.photons, noise.copies = self.photons / count, count
        return noise

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        from scipy.stats import poisson

        uniform = torch.special.ndtr(exact(normal(y, draws))).cpu().numpy()
        counts = poisson.ppf(uniform, (self.photons * (-self._integral(exact(y))).exp()).cpu().numpy())
        return self.measured(torch.from_numpy(counts)).to(y)

    def measured(self, counts: Tensor) -> Tensor:
        """y of counted photons ``[B, ...]``.

        Raises:
            InputError: a count is negative.
        """
        if counts.min() < 0:
            raise InputError(f"noise beer_lambert: found {float(counts.min()):g} photons; expected counts, from 0 up")
        integral = -(counts.clamp_min(self.NONE / self.copies) / self.photons).log()
        return (integral - self._offset().to(integral)) / self.half

    def counts(self, y: Tensor) -> Tensor:
        """Counted photons of y."""
        found = self.photons * (-self._integral(y)).exp()
        return torch.where(found > 1.001 * self.NONE / self.copies, found, 0.0)

    def weights(self, y: Tensor) -> Tensor:
        """``sqrt(k / photons)`` of each ray with k photons, for the many samplers of Gaussian noise.

        The variance of y is about ``1 / (h^2 k)``, so that y times the weights has `stable_std` everywhere.

        Source: Sauer and Bouman 1993, IEEE TSP 41(2).
        """
        return (self.counts(y).clamp_min(self.NONE / self.copies) / self.photons).sqrt()

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        k, p = self.counts(y), self._integral(clean)
        expected = self.photons * ((-p.clamp_min(0)).exp() + (-p).clamp_min(0))
        return (k * (math.log(self.photons) - p) - expected - torch.lgamma(k + 1)).flatten(1).sum(1)

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        return self.half * (self.photons * (-self._integral(clean).clamp_min(0)).exp() - self.counts(y))

    def _integral(self, clean: Tensor) -> Tensor:
        """p of ``A x``."""
        return self.half * clean + self._offset().to(clean)

    def _offset(self) -> Tensor:
        if self.offset is None:
            raise InputError("noise beer_lambert: needs its operator; use Operator.measure or Measurement")
        return self.offset


def _above_black(clean: Tensor) -> Tensor:
    """``A(x) + 1``, 0 where it is darker than black."""
    return (clean + 1).clamp_min(0)
