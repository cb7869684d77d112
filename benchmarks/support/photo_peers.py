"""Restoration by other people's code: the samplers of deepinv and azula, with our denoiser and our measurements.

Each method is run by its library as it is. deepinv takes pixels and noise levels on the scale of [0, 1], azula ours,
[-1, 1]. ``evaluations`` is the number of the denoiser's evaluations; vector-Jacobian products come on top. Their draws
are those of PyTorch's own generator, seeded for each photograph.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.operators import Blur, Inpainting, Operator
from randomwalk.operators.deepinv_adapter import to_deepinv
from randomwalk.operators.separable import Separable
from support.photo_problems import Problem

LIBRARIES = {
    "deepinv": ("deepinv.optim", "deepinv.physics", "deepinv.sampling"),
    "azula": ("azula.guidance", "azula.linalg.covariance", "azula.sample"),
}
"""Libraries, and their parts that are used here."""


def library_of(title: str) -> str | None:
    """Library of a peer, by its title ``METHOD (LIBRARY)``; None for methods of ours."""
    return next((name for name in LIBRARIES if f"({name})" in title), None)


def differentiates(title: str) -> bool:
    """True if a peer takes vector-Jacobian products of the network."""
    return library_of(title) is not None and title.split(" (")[0] in ("DPS", "PiGDM", "MMPS")


def missing(library: str) -> str | None:
    """Reason why the peers of a library cannot run; None if they can."""
    try:
        for part in LIBRARIES[library]:
            importlib.import_module(part)
    except ImportError as error:
        return f"The methods of {library} are left out: pip install {library} ({error})"
    return None


# --- the denoiser ----------------------------------------------------------------------------------------------------


class _Product(torch.autograd.Function):
    """The identity, which counts the backward passes through it; usable under `torch.func`."""

    @staticmethod
    def forward(x: Tensor, counter: CountingDenoiser) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, CountingDenoiser], output: Tensor) -> None:
        ctx.counter = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.counter.vjps += 1
        return gradient, None


class Peer(torch.nn.Module):
    """Our denoiser as theirs: counts evaluations and vector-Jacobian products, and takes any noise level.

    Above the network's range, where peers start, ``D(x, s)`` is ``D(x t / s, t)`` with the highest level t: the noise
    is that of t, and the image under it is weaker still. Below the range it is that of the lowest level.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.counter = CountingDenoiser(denoiser)

    def denoised(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D(x, sigma) for x ``[B, C, H, W]`` in [-1, 1]."""
        level, highest = float(sigma), self.counter.sigma_max
        if level > highest:
            x, level = x * (highest / level), highest
        found: Tensor = self.counter(x, max(level, self.counter.sigma_min))
        return _Product.apply(found, self.counter) if found.requires_grad else found


class UnitRange(Peer):
    """The denoiser on the scale of [0, 1], which is deepinv's."""

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D(x, sigma)."""
        return (self.denoised(2 * x - 1, 2 * float(sigma)) + 1) / 2


# --- deepinv ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnitProblem:
    """A measurement of pixels on the scale of [0, 1]: since ``x = 2 u - 1``, it is ``A u = (A x + A 1) / 2``.

    Missing pixels are 0 instead of noise, which nobody may use.
    """

    problem: Problem

    @property
    def y(self) -> Tensor:
        """``[1, *measurement_shape]``."""
        operator, y = self.problem.operator, self.problem.y
        y = operator(y) if isinstance(operator, Inpainting) else y
        return (y + operator(torch.ones_like(self.problem.truth))) / 2

    @property
    def start(self) -> Tensor:
        """The image interpolated from the measurement."""
        found: Tensor = (self.problem.operator.interpolated(self.problem.y) + 1) / 2
        return found

    @property
    def eta(self) -> float:
        """Standard deviation of the noise."""
        return self.problem.noise.std / 2

    def physics(self, decomposed: bool = False) -> Any:
        """The operator as deepinv's physics.

        Args:
            decomposed: with its singular value decomposition, which DDRM needs.
        """
        noise = importlib.import_module("deepinv.physics").GaussianNoise(self.eta)
        operator = self.problem.operator
        return decomposition(operator, noise) if decomposed else to_deepinv(operator, noise_model=noise)


def decomposition(operator: Operator, noise: Any) -> Any:
    """deepinv's ``DecomposablePhysics`` of an operator: masks, matrices along rows and columns, and circular blurs."""
    physics = importlib.import_module("deepinv.physics")
    shape = operator.image_shape
    if isinstance(operator, Blur):
        return physics.BlurFFT(shape, operator.kernel.float(), noise_model=noise)
    if isinstance(operator, Inpainting):
        return physics.DecomposablePhysics(mask=operator.mask.expand(1, *shape).clone(), noise_model=noise)
    assert isinstance(operator, Separable)
    (left, s, basis), (left2, s2, basis2) = (
        (u.float(), s.float(), vt.float())
        for u, s, vt in (torch.linalg.svd(matrix) for matrix in (operator.rows, operator.columns))
    )
    height, width = len(left), len(left2)
    values = s.new_zeros(1, *shape)
    values[..., : len(s), : len(s2)] = torch.outer(s, s2)

    def to_coefficients(y: Tensor) -> Tensor:
        found = y.new_zeros(len(y), *shape)
        found[..., :height, :width] = left.T @ y @ left2
        return found

    return physics.DecomposablePhysics(
        U=lambda c: left @ c[..., :height, :width] @ left2.T,
        U_adjoint=to_coefficients,
        V=lambda c: basis.T @ c @ basis2,
        V_adjoint=lambda x: basis @ x @ basis2.T,
        img_size=shape,
        mask=values,
        noise_model=noise,
    )


def dpir(
    unit: UnitProblem, denoiser: UnitRange, evaluations: int, first_level: float, strength: float, start: str
) -> Tensor:
    """DPIR (Zhang et al. 2021, arXiv 2008.13751): half-quadratic splitting, ``deepinv.optim.HQS``.

    deepinv's ``DPIR`` is this with 8 evaluations from level 49, strength 0.23 and ``A^T y``; the paper starts
    super-resolution from an interpolation. The levels fall geometrically to that of the noise.

    Args:
        first_level: noise level of the first denoising, of 255.
        strength: weight of the prior, the paper's lambda.
        start: "adjoint", ``A^T y``, or "measurement", interpolated from it.
    """
    optim = importlib.import_module("deepinv.optim")
    levels = torch.logspace(math.log10(first_level / 255), math.log10(unit.eta), evaluations)
    steps = (levels / max(0.01, unit.eta)) ** 2 / strength
    method = optim.HQS(
        prior=optim.prior.PnP(denoiser),
        data_fidelity=optim.data_fidelity.L2(),
        stepsize=steps.tolist(),
        sigma_denoiser=levels.tolist(),
        max_iter=evaluations,
        early_stop=False,
    )
    found: Tensor = method(unit.y, unit.physics(), **({} if start == "adjoint" else {"init": unit.start}))
    return found


def diffpir(unit: UnitProblem, denoiser: UnitRange, evaluations: int, strength: float, zeta: float) -> Tensor:
    """DiffPIR (Zhu et al. 2023, arXiv 2305.08995), ``deepinv.sampling.DiffPIR``: 100 evaluations, 7 and 0.1 there.

    Args:
        strength: the paper's lambda.
        zeta: share of fresh noise.
    """
    sampling, optim = (importlib.import_module(f"deepinv.{name}") for name in ("sampling", "optim"))
    method = sampling.DiffPIR(
        denoiser, optim.data_fidelity.L2(), sigma=unit.eta, max_iter=evaluations, zeta=zeta, lambda_=strength
    )
    found: Tensor = method(unit.y, unit.physics())
    return found


def ddrm(unit: UnitProblem, denoiser: UnitRange, evaluations: int, first_level: float, eta: float) -> Tensor:
    """DDRM (Kawar et al. 2022, arXiv 2201.11793), ``deepinv.sampling.DDRM``: 100 even levels from 1 to 0, 0.85 there.

    Args:
        first_level: of the noise, on the scale of [0, 1].
        eta: share of fresh noise.
    """
    sampling = importlib.import_module("deepinv.sampling")
    levels = torch.linspace(first_level, 0, evaluations).tolist()
    found: Tensor = sampling.DDRM(denoiser, sigmas=levels, eta=eta)(unit.y, unit.physics(decomposed=True))
    return found


def dps(unit: UnitProblem, denoiser: UnitRange, evaluations: int, weight: float) -> Tensor:
    """DPS (Chung et al. 2023, arXiv 2209.14687), ``deepinv.sampling.DPS``: 1000 steps of DDPM and weight 1 there."""
    sampling = importlib.import_module("deepinv.sampling")
    method = sampling.DPS(denoiser, num_steps=evaluations + 1, weight=weight)  # the last of its times is not evaluated
    found: Tensor = method(unit.y, unit.physics())
    return found.float()


def pigdm(unit: UnitProblem, denoiser: UnitRange, evaluations: int, eta: float, weight: float) -> Tensor:
    """PiGDM (Song et al. 2023), ``deepinv.sampling.PiGDMDataFidelity`` in DDIM steps of the VP diffusion.

    Args:
        eta: noise of DDIM; 1 in the paper.
        weight: of the data.
    """
    sampling = importlib.import_module("deepinv.sampling")
    times = torch.linspace(1, 0, evaluations + 1, dtype=torch.float64)
    method = sampling.PosteriorDiffusion(
        data_fidelity=sampling.PiGDMDataFidelity(weight=weight),
        denoiser=denoiser,
        sde=sampling.VariancePreservingDiffusion(),
        solver=sampling.DDIMSolver(timesteps=times, eta=eta),
    )
    found: Tensor = method(unit.y, unit.physics(decomposed=True))
    return found.float()


# --- azula -----------------------------------------------------------------------------------------------------------


def azula_denoiser(denoiser: Peer, shape: tuple[int, int, int], alpha_min: float) -> Any:
    """Our denoiser as azula's, of images as vectors ``[B, D]``, with the VP schedule that is its default.

    Args:
        alpha_min: signal at the first level.
    """
    denoise, noise = (importlib.import_module(f"azula.{name}") for name in ("denoise", "noise"))

    class AzulaDenoiser(denoise.Denoiser):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.schedule = noise.VPSchedule(alpha_min=alpha_min, sigma_min=denoiser.counter.sigma_min)

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            alpha, sigma = self.schedule(t)
            found = denoiser.denoised((x_t / alpha).unflatten(-1, shape), sigma / alpha)
            return denoise.DiracPosterior(mean=found.flatten(1))

    return AzulaDenoiser()


@dataclass(frozen=True)
class VectorProblem:
    """A measurement of images as vectors ``[B, D]``, in our units."""

    problem: Problem

    @property
    def y(self) -> Tensor:
        """``[1, M]``; missing pixels are 0 instead of noise."""
        operator, y = self.problem.operator, self.problem.y
        return (operator(y) if isinstance(operator, Inpainting) else y).flatten(1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return self.problem.operator.image_shape

    def A(self, x: Tensor) -> Tensor:  # noqa: N802
        """``A x``."""
        found: Tensor = self.problem.operator(x.unflatten(-1, self.shape)).flatten(1)
        return found

    def pinv(self, y: Tensor) -> Tensor:
        """``A^+ y``."""
        operator = self.problem.operator
        return operator.pinv(y.unflatten(-1, operator.measurement_shape)).flatten(1)

    def run(self, sampler: Any) -> Tensor:
        """The sample, ``[1, C, H, W]``, from the sampler's own start."""
        start = sampler.init((1, math.prod(self.shape)), var=0.25)  # about that of pixels
        found: Tensor = sampler(start.to(self.problem.y.device)).unflatten(-1, self.shape)
        return found


def _ddim(vectors: VectorProblem, denoiser: Any, evaluations: int, eta: float) -> Tensor:
    sampler = importlib.import_module("azula.sample").DDIMSampler(denoiser, eta=eta, steps=evaluations, silent=True)
    return vectors.run(sampler)


def azula_diffpir(
    vectors: VectorProblem,
    denoiser: Peer,
    evaluations: int,
    strength: float,
    eta: float,
    iterations: int,
    alpha_min: float,
) -> Tensor:
    """DiffPIR, ``azula.guidance.DiffPIRDenoiser`` in DDIM steps: strength 10 and 1 iteration there.

    Args:
        strength: the paper's lambda.
        eta: noise of DDIM.
        iterations: of the linear solver.
        alpha_min: signal at the first level.
    """
    wrapped = importlib.import_module("azula.guidance").DiffPIRDenoiser(
        azula_denoiser(denoiser, vectors.shape, alpha_min),
        vectors.y,
        vectors.A,
        vectors.problem.noise.std**2,
        lmbda=strength,
        iterations=iterations,
    )
    return _ddim(vectors, wrapped, evaluations, eta)


def azula_pigdm(vectors: VectorProblem, denoiser: Peer, evaluations: int, eta: float, alpha_min: float) -> Tensor:
    """PiGDM, ``azula.guidance.PGDMSampler``: DDIM with the pseudo-inverse, which takes y for free of noise.

    Args:
        eta: noise of DDIM.
        alpha_min: signal at the first level.
    """
    sampler = importlib.import_module("azula.guidance").PGDMSampler(
        azula_denoiser(denoiser, vectors.shape, alpha_min),
        vectors.y,
        vectors.A,
        vectors.pinv,
        eta=eta,
        steps=evaluations,
        silent=True,
    )
    return vectors.run(sampler)


def azula_mmps(
    vectors: VectorProblem, denoiser: Peer, evaluations: int, eta: float, iterations: int, alpha_min: float
) -> Tensor:
    """MMPS (Rozet et al. 2024, arXiv 2405.13712), ``azula.guidance.MMPSDenoiser`` in DDIM steps: 1 iteration there.

    Args:
        eta: noise of DDIM.
        iterations: of the linear solver, each with a vector-Jacobian product.
        alpha_min: signal at the first level.
    """
    covariance = importlib.import_module("azula.linalg.covariance").IsotropicCovariance
    wrapped = importlib.import_module("azula.guidance").MMPSDenoiser(
        azula_denoiser(denoiser, vectors.shape, alpha_min),
        vectors.y,
        vectors.A,
        covariance(torch.tensor(vectors.problem.noise.std**2)),
        iterations=iterations,
    )
    return _ddim(vectors, wrapped, evaluations, eta)


# --- all peers -------------------------------------------------------------------------------------------------------

DEEPINV: dict[str, Callable[..., Tensor]] = {
    "DPIR": dpir,
    "DiffPIR": diffpir,
    "DDRM": ddrm,
    "DPS": dps,
    "PiGDM": pigdm,
}
AZULA: dict[str, Callable[..., Tensor]] = {"DiffPIR": azula_diffpir, "PiGDM": azula_pigdm, "MMPS": azula_mmps}


def restore(
    title: str, settings: Mapping[str, Any], problem: Problem, denoiser: Denoiser, seed: int
) -> tuple[Tensor, CountingDenoiser]:
    """The image ``[1, 3, H, W]`` in [-1, 1] that a peer makes, and the counts of its denoiser.

    Args:
        title: ``METHOD (LIBRARY)``; a comma and a remark may follow.
        settings: arguments of the method's function.
        seed: of PyTorch's generator, which is put back afterwards.
    """
    name = title.split(" (")[0]
    devices = [problem.y.device] if problem.y.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        if library_of(title) == "deepinv":
            unit = UnitRange(denoiser)
            return 2 * DEEPINV[name](UnitProblem(problem), unit, **settings) - 1, unit.counter
        peer = Peer(denoiser)
        return AZULA[name](VectorProblem(problem), peer, **settings), peer.counter
