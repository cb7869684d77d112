# %% [markdown]
# # Restore a photograph
#
# Four fifths of the pixels of a photograph are missing, and the others are noisy:
#
# $$
# y = A x + e, \qquad e \sim \mathrm{Normal}(0, \eta^2 I).
# $$
#
# Here $A$ keeps one pixel in five, and $\eta$ is 10 on the scale from 0 to 255. Pixels are in $[-1, 1]$ inside the
# library, so $\eta = 20 / 255$ there.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from scipy.interpolate import griddata

import randomwalk
from randomwalk import operators, samplers, schedules

torch.manual_seed(0)
photo = Image.open("data/photographs/astronaut.png").convert("RGB").crop((8, 0, 200, 192))
truth = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 127.5 - 1  # [1, 3, 192, 192] in [-1, 1]
operator = operators.make("inpainting", image_shape=(3, 192, 192), missing=0.8)
eta = 2 * 10 / 255
measurement = operator.measure(truth, randomwalk.GaussianNoise(eta))

# %% [markdown]
# The prior is the bundled network, a denoiser $D(x, \sigma)$ for photographs of any size. At each noise level $\sigma$
# the walk denoises the image, corrects the result towards the measurement, and adds noise for the next level:
#
# $$
# x' = \mathrm{argmin}_z \frac{\lambda}{\sigma^2} \Vert z - D(x, \sigma) \Vert^2 + \frac{1}{\eta^2} \Vert Az - y \Vert^2
# $$
#
# The weight $\lambda$ of the prior is set automatically (`auto`). `kappa` is the noise that remains where nothing is
# measured, in units of the next level. The walk starts from an interpolated image, so it can begin at a moderate level.

# %%
denoiser = randomwalk.load_denoiser("pretrained_models/photo.safetensors")
sigmas = schedules.make("geometric", 23, sigma_min=eta, sigma_max=0.5)
sampler = samplers.make(
    "random_walk", preconditioned=True, step_scale=1.4, prior_weight="auto", kappa="auto", turns=8, last_denoised=True
)
start = operator.interpolated(measurement.y) + sigmas[0].float() * torch.randn_like(truth)
steps: list[torch.Tensor] = []
restored = sampler.sample(
    denoiser, sigmas, measurement, start=start, callback=lambda k, x, sigma: steps.append(x.clone())
)

# %% [markdown]
# The figure of merit is the peak signal-to-noise ratio, $10 \log_{10} (2^2 / \mathrm{mean}(x - x_0)^2)$ dB, where $x_0$
# is the truth and 2 is the range of the pixels. For comparison, the same measurement is interpolated linearly.


# %%
def psnr(x):
    return (10 * torch.log10(4 / (x.clamp(-1, 1) - truth).square().mean())).item()


def show(pictures, columns):
    rows = -(-len(pictures) // columns)
    _, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 3.5 * rows), layout="constrained")
    for axis, (title, x) in zip(axes.flat, pictures.items(), strict=True):
        axis.imshow(((x[0].permute(1, 2, 0) + 1) / 2).clamp(0, 1), interpolation="nearest")
        axis.set(title=title, xticks=[], yticks=[])
    plt.show()


known = operator(torch.ones_like(truth))[0, 0] > 0
points = known.nonzero().numpy()
rows, columns = np.mgrid[:192, :192]
channels = [griddata(points, y[known].numpy(), (rows, columns), "linear", fill_value=0) for y in measurement.y[0]]
linear = torch.from_numpy(np.stack(channels))[None].float()
print(f"measured {psnr(measurement.y):.2f} dB, interpolated {psnr(linear):.2f} dB, restored {psnr(restored):.2f} dB")
show({"measured": measurement.y, "interpolated": linear, "restored": restored, "truth": truth}, 4)

# %%
part = (..., slice(50, 114), slice(70, 134))
show({"interpolated": linear[part], "restored": restored[part], "truth": truth[part]}, 3)

# %% [markdown]
# During the walk, the details appear last:

# %%
show({f"step {k + 1}, σ = {sigmas[k]:.2f}": steps[k] for k in (0, 6, 12, 18)}, 4)

# %% [markdown]
# The residual shows whether the result explains the measurement: at the known pixels it should be about as large as the
# noise.

# %%
residual = (measurement.y - operator(restored))[:, :, known]
print(f"residual {127.5 * residual.std():.1f} of 255, noise 10 of 255")

# %% [markdown]
# To restore your own photograph, you need no code: `randomwalk restore photo.jpg --fill mask.png`. See [your own
# photographs](../your_photographs.md).
