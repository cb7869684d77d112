# %% [markdown]
# # Train on a folder
#
# Training turns a folder of images into a denoiser $D$. It minimises
#
# $$
# \mathrm{E} \left[ w(\sigma) \Vert X - D(X + \sigma N, \sigma) \Vert^2 \right]
# $$
#
# where $X$ is an image, $\sigma$ a noise level, $N$ standard normal noise and $w$ a weight. Here the folder has 56
# images of clothes and the network is small, so everything finishes within a minute. That is enough to see every part
# at work, but not enough for good images. Eight more images are held out for validation.

# %%
import csv
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import randomwalk
from randomwalk.images.sources import open_images

folder = Path(tempfile.mkdtemp())
for k, file in enumerate(sorted(Path("data/fashion_mnist").glob("*.png"))):
    place = folder / ("kept" if k % 8 == 0 else "pictures")
    place.mkdir(exist_ok=True)
    shutil.copy(file, place)

# %% [markdown]
# One command trains. The config is for folders of colour images of 64 x 64 pixels; `--set` changes the lines that
# differ.

# %%
changes = f"""
    data.path={folder}/pictures data.validation_path={folder}/kept data.num_validation=8 output={folder}/run
    data.image_size=32 data.channels=1 data.fit=pad data.rescale=null
    network.image_size=32 network.in_channels=1 network.out_channels=1
    network.model_channels=16 network.channel_mult=[1,2,3] network.attention_resolutions=[] network.norm_groups=4
    network.num_head_channels=16 optimizer.learning_rate=0.003 optimizer.warmup_images=500 ema.half_life_images=400
    num_images=2400 validate_images=600 checkpoint_images=2400 batch_size=16
"""
command = [sys.executable, "train.py", "--config", "configs/folder_train.yaml", "--set", *changes.split()]
done = subprocess.run(command, capture_output=True, text=True)
print(done.stdout.replace(str(folder), "..."))
assert done.returncode == 0, done.stderr

# %% [markdown]
# The run validates at intervals. It denoises the held-out images at four noise levels, and writes the peak
# signal-to-noise ratio to `validation.csv`. Without a denoiser it would be $20 \log_{10} (2 / \sigma)$ dB.

# %%
LEVELS = (0.1, 0.25, 0.5, 1.0)
rows = list(csv.DictReader((folder / "run" / "validation.csv").read_text().splitlines()))
seen = [int(row["images"]) for row in rows]
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for k, level in enumerate(LEVELS):
    gains = [float(row[f"psnr_at_{level:g}"]) - 20 * math.log10(2 / level) for row in rows]
    axis.plot(seen, gains, "o-", color=plt.get_cmap("viridis")(k / 4), label=f"σ = {level:g}")
axis.set(xlabel="images seen", ylabel="gain over the noisy picture (dB)")
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The weights are in one file, which describes its network. The bundled network for clothes, trained on 60,000 images,
# shows what longer training achieves:

# %%
kept = open_images(str(folder / "kept"))
x = torch.stack([kept.load(i, 1, (32, 32), "pad") for i in range(len(kept))])
torch.manual_seed(0)
noise = torch.randn_like(x)
networks = {
    "this training": randomwalk.load_denoiser(str(folder / "run" / "model.safetensors")),
    "bundled": randomwalk.load_denoiser("pretrained_models/fashion_vp.safetensors"),
}
denoised = {}
print("gain in dB at σ =" + "".join(f"{level:8g}" for level in LEVELS))
for name, D in networks.items():
    gains = []
    for level in LEVELS:
        with torch.no_grad():
            denoised[name] = D(x + level * noise, level)
        gains.append(-10 * torch.log10((denoised[name] - x).square().mean() / level**2).item())
    print(f"{name:17s}" + "".join(f"{gain:8.2f}" for gain in gains))

# %%
figure, axes = plt.subplots(4, 8, figsize=(11, 5.8), layout="constrained")
shown = {"kept picture": x, "noise, σ = 1": x + noise, **denoised}
for row, (name, pictures) in zip(axes, shown.items(), strict=True):
    row[0].set_ylabel(name)
    for axis, picture in zip(row, pictures, strict=True):
        axis.imshow(picture[0], cmap="gray", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
plt.show()
shutil.rmtree(folder)

# %% [markdown]
# The network removes noise. To draw images from pure noise it must be trained far longer. For longer trainings,
# classes, checkpoints and resuming, see [training](../training.md).
