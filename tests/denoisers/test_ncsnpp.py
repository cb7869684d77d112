"""NCSN++ against numbers recorded from the public score_sde_pytorch network, and its own promises.

`ncsnpp_variants.npz` was recorded from the public code too, for settings other than those of the published
FFHQ network.  Three of its calls had to be repaired first, as they always raise in PyTorch: the negative
strides and the 4-d stride of its fused upsampling convolution, and an argument of `F.interpolate`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from score_sde import NCSNpp, layers, ncsnpp_settings

REFERENCE = Path(__file__).parents[1] / "reference"
TINY: dict[str, Any] = {"image_size": 16, "nf": 16, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (8,)}
VARIANTS = (
    "positional_plain",
    "ddpm_residual_fir",
    "ddpm_residual_plain",
    "ddpm_without_conv",
    "cat_short_kernel_grey",
    "residual_long_kernel",
    "residual_odd_kernel",
    "residual_two_taps",
)


def manifest(name: str) -> dict[str, Any]:
    return dict(json.loads((REFERENCE / name).read_text()))


def relative(found: Tensor, expected: Tensor) -> float:
    """Worst max|difference| / max|expected| of the images in a batch."""
    difference = (found.double() - expected.double()).abs().flatten(1).amax(1)
    return float((difference / expected.double().abs().flatten(1).amax(1)).max())


def random_network(**settings: Any) -> NCSNpp:
    """A tiny network without the near-zero layers of a fresh one, so that every part matters."""
    torch.manual_seed(0)
    return NCSNpp(**{**TINY, "init_scale": 1.0, **settings}).eval()


def noisy(batch: int = 2, channels: int = 3, size: tuple[int, int] = (16, 16)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(batch, channels, *size, generator=generator)
    return x, torch.linspace(0.1, 20.0, batch)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small only lose by being shared between threads, the more so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(REFERENCE / "ncsnpp_tiny_io.npz").items()}


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Any]:
    return dict(torch.load(REFERENCE / "ncsnpp_tiny_checkpoint.pth", weights_only=True))


@pytest.fixture(scope="module")
def tiny(checkpoint: dict[str, Any]) -> NCSNpp:
    network = NCSNpp(**ncsnpp_settings(manifest("ncsnpp_tiny.json")["config"])).eval()
    network.load_state_dict({key.removeprefix("module."): value for key, value in checkpoint["model"].items()})
    return network


# ----------------------------------------------------------------------------- names and numbers


@pytest.mark.parametrize("name", ["ncsnpp_tiny.json", "ncsnpp_ffhq256_manifest.json"])
def test_state_dict_has_the_public_names_shapes_and_order(name: str) -> None:
    expected = manifest(name)
    with torch.device("meta"):
        network = NCSNpp(**ncsnpp_settings(expected["config"]))
    state = network.state_dict(keep_vars=True)
    assert list(state) == list(expected["state_dict"])
    for key, entry in expected["state_dict"].items():
        assert list(state[key].shape) == entry["shape"], key
        assert str(state[key].dtype) == "torch." + entry.get("dtype", "float32"), key
        assert state[key].requires_grad == ("ema_index" in entry), key
    trainable = [key for key, parameter in network.named_parameters() if parameter.requires_grad]
    by_index = {entry["ema_index"]: key for key, entry in expected["state_dict"].items() if "ema_index" in entry}
    assert trainable == [by_index[i] for i in range(len(by_index))]


def test_outputs_with_raw_weights(tiny: NCSNpp, io: dict[str, Tensor]) -> None:
    with torch.no_grad():
        assert relative(tiny(io["x"], io["sigma"]), io["out"]) < 1e-5
        assert relative(tiny(io["x"], io["label_sigma_t"]), io["score_t"]) < 1e-5
        assert relative(tiny(io["x_nonsquare"], io["sigma_nonsquare"]), io["out_nonsquare"]) < 1e-5


def test_output_with_ema_weights(tiny: NCSNpp, checkpoint: dict[str, Any], io: dict[str, Tensor]) -> None:
    network = NCSNpp(**vars(tiny.settings)).eval()
    network.load_state_dict(tiny.state_dict())
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter, average in zip(trainable, checkpoint["ema"]["shadow_params"], strict=True):
            parameter.copy_(average)
        assert relative(network(io["x"], io["sigma"]), io["out_ema"]) < 1e-5
        assert relative(network(io["x"], io["sigma"]), io["out"]) > 1e-2


@pytest.mark.parametrize("name", VARIANTS)
def test_other_settings_agree_with_the_public_code(name: str) -> None:
    file = np.load(REFERENCE / "ncsnpp_variants.npz")
    settings = json.loads(str(file[f"{name}.settings"]))
    random = np.random.RandomState(settings.pop("seed"))
    network = NCSNpp(**settings).eval()
    assert list(network.state_dict()) == str(file[f"{name}.keys"]).split()
    with torch.no_grad():
        for key, parameter in network.named_parameters():  # the recipe of the recording
            values = random.standard_normal(tuple(parameter.shape))
            scale = 0.1 if parameter.dim() == 1 else 1 / math.sqrt(parameter[0].numel())
            scale = 4.0 if key == "all_modules.0.W" else scale
            centre = 1.0 if parameter.dim() == 1 and "weight" in key else 0.0
            parameter.copy_(torch.from_numpy((values * scale + centre).astype(np.float32)))
        x = torch.from_numpy(random.standard_normal((2, settings["num_channels"], 16, 16)).astype(np.float32))
        found = network(x, torch.from_numpy(file[f"{name}.sigma"]))
    assert relative(found, torch.from_numpy(file[f"{name}.out"])) < 1e-5


def test_sigmas_table(tiny: NCSNpp, io: dict[str, Tensor]) -> None:
    fresh = NCSNpp(**vars(tiny.settings)).sigmas
    torch.testing.assert_close(fresh, io["sigmas_buffer"], rtol=1e-12, atol=0)


def test_fourier_features_multiply_in_the_public_order(tiny: NCSNpp, io: dict[str, Tensor]) -> None:
    found = tiny.all_modules[0](io["sigma"].log())
    # A phase of hundreds of radians in float32: another order of the factors moves it by several 1e-5.
    torch.testing.assert_close(found, io["fourier_features_sigma"], rtol=0, atol=2e-6)


# ----------------------------------------------------------------------------- resampling


def test_fir_resampling_agrees_with_the_public_code(io: dict[str, Tensor]) -> None:
    torch.testing.assert_close(layers.fir_upsample(io["fir_in"]), io["fir_up"], rtol=0, atol=1e-6)
    torch.testing.assert_close(layers.fir_downsample(io["fir_in"]), io["fir_down"], rtol=0, atol=1e-6)


def test_fir_upsampling_is_four_times_the_adjoint_of_downsampling() -> None:
    torch.manual_seed(0)
    small, large = torch.randn(2, 3, 5, 4, dtype=torch.float64), torch.randn(2, 3, 10, 8, dtype=torch.float64)
    inner = (layers.fir_upsample(small) * large).sum()
    torch.testing.assert_close(inner, 4 * (small * layers.fir_downsample(large)).sum())


@pytest.mark.parametrize("taps", [(1, 3, 3, 1), (1, 1), (1, 2, 4), (1, 4, 7, 5, 2, 1)])
def test_fir_resampling_keeps_sizes_and_constants(taps: tuple[int, ...]) -> None:
    ones = torch.ones(1, 2, 12, 16, dtype=torch.float64)
    up, down = layers.fir_upsample(ones, taps), layers.fir_downsample(ones, taps)
    assert up.shape == (1, 2, 24, 32) and down.shape == (1, 2, 6, 8)
    torch.testing.assert_close(down[..., 2:-2, 2:-2], torch.ones(1, 2, 2, 4, dtype=torch.float64))
    if len(taps) % 2 == 0 and sum(taps[::2]) == sum(taps[1::2]):  # both phases weigh the same
        torch.testing.assert_close(up[..., 4:-4, 4:-4], torch.ones(1, 2, 16, 24, dtype=torch.float64))


# ----------------------------------------------------------------------------- precision and layout


def test_float64_network_agrees_with_float32() -> None:
    x, sigma = noisy()
    with torch.no_grad():
        single = random_network()(x, sigma)
        double = random_network().double()(x.double(), sigma.double())
    assert double.dtype == torch.float64
    assert relative(single, double) < 1e-4  # the Fourier phase, rounded to float32, is what differs


def test_input_gradient_agrees_with_finite_differences() -> None:
    network = random_network().double()
    x, sigma = noisy()
    x = x.double().requires_grad_()
    torch.manual_seed(2)
    cotangent, direction = torch.randn(2, *x.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((network(x, sigma) * cotangent).sum(), x)
    with torch.no_grad():
        step = 1e-5
        change = network(x + step * direction, sigma) - network(x - step * direction, sigma)
    torch.testing.assert_close((gradient * direction).sum(), (change * cotangent).sum() / (2 * step), rtol=1e-6, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_gives_the_same_scores(channels: int) -> None:
    network = random_network(num_channels=channels)
    x, sigma = noisy(channels=channels)
    with torch.no_grad():
        expected = network(x, sigma)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        found = network(x.to(memory_format=torch.channels_last), sigma)
    assert found.shape == x.shape
    assert relative(found, expected) < 1e-5


def test_bf16_autocast_normalises_and_embeds_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network()
    x, sigma = noisy()
    with torch.no_grad():
        expected = network(x, sigma)
        features: list[Tensor] = []
        network.all_modules[0].register_forward_hook(lambda _m, _i, output: features.append(output))
        normalised, original = set(), F.group_norm

        def spy(h: Tensor, *arguments: Any) -> Tensor:
            normalised.add(h.dtype)
            return original(h, *arguments)

        monkeypatch.setattr(F, "group_norm", spy)
        convolved: set[torch.dtype] = set()
        network.all_modules[4].Conv_0.register_forward_hook(lambda _m, _i, output: convolved.add(output.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            found = network(x, sigma)
    assert features[0].dtype == torch.float32 and normalised == {torch.float32}
    assert convolved == {torch.bfloat16}  # autocast was at work
    assert found.dtype == torch.float32
    assert 1e-6 < relative(found, expected) < 0.05


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for use_checkpoint in (False, True):
        network = random_network(use_checkpoint=use_checkpoint).train()
        network(*noisy()).square().mean().backward()
        gradients.append([p.grad for p in network.parameters() if p.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None and plain.abs().max() > 0
        torch.testing.assert_close(plain, recomputed, rtol=1e-5, atol=1e-8)


def test_network_compiles_as_one_graph() -> None:
    network = random_network()
    x, sigma = noisy()
    with torch.no_grad():
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, sigma), network(x, sigma))


# ----------------------------------------------------------------------------- construction


def test_network_made_on_meta_can_be_materialised() -> None:
    expected = random_network()
    with torch.device("meta"):
        network = NCSNpp(**vars(expected.settings)).eval()
    network = network.to_empty(device="cpu")
    network.load_state_dict(expected.state_dict())
    with torch.no_grad():
        assert torch.equal(network(*noisy()), expected(*noisy()))


def test_initialisation_is_variance_scaling() -> None:
    torch.manual_seed(0)
    network = NCSNpp(**{**TINY, "nf": 32, "fourier_scale": 16})
    block, attention = network.all_modules[7], network.all_modules[8]

    def largest(weight: Tensor) -> float:
        return float(weight.detach().abs().max())

    assert largest(block.Conv_0.weight) == pytest.approx(math.sqrt(3 / (9 * (32 + 64) / 2)), rel=1e-2)
    assert float(block.Conv_0.weight.detach().std()) == pytest.approx(math.sqrt(1 / (9 * (32 + 64) / 2)), rel=2e-2)
    assert largest(block.Conv_1.weight) == pytest.approx(math.sqrt(3e-10 / (9 * 64)), rel=1e-2)
    assert largest(block.Conv_2.weight) == pytest.approx(math.sqrt(3 / ((32 + 64) / 2)), rel=1e-2)
    assert largest(block.Dense_0.weight) == pytest.approx(math.sqrt(3 / ((128 + 64) / 2)), rel=1e-2)
    assert largest(attention.NIN_0.W) == pytest.approx(math.sqrt(0.3 / 64), rel=1e-2)
    assert largest(attention.NIN_3.W) == pytest.approx(math.sqrt(3e-10 / 64), rel=1e-2)
    assert largest(network.all_modules[21].weight) == pytest.approx(math.sqrt(3e-10 / (9 * (32 + 3) / 2)), rel=3e-2)
    assert float(network.all_modules[0].W.std()) == pytest.approx(16, rel=0.5)
    biases = [p for key, p in network.named_parameters() if key.endswith((".bias", ".b"))]
    assert len(biases) > 50 and not any(bias.any() for bias in biases)


def test_attention_follows_the_level_not_the_width() -> None:
    network = random_network()
    blocks = [m for m in network.all_modules if isinstance(m, layers.AttentionBlock)]
    assert len(blocks) == 3  # level 1 on the way down and up, and the bottleneck
    calls: list[tuple[int, ...]] = []
    for block in blocks:
        block.register_forward_hook(lambda _m, _i, output: calls.append(tuple(output.shape[-2:])))
    with torch.no_grad():
        for size in ((8, 8), (32, 16), (12, 22)):
            calls.clear()
            x, sigma = noisy(size=size)
            assert network(x, sigma).shape == x.shape
            assert calls == [(size[0] // 2, size[1] // 2)] * 3


def test_sigma_may_be_a_number_or_one_per_image() -> None:
    network = random_network()
    x, _ = noisy()
    with torch.no_grad():
        expected = network(x, torch.tensor([3.0, 3.0]))
        for sigma in (3.0, torch.tensor(3.0), torch.tensor([3.0]), torch.tensor(3.0, dtype=torch.float64)):
            assert torch.equal(network(x, sigma), expected)


def test_scaling_and_centring() -> None:
    x, sigma = noisy()
    with torch.no_grad():
        expected = random_network()(x, sigma)
        unscaled = random_network(scale_by_sigma=False)(x, sigma)
        torch.testing.assert_close(unscaled / sigma[:, None, None, None], expected)
        torch.testing.assert_close(random_network(centered=True)(2 * x - 1, sigma), expected)


def test_dropout_acts_in_training_only() -> None:
    network = random_network(dropout=0.5)
    x, sigma = noisy()
    with torch.no_grad():
        assert torch.equal(network(x, sigma), random_network()(x, sigma))
        network.train()
        assert relative(network(x, sigma), network(x, sigma)) > 1e-3


# ----------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conv_size": 5}, "only 3"),
        ({"resblock_type": "resnet"}, "biggan, ddpm"),
        ({"progressive": "input_skip"}, "output_skip"),
        ({"progressive_input": "output_skip"}, "input_skip"),
        ({"progressive_combine": "mean"}, "sum, cat"),
        ({"embedding_type": "learned"}, "fourier, positional"),
        ({"image_size": 18, "ch_mult": (1, 2, 2)}, "divisible by 4"),
        ({"nf": 2}, "nf"),
        ({"nf": 130}, "multiple of 32"),
        ({"sigma_min": 0.0}, "sigma_min"),
        ({"sigma_max": 0.001}, "sigma_max"),
        ({"num_scales": 1}, "num_scales"),
        ({"ch_mult": ()}, "ch_mult"),
        ({"ch_mult": "1,2"}, "ch_mult"),
        ({"ch_mult": (1, 0)}, "ch_mult"),
        ({"dropout": 1.0}, "dropout"),
        ({"fir_kernel": (1,)}, "fir_kernel"),
        ({"attention_resolutions": (8,)}, "attn_resolutions"),
    ],
)
def test_unsupported_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        NCSNpp(**{**TINY, **settings})


@pytest.mark.parametrize("shape", [(2, 3, 15, 16), (2, 3, 16, 17), (2, 1, 16, 16), (3, 16, 16)])
def test_unsuitable_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"divisible by 2|expected images"):
        random_network()(torch.zeros(shape), 1.0)


def test_unsuitable_sigmas_are_refused() -> None:
    for shape in ((3,), (2, 1, 1, 1)):
        with pytest.raises(ValueError, match="sigma"):
            random_network()(torch.zeros(2, 3, 16, 16), torch.ones(shape))


# ----------------------------------------------------------------------------- public configurations


def test_public_layout_becomes_flat_settings() -> None:
    config = manifest("ncsnpp_ffhq256_manifest.json")["config"]
    settings = ncsnpp_settings(config)
    assert settings["num_scales"] == 1000 and settings["image_size"] == 256 and settings["centered"] is False
    assert settings["ch_mult"] == (1, 1, 2, 2, 2, 2, 2) and settings["fir_kernel"] == (1, 3, 3, 1)
    assert not {"name", "beta_min", "ema_rate", "normalization", "nonlinearity", "attention_type"} & set(settings)
    upstream = {"data": {**config["imagedetail"], "dataset": "FFHQ"}, "model": {**config["model"], "num_scales": 2000}}
    assert ncsnpp_settings(upstream) == {**settings, "num_scales": 2000}
    # The defaults are this network; only the length of the table differs between the two public sources.
    with torch.device("meta"):
        assert vars(NCSNpp().settings) == vars(NCSNpp(**ncsnpp_settings(upstream)).settings)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("model", {"name": "ddpm"}, "ncsnpp"),
        ("model", {"normalization": "InstanceNorm"}, "groupnorm"),
        ("model", {"nonlinearity": "elu"}, "swish"),
        ("model", {"attention_type": "linear"}, "ddpm"),
        ("model", {"num_heads": 4}, "num_heads"),
        ("training", {"sde": "vpsde"}, "vesde"),
        ("training", {"continuous": False}, "continuous"),
    ],
)
def test_unsupported_public_settings_are_refused(section: str, change: dict[str, Any], message: str) -> None:
    config = manifest("ncsnpp_tiny.json")["config"]
    config[section] |= change
    with pytest.raises(ValueError, match=message):
        ncsnpp_settings(config)


def test_missing_sections_are_named() -> None:
    with pytest.raises(ValueError, match="imagedetail"):
        ncsnpp_settings({"model": {"nf": 16}})
