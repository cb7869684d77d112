"""Every network of the table: it is built from its declaration, keeps the shape of an image, and survives a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from randomwalk.denoisers.checkpoints import load_denoiser, make_denoiser, save_denoiser
from randomwalk.denoisers.networks import NETWORKS
from score_sde.mlp import ResidualBlock, positional_code

# The settings of a small one: one line for each network.
CASES: dict[str, dict[str, Any]] = {
    "unet": {"image_size": 8, "model_channels": 8, "channel_mult": [1, 2], "num_res_blocks": 1, "norm_groups": 4},
    "photo_unet": {"image_size": 8, "widths": [8, 8], "num_blocks": [1, 1], "code_size": 16},
    "ncsnpp": {"image_size": 8, "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4]},
    "ddpm_unet": {"image_size": 8, "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4]},
    "mlp": {"num_channels": 3, "hidden": 8, "num_blocks": 1},
}


def test_every_network_has_a_case() -> None:
    assert CASES.keys() == NETWORKS.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_network_survives_a_file(name: str, tmp_path: Path) -> None:
    network = {"name": name, **CASES[name]}
    wrapper: dict[str, Any] = {"name": "ve" if name == "ncsnpp" else "edm"}
    made = make_denoiser(network, wrapper).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # last layers start at zero
    save_denoiser(tmp_path / "x", {"network": network, "denoiser": wrapper}, made.network.state_dict())
    loaded = load_denoiser(tmp_path / "x")
    assert type(loaded.network) is NETWORKS[name]
    assert (loaded.channels, loaded.image_size) == (made.channels, made.image_size)
    x, sigma = torch.randn(2, 3, *[made.image_size or 8] * 2), torch.tensor([0.5, 2.0])
    with torch.no_grad():
        first, second = made(x, sigma), loaded(x, sigma)
        other = loaded(x, 2 * sigma)
    assert first.shape == x.shape
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
    assert (other - second).abs().max() > 1e-3  # it knows the noise level


def test_the_code_and_the_block_of_the_mlp_are_their_formulas() -> None:
    torch.manual_seed(0)
    t = torch.tensor([0.0, 1.7, 300.0])
    angles = t[:, None] * 10_000 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(positional_code(t, 8), torch.cat([angles.sin(), angles.cos()], 1), rtol=0, atol=1e-4)
    block, h, code = ResidualBlock(6), torch.randn(3, 6), torch.randn(3, 6)
    scale, shift = block.modulation(code).chunk(2, 1)
    inner = block.first(block.norm(h)) * (1 + scale) + shift
    torch.testing.assert_close(block(h, code), h + block.second(torch.nn.functional.silu(inner)))
