"""The ADM UNet against numbers recorded from the public implementation, and its own contracts.

tinyA: scale-shift norm, residual up/down blocks, 6 outputs, older qkv order. tinyB: additive embedding, convolutional
resampling, 3 outputs, newer qkv order. Every recorded weight is random, so no layer hides behind a zero.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion import UNet, unet_settings
from guided_diffusion.blocks import AttentionBlock, ResBlock, timestep_embedding

REFERENCE = Path(__file__).parents[1] / "reference"
TINY = ("tinyA", "tinyB")
MANIFESTS = {"tinyA": "unet_tinyA.json", "tinyB": "unet_tinyB.json", "ffhq256": "unet_ffhq256_manifest.json"}
FORMATS = (torch.contiguous_format, torch.channels_last)
TOLERANCE = 1e-5


def manifest(name: str) -> dict[str, Any]:
    return json.loads((REFERENCE / MANIFESTS[name]).read_text())


def recorded(name: str) -> dict[str, Tensor]:
    with np.load(REFERENCE / f"unet_{name}_io.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def weights_of(name: str) -> dict[str, Tensor]:
    """The recorded parameters, drawn again as they were then: 0.05 n, and 1 + 0.1 n for the scales of group norms.

    Those of tinyA are also kept as a file in the published layout, for the tests of loading.
    """
    draws = torch.Generator().manual_seed({"tinyA": 1101, "tinyB": 1202}[name])
    drawn = {}
    for key, shape in manifest(name)["state_dict"].items():
        n = torch.randn(shape, generator=draws)
        is_scale = re.search(r"(norm|in_layers\.0|out_layers\.0|^out\.0)\.weight$", key)
        drawn[key] = 1 + 0.1 * n if is_scale else 0.05 * n
    return drawn


def test_the_parameters_are_drawn_as_they_were() -> None:
    """Up to the rounding of other processors' logarithms."""
    recorded = torch.load(REFERENCE / "unet_tinyA_weights.pt", weights_only=True)
    for key, value in weights_of("tinyA").items():
        torch.testing.assert_close(value, recorded[key], rtol=1e-6, atol=1e-7)


def tiny(name: str, **changes: Any) -> UNet:
    """The recorded network; `changes` are settings that leave the parameters alone."""
    network = UNet(**{**manifest(name)["unet_constructor"], **changes})
    network.load_state_dict(weights_of(name))
    return network.eval()


def relative(value: Tensor, expected: Tensor) -> float:
    """Worst image's max|difference| / max|expected|."""
    assert value.shape == expected.shape
    value, expected = value.detach().double(), expected.detach().double()
    return float(((value - expected).abs().amax(dim=(1, 2, 3)) / expected.abs().amax(dim=(1, 2, 3))).max())


def gradient(network: nn.Module, x: Tensor, t: Tensor, cotangent: Tensor) -> Tensor:
    """Gradient of sum(network(x, t) * cotangent) with respect to x."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(network(x, t), x, cotangent)[0]


def small_settings(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"image_size": 8, "in_channels": 3, "model_channels": 32, "out_channels": 3}
    settings |= {"num_res_blocks": 1, "attention_resolutions": [2], "channel_mult": [1, 1], "num_heads": 2}
    return settings | changes


def small(**changes: Any) -> UNet:
    """A fresh network in which the layers that start at zero have been made random."""
    torch.manual_seed(0)
    network = UNet(**small_settings(**changes))
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return network


# --- state dict and settings -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFESTS)
def test_state_dict_has_the_public_keys_and_shapes_in_order(name: str) -> None:
    with torch.device("meta"):
        network = UNet(**manifest(name)["unet_constructor"])
    listing = [(key, list(value.shape)) for key, value in network.state_dict().items()]
    assert listing == list(manifest(name)["state_dict"].items())


def test_ffhq_parameter_count() -> None:
    with torch.device("meta"):
        network = UNet(**manifest("ffhq256")["unet_constructor"])
    assert len(network.state_dict()) == 362
    assert sum(parameter.numel() for parameter in network.parameters()) == 93_563_910


def test_ffhq_network_maps_shapes() -> None:
    with torch.device("meta"):
        network = UNet(**manifest("ffhq256")["unet_constructor"])
        assert network(torch.empty(2, 3, 256, 128), torch.empty(2)).shape == (2, 6, 256, 128)


@pytest.mark.parametrize("name", MANIFESTS)
def test_factory_settings_resolve_to_the_constructor(name: str) -> None:
    assert unet_settings(**manifest(name)["factory_config"]) == manifest(name)["unet_constructor"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (512, [0.5, 1, 1, 2, 2, 4, 4]),
        (256, [1, 1, 2, 2, 4, 4]),
        (128, [1, 1, 2, 3, 4]),
        (64, [1, 2, 3, 4]),
        (32, [1, 2, 2]),
    ],
)
def test_default_channel_multipliers(size: int, expected: list[float]) -> None:
    settings = unet_settings(image_size=size, num_channels=64, num_res_blocks=1, attention_resolutions="")
    assert settings["channel_mult"] == expected
    assert settings["attention_resolutions"] == []


def test_factory_options() -> None:
    base: dict[str, Any] = {"image_size": 64, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2,2"}
    settings = unet_settings(**base, attention_resolutions="32,16", class_cond=True, learn_sigma=True, in_channels=1)
    assert settings["attention_resolutions"] == [2, 4]
    assert settings["channel_mult"] == [1, 2, 2]
    assert (settings["num_classes"], settings["in_channels"], settings["out_channels"]) == (1000, 1, 2)
    assert unet_settings(**base, attention_resolutions=[32, 16])["attention_resolutions"] == [2, 4]
    assert unet_settings(**base, attention_resolutions=8)["attention_resolutions"] == [8]


def test_factory_mistakes() -> None:
    base: dict[str, Any] = {"num_channels": 32, "num_res_blocks": 1}
    with pytest.raises(ValueError, match=r"image size 48 .*give channel_mult"):
        unet_settings(image_size=48, **base)
    with pytest.raises(ValueError, match="attention resolution 24 does not divide the image size 64"):
        unet_settings(image_size=64, attention_resolutions="24", **base)
    with pytest.raises(ValueError, match=r"channel_mult must be numbers .*'1;2'"):
        unet_settings(image_size=64, channel_mult="1;2", **base)


# --- recorded outputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_outputs_match_the_recorded_ones(name: str, memory_format: torch.memory_format) -> None:
    network, data = tiny(name).to(memory_format=memory_format), recorded(name)
    x = data["x"].to(memory_format=memory_format)
    for kind in ("int", "float32", "float64"):
        assert relative(network(x, data[f"t_{kind}"]), data[f"out_{kind}"]) < TOLERANCE, kind
    x = data["x_nonsquare"].to(memory_format=memory_format)
    assert relative(network(x, data["t_nonsquare"]), data["out_nonsquare"]) < TOLERANCE


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("use_checkpoint", [False, True])
@pytest.mark.parametrize("name", TINY)
def test_input_gradient_matches(name: str, use_checkpoint: bool, memory_format: torch.memory_format) -> None:
    network, data = tiny(name, use_checkpoint=use_checkpoint).to(memory_format=memory_format), recorded(name)
    x = data["x"].to(memory_format=memory_format)
    value = gradient(network, x, data["t_float32"], data["vjp_cotangent"])
    assert relative(value, data["vjp_grad_x"]) < TOLERANCE


@pytest.mark.parametrize("name", TINY)
def test_float64_network_agrees_with_the_recorded_numbers(name: str) -> None:
    network, data = tiny(name).double(), recorded(name)
    value = gradient(network, data["x"].double(), data["t_float32"], data["vjp_cotangent"].double())
    assert value.dtype == torch.float64
    assert relative(value, data["vjp_grad_x"]) < TOLERANCE


@pytest.mark.parametrize("name", TINY)
def test_timestep_embedding_matches(name: str) -> None:
    data = recorded(name)
    torch.testing.assert_close(
        timestep_embedding(data["t_float32"], 32), data["t_embedding_float32"], rtol=0, atol=1e-6
    )


def test_timestep_embedding_of_odd_length_ends_in_zero() -> None:
    embedding = timestep_embedding(torch.tensor([7]), 9)
    torch.testing.assert_close(embedding[:, :8], timestep_embedding(torch.tensor([7.0]), 8))
    assert embedding.shape == (1, 9)
    assert embedding[0, 8] == 0


@pytest.mark.parametrize("memory_format", FORMATS)
def test_one_input_channel_is_the_first_of_three(memory_format: torch.memory_format) -> None:
    """A grey network with the first input filter gives what the RGB network gives on (x, 0, 0)."""
    rgb, data = tiny("tinyA"), recorded("tinyA")
    grey = UNet(**{**manifest("tinyA")["unet_constructor"], "in_channels": 1})
    state = rgb.state_dict()
    state["input_blocks.0.0.weight"] = state["input_blocks.0.0.weight"][:, :1]
    grey.load_state_dict(state)
    grey = grey.to(memory_format=memory_format)
    x, t = data["x"][:, :1].to(memory_format=memory_format), data["t_float32"]
    padded = F.pad(x, (0, 0, 0, 0, 0, 2))
    with torch.no_grad():
        assert relative(grey(x, t), rgb(padded, t)) < TOLERANCE
    cotangent = data["vjp_cotangent"]
    expected = gradient(rgb, padded, t, cotangent)[:, :1]
    assert relative(gradient(grey, x, t, cotangent), expected) < TOLERANCE


# --- contracts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"use_scale_shift_norm": True, "resblock_updown": True}])
def test_fresh_network_is_zero(options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    network = UNet(**small_settings(**options))
    with torch.no_grad():
        assert not network(torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.0])).any()
    for block in network.modules():
        if isinstance(block, ResBlock):
            assert not block.out_layers[-1].weight.any()
            assert block.in_layers[-1].weight.any()
        if isinstance(block, AttentionBlock):
            assert not block.proj_out.weight.any()
            assert block.qkv.weight.any()


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_channels_last_survives_every_stage(name: str) -> None:
    network, data = tiny(name).to(memory_format=torch.channels_last), recorded(name)
    lost = []

    def watch(label: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if not output.is_contiguous(memory_format=torch.channels_last):
                lost.append(label)

        return hook

    for label, module in network.named_modules():
        if isinstance(module, ResBlock | AttentionBlock | nn.Conv2d):
            module.register_forward_hook(watch(label))
    network(data["x"].to(memory_format=torch.channels_last), data["t_float32"])
    assert lost == []


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_autocast(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Close to float32, with float32 output, gradients and normalisations."""
    network, data = tiny(name), recorded(name)
    norm_dtypes, group_norm = set(), F.group_norm

    def spy(x: Tensor, *rest: Any) -> Tensor:
        norm_dtypes.add(x.dtype)
        return group_norm(x, *rest)

    monkeypatch.setattr(F, "group_norm", spy)
    conv_dtypes = set()
    network.input_blocks[0].register_forward_hook(lambda _module, _inputs, output: conv_dtypes.add(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(data["x"], data["t_float32"])
    output.square().mean().backward()
    assert output.dtype == torch.float32
    assert norm_dtypes == {torch.float32}
    assert conv_dtypes == {torch.bfloat16}
    assert 1e-4 < relative(output, data["out_float32"]) < 0.05
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


@torch.no_grad()
def test_bfloat16_network() -> None:
    data = recorded("tinyA")
    output = tiny("tinyA").bfloat16()(data["x"].bfloat16(), data["t_float32"])
    assert output.dtype == torch.bfloat16
    assert relative(output, data["out_float32"]) < 0.05


def test_compiles_without_graph_breaks() -> None:
    network = small(use_scale_shift_norm=True, channel_mult=[1], attention_resolutions=[1])
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.5])
    cotangent = torch.randn(2, 3, 8, 8)
    assert relative(gradient(compiled, x, t, cotangent), gradient(network, x, t, cotangent)) < TOLERANCE


def test_checkpointing_leaves_parameter_gradients_alone() -> None:
    plain = small(dropout=0.5)
    saving = small(dropout=0.5, use_checkpoint=True)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.5])
    for network in (plain, saving):
        torch.manual_seed(1)
        network(x, t).square().sum().backward()
    for (key, expected), value in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(value.grad, expected.grad, msg=key)


@torch.no_grad()
def test_dropout_acts_in_training_only() -> None:
    network = small(dropout=0.5)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.5])
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))
    assert relative(network(x, t), small().eval()(x, t)) < TOLERANCE


@torch.no_grad()
def test_class_labels_add_to_the_time_embedding() -> None:
    network = small(num_classes=4, use_scale_shift_norm=True).eval()
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.5]), torch.tensor([1, 3])
    assert "label_emb.weight" in network.state_dict()
    output = network(x, t, y)
    # (An embedding that is added to 32 channels would vanish in the 32 groups of the next normalisation.)
    assert relative(network(x, t, y.flip(0)), output) > 1e-3
    # One label for all is the same as a shift of the bias at the end of the time embedding.
    unconditional = small(use_scale_shift_norm=True)
    state = copy.deepcopy(network.state_dict())
    label_emb = state.pop("label_emb.weight")
    state["time_embed.2.bias"] += label_emb[3]
    unconditional.load_state_dict(state)
    assert relative(unconditional.eval()(x, t)[1:], output[1:]) < TOLERANCE


@torch.no_grad()
def test_other_image_sizes_and_odd_resolutions_at_one_level() -> None:
    network = small(channel_mult=[1])
    assert network(torch.randn(1, 3, 7, 5), torch.tensor([1.0])).shape == (1, 3, 7, 5)


def test_heads_on_the_way_up() -> None:
    network = UNet(**small_settings(num_heads=2, num_heads_upsample=4))
    heads = [(name, m.num_heads) for name, m in network.named_modules() if isinstance(m, AttentionBlock)]
    assert heads == [
        ("input_blocks.3.1", 2),
        ("middle_block.1", 2),
        ("output_blocks.0.1", 4),
        ("output_blocks.1.1", 4),
    ]


def test_mistaken_inputs() -> None:
    network = UNet(**small_settings(channel_mult=[1, 1, 1]))
    conditional = UNet(**small_settings(num_classes=4))
    x, t = torch.zeros(2, 3, 8, 8), torch.zeros(2)
    with pytest.raises(ValueError, match="image size 8x6 is not divisible by 4"):
        network(x[..., :6], t)
    with pytest.raises(ValueError, match=r"x must have shape \[B, 3, H, W\], got \[2, 1, 8, 8\]"):
        network(x[:, :1], t)
    with pytest.raises(ValueError, match=r"t must have shape \[2\]"):
        network(x, t[:1])
    with pytest.raises(ValueError, match="has no classes"):
        network(x, t, torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="needs class labels"):
        conditional(x, t)
    with pytest.raises(ValueError, match=r"y must have shape \[2\]"):
        conditional(x, t, torch.zeros(1, dtype=torch.long))


def test_mistaken_settings() -> None:
    with pytest.raises(ValueError, match="48 channels are not divisible by the 32 normalisation groups"):
        UNet(**small_settings(model_channels=48))
    with pytest.raises(ValueError, match="32 attention channels are not divisible by num_heads 3"):
        UNet(**small_settings(num_heads=3))
    with pytest.raises(ValueError, match="32 attention channels are not divisible by num_head_channels 64"):
        UNet(**small_settings(num_head_channels=64))
