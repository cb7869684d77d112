"""The seven sampling files that the paper names: with the bundled networks, and for the published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sampling_tools import ROOT, read_metrics

from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.checkpoints import build_network
from randomwalk.sampling import run as sampling

CONFIGS = ROOT / "configs"
UNCONDITIONAL = ["vp_uncond_sigmoidSchedule", "vp_uncond_pretrainedSchedule", "ve_uncond"]
RESTORING = ["vp_super_resolution", "vp_inpainting", "ve_super_resolution", "ve_inpainting"]
SIDE = 16


def photograph(folder: Path) -> Path:
    """A folder with one colour photograph."""
    folder.mkdir()
    with Image.open(ROOT / "data/photographs/coffee.png") as picture:
        picture.convert("RGB").resize((48, 40)).save(folder / "face.png")
    return folder


def tiny_published(name: str, folder: Path) -> list[str]:
    """Random weights of a tiny network in the published one's layout, and the changes that name it."""
    config = load_sample_config(CONFIGS / "ffhq256" / f"{name}.yaml")
    assert config.network.architecture is not None
    small: dict[str, object]
    if name.startswith("vp"):
        small = {"model_channels": 32, "channel_mult": [1, 1], "attention_resolutions": [2], "num_head_channels": 32}
    else:
        small = {"nf": 8, "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [8]}
    small["image_size"] = SIDE
    architecture = config.network.architecture.model_dump() | small
    draws = torch.Generator().manual_seed(0)
    network = build_network(architecture)
    drawn = {k: torch.randn(v.shape, generator=draws) * 0.02 for k, v in network.named_parameters()}
    state = network.state_dict() | drawn
    path = folder / Path(config.network.path).name
    torch.save({"model": state} if name.startswith("ve") else state, path)
    return [f"network.path={path}", *(f"network.architecture.{key}={value}" for key, value in small.items())]


@pytest.mark.parametrize("name", UNCONDITIONAL + RESTORING)
def test_both_places_have_the_file_under_the_papers_name(name: str) -> None:
    for folder in ("configs", "configs/ffhq256"):
        text = (ROOT / folder / f"{name}.yaml").read_text(encoding="utf-8")
        assert f"python sample.py --diffusion_config {folder}/{name}.yaml" in text
        config = load_sample_config(ROOT / folder / f"{name}.yaml")
        assert config.output.removeprefix("results/").replace("ffhq256_", "") == name
        assert config.sampler.name == "random_walk"
        operator = None if config.measurement is None else config.measurement.operator.name
        assert operator == (None if name in UNCONDITIONAL else name[3:])


@pytest.mark.parametrize("name", UNCONDITIONAL + RESTORING)
def test_the_files_for_the_published_networks_run_on_a_folder_with_one_photograph(name: str, tmp_path: Path) -> None:
    changes = [*tiny_published(name, tmp_path), f"output={tmp_path / 'run'}", "sampler.schedule.num_steps=3"]
    changes += ["animation_frames=0", "device=cpu"]
    changes += ["num_images=1"] if name in UNCONDITIONAL else [f"data.path={photograph(tmp_path / 'faces')}"]
    assert sampling.run(load_sample_config(CONFIGS / "ffhq256" / f"{name}.yaml", changes)) == 0
    (row,) = read_metrics(tmp_path / "run")
    assert row["evaluations"] == "3"
    pattern = "*sample0.npy" if name in RESTORING else "*.npy"
    (array,) = (np.load(path) for path in (tmp_path / "run/arrays").glob(pattern))
    assert array.shape == (3, SIDE, SIDE) and np.isfinite(array).all()


@pytest.mark.parametrize("name", RESTORING)
def test_photographs_are_restored(name: str, tmp_path: Path) -> None:
    """As shipped, on the middle of one photograph: better than the measurement is as a picture."""
    changes = [f"output={tmp_path / 'run'}", "data.num_images=1", "data.fit=crop", "image_size=[64, 64]", "device=cpu"]
    assert sampling.run(load_sample_config(CONFIGS / f"{name}.yaml", [*changes, "animation_frames=0"])) == 0
    (row,) = read_metrics(tmp_path / "run")
    assert float(row["psnr"]) > float(row["measurement_psnr"]) + 0.5
