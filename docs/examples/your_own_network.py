# %% [markdown]
# # Your own network
#
# Suppose that your network comes from another library and follows another convention. Here a small network is trained
# in plain PyTorch, so that this page is complete. Its inputs are pixels in $[0, 1]$ plus noise, $z = u + s N$, and the
# noise level $s$; it predicts the noise $N$. One line makes it a prior for every sampler.

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import nn

import randomwalk
from randomwalk import operators, samplers, schedules


class Network(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        sizes = [4, width, width, width, width, 3]
        layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes)]
        nn.init.zeros_(layers[-1].weight)
        self.layers = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])

    def forward(self, z, s):  # z [B, 3, H, W] with pixels in [0, 1], s [B]
        s = s.reshape(-1, 1, 1, 1)
        return self.layers(torch.cat([z - 0.5, s.expand(-1, 1, *z.shape[2:])], 1)) / s


def photograph(name):  # [3, 256, 256] in [0, 1]
    return torch.from_numpy(np.array(Image.open(f"data/photographs/{name}.png").convert("RGB"))).permute(2, 0, 1) / 255


# %% [markdown]
# The training minimises
#
# $$
# \mathrm{E} \Vert N - \mathrm{network}(u + s N, s) \Vert^2
# $$
#
# on crops of two photographs. It takes only seconds, so the network is weak.

# %%
torch.manual_seed(0)
network, photos = Network(), [photograph("chelsea"), photograph("coffee")]
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
for step in range(500):
    optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 500)
    corners = torch.randint(0, 256 - 32, (16, 2)).tolist()
    u = torch.stack([photos[i % 2][:, a : a + 32, b : b + 32] for i, (a, b) in enumerate(corners)])
    s, noise = torch.exp(torch.empty(16).uniform_(-3.5, -1.2)), torch.randn_like(u)  # s from 0.03 to 0.3
    loss = (noise - network(u + s.reshape(-1, 1, 1, 1) * noise, s)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
network.eval()
print(f"loss of the last step {loss.item():.3f}")

# %% [markdown]
# This is the line. It states what the network predicts, its noise levels, its time input, and its pixel range.

# %%
denoiser = randomwalk.wrap(network, "epsilon", sigmas=(0.03, 0.3), time="sigma", pixels=(0, 1))

# %% [markdown]
# What if a convention is stated wrongly? No automatic check can detect this, but you can: denoise a photograph with
# known noise. At $\sigma = 0.2$, for pixels in $[-1, 1]$, a good network gains 8 dB or more. With a wrong line it
# gains nothing, or spoils the image.

# %%
truth = 2 * photograph("astronaut")[None, :, :192, 8:200] - 1  # was not in the training
noisy = truth + 0.2 * torch.randn_like(truth)


def psnr(x):
    return (10 * torch.log10(4 / (x.clamp(-1, 1) - truth).square().mean())).item()


bundled = randomwalk.load_denoiser("pretrained_models/photo.safetensors")
wrong = {
    "wrong: predicts the image": randomwalk.wrap(network, "x0", sigmas=(0.03, 0.3), time="sigma", pixels=(0, 1)),
    "wrong: told ln(s) / 4": randomwalk.wrap(network, "epsilon", sigmas=(0.03, 0.3), time="log_sigma", pixels=(0, 1)),
}
with torch.no_grad():
    print(f"{psnr(noisy):6.2f} dB  noisy")
    for name, D in {"our network": denoiser, "the bundled network": bundled, **wrong}.items():
        print(f"{psnr(D(noisy, 0.2)):6.2f} dB  {name}")

# %% [markdown]
# With the right line the network can restore images. Four fifths of the pixels are missing, and the walk is that of
# [restore a photograph](restore_a_photograph.md).

# %%
eta = 2 * 10 / 255
operator = operators.make("inpainting", image_shape=(3, 192, 192), missing=0.8)
measurement = operator.measure(truth, randomwalk.GaussianNoise(eta))
sampler = samplers.make(
    "random_walk", preconditioned=True, step_scale=1.4, prior_weight="auto", kappa="auto", last_denoised=True
)
sigmas = schedules.make("geometric", 23, sigma_min=eta, sigma_max=0.5)
start = operator.interpolated(measurement.y) + 0.5 * torch.randn_like(truth)
found = {"measured": measurement.y}
for name, D in (("our network", denoiser), ("the bundled network", bundled)):
    found[name] = sampler.sample(D, sigmas, measurement, start=start)
figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
for axis, (title, x) in zip(axes, {**found, "truth": truth}.items(), strict=True):
    axis.imshow(((x[0].permute(1, 2, 0) + 1) / 2).clamp(0, 1), interpolation="nearest")
    axis.set(title=title if x is truth else f"{title}: {psnr(x):.2f} dB", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# For other conventions, checkpoints and libraries, see [bring your own network](../bring_your_own_network.md).
