"""Distances in the features of AlexNet, where its weights are at hand: LPIPS of images, Frechet of sets of images."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from randomwalk.errors import InputError
from support.frechet import Moments, frechet_distance

HEADS = "lpips_models/alex.pth"
"""LPIPS' weights of the features, beside torchmetrics' own code of it."""
LAYERS = (1, 4, 7, 9, 11)
"""The rectified responses that LPIPS compares, as places in torchvision's ``features``."""
PATCH = 51
"""Side in pixels of what a response of the second of them sees, one every 8 pixels."""


def default_alexnet() -> Path:
    """Where torchvision keeps AlexNet once it has downloaded it."""
    from torchvision.models import AlexNet_Weights

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name


def add_alexnet(made: argparse.ArgumentParser) -> None:
    """Add the option for AlexNet's weights."""
    made.add_argument(
        "--alexnet",
        type=Path,
        default=default_alexnet(),
        metavar="FILE",
        help="weights of AlexNet in torchvision's names, for LPIPS (default: where torchvision keeps them)",
    )


def lpips_missing(path: Path) -> str | None:
    """Reason why nothing is measured in AlexNet's features, since nothing is downloaded; None if it can be."""
    if path.is_file():
        return None
    return f"LPIPS is left out: the weights of torchvision's AlexNet are not there ({path})"


class AlexNet(nn.Module):
    """AlexNet's convolutions, with its weights for ImageNet.

    Args:
        path: those weights in torchvision's names, ``.pth`` or ``.safetensors``.

    Raises:
        InputError: the file does not hold them.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, path: Path) -> None:
        from torchvision.models import alexnet

        super().__init__()
        self.features = alexnet(weights=None).features
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])
        try:
            weights = _read(path)
            own = {name: value for name, value in weights.items() if name.startswith("features.")}
            self.features.load_state_dict({name.removeprefix("features."): value for name, value in own.items()})
        except (OSError, EOFError, RuntimeError, ValueError, UnpicklingError, SafetensorError) as error:
            raise InputError(f"{path}: does not hold AlexNet's features as torchvision names them ({error})") from error
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Responses of `LAYERS` to images ``[B, 3, H, W]`` in [-1, 1]; values outside are clipped."""
        x, found = (x.clamp(-1, 1) - self.shift) / self.scale, []
        for place, layer in enumerate(self.features[: LAYERS[-1] + 1]):
            # In-place ReLUs would change what was kept.
            x = torch.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
            if place in LAYERS:
                found.append(x)
        return found


@torch.inference_mode()
def lpips(x: Tensor, truth: Tensor, path: Path) -> float:
    """LPIPS (Zhang et al. 2018, arXiv 1801.03924) of two images ``[1, 3, H, W]`` in [-1, 1], version 0.1 with AlexNet.

    sum over layers of mean over places of sum over channels  w_c (f_c / |f| - g_c / |g|)^2
    """
    net, heads = _network(path)
    total = torch.zeros(())
    for f, g, w in zip(net(x.cpu()), net(truth.cpu()), heads, strict=True):
        f, g = (r / (r.square().sum(1, keepdim=True).sqrt() + 1e-10) for r in (f, g))
        total = total + (w * (f - g).square()).sum(1).mean()
    return float(total)


@torch.inference_mode()
def deep_features(images: Sequence[Tensor], path: Path) -> Tensor:
    """Responses of AlexNet's second convolution at all places of images ``[3, H, W]``, float64 ``[N, 192]``.

    Each is a feature of a patch of 51 x 51 pixels; there is one every 8 pixels.
    """
    net, _ = _network(path)
    return torch.cat([net(x[None].cpu())[1][0].flatten(1).T.double() for x in images])


def patch_distance(images: Sequence[Tensor], truths: Sequence[Tensor], path: Path) -> float:
    """Frechet distance between the deep features of the patches of two sets of images, see `deep_features`.

    It is not FID, which takes whole images and Inception's features.
    """
    return frechet_distance(*(Moments(deep_features(x, path)) for x in (images, truths)))


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return found


@functools.cache
def _network(path: Path) -> tuple[AlexNet, list[Tensor]]:
    """AlexNet and LPIPS' weights of its features, ``[1, C, 1, 1]`` for each layer."""
    from torchmetrics.functional.image import lpips as module

    heads: dict[str, Any] = torch.load(Path(module.__file__).parent / HEADS, map_location="cpu", weights_only=True)
    return AlexNet(path), [heads[f"lin{k}.model.1.weight"] for k in range(len(LAYERS))]
