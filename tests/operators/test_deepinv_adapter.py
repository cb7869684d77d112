"""Operators of deepinv as ours, and ours as deepinv's; needs that library."""

from __future__ import annotations

import pytest
import torch
from operator_cases import LINEAR, NONLINEAR, Case, build, dense, label, normal

from randomwalk import InputError, lookup
from randomwalk.operators import Dense, Operator, make
from randomwalk.operators.deepinv_adapter import from_deepinv, to_deepinv

deepinv = pytest.importorskip("deepinv", reason="needs deepinv")


def test_the_adapter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(lookup.importlib, "import_module", missing)
    with pytest.raises(InputError, match="pip install deepinv"):
        to_deepinv(make("denoising", image_shape=(1, 2, 2)))


@pytest.mark.parametrize("case", LINEAR, ids=label)
def test_ours_pass_their_test_of_the_adjoint(case: Case) -> None:
    physics = to_deepinv(build(case))
    assert isinstance(physics, deepinv.physics.LinearPhysics)
    assert physics.adjointness_test(img_size=case[2], num_samples=5, dtype=torch.float64) < 1e-12


def test_their_test_sees_a_wrong_adjoint() -> None:
    class Wrong(Operator):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

        def adjoint(self, y: torch.Tensor) -> torch.Tensor:
            return y / 2

    error = to_deepinv(Wrong((1, 4, 4))).adjointness_test(img_size=(1, 4, 4), num_samples=5, dtype=torch.float64)
    assert error > 0.1


def test_ours_solve_for_them() -> None:
    operator = build(("compressed_sensing", {"ratio": 0.5}, (1, 4, 6)))
    physics = to_deepinv(operator, noise_model=deepinv.physics.GaussianNoise(0.1))
    x, z = normal(2, 1, 4, 6), normal(2, 1, 4, 6, seed=1)
    y = physics.A(x)
    assert (physics(x) - y).std().item() == pytest.approx(0.1, rel=0.9)  # with their noise
    gamma = 3.0
    gradient = gamma * operator.adjoint(operator(found := physics.prox_l2(z, y, gamma)) - y) + found - z
    assert gradient.abs().max() < 1e-12
    torch.testing.assert_close(physics.A_dagger(y), operator.pinv(y))


@pytest.mark.parametrize("case", NONLINEAR[:4], ids=label)
def test_ours_that_are_not_linear(case: Case) -> None:
    operator = build(case)
    physics = to_deepinv(operator)
    x = normal(2, *case[2])
    assert not isinstance(physics, deepinv.physics.LinearPhysics)
    assert torch.equal(physics.A(x), operator(x))


def theirs(name: str) -> Operator:
    physics, shape = deepinv.physics, (3, 6, 8)
    kernel = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    made = {
        "Inpainting": lambda: physics.Inpainting(shape, mask=(torch.arange(48).reshape(6, 8) % 3 > 0).float()),
        "BlurFFT": lambda: physics.BlurFFT(shape, filter=kernel / kernel.sum()),
        "Blur": lambda: physics.Blur(filter=kernel / kernel.sum(), padding="valid"),
        "Decolorize": physics.Decolorize,
        "Downsampling": lambda: physics.Downsampling(shape, filter=kernel, factor=2, padding="circular"),
    }
    return from_deepinv(made[name]().double(), shape).double()


@pytest.mark.parametrize("name", ["Inpainting", "BlurFFT", "Decolorize", "Blur", "Downsampling"])
def test_theirs_as_ours(name: str) -> None:
    operator = theirs(name)
    assert operator.linear and operator.has_spectral == (name in ("Inpainting", "BlurFFT", "Decolorize"))
    x, y = normal(2, 3, 6, 8), normal(2, *operator.measurement_shape, seed=1)
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum(), rtol=1e-10, atol=1e-10)
    exact = Dense(operator.image_shape, dense(operator), operator.measurement_shape)
    assert operator.norm() == pytest.approx(exact.norm(), rel=1e-9)
    torch.testing.assert_close(operator.proximal(x, y, 0.3, 0.7), exact.proximal(x, y, 0.3, 0.7), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(operator(operator.pinv(y)), exact(exact.pinv(y)), rtol=1e-6, atol=1e-6)
    if operator.has_spectral:
        found, expected = operator.spectral(torch.exp, x), exact.spectral(torch.exp, x)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_theirs_that_are_not_linear() -> None:
    physics = deepinv.physics.PhaseRetrieval(deepinv.physics.Denoising())
    operator = from_deepinv(physics, (1, 4, 4))
    assert not operator.linear and operator(normal(2, 1, 4, 4)).shape == (2, 1, 4, 4)
    with pytest.raises(InputError, match="not linear"):
        operator.adjoint(normal(2, 1, 4, 4))
    with pytest.raises(InputError, match=r"found str; expected a deepinv\.physics\.Physics"):
        from_deepinv("blur", (1, 4, 4))
