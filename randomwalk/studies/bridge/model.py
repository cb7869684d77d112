"""Model of a bridge: both drifts, and their file.

The file is in the safetensors format, like all weights here. Its metadata describe the networks and the bridge; the
names of its tensors begin with "ema." or "raw.", then "forward." or "backward.".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from randomwalk.denoisers.networks import blank_network, build_network, first_difference
from randomwalk.denoisers.weight_files import read_weights
from randomwalk.errors import InputError, RunError
from randomwalk.runs.folder import RunFolder
from randomwalk.studies.bridge.ends import make_end
from randomwalk.studies.bridge.matching import BridgeDrift
from randomwalk.studies.points.datasets import PointSet


class Bridge(nn.Module):
    """Both directions of a bridge.

    Args:
        network: settings of the network of each direction, ``{"name": "mlp", ...}``.
        settings: ``{"name": "bridge", "sigma", "spread", "source": {...}, "target": {...}}``.

    Attributes:
        forward_drift, backward_drift: see `BridgeDrift`.
        sigma: of the Brownian motion.
        source, target: the distributions at t = 0 and t = 1.
    """

    def __init__(self, network: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.settings = dict(network), dict(settings)
        self.sigma = float(settings["sigma"])
        self.source: PointSet = make_end(settings["source"])
        self.target: PointSet = make_end(settings["target"])
        spread = float(settings["spread"])
        self.backward_drift = BridgeDrift(build_network(network), 0, self.sigma, spread)
        self.forward_drift = BridgeDrift(build_network(network), 1, self.sigma, spread)

    def drift(self, forward: bool) -> BridgeDrift:
        """Drift of one direction."""
        return self.forward_drift if forward else self.backward_drift

    def start(self, forward: bool) -> PointSet:
        """Distribution at the start of a direction."""
        return self.source if forward else self.target

    def end(self, forward: bool) -> PointSet:
        """Distribution that a direction should end with."""
        return self.target if forward else self.source


def _names(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {}
    for key, value in state.items():
        direction, _, rest = key.partition("_drift.network.")
        found[f"{prefix}{direction}.{rest}"] = value.detach().to("cpu", copy=True).contiguous()
    return found


def save_bridge(
    folder: RunFolder, name: str, bridge: Bridge, ema: Mapping[str, Tensor], training: Mapping[str, Any]
) -> Path:
    """Write the averaged and the current weights of a bridge to one file.

    Args:
        ema: averaged parameters, under the names of ``bridge.state_dict()``.
        training: anything that JSON can hold.

    Raises:
        RunError: a weight is not finite.
    """
    tensors = _names(ema, "ema.") | _names(bridge.state_dict(), "raw.")
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise RunError(f"{folder.file(name)} was not written: {key} has values that are not finite")
    config = {"network": bridge.network, "denoiser": bridge.settings, "training": dict(training)}
    data = save(tensors, {"format": "randomwalk", "config": json.dumps(config)})
    return folder.write(name, lambda file: file.write(data), sync=True)


def load_bridge(path: str | Path, weights: str = "ema", device: str | torch.device = "cpu") -> Bridge:
    """Load a bridge from a file, ready to use.

    Args:
        path: model.safetensors of a bridge's training.
        weights: "ema" or "raw".
        device: of the result.

    Raises:
        InputError: the file is missing or damaged, or holds something else.
    """
    if not Path(path).is_file():
        raise InputError(
            f"{path}: does not exist (bridge.path). A bridge is trained by "
            "python train.py --config configs/bridge/moons_to_swiss_roll.yaml; its weights are model.safetensors in "
            "the folder of the run"
        )
    file = read_weights(path, weights, "bridge.weights")
    if file.config is None or file.config["denoiser"].get("name") != "bridge":
        raise InputError(f"{path}: is not a bridge; expected the model.safetensors of a training in configs/bridge")
    state = {key.replace(".", "_drift.network.", 1): value for key, value in file.tensors.items()}
    try:
        blank_network(file.config["network"], file.tensors)
        with torch.random.fork_rng(devices=[]):
            made = Bridge(file.config["network"], file.config["denoiser"])
    except (InputError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: its description cannot be used: {error!r}") from error
    if difference := first_difference(made, state):
        raise InputError(f"{path} is damaged; it contradicts its own description: {difference}")
    if not all(0 < float(made.settings[key]) < math.inf for key in ("sigma", "spread")):
        raise InputError(f"{path} is damaged: sigma and spread in its description are not positive numbers")
    for key, value in state.items():
        file.check_finite(key, value)
    made.load_state_dict(state)
    return made.eval().requires_grad_(False).to(device)
