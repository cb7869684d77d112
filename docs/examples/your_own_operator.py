# %% [markdown]
# # Your own operator
#
# A photograph taken through double glazing shows everything twice: a shifted, fainter copy is superimposed on the
# image. With the shift $d$ and the strength $a$ of the copy,
#
# $$
# y = A x + e, \qquad (A x)(p) = (1 - a) \, x(p) + a \, x(p - d), \qquad e \sim \mathrm{Normal}(0, \eta^2 I).
# $$
#
# The library has no operator for this. A class with `forward` is enough.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import randomwalk
from randomwalk import samplers, schedules


class Ghost(randomwalk.Operator):
    def __init__(self, image_shape, shift, strength):
        super().__init__(image_shape)
        self.shift, self.strength = shift, strength

    def forward(self, x):  # [B, C, H, W]
        down, right = self.shift
        copy = F.pad(x, (right, 0, down, 0), mode="replicate")[..., : x.shape[-2], : x.shape[-1]]
        return (1 - self.strength) * x + self.strength * copy


operator = Ghost((3, 160, 160), shift=(6, 12), strength=0.4)

# %% [markdown]
# The adjoint $A^\top$ comes from automatic differentiation. It is correct if
# $\langle A u, v \rangle = \langle u, A^\top v \rangle$ for all $u$ and $v$:

# %%
torch.manual_seed(0)
u, v = torch.randn(2, 1, 3, 160, 160, dtype=torch.float64)
print(f"{(operator(u) * v).sum():.10f}")
print(f"{(u * operator.adjoint(v)).sum():.10f}")

# %% [markdown]
# Measure a photograph with noise of standard deviation 5 of 255. The simplest reconstruction is the pseudo-inverse
# $A^+ y$, which the library computes by conjugate gradients. It removes the copy exactly, but amplifies the noise.

# %%
photo = Image.open("data/photographs/coffee.png").convert("RGB").crop((60, 30, 220, 190))
truth = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 127.5 - 1
eta = 2 * 5 / 255  # pixels are in [-1, 1]
measurement = operator.measure(truth, randomwalk.GaussianNoise(eta))
inverted = operator.pinv(measurement.y)

# %% [markdown]
# With the bundled network as the prior, the walk uses the operator directly. Its step needs $(\lambda I / \sigma^2 +
# A^\top A / \eta^2)^{-1}$, which is also applied by conjugate gradients.

# %%
denoiser = randomwalk.load_denoiser("pretrained_models/photo.safetensors")
sigmas = schedules.make("geometric", 15, sigma_min=0.02, sigma_max=0.5)
sampler = samplers.make(
    "random_walk", preconditioned=True, step_scale=1.4, prior_weight="auto", kappa="auto", turns=8, last_denoised=True
)
start = measurement.y + 0.5 * torch.randn_like(truth)
restored = sampler.sample(denoiser, sigmas, measurement, start=start)


# %%
def psnr(x):
    return (10 * torch.log10(4 / (x.clamp(-1, 1) - truth).square().mean())).item()


found = {"measured": measurement.y, "pseudo-inverse": inverted, "walk": restored, "truth": truth}
figure, axes = plt.subplots(2, 4, figsize=(13, 7), layout="constrained")
for column, (title, x) in enumerate(found.items()):
    for axis, part in zip(axes[:, column], (x[0], x[0, :, 50:100, 60:110]), strict=True):
        axis.imshow(((part.permute(1, 2, 0) + 1) / 2).clamp(0, 1), interpolation="nearest")
        axis.set(xticks=[], yticks=[])
    axes[0, column].set_title(title if x is truth else f"{title}: {psnr(x):.2f} dB")
plt.show()

# %% [markdown]
# The strength must be known. With a wrong value a ghost remains. The residual $y - A x$ does not reveal this: $A$ is
# invertible, so every strength can explain $y$ to within the noise of 5 of 255.

# %%
for strength in (0.3, 0.4, 0.5):
    ghost = Ghost((3, 160, 160), (6, 12), strength)
    guess = randomwalk.Measurement(ghost, randomwalk.GaussianNoise(eta), measurement.y)
    x = sampler.sample(denoiser, sigmas, guess, start=start)
    print(f"strength {strength:.1f}: residual {127.5 * guess.residual(x).std():.2f} of 255, {psnr(x):.2f} dB")

# %% [markdown]
# To give an operator a name in YAML files, see [extending](../extending.md).
