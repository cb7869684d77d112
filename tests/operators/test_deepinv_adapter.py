"""Operators of deepinv as ours, and ours as deepinv's; needs that library."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from operator_cases import LINEAR, NONLINEAR, Case, build, dense, label, normal

from randomwalk import GaussianMixture, GaussianNoise, InputError, Measurement, RunError, lookup, samplers
from randomwalk.operators import Dense, Operator, make
from randomwalk.operators.deepinv_adapter import from_deepinv, to_deepinv
from randomwalk.rng import generator

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


# --- every physics of the library, in its own floating type ----------------------------------------------------------

P = deepinv.physics
RGB = (3, 12, 12)
PADDINGS = ("valid", "circular", "replicate", "reflect", "constant")
Made = tuple[Callable[[], Any], tuple[int, ...]]


def uniform(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def kernel() -> torch.Tensor:
    return uniform(1, 1, 3, 3) / uniform(1, 1, 3, 3).sum()


def striped(*shape: int) -> torch.Tensor:
    return (torch.arange(shape[-1] * shape[-2]).reshape(shape[-2:]) % 3 > 0).float().expand(shape).clone()


def elements() -> torch.Tensor:
    return torch.stack([torch.linspace(-0.01, 0.01, 8), torch.zeros(8)], 1)


def circular() -> Any:
    return P.Blur(filter=kernel(), padding="circular")


def shift() -> dict[str, Any]:
    transform = deepinv.transform.Shift()
    return {"transform": transform, "g_params": transform.get_params(torch.zeros(1, *RGB))}


def coils() -> torch.Tensor:
    return torch.complex(uniform(1, 3, 12, 12), uniform(1, 3, 12, 12).flip(-1))


LINEAR_PHYSICS: dict[str, Made] = {
    **{f"Blur {p}": (lambda p=p: P.Blur(filter=kernel(), padding=p), RGB) for p in PADDINGS},
    **{f"Blur {p} by FFT": (lambda p=p: P.Blur(filter=kernel(), padding=p, use_fft=True), RGB) for p in PADDINGS},
    **{f"Downsampling {p}": (lambda p=p: P.Downsampling(RGB, kernel(), 2, padding=p), RGB) for p in PADDINGS},
    **{f"Upsampling {p}": (lambda p=p: P.Upsampling((3, 24, 24), "bilinear", 2, padding=p), RGB) for p in PADDINGS[1:]},
    **{f"SpaceVaryingBlur {p}": (
        lambda p=p: P.SpaceVaryingBlur(uniform(1, 1, 2, 3, 3), uniform(1, 1, 2, 12, 12), padding=p), RGB
    ) for p in PADDINGS},
    **{f"Pansharpen {p}": (lambda p=p: P.Pansharpen(RGB, factor=4, padding=p), RGB) for p in PADDINGS},
    **{f"DownsamplingMatlab {k}": (lambda k=k: P.DownsamplingMatlab(factor=2, kernel=k), (1, 16, 16))
       for k in ("cubic", "gaussian")},
    "TiledSpaceVaryingBlur": (lambda: P.TiledSpaceVaryingBlur(uniform(1, 1, 4, 3, 3), 8, 4), (1, 12, 12)),
    "BlurFFT": (lambda: P.BlurFFT(RGB, kernel()), RGB),
    "Inpainting of a mask": (lambda: P.Inpainting(RGB, mask=striped(12, 12)), RGB),
    "Inpainting of a share": (lambda: P.Inpainting(RGB, mask=0.5), RGB),
    "Inpainting of channels": (lambda: P.Inpainting(RGB, mask=0.5, pixelwise=False), RGB),
    "Demosaicing": (lambda: P.Demosaicing(RGB), RGB),
    "Denoising": (P.Denoising, RGB),
    "Decolorize": (P.Decolorize, RGB),
    "CompressedSensing": (lambda: P.CompressedSensing(20, (1, 8, 8)), (1, 8, 8)),
    "CompressedSensing channelwise": (lambda: P.CompressedSensing(20, (3, 8, 8), channelwise=True), (3, 8, 8)),
    "SinglePixelCamera": (lambda: P.SinglePixelCamera(20, (1, 8, 8)), (1, 8, 8)),
    "SinglePixelCamera slow": (lambda: P.SinglePixelCamera(20, (1, 8, 8), fast=False), (1, 8, 8)),
    "CompressiveSpectralImaging ss": (lambda: P.CompressiveSpectralImaging((7, 8, 8)), (7, 8, 8)),
    "CompressiveSpectralImaging sd": (lambda: P.CompressiveSpectralImaging((7, 8, 8), mode="sd"), (7, 8, 8)),
    "MRI": (lambda: P.MRI(mask=striped(12, 12), img_size=(2, 12, 12)), (2, 12, 12)),
    "SequentialMRI": (lambda: P.SequentialMRI(mask=striped(1, 2, 3, 12, 12)), (2, 12, 12)),
    "MultiCoilMRI": (lambda: P.MultiCoilMRI(striped(12, 12), coils(), img_size=(2, 12, 12)), (2, 12, 12)),
    "HyperSpectralUnmixing": (lambda: P.HyperSpectralUnmixing(E=3, C=6), RGB),
    "Tomography": (lambda: P.Tomography(6, 12, normalize=False), (1, 12, 12)),
    "Tomography in a circle": (lambda: P.Tomography(6, 12, circle=True, normalize=True), (1, 12, 12)),
    "Tomography of a fan": (lambda: P.Tomography(6, 8, fan_beam=True, normalize=False), (1, 8, 8)),
    "UltrasoundPlaneWave": (lambda: P.UltrasoundPlaneWave((8, 8), [0.0, 0.1], elements(), 64, 2e7), (1, 8, 8)),
    "StructuredRandom": (lambda: P.StructuredRandom((1, 8, 8), (1, 8, 8)), (1, 8, 8)),
    "PtychographyLinearOperator": (lambda: P.PtychographyLinearOperator((1, 8, 8)), (1, 8, 8)),
    "LinearPhysics": (lambda: P.LinearPhysics(A=lambda x, **_: 2 * x, A_adjoint=lambda y, **_: 2 * y), RGB),
    "DecomposablePhysics": (lambda: P.DecomposablePhysics(mask=striped(12, 12)), RGB),
    "StackedLinearPhysics": (lambda: P.stack(P.Denoising(), circular()), RGB),
    "ComposedLinearPhysics": (lambda: P.compose(circular(), P.Inpainting(RGB, mask=striped(12, 12))), RGB),
    "PhysicsCropper": (lambda: P.PhysicsCropper(circular(), (2, 2)), RGB),
    "VirtualLinearPhysics": (lambda: P.VirtualLinearPhysics(physics=circular(), **shift()), RGB),
    "LinearPhysicsMultiScaler": (
        lambda: P.LinearPhysicsMultiScaler(circular(), (3, 16, 16), factors=(2,)), (3, 16, 16)
    ),
    "BlurMultiScaler": (lambda: P.BlurMultiScaler(circular(), (3, 16, 16), factors=(2,)), (3, 16, 16)),
    "BlurFFTMultiScaler": (
        lambda: P.BlurFFTMultiScaler(P.BlurFFT((3, 16, 16), kernel()), (3, 16, 16), factors=(2,)), (3, 16, 16)
    ),
    "InpaintingMultiScaler": (
        lambda: P.InpaintingMultiScaler(P.Inpainting((3, 16, 16), striped(1, 3, 16, 16)), (3, 16, 16), factors=(2,)),
        (3, 16, 16),
    ),
    "RadioInterferometry": (lambda: P.RadioInterferometry((8, 8), (uniform(2, 20) - 0.5) * 6), (1, 8, 8)),
    "NonCartesianMRI": (lambda: P.NonCartesianMRI((8, 8), 4, 20), (2, 8, 8)),
}  # fmt: skip
OTHER_PHYSICS: dict[str, Made] = {  # not linear: they run, if not stably, or say why not
    "PhaseRetrieval": (lambda: P.PhaseRetrieval(P.Denoising()), RGB),
    "StructuredRandomPhaseRetrieval": (lambda: P.StructuredRandomPhaseRetrieval((1, 8, 8), (1, 8, 8), 1), (1, 8, 8)),
    "Ptychography": (lambda: P.Ptychography((1, 8, 8)), (1, 8, 8)),
    "SpatialUnwrapping": (P.SpatialUnwrapping, RGB),
    "SinglePhotonLidar": (P.SinglePhotonLidar, (3, 8, 8)),
    "Scattering": (lambda: P.Scattering(8, uniform(2, 6) + 2, uniform(2, 4) + 2), (1, 8, 8)),
    "Physics": (lambda: P.Physics(A=lambda x, **_: x**2), RGB),
    "ComposedPhysics": (lambda: P.compose(circular(), P.Physics(A=lambda x, **_: x**2)), RGB),
    "StackedPhysics": (lambda: P.stack(P.Physics(A=lambda x, **_: x**2), P.Denoising()), RGB),
    "PhysicsMultiScaler": (lambda: P.PhysicsMultiScaler(circular(), (3, 16, 16), factors=(2,)), (3, 16, 16)),
}
REFUSED: dict[str, tuple[Made, str]] = {
    "Tomography, its adjoint": (
        (lambda: P.Tomography(6, 8, adjoint_via_backprop=False, normalize=False), (1, 8, 8)),
        "use adjoint_via_backprop=True",
    ),
    "DynamicMRI": ((lambda: P.DynamicMRI(striped(2, 8, 8)), (2, 2, 8, 8)), "not sequences or volumes"),
    "Haze": ((P.Haze, RGB), "Haze does not measure an image of shape"),  # a list of an image, a depth and a number
    "RandomPhaseRetrieval": (
        (lambda: P.RandomPhaseRetrieval(20, (1, 8, 8)), (1, 8, 8)),
        "RandomPhaseRetrieval does not measure an image",
    ),  # complex images
}
ELSEWHERE = {"PET", "TomographyWithAstra"}
"""They need a library with a GPU, or one that pip does not have."""


LARGE = {"RadioInterferometry", "NonCartesianMRI", "Tomography of a fan"}
"""Slow, pixel by pixel."""


def test_no_physics_is_left_out() -> None:
    tried = {name.split()[0].rstrip(",") for name in [*LINEAR_PHYSICS, *OTHER_PHYSICS, *REFUSED]}
    published = {name for name, made in vars(P).items() if inspect.isclass(made) and issubclass(made, P.Physics)}
    assert published - ELSEWHERE == tried


def adapted(made: Made) -> Operator:
    try:
        physics = made[0]()
    except ImportError as error:
        pytest.skip(str(error))
    return from_deepinv(physics, made[1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LINEAR_PHYSICS)
def test_every_linear_physics_runs_with_the_default_sampler(name: str) -> None:
    """In float32, with its steps and with plain ones; A and A^T fit, and the norm bounds A."""
    operator = adapted(LINEAR_PHYSICS[name])
    assert operator.linear
    x, y = normal(2, *operator.image_shape).float(), normal(2, *operator.measurement_shape, seed=1).float()
    forward, back = operator(x), operator.adjoint(y)
    assert forward.dtype == back.dtype == torch.float32 and forward[0].shape == operator.measurement_shape
    size = float(forward.norm() * y.norm())
    assert float((forward * y).sum() - (x * back).sum()) == pytest.approx(0.0, abs=2e-5 * size)
    torch.testing.assert_close(operator(x[1:]), forward[1:], rtol=1e-4, atol=1e-4)  # a row alone
    assert float(forward.norm()) <= 1.001 * operator.norm() * float(x.norm())
    prior = GaussianMixture([1.0], torch.zeros(1, *operator.image_shape), 1.0)
    noise, levels = GaussianNoise(0.1), [1.0, 0.5, 0.2, 0.1, 0.05]
    measurement = operator.measure(x[:1], noise)

    def sampled(operator: Operator, preconditioned: bool) -> torch.Tensor:
        torch.manual_seed(0)
        sampler = samplers.make("random_walk", step_scale=0.5, preconditioned=preconditioned)
        return sampler.sample(prior, levels, Measurement(operator, noise, measurement.y), num_samples=2)

    assert sampled(operator, True).dtype == torch.float32
    walked = sampled(operator, False)
    if name not in LARGE:
        exact = Dense.of(operator)
        torch.testing.assert_close(walked, sampled(exact, False), rtol=1e-3, atol=1e-3)
        x0 = operator.proximal(x, y, 0.3, 0.7)
        torch.testing.assert_close(x0, exact.proximal(x, y, 0.3, 0.7), rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OTHER_PHYSICS)
def test_the_others_run_or_say_why_not(name: str) -> None:
    operator = adapted(OTHER_PHYSICS[name])
    assert not operator.linear
    measurement = operator.measure(normal(1, *operator.image_shape).float(), GaussianNoise(0.1))
    prior = GaussianMixture([1.0], torch.zeros(1, *operator.image_shape), 1.0)
    sampler = samplers.make("random_walk", step_scale=0.1)
    try:
        assert sampler.sample(prior, [1.0, 0.5, 0.2], measurement, num_samples=2).dtype == torch.float32
    except RunError as error:
        assert "take smaller steps" in str(error)
    with pytest.raises(InputError, match="needs a linear operator"):
        samplers.make("random_walk", step_scale=0.5, preconditioned=True).sample(prior, [1.0], measurement)


@pytest.mark.parametrize("name", REFUSED)
def test_those_of_other_images_are_refused(name: str) -> None:
    made, said = REFUSED[name]
    with pytest.raises(InputError, match=said):
        adapted(made)


def test_an_approximate_adjoint_is_replaced() -> None:
    wrong = P.LinearPhysics(A=lambda x, **_: 2 * x, A_adjoint=lambda y, **_: y)
    operator, y = from_deepinv(wrong, RGB), normal(2, *RGB)
    torch.testing.assert_close(operator.adjoint(y), 2 * y)


def test_complex_measurements_are_pairs_and_lists_are_rows() -> None:
    fourier = P.LinearPhysics(
        A=lambda x, **_: torch.fft.fft2(x, norm="ortho"), A_adjoint=lambda y, **_: torch.fft.ifft2(y, norm="ortho").real
    )
    operator, x = from_deepinv(fourier, (1, 4, 6)), normal(2, 1, 4, 6).float()
    assert operator.measurement_shape == (1, 4, 6, 2) and operator.norm() == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(operator.parts.split(operator(x)), torch.fft.fft2(x, norm="ortho"))  # type: ignore[attr-defined, operator]
    stacked = P.stack(P.Denoising(), fourier, circular())
    operator, x = from_deepinv(stacked, RGB), normal(2, *RGB).float()
    assert operator.measurement_shape == (4 * 3 * 12 * 12,)
    parts = operator.parts.split(operator(x))  # type: ignore[operator, union-attr]
    for part, expected in zip(parts, stacked.A(x), strict=True):
        torch.testing.assert_close(part, expected)


# --- by name ---------------------------------------------------------------------------------------------------------


def by_name(physics: str, shape: tuple[int, int, int] = (1, 8, 8), **arguments: Any) -> Operator:
    return make("deepinv", image_shape=shape, physics=physics, arguments=arguments)


def test_a_physics_by_its_name_is_the_one_with_these_arguments() -> None:
    x = normal(2, 1, 8, 8).float()
    angles, kernel = [0.0, 30.0, 75.0], [[[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]]]]
    for found, theirs in (
        (by_name("Tomography", angles=angles, normalize=False), P.Tomography(torch.tensor(angles), 8, normalize=False)),
        (by_name("Blur", filter=kernel, padding="circular"), P.Blur(torch.tensor(kernel), padding="circular")),
        (by_name("Downsampling", factor=2, filter="gaussian"), P.Downsampling((1, 8, 8), "gaussian", 2)),
        (by_name("SinglePixelCamera", m=20), P.SinglePixelCamera(20, (1, 8, 8))),
    ):
        assert found.linear
        torch.testing.assert_close(found(x), theirs.A(x))
    fan = by_name("Tomography", angles=6, fan_beam=True, normalize=False)
    torch.testing.assert_close(fan(x), P.Tomography(6, 8, fan_beam=True, normalize=False).A(x))


def test_what_a_physics_draws_is_always_the_same() -> None:
    """Whatever the state of PyTorch's generator, from which this class draws, and which is left as it was."""
    x = normal(1, 3, 8, 8).float()
    torch.manual_seed(1)
    first, drawn = by_name("HyperSpectralUnmixing", (3, 8, 8), E=3, C=6)(x), torch.rand(1)
    torch.manual_seed(2)
    assert torch.equal(by_name("HyperSpectralUnmixing", (3, 8, 8), E=3, C=6)(x), first)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)


@pytest.mark.parametrize(
    ("physics", "arguments", "said"),
    [
        ("Tomographie", {}, "found 'Tomographie', which is no linear physics of deepinv; did you mean Tomography"),
        ("Haze", {}, "found 'Haze', which is no linear physics"),
        ("os", {}, "found 'os', which is no linear physics of deepinv; expected one of Blur"),
        ("Tomography", {"angle": 3}, "Tomography takes no angle here; allowed: angles, img_width, circle"),
        ("Blur", {"noise_model": "gaussian"}, "Blur takes no noise_model here"),
        ("Tomography", {"angles": "many"}, r"Tomography refuses img_width=8, angles=many \("),
        ("Blur", {"filter": [[1.0], [1.0, 2.0]]}, "lists of lists must be numbers, and as long as one another"),
        ("Tomography", {}, r"Tomography refuses img_width=8 \(.*angles"),
        ("LinearPhysics", {"A": "print"}, "LinearPhysics does not measure an image of shape"),
    ],
)
def test_what_a_name_does_not_give(physics: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        by_name(physics, **arguments)


def test_their_limit_of_iterations_holds_where_ours_would_not_end() -> None:
    """Conjugate gradients in single precision at a condition of 1e8: without a limit they end in an error."""
    coils = make("mri", image_shape=(2, 16, 16), generators=[generator(0, 0)], acceleration=4, coils=4, mask="random")
    physics = to_deepinv(coils, max_iter=5)
    y = coils(normal(1, 2, 16, 16).float())
    few = physics.prox_l2(torch.zeros(1, 2, 16, 16), y, 1e8)
    physics.max_iter = 50
    more = physics.prox_l2(torch.zeros(1, 2, 16, 16), y, 1e8)
    distances = [float((coils(x) - y).norm() / y.norm()) for x in (few, more)]
    assert distances[1] < distances[0] < 1 and distances[1] < 0.1
    whole = physics.A_dagger(y)
    assert float((coils(whole) - y).norm() / y.norm()) == pytest.approx(distances[1], rel=0.1)
