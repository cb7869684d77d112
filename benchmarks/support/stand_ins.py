"""Small stand-ins of `every_config.py` for data and weights that are missing, made from those in the repository."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.networks import build_network
from support.common import ROOT, RunFolder

CLASSES = ("tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
"""Classes of Fashion-MNIST in the order of their labels, as in the file names of data/fashion_mnist."""
TINY = {
    "unet": ["network.architecture.model_channels=32", "network.architecture.num_res_blocks=1"],
    "ncsnpp": ["network.architecture.nf=16", "network.architecture.num_res_blocks=1"],
}
"""Changes that make the published networks small enough for a processor."""


class StandIns:
    """Folders and files that are made when they are first asked for.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def grey(self) -> Path:
        """The 64 images of data/fashion_mnist as the four files of Fashion-MNIST, 64 in each split."""
        folder = self.folder / "fashion_mnist"
        if not folder.is_dir():
            files = sorted((ROOT / "data" / "fashion_mnist").glob("*.png"))
            images = np.stack([np.asarray(Image.open(file).convert("L")) for file in files])
            labels = np.array([CLASSES.index(file.stem.split("_")[1]) for file in files], np.uint8)
            partial = _partial(folder)
            for split in ("train", "t10k"):
                write_idx(partial / f"{split}-images-idx3-ubyte", images)
                write_idx(partial / f"{split}-labels-idx1-ubyte", labels)
            partial.rename(folder)
        return folder

    def photographs(self, side: int = 128, rows: int = 7) -> Path:
        """Square cuts of the three photographs, a subfolder for each of these; ``rows`` by ``rows`` from each."""
        return self._cuts(f"photographs_{side}", side, rows)

    def ten_classes(self) -> Path:
        """Cuts of the photographs in ten subfolders, 0 to 9, three in each."""
        return self._cuts("ten_classes", 128, 10, by_row=True)

    def _cuts(self, name: str, side: int, rows: int, by_row: bool = False) -> Path:
        folder = self.folder / name
        if not folder.is_dir():
            partial = _partial(folder)
            for file in sorted((ROOT / "data" / "photographs").glob("*.png")):
                photograph = Image.open(file).convert("RGB")
                places = [np.linspace(0, length - side, rows).astype(int).tolist() for length in photograph.size]
                for row, top in enumerate(places[1]):
                    for column, left in enumerate(places[0] if not by_row else places[0][row : row + 1]):
                        target = partial / (str(row) if by_row else file.stem) / f"{file.stem}_{row}_{column}.png"
                        target.parent.mkdir(exist_ok=True)
                        photograph.crop((left, top, left + side, top + side)).save(target)
            partial.rename(folder)
        return folder

    def tiny_weights(self, config: str) -> list[str]:
        """Changes that give a config a network of its architecture, but narrow, with random weights."""
        kind = load_sample_config(config).network.architecture
        assert kind is not None
        changes = TINY[kind.name]
        network = load_sample_config(config, changes).network
        assert network.architecture is not None
        path = self.folder / f"{kind.name}.pt"
        if not path.is_file():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                state = build_network(network.architecture.model_dump()).state_dict()
                RunFolder(self.folder).write_torch(path.name, state)
        return [*changes, f"network.path={path}"]


def _partial(folder: Path) -> Path:
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    return partial


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write bytes in the format of MNIST: a magic number, the shape, the values."""
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(head + values.astype(np.uint8).tobytes())


def tells_what_to_do(message: str) -> bool:
    """True if a message for missing data is two lines at most and has a command to copy."""
    commands = r"(?:^|[\s`])(?:sudo |python3? |pip |apt-get |curl |wget |unzip |git |kaggle )"
    return len(message.splitlines()) <= 2 and re.search(commands, message, re.MULTILINE) is not None
