"""Draw the figures of this course that no other command makes: python docs/course/figures.py NAME ..."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt

from randomwalk.rng import StepNoise

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1]))

from randomwalk import GaussianMixture, GaussianNoise, Measurement, samplers  # noqa: E402
from randomwalk.operators import Dense  # noqa: E402
from randomwalk.rng import generator  # noqa: E402
from randomwalk.samplers import schedules  # noqa: E402
from randomwalk.studies.points import datasets  # noqa: E402

matplotlib.use("Agg")
BLUE, GREY, ORANGE = "#2a6fba", "#77777f", "#d9822b"


def walk() -> plt.Figure:
    """Draw a prior on the line: its noisy densities, its denoiser, and walks that end in it."""
    prior = GaussianMixture([0.2, 0.5, 0.3], np.array([[-2.0], [0.0], [1.6]]), np.array([0.15, 0.3, 0.1]) ** 2)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)[:, None]
    for sigma, shade in ((2.0, 0.35), (1.0, 0.55), (0.5, 0.75), (0.1, 1.0)):
        colour = plt.get_cmap("Blues")(shade)
        axes[0].plot(x, prior.log_prob(x, sigma).exp(), color=colour, label=f"σ = {sigma:g}")
        axes[1].plot(x, prior(x, sigma), color=colour)
    axes[0].set(title="density of X + σN", xlabel="x")
    axes[0].legend(frameon=False)
    axes[1].plot(x, x, color=GREY, linestyle=":", linewidth=1)
    axes[1].set(title="denoiser D(x, σ) = E[X | X + σN = x]", xlabel="x", ylim=(-2.6, 2.6))

    sigmas = schedules.make("geometric", 200, sigma_min=0.02, sigma_max=10.0)
    paths: list[np.ndarray] = []
    start = 10 * torch.from_numpy(generator(0).standard_normal((20_000, 1)))
    draws = generator(1)
    end = samplers.make("ddpm_small").sample(
        prior,
        sigmas,
        start=start,
        draws=StepNoise(lambda k, state: torch.from_numpy(draws.standard_normal(tuple(state.shape)))),
        callback=lambda k, state, sigma: paths.append(state[:60, 0].numpy() / np.sqrt(1 + sigma**2)),
    )
    axes[2].plot(np.stack(paths), color=BLUE, alpha=0.25, linewidth=0.8)
    axes[2].set(title="60 walks, x / √(1 + σ²), and 20,000 ends", xlabel="step k, σ from 10 to 0.02", xlim=(0, 290))
    bins = np.linspace(-3, 3, 121)
    counts, _ = np.histogram(end.numpy(), bins, density=True)
    axes[2].barh(bins[:-1] + 0.025, 60 * counts, left=202, height=0.05, color=ORANGE, alpha=0.7)
    axes[2].plot(202 + 60 * prior.log_prob(x).exp(), x, color="black", linewidth=1)
    axes[2].set(ylim=(-3, 3), xticks=[0, 50, 100, 150, 200])
    return figure


def conditional() -> plt.Figure:
    """Draw the posterior of a point of the mixture given one measured number, and samples of four samplers."""
    prior = datasets.make("mixture").mixture
    assert prior is not None
    prior = GaussianMixture(prior.log_weights.exp(), prior.means.reshape(-1, 2, 1, 1), prior.covariances())
    operator, eta = Dense((2, 1, 1), torch.tensor([[0.8, 0.6]])), 0.4
    y = torch.tensor([[0.5]], dtype=torch.float64)
    measurement = Measurement(operator, GaussianNoise(eta), y)
    exact = prior.posterior(operator.matrix[0], y[0], eta)
    sigmas = schedules.make("karras", 100, sigma_min=0.02, sigma_max=20.0)
    found = {"exact posterior": exact.sample(2000, generator(2)).flatten(1).numpy()}
    for name, settings in (
        ("random_walk", {"step_scale": 0.7, "preconditioned": True, "initial_temperature": 1.0}),
        ("dps", {}),
        ("daps", {}),
        ("tweedie_smc", {}),
    ):
        torch.manual_seed(0)
        x = samplers.make(name, **settings).sample(prior, sigmas, measurement, num_samples=2000)
        found[name] = x.flatten(1).numpy()
    figure, axes = plt.subplots(1, 5, figsize=(15, 3.4), layout="constrained", sharex=True, sharey=True)
    cloud = prior.sample(2000, generator(3)).flatten(1).numpy()
    line = np.linspace(-5, 5, 2)
    for axis, (name, points) in zip(axes, found.items(), strict=True):
        axis.scatter(*cloud.T, s=1, color="#c9c9ce", label="prior")
        axis.scatter(*points.T, s=1, color=BLUE if name != "exact posterior" else "black")
        axis.plot(line, (0.5 - 0.8 * line) / 0.6, color=ORANGE, linewidth=1)
        weights = exact.responsibilities(torch.from_numpy(points).double()).mean(0).numpy()
        axis.set(title=f"{name}\nmodes " + " ".join(f"{w:.2f}" for w in weights), xlim=(-5.5, 4.5), ylim=(-4.5, 4.5))
        axis.set_aspect("equal")
    return figure


FIGURES = {"walk": walk, "conditional": conditional}


def main() -> None:
    """Draw the named figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(FIGURES)}; all of them without a name")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the PNG files (this one)")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(FIGURES)):
        parser.error(f"{', '.join(unknown)}: unknown; expected {', '.join(FIGURES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or FIGURES:
        path = options.out / f"{name}.png"
        FIGURES[name]().savefig(path, dpi=100, metadata={"Software": ""})
        print(path)


if __name__ == "__main__":
    main()
