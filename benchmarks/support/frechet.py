"""Frechet distance between sets of Fashion-MNIST images, in the features of a small classifier trained here."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from randomwalk.images.standard_sets import Split, load_standard_set
from randomwalk.rng import generator

FEATURES = 64


def load_split(path: str | Path, split: Split) -> tuple[Tensor, Tensor]:
    """All images of a split as float32 ``[N, 1, 32, 32]`` in [-1, 1], in a black border of 2; labels ``[N]``."""
    found = load_standard_set("fashion_mnist", path, split, anywhere=False)
    images = F.pad(torch.from_numpy(found.images.copy())[:, None].float() / 127.5 - 1, (2, 2, 2, 2), value=-1.0)
    return images, torch.from_numpy(found.labels.astype(np.int64))


class Classifier(nn.Module):
    """Four convolutions with batch normalisation, then 64 features, then 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 24, 48, 64, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 4, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, 10)

    def features(self, x: Tensor) -> Tensor:
        """Input of the last layer, ``[B, 64]``, for images ``[B, 1, 32, 32]`` in [-1, 1]."""
        out: Tensor = self.trunk(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def train_classifier(
    images: Tensor,
    labels: Tensor,
    passes: int,
    seed: int,
    device: torch.device,
    tick: Callable[[int, float], object],
    batch: int = 128,
) -> Classifier:
    """A classifier of images that may be mirrored; the same for the same seed, but for rounding.

    Args:
        images, labels: the training set.
        passes: over it.
        tick: called as ``tick(images, loss)`` after every batch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier()
    model = model.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    steps = passes * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps, pct_start=0.2)
    for number in range(passes):
        draws = generator(seed, number, 0)
        order = torch.from_numpy(draws.permutation(len(images))[: len(images) // batch * batch])
        mirrored = torch.from_numpy(draws.random(len(order)) < 0.5)
        for rows, flips in zip(order.split(batch), mirrored.split(batch), strict=True):
            x = torch.where(flips[:, None, None, None], images[rows].flip(-1), images[rows]).to(device)
            loss = F.cross_entropy(model(x), labels[rows].to(device), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            tick(batch, loss.item())
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def in_batches(function: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> Tensor:
    """``function`` of many images, on the CPU."""
    return torch.cat([function(x.to(device)).cpu() for x in images.split(500)])


def accuracy(model: Classifier, images: Tensor, labels: Tensor, device: torch.device) -> float:
    """Share of the images that get their label."""
    return float((in_batches(model, images, device).argmax(1) == labels).double().mean())


class Moments:
    """Mean and covariance of features ``[N, d]``, float64."""

    def __init__(self, features: Tensor) -> None:
        values = features.double()
        self.mean = values.mean(0)
        self.covariance = torch.atleast_2d(values.T.cov())


def frechet_distance(a: Moments, b: Moments) -> float:
    """``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``: squared, of the two normal distributions.

    It is biased upwards by the number of images in either set, so only sets of equal numbers compare.
    Source: Dowson and Landau 1982; in a classifier's features, Heusel et al. 2017, arXiv 1706.08500.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    # The trace of (C_a C_b)^(1/2) is that of the symmetric (root C_b root)^(1/2).
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(float(distance), 0.0)


def with_mirrors(images: Tensor) -> Tensor:
    """The images and their mirror images."""
    return torch.cat([images, images.flip(-1)])


def half_mirrored(images: Tensor, seed: int) -> Tensor:
    """The images, each mirrored with probability 1/2."""
    flips = torch.from_numpy(generator(seed, len(images), 0).random(len(images)) < 0.5)
    return torch.where(flips[:, None, None, None], images.flip(-1), images)


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
