"""The network of photographs: any size, no dependence on far pixels, and a file that says what it is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from guided_diffusion import PhotoUNet
from guided_diffusion.photo_unet import GatedBlock, mirrored
from randomwalk.denoisers.checkpoints import load_denoiser, make_denoiser, save_denoiser
from randomwalk.errors import InputError

SMALL = {"widths": [8, 12, 16], "num_blocks": [1, 1, 1], "code_size": 16}


def lively(seed: int = 0, block: str = "modulated") -> PhotoUNet:
    """A network whose layers that start at zero don't."""
    torch.manual_seed(seed)
    network = PhotoUNet(**SMALL, block=block)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize("size", [(64, 64), (50, 37), (8, 24), (5, 3), (1, 1)])
def test_any_size_goes_in_and_comes_out(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert lively()(x, torch.tensor([1.0, 30.0])).shape == x.shape


def test_an_image_is_mirrored_to_a_multiple_and_cut_again() -> None:
    network, x = lively(), torch.randn(1, 3, 21, 30)
    whole = torch.cat([x, x[..., -4:-1, :].flip(-2)], -2)
    whole = torch.cat([whole, whole[..., -3:-1].flip(-1)], -1)
    assert torch.equal(mirrored(x, 8), whole)
    t = torch.tensor([5.0])
    with torch.no_grad():
        assert torch.equal(network(x, t), network(whole, t)[..., :21, :30])


@pytest.mark.parametrize("block", ["modulated", "gated"])
def test_far_pixels_do_not_matter(block: str) -> None:
    """Three levels of few blocks see some 60 pixels around; attention or a normalisation would see all."""
    network, x = lively(block=block), torch.randn(1, 3, 64, 256)
    other = x.clone()
    other[..., 128:] = torch.randn(1, 3, 64, 128)
    t = torch.tensor([5.0])
    with torch.no_grad():
        difference = (network(x, t) - network(other, t)).abs().amax((0, 1, 2))
    assert difference[:48].max() == 0
    assert difference[128:].min() > 0


@pytest.mark.parametrize("block", ["modulated", "gated"])
def test_the_noise_level_matters_and_images_do_not_meet(block: str) -> None:
    network, x, t = lively(block=block), torch.randn(2, 3, 16, 16), torch.tensor([1.0, 300.0])
    with torch.no_grad():
        both = network(x, t)
        assert torch.allclose(both[1:], network(x[1:], t[1:]), atol=1e-6)
        assert (both[1:] - network(x[1:], t[:1])).abs().max() > 1e-3


@pytest.mark.parametrize("block", ["modulated", "gated"])
def test_it_starts_as_zero_and_every_parameter_learns(block: str) -> None:
    torch.manual_seed(0)
    network, x, t = PhotoUNet(**SMALL, block=block), torch.randn(4, 3, 16, 16), torch.rand(4) * 100
    assert not network(x, t).any()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(5):  # layers behind those that start at zero get their gradient after the first step
        optimizer.zero_grad()
        (network(x, t) - x).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_its_file_says_what_it_is(tmp_path) -> None:
    for denoiser in ({"name": "edm", "sigma_min": 0.005, "sigma_max": 12.0},
                     {"name": "sde", "sde": {"name": "vp", "beta_max": 9.9}, "prediction": "v"}):  # fmt: skip
        config = {"network": {"name": "photo_unet", **SMALL}, "denoiser": denoiser}
        made = make_denoiser(config["network"], config["denoiser"])
        made.network.load_state_dict(lively().state_dict())
        save_denoiser(tmp_path / "w.safetensors", config, made.network.state_dict())
        loaded = load_denoiser(tmp_path / "w.safetensors")
        assert loaded.any_size and loaded.image_size == 64 and loaded.channels == 3
        x = torch.randn(1, 3, 20, 44)
        assert torch.equal(loaded(x, 0.3), made(x, 0.3))


def test_a_gated_block_is_its_formula() -> None:
    torch.manual_seed(0)
    block = GatedBlock(8, 16)
    h, code = torch.randn(2, 8, 5, 7), torch.randn(2, 16)
    assert torch.equal(block(h, code), h)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
    gain = code @ block.gain.weight.T + block.gain.bias
    inner = torch.relu(F.conv2d(h, block.first.weight, block.first.bias, padding=1)) * (1 + gain)[:, :, None, None]
    assert torch.allclose(block(h, code), h + F.conv2d(inner, block.second.weight, padding=1), rtol=1e-4, atol=1e-3)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="allowed: one of modulated, gated"):
        make_denoiser({"name": "photo_unet", **SMALL, "block": "other"}, {"name": "edm"})
    with pytest.raises(InputError, match="num_blocks: found 2 numbers; allowed: one for each of the 3 levels"):
        make_denoiser({"name": "photo_unet", **SMALL, "num_blocks": [1, 1]}, {"name": "edm"})
    with pytest.raises(InputError, match=r"code_size: found 15; .* divisible by 2"):
        make_denoiser({"name": "photo_unet", **SMALL, "code_size": 15}, {"name": "edm"})


def test_the_code_of_the_noise_level_is_its_cosines_and_sines() -> None:
    """At ``time_scale t 1000^(-k / half)``, k below half the length of the code."""
    network = PhotoUNet(**SMALL, time_scale=40.0)
    seen: list[torch.Tensor] = []

    def note(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        seen.append(given[0])

    network.embed.register_forward_pre_hook(note)
    t = torch.tensor([-0.7, 1.3])
    with torch.no_grad():
        network(torch.zeros(2, 3, 8, 8), t)
    angles = 40 * t[:, None] * 1000 ** (-torch.arange(8) / 8)
    torch.testing.assert_close(seen[0], torch.cat([angles.cos(), angles.sin()], 1), rtol=0, atol=1e-5)
