# %% [markdown]
# # The walk on a mixture
#
# A mixture of Gaussians has a denoiser in closed form. So only the walk itself is approximate here, and its samples can
# be compared with exact ones.
#
# The prior is a point $X$ in the plane, drawn from three Gaussians. The noisy point is $X_\sigma = X + \sigma N$,
# where $N$ is standard normal noise. The denoiser is $D(x, \sigma) = \mathrm{E}[X \mid X_\sigma = x]$, and Tweedie's
# formula turns it into the score of the noisy density:
#
# $$
# \mathrm{score}(x, \sigma) = \frac{D(x, \sigma) - x}{\sigma^2}.
# $$

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import randomwalk
from randomwalk import samplers, schedules

rng = np.random.default_rng(0)
torch.manual_seed(0)
means = torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.0, -2.0]], dtype=torch.float64)
prior = randomwalk.GaussianMixture([0.5, 0.3, 0.2], means, [0.3, 0.1, 0.05])  # weights, means, variances

# %% [markdown]
# The arrows show the score. At a high noise level they point to the centre, and at a low level to the nearest mode.

# %%
ticks = torch.linspace(-4, 4, 17, dtype=torch.float64)
grid = torch.cartesian_prod(ticks, ticks)
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", sharex=True, sharey=True)
for axis, sigma in zip(axes, (3.0, 1.0, 0.3), strict=True):
    noisy = prior.sample(3000, rng) + sigma * torch.from_numpy(rng.standard_normal((3000, 2)))
    arrows = prior(grid, sigma) - grid  # sigma^2 score
    axis.scatter(*noisy.T, s=1, color="#b8b8c0")
    axis.quiver(*grid.T, *arrows.T, color="#2a6fba", angles="xy", scale_units="xy", scale=4, width=0.004)
    axis.set(title=f"σ = {sigma:g}", xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), aspect="equal")
plt.show()

# %% [markdown]
# The walk follows the score while $\sigma$ falls. With the levels $\sigma_0 > \sigma_1 > \dots$ one step is
#
# $$
# x \leftarrow x + \tau_k \, \mathrm{score}(x, \sigma_k) + \sqrt{2 \tau_k T_k} \, n, \quad n \sim \mathrm{Normal}(0, I).
# $$
#
# With the step size $\tau_k = \sigma_k^2 - \sigma_{k+1}^2$ and the temperature $T_k = \sigma_{k+1}^2 / (2 \sigma_k^2)$
# this is the step of DDPM. In code it is three lines:


# %%
def walk(sigmas, num, noise_factor=2.0):
    x, path = sigmas[0] * torch.randn(num, 2, dtype=torch.float64), []
    for sigma, below in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        tau, temperature = sigma**2 - below**2, below**2 / (2 * sigma**2)
        x = x + tau * prior.score(x, sigma) + (noise_factor * tau * temperature) ** 0.5 * torch.randn_like(x)
        path.append(x)
    return x, torch.stack(path)


sigmas = schedules.make("geometric", 100, sigma_min=0.02, sigma_max=20.0).tolist()
x, path = walk(sigmas, 3000)
exact = prior.sample(3000, rng)
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", sharex=True, sharey=True)
axes[0].plot(*path[:, :12].permute(2, 0, 1).numpy(), color="#2a6fba", linewidth=0.8, alpha=0.7)
axes[1].scatter(*x.T, s=1, color="#2a6fba")
axes[2].scatter(*exact.T, s=1, color="black")
for axis, title in zip(axes, ("12 walks", "3000 end points", "3000 exact samples"), strict=True):
    axis.set(title=title, xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), aspect="equal")
plt.show()

# %% [markdown]
# How far are the end points from exact samples? Project both onto a random direction and sort them: the mean absolute
# difference of the sorted values is the Wasserstein distance of the projections. Its mean over directions is the sliced
# Wasserstein distance. Between two sets of exact samples it is not 0. This value is the best that a sampler can reach.


# %%
angles = torch.rand(100, dtype=torch.float64) * torch.pi
directions = torch.stack([angles.cos(), angles.sin()])


def distance(a, b):
    return ((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean().item()


print(f"exact samples        {distance(prior.sample(3000, rng), exact):.3f}")
print(f"the walk above       {distance(x, exact):.3f}")
print(f"without the factor 2 {distance(walk(sigmas, 3000, noise_factor=1.0)[0], exact):.3f}")

# %% [markdown]
# The third line is a deliberate mistake: $\sqrt{\tau_k T_k}$ in place of $\sqrt{2 \tau_k T_k}$. A figure may hide such
# a mistake, but the distance does not. The tests of this library do the same with every sampler.
#
# The samplers of the library are this walk with other step sizes and temperatures, and solvers of higher order. They
# differ if there are few noise levels:

# %%
LEVELS, num = (5, 10, 20, 40, 80), 10_000
exact = prior.sample(num, rng)
print(f"exact samples {distance(prior.sample(num, rng), exact):.3f}")
print("levels               " + "".join(f"{n:8d}" for n in LEVELS))
for name in ("ddpm_small", "ve_reverse_diffusion", "ddim", "dpmpp_2m"):
    found = []
    for levels in LEVELS:
        schedule = schedules.make("karras", levels, sigma_min=0.02, sigma_max=20.0)
        start = 20 * torch.randn(num, 2, dtype=torch.float64)
        found.append(distance(samplers.make(name).sample(prior, schedule, start=start), exact))
    print(f"{name:21s}" + "".join(f"{value:8.3f}" for value in found))

# %% [markdown]
# All of them converge to the prior. [Samplers](../samplers.md) says which one to use for few evaluations.
