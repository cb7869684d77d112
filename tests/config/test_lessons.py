"""The configurations of lessons come in pairs: what one trains the other can sample."""

from __future__ import annotations

from pathlib import Path

import pytest

from randomwalk import samplers
from randomwalk.config.files import load_sample_config, load_train_config
from randomwalk.denoisers.guidance import guided
from randomwalk.training.trainer import build_denoiser

CONFIGS = Path(__file__).parents[2] / "configs"
FOLDERS = ("mnist", "fashion", "cifar10", "toy")
PAIRS = sorted(path for folder in FOLDERS for path in (CONFIGS / folder).glob("*_train.yaml"))


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_is_trained_can_be_sampled(path: Path) -> None:
    """The weights' place, the noise levels, and the classes of a pair agree."""
    small = {"unet": ["network.model_channels=16", "network.norm_groups=4", "network.num_head_channels=16"], "mlp": []}
    training = load_train_config(path)
    training = load_train_config(path, small[training.network.name])  # neither size nor draws matter here
    config = load_sample_config(path.with_name(path.name.replace("_train", "_sample")))
    denoiser = build_denoiser(training)
    assert config.network.path == f"{training.output}/model.safetensors"
    sigmas = samplers.from_settings(config.sampler).levels(denoiser)  # refuses levels that the denoiser does not know
    samplers.from_settings(config.sampler).check_levels(denoiser, sigmas)
    if config.guidance is not None:
        labels = config.guidance.labels
        guided(denoiser, labels if isinstance(labels, list) else [labels], config.guidance.scale)
