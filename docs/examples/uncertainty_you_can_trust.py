# %% [markdown]
# # Uncertainty you can trust
#
# A posterior sampler draws images $x$ from $p(x \mid y)$, all of which explain the measurement $y$. Their spread is the
# uncertainty. Is it right? There is a test that needs no formula for the posterior.
#
# Draw 19 samples. If they and the truth come from the same distribution, each of the 20 is equally likely to be the
# smallest or the largest at a pixel. So the interval from the smallest to the largest sample covers the truth with
# probability
#
# $$
# 1 - \frac{2}{20} = 90\%.
# $$
#
# ## Where the posterior is known
#
# The prior is a distribution of smooth Gaussian signals of 64 points, $X \sim \mathrm{Normal}(0, S)$. One point in
# eight is measured, with noise of standard deviation 0.1. The posterior is Gaussian too, so credible intervals can be
# compared with exact ones.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import randomwalk
from randomwalk import operators, samplers, schedules
from randomwalk.images.sources import open_images

torch.manual_seed(0)
place = torch.arange(64, dtype=torch.float64)
covariance = torch.exp(-((place[:, None] - place) ** 2) / (2 * 5**2)) + 1e-4 * torch.eye(64, dtype=torch.float64)
prior = randomwalk.GaussianMixture([1.0], torch.zeros(1, 1, 1, 64, dtype=torch.float64), covariance[None])
truth = prior.sample(50, np.random.default_rng(0))  # 50 signals, as images of one row
mask = torch.zeros(1, 64)
mask[:, 4::8] = 1
operator, eta = operators.Inpainting((1, 1, 64), mask), 0.1
measurement = operator.measure(truth, randomwalk.GaussianNoise(eta))

# %% [markdown]
# We compare three samplers. The first is the walk at temperature 1, which is Langevin dynamics and converges to the
# posterior. The second is the same at temperature 0.3. The third, `ddrm`, is widely used for restoration.

# %%
sigmas = schedules.make("geometric", 400, sigma_min=0.01, sigma_max=5.0)
walk = {"preconditioned": True, "step_scale": 0.6}
found = {
    "walk, T = 1": samplers.make("random_walk", **walk, initial_temperature=1.0, final_temperature=1.0),
    "walk, T = 0.3": samplers.make("random_walk", **walk, initial_temperature=0.3, final_temperature=0.3),
    "ddrm": samplers.make("ddrm"),
}
exact = [prior.posterior(operator, y, eta) for y in measurement.y]
draws = {"exact": torch.stack([p.sample(19, np.random.default_rng(k)) for k, p in enumerate(exact)])}
for name, sampler in found.items():
    draws[name] = sampler.sample(prior, sigmas, measurement, num_samples=19).unflatten(0, (50, 19))

figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), layout="constrained", sharey=True)
for axis, (name, x) in zip(axes, draws.items(), strict=True):
    low, high = x.amin(1), x.amax(1)
    inside = ((truth >= low) & (truth <= high))[:, 0, 0, mask[0] == 0].double()
    signals = inside.mean(1)  # points of a signal are alike, signals are independent
    error = 1.96 * signals.std() / len(signals) ** 0.5
    width = (high - low)[..., mask[0] == 0].mean()
    print(f"{name:14s} covers {100 * inside.mean():5.1f} ± {100 * error:.1f} %, mean width {width:.2f}")
    axis.fill_between(place, low[0, 0, 0], high[0, 0, 0], color="#2a6fba", alpha=0.3, linewidth=0)
    axis.plot(place, truth[0, 0, 0], color="black", linewidth=1)
    axis.plot(place[mask[0] == 1], measurement.y[0, 0, 0, mask[0] == 1], "o", color="#d9822b", markersize=4)
    axis.set(title=name)
plt.show()

# %% [markdown]
# The truth is black, the measurement orange and the interval blue. The intervals of the colder walk are too narrow, and
# miss the truth far too often.
#
# ## Images
#
# For images the posterior is unknown, but the same test works: it needs only the truth and the samples. Three quarters
# of the pixels are missing, and the prior is the bundled network for clothes.

# %%
images = open_images("data/fashion_mnist")
truth = torch.stack([images.load(i, 1, (32, 32), "pad") for i in (1, 9, 18)])
missing = operators.make("inpainting", image_shape=(1, 32, 32), missing=0.75)
measurement = missing.measure(truth, randomwalk.GaussianNoise(0.2))
denoiser = randomwalk.load_denoiser("pretrained_models/fashion_vp.safetensors")
sigmas = schedules.make("geometric", 80, sigma_min=0.05, sigma_max=3.0)
x = found["walk, T = 1"].sample(denoiser, sigmas, measurement, num_samples=19).unflatten(0, (3, 19))
mean, spread = x.mean(1), x.std(1)

figure, axes = plt.subplots(3, 6, figsize=(12, 6.3), layout="constrained")
for k, row in enumerate(axes):
    pictures = (truth[k], measurement.y[k], x[k, 0], mean[k], spread[k], (mean[k] - truth[k]).abs())
    for axis, picture in zip(row, pictures, strict=True):
        grey = picture is not pictures[4] and picture is not pictures[5]
        axis.imshow(picture[0], cmap="gray" if grey else "magma", vmin=-1 if grey else 0, vmax=1)
        axis.set(xticks=[], yticks=[])
titles = ("truth", "measured", "one sample", "mean of 19", "standard deviation", "error of the mean")
for axis, title in zip(axes[0], titles, strict=True):
    axis.set_title(title)
plt.show()

# %%
# Exclude the black background, where samples and truth agree. The truth counts like a sample, so the choice is fair.
contested = torch.cat([x, truth[:, None]], 1).std(1) > 0.05
inside = (truth >= x.amin(1)) & (truth <= x.amax(1))
print(f"90% intervals cover {100 * inside[contested].double().mean():.1f}% of {contested.sum()} contested pixels")
error = (mean - truth)[contested].square().mean().sqrt()
print(f"root mean square error {error:.3f}; by the spread {(spread[contested].square().mean() * 20 / 19).sqrt():.3f}")

# %% [markdown]
# Coverage above 90% means that the intervals are slightly too wide; more noise levels correct this. The pixels of an
# image are correlated, so three images say little. `python sample.py --diffusion_config configs/vp_posterior.yaml` does
# the same for more images, with a histogram of ranks. [Posterior samplers](../posterior.md) helps to choose a sampler.
