"""The images of a training: which ones, as tensors in [0, 1]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from randomwalk.config.score_embedding import EmbeddingData
from randomwalk.errors import InputError
from randomwalk.images.sources import ImageSource, open_dataset


def load_images(data: EmbeddingData) -> tuple[Tensor, list[str]]:
    """Images u in [0, 1], float32 ``[n, C, H, W]``, and their names.

    Raises:
        InputError: there are no such images.
    """
    source = open_dataset(data.dataset, data.path)
    chosen = choose(source, data)
    size = (data.image_size, data.image_size)
    images = torch.stack([source.load(i, data.channels, size, data.fit) for i in chosen])
    return (images + 1) / 2, [source.names[i] for i in chosen]


def choose(source: ImageSource, data: EmbeddingData) -> list[int]:
    """Places in the set of the images that the settings name."""
    among = np.arange(len(source))
    where = source.where
    if data.class_name is not None:
        if source.labels is None or data.class_name not in source.classes:
            known = ", ".join(source.classes) or "none, since no image is in a folder of a class"
            raise InputError(f"data.class_name: found {data.class_name!r}; known in {where} are {known}")
        among = among[source.labels == source.classes.index(data.class_name)]
    places = list(range(data.num_images)) if data.indices is None else data.indices
    if data.draw_seed is not None and data.num_images <= len(among):
        drawn = np.random.RandomState(data.draw_seed).choice(len(among), data.num_images, replace=False)
        places = [int(place) for place in drawn]
    if max(places) >= len(among):
        key = "num_images" if data.indices is None else "indices"
        raise InputError(f"data.{key}: image {max(places)} was asked for, counted from 0; {where} has {len(among)}")
    return [int(among[place]) for place in places]
