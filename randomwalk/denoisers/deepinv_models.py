"""Denoisers of the library deepinv as denoisers here, and ours as deepinv's (``pip install deepinv``).

    denoiser = load_deepinv("DRUNet")                         # with the weights that the library publishes
    denoiser = load_deepinv("DRUNet", "my.pth", {"in_channels": 1, "out_channels": 1})
    model = to_deepinv_model(randomwalk.load_denoiser("pretrained_models/photo.safetensors"))

deepinv's take pixels in [0, 1] and sigma in those units, half of ours, and predict the image.

Source: Tachella et al. 2025, arXiv 2505.20160.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from randomwalk.denoisers.denoiser import Denoiser, NetworkDenoiser
from randomwalk.denoisers.networks import first_difference
from randomwalk.denoisers.weight_files import read_weights
from randomwalk.denoisers.wrap import wrap
from randomwalk.errors import InputError
from randomwalk.lookup import find, optional_library

DOWNLOAD = "download"
_EDM = (0.001, 40.0)  # EDM's 0.002 to 80 on [-1, 1]
NOISE_RANGES: dict[str, tuple[float, float]] = {
    "DRUNet": (0.001, 50 / 255),
    "GSDRUNet": (0.001, 50 / 255),
    "FFDNet": (0.001, 75 / 255),
    "SCUNet": (0.001, 50 / 255),
    "Restormer": (0.001, 50 / 255),
    "RAM": (0.001, 0.2),
    "DnCNN": (1.9 / 255, 2.1 / 255),
    "NCSNpp": _EDM,
    "ADMUNet": _EDM,
    "DiffUNet": (0.005, 78.0),
}
"""Noise levels of the training of published weights, in units of [0, 1] pixels, as their authors state them.

DRUNet: Zhang et al. 2021, arXiv 2008.13751. GSDRUNet: Hurault et al. 2022, arXiv 2110.03220. FFDNet: Zhang et al. 2018,
arXiv 1710.04026. SCUNet: Zhang et al. 2023, arXiv 2203.13278. Restormer: Zamir et al. 2022, arXiv 2111.09881. RAM:
Terris et al. 2025, arXiv 2503.08915. DnCNN: one level, 2 of 255 (Pesquet et al. 2021, arXiv 2012.13247). NCSNpp and
ADMUNet: Karras et al. 2022, arXiv 2206.00364. DiffUNet: DDPM's table (Ho et al. 2020, arXiv 2006.11239)."""
_DOWNLOADED = {"Restormer": "denoising", "RAM": True}
"""Values of `pretrained` for the published weights, where it is not the word download."""
_ANY_CHANNELS = {"RAM": 3}
"""Channels of the images of classes that take several numbers of them."""
_CHANNELS = ("in_channels", "in_nc", "in_chans", "img_channels", "channels")


def load_deepinv(
    model: str,
    path: str = DOWNLOAD,
    settings: Mapping[str, Any] | None = None,
    noise_range: Sequence[float] | None = None,
    *,
    weights: str = "ema",
) -> NetworkDenoiser:
    """A denoiser of ``deepinv.models``.

    Noise levels outside the range of its training are refused. A blind denoiser is not told the level: it estimates it.

    Args:
        model: name of the class, such as DRUNet.
        path: "download", the weights that the library publishes; or a file with a state dict, which is read without
            running code.
        settings: arguments of the class, such as ``in_channels``.
        noise_range: lowest and highest noise level of its training, in units of [0, 1] pixels; needed for classes that
            are not in `NOISE_RANGES`.
        weights: which weights of the file, see `randomwalk.load_denoiser`.

    Raises:
        InputError: the library is missing; no such class, or not with these settings; weights that cannot be fetched,
            read, or used with it; or no noise range is known.
    """
    library = optional_library("deepinv.models", "deepinv", "network.name: deepinv")
    found = [name for name, made in vars(library).items() if _is_denoiser(made, library.Denoiser) or name == "GSDRUNet"]
    made_by = find("network.model", {name: getattr(library, name) for name in sorted(found)}, model)
    given = dict(settings or {})
    if noise_range is None and model not in NOISE_RANGES:
        raise InputError(
            f"network.noise_range: missing; the noise levels that deepinv's {model} was made for are not known here: "
            "give [lowest, highest] in units of [0, 1] pixels"
        )
    built = _build(made_by, model, path, given)
    if path != DOWNLOAD:
        file, state = read_weights(path, weights), {}
        for find_state in (file.example, file.state_for):
            state = find_state(built)
            if difference := first_difference(built, state):
                raise InputError(f"{path} does not fit deepinv's {model} with these settings: {difference}")
        for name, value in state.items():
            file.check_finite(name, value)
        built.load_state_dict(state)
    denoiser = as_denoiser(built, noise_range or NOISE_RANGES[model])
    denoiser.channels = _channels(made_by, given)
    if (size := inspect.signature(made_by).parameters.get("img_resolution")) is not None:
        denoiser.image_size, denoiser.any_size = given.get("img_resolution", size.default), False
    return denoiser


def as_denoiser(model: Callable[..., Any], noise_range: Sequence[float]) -> NetworkDenoiser:
    """A deepinv denoiser, any module called as ``model(x, sigma)`` on [0, 1] pixels, as a denoiser here.

    Args:
        model: the denoiser. With labels (``map_label``, as NCSNpp and ADMUNet have), they are classes, and one more
            label means any class.
        noise_range: lowest and highest sigma, in units of [0, 1] pixels.
    """
    if len(noise_range) != 2 or not 0 < noise_range[0] < noise_range[1] < math.inf:
        raise InputError(f"noise_range: {list(noise_range)}; expected the lowest and the highest sigma, above 0")
    level = "sigma" if "sigma" in inspect.signature(_forward(model)).parameters else None
    classes: Any = getattr(getattr(model, "map_label", None), "in_features", None)

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, u: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
            told: dict[str, Any] = {} if label is None else {"class_labels": one_hot(label, classes + 1)[:, :classes]}
            args = () if level else (sigma,)
            out: Tensor = self.model(u, *args, **({level: sigma} if level else {}), **told)
            return out

    denoiser = wrap(Call(), "x0", sigmas=list(noise_range), time="sigma", pixels=(0.0, 1.0), null_label=classes)
    if classes is not None:
        denoiser.num_classes = classes + 1
    denoiser.any_size = True
    return denoiser


def to_deepinv_model(denoiser: Denoiser) -> Any:
    """A denoiser as a ``deepinv.models.Denoiser``, for its samplers and its plug-and-play algorithms.

    It takes [0, 1] pixels and sigma in those units, a number or one for each image, and refuses levels outside the
    denoiser's range.

    Raises:
        InputError: deepinv is missing.
    """
    library = optional_library("deepinv.models", "deepinv", "to_deepinv_model")
    base: Any = library.Denoiser

    class DenoiserModel(base):
        def __init__(self) -> None:
            super().__init__()
            self.denoiser = denoiser

        def forward(self, x: Tensor, sigma: float | Tensor, **_: Any) -> Tensor:
            levels = self._handle_sigma(sigma, batch_size=len(x), device=x.device, dtype=x.dtype)
            low, high = (float(level) for level in levels.aminmax())
            for level in (low, high):
                self.denoiser.check_sigma(2 * level)
            told = 2 * low if low == high else 2 * levels
            out: Tensor = (self.denoiser(2 * x - 1, told) + 1) / 2
            return out

    return DenoiserModel()


# --- building --------------------------------------------------------------------------------------------------------


def _is_denoiser(made: Any, base: type) -> bool:
    return inspect.isclass(made) and issubclass(made, base) and made is not base


def _forward(model: Any) -> Callable[..., Any]:
    forward: Callable[..., Any] = model.forward if isinstance(model, nn.Module) else model
    return forward


def _build(made_by: Callable[..., nn.Module], model: str, path: str, settings: dict[str, Any]) -> nn.Module:
    """The library's module, with its published weights if so asked."""
    takes = inspect.signature(made_by).parameters
    if "pretrained" in takes:
        settings = {"pretrained": _DOWNLOADED.get(model, DOWNLOAD) if path == DOWNLOAD else None, **settings}
    try:
        with _weights_only(), torch.random.fork_rng(devices=[]):
            return made_by(**settings)
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        AssertionError,
        ImportError,
        NotImplementedError,
    ) as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:300]
        fetched = path == DOWNLOAD and "pretrained" in takes
        raise InputError(
            f"deepinv's {model} cannot be made with {settings or 'its defaults'} ({reason})"
            + ("; its published weights are downloaded once, which takes a connection" if fetched else "")
        ) from e


@contextmanager
def _weights_only() -> Iterator[None]:
    """Let the library read only tensors, whatever it asks torch.load for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _channels(made_by: Callable[..., Any], settings: Mapping[str, Any]) -> int | None:
    """Channels of the images, where an argument of the class says so."""
    takes = inspect.signature(made_by).parameters
    for name in _CHANNELS:
        if name in takes:
            value = settings.get(name, takes[name].default)
            if isinstance(value, int):
                return value
    return _ANY_CHANNELS.get(made_by.__name__)
