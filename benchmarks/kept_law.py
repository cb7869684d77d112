"""Whether walks keep the law of noisy images, with a network for denoiser.

Images with noise of the level s are exact draws of p_s. A walk that stays at this level, at temperature 1 and without a
measurement, should leave their law as it is, however long it is. Two statistics of the state x show whether it does,
means over images: ``|x - D(x, s)|^2 / (d s^2)``, the share of the noise that the network finds, and the total variation
of D(x, s) (the mean difference of neighbours in a row). Momentum 0 keeps the law only as its step goes to 0.

The second table tells why a network may not: the Jacobian of an exact denoiser is symmetric with no negative
eigenvalues. With a negative one, -e, a step of the scale c has the curvature c (1 + e), and walks with momentum are
stable below 2; forces that have no potential heat the walk.
"""

from __future__ import annotations

import argparse
import math

import torch
from support.common import (
    ROOT,
    Setup,
    add_restoring,
    add_weights,
    bar,
    cell,
    check_least,
    check_num_images,
    parser,
    start,
)
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.images.sources import open_images
from randomwalk.rng import ImageDraws, generator
from randomwalk.samplers.walk import walk

LEVELS = (1.0, 0.3, 0.1)
WALKS = ((1.6, 0.67), (1.6, 0.9), (1.0, 0.67), (1.0, 0.9), (0.5, 0.67), (0.5, 0.9))
"""Scale c of the step ``c s^2``, and momentum: 0.67 is that of ``auto`` with 100 levels, and 0.9 with 400."""


def test_images(count: int) -> Tensor:
    """Images of data/fashion_mnist, padded to ``[count, 1, 32, 32]``."""
    source = open_images(ROOT / "data" / "fashion_mnist")
    return torch.stack([source.load(number, 1, (32, 32), "pad") for number in range(count)])


def exact_draws(images: Tensor, level: int, seed: int) -> tuple[Tensor, ImageDraws]:
    """Images with noise of a level of `LEVELS`, and the random numbers that go on from there."""
    draws = ImageDraws([generator(seed, number, level) for number in range(len(images))])
    return images + LEVELS[level] * draws.normal(images.shape[1:]), draws


def statistics(denoiser: Denoiser, x: Tensor, sigma: float) -> Tensor:
    """Share of the noise that is found, and total variation of the denoised image, of each image: ``[2, B]``."""
    with torch.inference_mode():
        denoised = denoiser(x, sigma)
        found = (x - denoised).square().flatten(1).mean(1) / sigma**2
        return torch.stack([found, denoised.diff(dim=-1).abs().flatten(1).mean(1)])


def walked(
    denoiser: Denoiser, x: Tensor, sigma: float, scale: float, momentum: float, num_steps: int, draws: ImageDraws
) -> Tensor:
    """The state after ``num_steps`` steps of the scale ``scale`` at the level ``sigma``, at temperature 1."""
    with bar(num_steps, f"sigma {sigma:g}, c {scale:g}, momentum {momentum:g}") as tick:
        return walk(
            denoiser,
            x,
            [sigma] * num_steps,
            [scale * sigma**2] * num_steps,
            [1.0] * num_steps,
            momenta=[momentum] * num_steps,
            noise=draws.noise,
            callback=lambda k, x, sigma: tick(),
        )


def jacobian_facts(denoiser: Denoiser, x: Tensor, sigma: float) -> tuple[float, float, float]:
    """Least and greatest eigenvalue of the symmetric part of the Jacobian, over images, and the mean size of its
    antisymmetric part over that of the symmetric one."""
    lowest, highest, ratios = [], [], []
    for image in x:
        jacobian = torch.autograd.functional.jacobian(lambda v: denoiser(v[None], sigma)[0], image)
        jacobian = jacobian.reshape(image.numel(), image.numel()).double()
        even, odd = (jacobian + jacobian.mT) / 2, (jacobian - jacobian.mT) / 2
        eigenvalues = torch.linalg.eigvalsh(even)
        lowest.append(float(eigenvalues[0]))
        highest.append(float(eigenvalues[-1]))
        ratios.append(float(odd.norm() / even.norm()))
    return min(lowest), max(highest), sum(ratios) / len(ratios)


def with_error(values: Tensor) -> tuple[float, float]:
    """Mean and standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def law_table(setup: Setup, name: str, denoiser: Denoiser, images: Tensor) -> None:
    """Statistics of exact draws, and of those that have walked."""
    rows = []
    for level, sigma in enumerate(LEVELS):
        x, draws = exact_draws(images, level, setup.options.seed)
        exact = statistics(denoiser, x, sigma)
        rows.append([f"{sigma:g}", "exact draws", "", *(cell(with_error(v), 3) for v in exact)])
        for scale, momentum in WALKS:
            after = walked(denoiser, x, sigma, scale, momentum, setup.options.steps, draws)
            pair = [with_error(v) for v in statistics(denoiser, after, sigma)]
            case = f"{name}, sigma {sigma:g}"
            for metric, value in zip(("noise_found", "total_variation"), pair, strict=True):
                setup.report.add(case, f"c {scale:g}, momentum {momentum:g}", metric, value, "1")
            rows.append([f"{sigma:g}", f"{scale:g}", f"{momentum:g}", *(cell(v, 3) for v in pair)])
    setup.report.table(
        name,
        ["sigma", "c", "momentum", "share of noise found", "total variation of D"],
        rows,
        [f"{len(images)} images, {setup.options.steps} steps from exact draws; mean ± standard error"],
    )


def jacobian_table(setup: Setup, name: str, denoiser: Denoiser, images: Tensor) -> None:
    """Eigenvalues of the Jacobian at exact draws."""
    rows = []
    for level, sigma in enumerate(LEVELS):
        low, high, ratio = jacobian_facts(denoiser, exact_draws(images, level, setup.options.seed)[0], sigma)
        for metric, value in (("lowest", low), ("highest", high), ("antisymmetric", ratio)):
            setup.report.add(f"{name}, sigma {sigma:g}", "jacobian", metric, value, "1")
        rows.append([f"{sigma:g}", f"{low:.3f}", f"{high:.2f}", f"{100 * ratio:.0f}%"])
    setup.report.table(
        f"{name}: Jacobian",
        ["sigma", "lowest eigenvalue", "highest", "antisymmetric part"],
        rows,
        [f"at {len(images)} noisy images; eigenvalues of the symmetric part; the other part relative to it, by norm"],
    )


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    add_weights(made)
    made.add_argument("--networks", nargs="+", choices=["vp", "ve"], default=["vp"], help="only these (vp)")
    add_restoring(made, 64)
    made.set_defaults(precision="fp32")
    made.add_argument("--steps", type=int, default=60, metavar="N", help="of each walk (60)")
    made.add_argument("--jacobians", type=int, default=2, metavar="N", help="images for the second table (2)")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Print the tables of the chosen networks."""
    check_least(chosen, num_images=2, steps=1, jacobians=0)
    check_num_images(chosen)
    if chosen.quick:
        chosen.steps, chosen.jacobians = min(chosen.steps, 4), min(chosen.jacobians, 1)
    setup = Setup.open("kept_law", chosen, [])
    images = test_images(setup.num_images).to(setup.device)
    for name, denoiser in setup.load().items():
        law_table(setup, name, denoiser, images)
        if chosen.jacobians:
            jacobian_table(setup, name, denoiser, images[: chosen.jacobians])
    return setup.report.finish()


if __name__ == "__main__":
    start(main, options())
