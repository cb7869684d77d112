"""The precision that is chosen where the settings leave it open, and what bfloat16 changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from randomwalk.denoisers import load_denoiser, precision

ROOT = Path(__file__).resolve().parents[2]
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_what_the_settings_say_is_taken_whatever_the_device() -> None:
    assert precision.choose_precision("bf16", CPU, "rounding matters") == ("bf16", "")
    assert precision.choose_precision("fp32", CPU) == ("fp32", "")


def test_auto_goes_by_the_device_and_then_by_what_rounding_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    assert precision.choose_precision("auto", CPU) == ("bf16", "this processor has units for bf16")
    assert precision.choose_precision("auto", GPU) == ("bf16", "this GPU has units for bf16")
    assert precision.choose_precision("auto", CPU, "rounding matters") == ("fp32", "rounding matters")
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    assert precision.choose_precision("auto", CPU) == ("fp32", "this processor has no units for bf16")


@pytest.mark.parametrize("unit", ["_is_amx_tile_supported", "_is_avx512_bf16_supported"])
def test_one_unit_of_a_processor_is_enough(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda found=name == unit: found, raising=False)
    assert precision.has_bf16(CPU)


def test_nothing_is_assumed_where_pytorch_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not precision.has_bf16(CPU)


def test_emulation_on_a_gpu_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not precision.has_bf16(GPU)


@pytest.mark.parametrize("of_255", [1.0, 10.0])
def test_bf16_changes_a_denoised_photograph_by_less_than_a_fiftieth_of_a_decibel(of_255: float) -> None:
    """Also at the faintest noise, next to which the rounding of the photograph itself would show."""
    pixels = np.asarray(Image.open(ROOT / "data" / "photographs" / "astronaut.png").convert("RGB"))[64:192, 64:192]
    truth = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    sigma = of_255 / 127.5
    noisy = truth + sigma * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    found = {}
    for name in ("fp32", "bf16"):
        denoiser = load_denoiser(ROOT / "pretrained_models" / "photo.safetensors", precision=name)
        with torch.inference_mode():
            found[name] = -10 * (denoiser(noisy, sigma) - truth).square().mean().log10()
    assert found["fp32"] > -10 * np.log10(sigma**2)  # it denoises
    assert abs(found["bf16"] - found["fp32"]) < 0.02


def test_a_network_is_compiled_on_a_gpu_in_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: name)
    long = precision.COMPILED_FROM
    assert precision.pays_to_compile(GPU, long)
    assert not precision.pays_to_compile(GPU, long - 1) and not precision.pays_to_compile(CPU, long)
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: None)
    assert not precision.pays_to_compile(GPU, long)  # PyTorch without its compiler
