"""Devices without float64 (Apple's mps): the device "meta" stands for one, where every float64 tensor is a failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from operator_cases import LINEAR, NONLINEAR, build, label
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import randomwalk
from randomwalk import InputError, distributed
from randomwalk.denoisers import adapters, checkpoints, load_denoiser
from randomwalk.denoisers.denoiser import Denoiser
from score_sde import devices

ROOT = Path(__file__).resolve().parents[2]
META = torch.device("meta")


class NoFloat64(TorchDispatchMode):
    """Fails where a float64 tensor is made on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, Tensor) and value.device.type == "meta" and value.dtype == torch.float64:
                raise AssertionError(f"{func} makes float64")
        return out


@pytest.fixture(autouse=True)
def no_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which meta does not have
    devices.WITHOUT_FLOAT64.add("meta")
    try:
        with NoFloat64():
            yield
    finally:
        devices.WITHOUT_FLOAT64.remove("meta")


def network(z: Tensor, t: Tensor, *_: Tensor) -> Tensor:
    assert z.device == t.device == META and t.dtype in (torch.float32, torch.int64)
    return z * t.to(z.dtype).reshape(-1, 1, 1, 1)


TABLE = torch.linspace(0.999, 0.001, 100).tolist()
DENOISERS: dict[str, Any] = {
    "vp": lambda: adapters.make("vp", network),  # type: ignore[arg-type]
    "ve": lambda: adapters.make("ve", network),  # type: ignore[arg-type]
    "edm": lambda: adapters.make("edm", network),  # type: ignore[arg-type]
    "flow": lambda: adapters.make("flow", network),  # type: ignore[arg-type]
    "sde": lambda: adapters.make("sde", network, sde={"name": "sub_vp"}, prediction="v"),  # type: ignore[arg-type]
    "score": lambda: adapters.make("score", network, sde={"name": "power_ve"}),  # type: ignore[arg-type]
    "wrapped table": lambda: randomwalk.wrap(network, "v", alphas_cumprod=TABLE, pixels=(0, 1)),
    "wrapped index": lambda: randomwalk.wrap(network, "x0", alphas_cumprod=TABLE, whole_times=True),
    "wrapped flow": lambda: randomwalk.wrap(network, "flow", time_scale=1000.0),
    "wrapped sigma": lambda: randomwalk.wrap(network, "score", sigmas=(0.01, 9.0), time="log_sigma"),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_denoisers(name: str) -> None:
    denoiser: Denoiser = DENOISERS[name]().to(META)
    x = torch.zeros(2, 3, 4, 4, device=META)
    for sigma in (0.5, torch.full((2,), 0.5)):
        for found in (denoiser(x, sigma), denoiser.score(x, sigma)):
            assert found.dtype == torch.float32 and found.device == META
    assert denoiser.own_levels(torch.linspace(0, 1, 3, dtype=torch.float64)).device.type == "cpu"


@pytest.mark.parametrize("name", ["fashion_vp", "fashion_ve", "photo"])
def test_bundled_networks(name: str) -> None:
    with torch.utils._python_dispatch._disable_current_modes():  # networks are built on the device meta
        denoiser = load_denoiser(ROOT / f"pretrained_models/{name}.safetensors")
    denoiser = denoiser.to(META)
    assert {t.dtype for t in (*denoiser.parameters(), *denoiser.network.buffers())} <= {torch.float32, torch.int64}
    x = torch.zeros(1, denoiser.channels or 1, 32, 32, device=META)
    assert denoiser(x, 0.5).dtype == torch.float32  # type: ignore[operator]


@pytest.mark.parametrize("case", [*LINEAR, *NONLINEAR], ids=label)
def test_operators(case: Any) -> None:
    """Forward and back; their float64 matrices become float32 where they go."""
    with torch.utils._python_dispatch._disable_current_modes():
        operator = build(case).float()
    operator = operator.to(META)
    assert all(t.dtype != torch.float64 for t in operator.buffers())
    y = operator(torch.zeros(2, *operator.image_shape, device=META))
    assert y.dtype in (torch.float32, torch.complex64)
    if operator.linear:
        assert operator.adjoint(y).dtype == torch.float32
    if operator.linear and operator.has_spectral:
        assert operator.spectral(torch.exp, torch.zeros(2, *operator.image_shape, device=META)).dtype == torch.float32


def test_the_device_is_found_and_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="mps is not available"):
        checkpoints.resolve_device("mps")
    assert distributed.choose_device("mps") == torch.device("cpu")
    assert "finds no mps device; continuing with cpu" in capsys.readouterr().err
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert checkpoints.resolve_device("auto") == checkpoints.resolve_device("mps") == torch.device("mps")
    assert distributed.choose_device("auto") == distributed.choose_device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert distributed.choose_device("auto") == torch.device("cuda", 0)


def test_the_stand_in_sees_float64() -> None:
    module = nn.Module()
    module.register_buffer("table", torch.zeros(3, dtype=torch.float64))
    with pytest.raises(AssertionError, match="makes float64"):
        module.to(META)
