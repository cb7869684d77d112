"""DDPM's U-Net: the published sizes, the NCSN++ that it is a special case of, and what it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from randomwalk.denoisers.networks import build_network
from randomwalk.errors import InputError
from score_sde import DDPMUNet, NCSNpp
from score_sde.ddpm_unet import Stage
from score_sde.layers import init_weight_

TINY: dict[str, Any] = {"nf": 16, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8], "dropout": 0.0}
# Sums of a few thousand float32 products in another order.
FLOAT32 = 1e-5


def network(**settings: Any) -> DDPMUNet:
    """A tiny one without the near-zero layers of a fresh one, so that every part matters."""
    torch.manual_seed(0)
    made = DDPMUNet(**{"image_size": 16, **TINY, **settings})
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith(("Conv_1.weight", "NIN_3.W", "last.weight")):
                init_weight_(parameter)
            elif parameter.ndim == 1:  # biases, and the scales of the norms
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def noisy(batch: int = 2, channels: int = 3, size: tuple[int, int] = (16, 16)) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    return torch.rand(batch, channels, *size, generator=draws), torch.linspace(0.2, 0.9, batch)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


# --- what it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("resamp_with_conv", "count"), [(True, 35_218_947), (False, 32_120_963)])
def test_the_published_numbers_of_parameters(resamp_with_conv: bool, count: int) -> None:
    with torch.device("meta"):
        plain = DDPMUNet(32, resamp_with_conv=resamp_with_conv)
        told = DDPMUNet(64, resamp_with_conv=resamp_with_conv, num_classes=3)
    assert sum(p.numel() for p in plain.parameters()) == count
    assert plain.first.weight.shape[0] == plain.last.weight.shape[1] == plain.norm.num_channels == 128
    assert {m.num_groups for m in plain.modules() if isinstance(m, torch.nn.GroupNorm)} == {32}
    # Of the image size nothing depends but where the attention is: at 16 pixels, here one level lower.
    assert sum(p.numel() for p in told.parameters()) == count + 3 * 512
    attends = [[s.attention is not None for s in one.down if isinstance(s, Stage)] for one in (plain, told)]
    assert attends == [[False] * 2 + [True] * 2 + [False] * 4, [False] * 4 + [True] * 2 + [False] * 2]


def as_ncsnpp(made: DDPMUNet, resamp_with_conv: bool) -> NCSNpp:
    """NCSN++ without its pyramids, which has the same layers, and is tested against recorded outputs of the public
    one; with the weights of ``made``, which come in the same order."""
    found = NCSNpp(
        image_size=16, nf=16, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[8], resblock_type="ddpm",
        progressive="none", progressive_input="none", fir=False, skip_rescale=False, resamp_with_conv=resamp_with_conv,
        embedding_type="positional", num_scales=1000, sigma_min=0.01, sigma_max=50.0, scale_by_sigma=False,
    )  # fmt: skip
    theirs = [key for key in found.state_dict() if key != "sigmas"]
    ours = list(made.state_dict().values())
    assert len(theirs) == len(ours)
    found.load_state_dict({"sigmas": found.sigmas, **dict(zip(theirs, ours, strict=True))})
    return found.eval()


def late_attention(made: DDPMUNet) -> DDPMUNet:
    made.up[0].attention, made.up[1].attention = made.up[1].attention, None
    return made


def without_time(made: DDPMUNet) -> DDPMUNet:
    torch.nn.init.zeros_(made.up[0].block.Dense_0.weight)
    return made


def one_block(made: DDPMUNet) -> DDPMUNet:
    made.middle = made.middle[:1]
    return made


MUTANTS: dict[str, tuple[dict[str, Any], Callable[[DDPMUNet], DDPMUNet]]] = {
    "centred": ({"centered": True}, lambda made: made),
    "frequencies": ({"max_positions": 1000.0}, lambda made: made),
    "linear": ({"embedding": "linear"}, lambda made: made),
    "attention before the last block": ({}, late_attention),
    "a block without time": ({}, without_time),
    "a middle of one block": ({}, one_block),
}


@pytest.mark.parametrize("resamp_with_conv", [True, False])
def test_it_is_ncsnpp_without_pyramids(resamp_with_conv: bool) -> None:
    """For the embedding by sines and cosines, t the place of sigma in a table; square images and others."""
    made = network(embedding="fourier", resamp_with_conv=resamp_with_conv)
    reference = as_ncsnpp(made, resamp_with_conv)
    t = torch.tensor([3.0, 411.0])
    sigma = 50.0 * (0.01 / 50.0) ** (t / 999)
    with torch.no_grad():
        for size in ((16, 16), (24, 14)):
            x = noisy(size=size)[0]
            # The place is found from the logarithm of sigma in float32: 411 to 5e-5, beside frequencies of 1 and less.
            assert relative(made(x, t), reference(x, sigma)) < 1e-4


@pytest.mark.parametrize("name", MUTANTS)
def test_another_network_is_not(name: str) -> None:
    settings, change = MUTANTS[name]
    made = network(embedding="fourier")
    reference = as_ncsnpp(made, True)
    wrong = network(**{"embedding": "fourier", **settings})
    wrong.load_state_dict(made.state_dict())
    x, t = noisy()[0], torch.tensor([3.0, 411.0])
    with torch.no_grad():
        assert relative(change(wrong)(x, t), reference(x, 50.0 * (0.01 / 50.0) ** (t / 999))) > 1e-3


def test_a_fresh_one_says_next_to_nothing() -> None:
    """The last convolution starts at about 0, and nothing divides by the noise level."""
    made = DDPMUNet(16, **TINY)
    x, _ = noisy()
    assert 0 < float(made(x, 1e-3).detach().abs().max()) < 1e-3


# --- what it sees ----------------------------------------------------------------------------------------------


def test_time_is_seen_as_it_is_or_by_its_sines() -> None:
    x, t = noisy()
    with torch.no_grad():
        linear, fourier = network(), network(embedding="fourier")
        for made in (linear, fourier):
            assert relative(made(x, t + 0.1), made(x, t)) > 1e-3
            torch.testing.assert_close(made(x, 0.5), made(x, torch.tensor([0.5, 0.5])))
            torch.testing.assert_close(made(x, t)[1:], made(x[1:], t[1:]), rtol=1e-4, atol=1e-5)
        turn = 2 * torch.pi * 10_000.0  # a whole turn of the lowest frequency, and of none between
        assert relative(fourier(x, t + turn), fourier(x, t)) > 1e-2
        before = linear(x, t)  # of the first layer's weight only the sum over its inputs matters: an affine map of t
        linear.time[0].weight.copy_(linear.time[0].weight.mean(1, keepdim=True).expand(-1, 16))
        assert relative(linear(x, t), before) < FLOAT32
        fourier.time[0].weight.copy_(fourier.time[0].weight.mean(1, keepdim=True).expand(-1, 16))
        assert relative(fourier(x, t), network(embedding="fourier")(x, t)) > 1e-2


def test_it_is_told_which_image_to_make() -> None:
    x, t = noisy()
    told = network(num_classes=3)
    with torch.no_grad():
        zero, two = told(x, t, torch.tensor([0, 0])), told(x, t, torch.tensor([0, 2]))
        assert torch.equal(zero[0], two[0]) and relative(two[1], zero[1]) > 1e-2
        assert told.classes is not None
        told.classes.weight.zero_()  # what is added to the embedded time, before its last activation
        untold = network()
        untold.load_state_dict({k: v for k, v in told.state_dict().items() if not k.startswith("classes")})
        assert torch.equal(told(x, t, torch.tensor([1, 2])), untold(x, t))
    with pytest.raises(ValueError, match="this network needs labels"):
        told(x, t)
    with pytest.raises(ValueError, match="has no classes"):
        untold(x, t, torch.tensor([1, 2]))


def test_gradients_reach_everything_and_dropout_is_for_training() -> None:
    x, t = noisy(batch=3)
    made = network(num_classes=3, dropout=0.5)
    made(x, t, torch.arange(3)).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name
    with torch.no_grad():
        assert torch.equal(made(x, t, torch.arange(3)), made(x, t, torch.arange(3)))
        made.train()
        assert relative(made(x, t, torch.arange(3)), made(x, t, torch.arange(3))) > 1e-2


def test_types_and_layouts() -> None:
    x, t = noisy()
    made = network()
    with torch.no_grad():
        expected = made(x, t)
        assert expected.dtype == torch.float32 and expected.shape == x.shape
        last = network().to(memory_format=torch.channels_last)
        assert relative(last(x.to(memory_format=torch.channels_last), t), expected) < FLOAT32
        assert relative(made(x, t.double()), expected) < FLOAT32  # times come in float64
        exact = network().double()(x.double(), t.double())
        assert exact.dtype == torch.float64 and relative(expected, exact) < FLOAT32
        with torch.autocast("cpu", torch.bfloat16):
            half = made(x, t)
        assert half.dtype == torch.float32 and 0 < relative(half, expected) < 0.05  # bfloat16 has 8 bits
        grey = network(num_channels=1)
        assert grey(x[:, :1], t).shape == (2, 1, 16, 16)


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image_size": 15}, "image_size: found 15; allowed: a multiple of 2"),
        ({"nf": 0}, "nf: found 0; allowed: a whole number of at least 4"),
        ({"nf": 36}, "144 channels cannot be normalised in .* = 32 groups"),
        ({"nf": 2}, "nf: found 2; allowed: a whole number of at least 4"),
        ({"ch_mult": []}, r"ch_mult: found \[\]; allowed: a list of 1 or more entries"),
        ({"ch_mult": [1, 0.5]}, r"ch_mult\[1\]: found 0.5; allowed: a whole number of at least 1"),
        ({"dropout": 1.0}, "dropout: found 1.0; allowed: a number of at least 0 and below 1"),
        ({"embedding": "gaussian"}, "embedding: found 'gaussian'; allowed: one of linear, fourier"),
        ({"max_positions": 1.0}, "max_positions: found 1.0; allowed: a number above 1"),
        ({"num_classes": 0}, "num_classes: found 0; allowed: a whole number of at least 1"),
        ({"width": 128}, "width: unknown key"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_network({"name": "ddpm_unet", "image_size": 16, **TINY, **settings})


def test_images_that_do_not_fit() -> None:
    made = network()
    for shape, said in (((1, 1, 16, 16), r"\[batch, 3, height, width\]"), ((1, 3, 16, 15), "16 x 15")):
        with pytest.raises(ValueError, match=said):
            made(torch.zeros(shape), 0.5)
    with pytest.raises(ValueError, match=r"one value per image \[2\]"):
        made(torch.zeros(2, 3, 16, 16), torch.zeros(3))
