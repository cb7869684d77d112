"""The walk against the recorded trajectories of the paper's code, and its promises to the caller."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from randomwalk import Denoiser, GaussianMixture, GaussianNoise, InputError, Measurement, RunError, operators, walk
from randomwalk.denoisers import ddpm_table
from randomwalk.denoisers.adapters import make as make_adapter
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.operators import Operator
from randomwalk.samplers import make as make_sampler
from randomwalk.samplers import schedules
from randomwalk.samplers.walk import PreconditionedStep

REFERENCE = Path(__file__).parents[1] / "reference"
DDPM: dict[str, Any] = {"beta_min": 1e-4, "beta_max": 0.02, "num_timesteps": 1000}


class Recorded(NamedTuple):
    """Settings of a recorded run: schedule, c, T0, and the measurement's operator and noise level."""

    schedule: str
    step_scale: float
    initial_temperature: float
    operator: str = ""
    eta: float = 0.0


RECORDED = {
    "vp_uncond_sigmoid": Recorded("sigmoid", 0.7, 0.1),
    "vp_uncond_sigmoid_n100": Recorded("sigmoid", 0.7, 0.1),
    "vp_uncond_denoiser": Recorded("pretrained", 0.4, 0.4),
    "vp_inpaint_random": Recorded("sigmoid", 0.77683, 0.0, "inpainting", 0.2),
    "vp_inpaint_box_linear": Recorded("linear", 0.5, 1.0, "inpainting", 0.05),
    "vp_sr4": Recorded("sigmoid", 0.15651, 0.0, "super_resolution", 0.2),
    "vp_gaussian_blur": Recorded("sigmoid", 0.3, 0.2, "blur", 0.1),
    "ve_uncond": Recorded("geometric", 0.16, 0.4),
    "ve_inpaint_random": Recorded("geometric", 0.29487, 0.0, "inpainting", 0.2),
    "ve_sr4": Recorded("geometric", 0.15651, 0.0, "super_resolution", 0.2),
}


class Blur(Operator):
    """Correlation with a kernel after mirroring at the edge; as a user would write it, forward only."""

    def __init__(self, image_shape: tuple[int, int, int], kernel: Tensor) -> None:
        super().__init__(image_shape)
        self.register_buffer("kernel", kernel.expand(image_shape[0], -1, -1, -1))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.get_buffer("kernel").to(x.dtype)
        half = kernel.shape[-1] // 2
        padded = nn.functional.pad(x, [half] * 4, mode="reflect")
        return nn.functional.conv2d(padded, kernel, groups=x.shape[1])


class RecordedNetwork(nn.Module):
    """The epsilon network of the recordings: exact for independent Gaussian pixels, plus ignored channels."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.table = ddpm_table.ddpm_sigmas(**DDPM)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        sigma = ddpm_table.interpolate(t.double(), self.table)
        a = 1 / (1 + sigma**2)[:, None, None, None]
        epsilon = (1 - a).sqrt() * (z.double() - a.sqrt() * self.mean) / (a * self.std**2 + 1 - a)
        return torch.cat([epsilon, torch.full_like(epsilon, 0.25)], dim=1).to(z.dtype)


def load(name: str) -> dict[str, Tensor]:
    with np.load(REFERENCE / f"traj_{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def likelihood_of(run: Recorded, data: dict[str, Tensor]) -> Measurement | None:
    shape = tuple(data["x_start"].shape[1:])
    operator: Operator
    if run.operator == "inpainting":
        operator = operators.Inpainting(shape, data["mask"])
    elif run.operator == "super_resolution":
        operator = operators.make("super_resolution", image_shape=shape, downsampling="bicubic_mirrored")
    elif run.operator == "blur":
        operator = Blur((shape[0], shape[1], shape[2]), data["blur_kernel"])
    else:
        return None
    return Measurement(operator, GaussianNoise(run.eta), data["measurement"].to(data["x_start"].dtype))


def replay(name: str, denoiser: Denoiser, data: dict[str, Tensor]) -> list[float]:
    """Walk as recorded, with our schedule and sampler; max |difference| / max |recorded| after each recorded step."""
    run, differences = RECORDED[name], []
    settings: dict[str, Any] = {"sigma_min": 0.01, "sigma_max": 348.0} if name.startswith("ve") else DDPM
    sigmas = schedules.make(run.schedule, len(data["sigma"]), **settings)
    likelihood = likelihood_of(run, data)
    sampler = make_sampler("random_walk", step_scale=run.step_scale, initial_temperature=run.initial_temperature)
    plan = sampler.plan(sigmas, likelihood)
    assert plan.step_sizes == pytest.approx(data["step_size"].tolist(), rel=1e-6)
    assert plan.temperatures[:-1] == pytest.approx(data["temperature"].tolist()[:-1], rel=1e-12)

    recorded = dict(zip(data["compared"].tolist(), data["x_iters"], strict=True))  # some of the steps, to save space

    def compare(k: int, x: Tensor, sigma: float) -> None:
        if k not in recorded:
            return
        expected = recorded[k]
        differences.append(float((x[0] - expected).abs().max() / expected.abs().max()))

    # The reference's VE network is given a slightly higher level than the one that sets the step.
    levels = data.get("label_sigma", sigmas)
    walk(
        denoiser,
        data["x_start"],
        levels,
        plan.step_sizes,
        plan.temperatures,
        measurement=likelihood,
        noise=lambda k, x: data["noise"][k][None].to(x.dtype),
        callback=compare,
    )
    assert len(differences) == len(data["x_iters"])
    return differences


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_trajectories(name: str, dtype: torch.dtype) -> None:
    data = load(name)
    mixture = GaussianMixture([1.0], data["prior_mean"].double(), data["prior_std"].double().flatten(1) ** 2)
    data["x_start"] = data["x_start"].to(dtype)
    differences = replay(name, mixture, data)
    print(f"{name} {dtype}: {max(differences):.2e}")
    assert max(differences) < 1e-5


@pytest.mark.parametrize("name", [name for name in RECORDED if name.startswith("vp")])
def test_recorded_trajectories_through_the_vp_adapter(name: str) -> None:
    data = load(name)
    network = RecordedNetwork(data["prior_mean"].double(), data["prior_std"].double())
    data["x_start"] = data["x_start"].double()
    differences = replay(name, make_adapter("vp", network, **DDPM), data)
    print(f"{name}: {max(differences):.2e}")
    assert max(differences) < 1e-5


def test_the_replay_notices_a_rounded_timestep() -> None:
    data = load("vp_uncond_sigmoid")

    class Rounded(RecordedNetwork):
        def forward(self, z: Tensor, t: Tensor) -> Tensor:
            return super().forward(z, t.round())

    network = Rounded(data["prior_mean"].double(), data["prior_std"].double())
    assert max(replay("vp_uncond_sigmoid", make_adapter("vp", network, **DDPM), data)) > 1e-5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small_mixture() -> GaussianMixture:
    """A mixture of two on images of 1x2x2."""
    return GaussianMixture([0.3, 0.7], normal(2, 1, 2, 2).numpy(), [0.2, 0.5])


SIGMAS = [4.0, 2.0, 1.0, 0.5]
TAUS = [0.5 * sigma**2 for sigma in SIGMAS]
TEMPERATURES = [0.2, 0.5, 1.0, 0.0]
DRAWS = normal(4, 3, 1, 2, 2, seed=5)


def test_one_evaluation_for_each_step_and_no_graph() -> None:
    denoiser = CountingDenoiser(small_mixture())
    likelihood = Measurement(operators.Identity((1, 2, 2)), GaussianNoise(0.5), normal(3, 1, 2, 2, seed=2))
    end = walk(denoiser, normal(3, 1, 2, 2), SIGMAS, TAUS, TEMPERATURES, measurement=likelihood)
    assert denoiser.evaluations == len(SIGMAS)
    assert not end.requires_grad and not end.is_inference()
    (end.requires_grad_() ** 2).sum().backward()  # the caller may differentiate what comes after
    assert end.grad is not None


def test_network_is_evaluated_without_a_graph() -> None:
    class Watched(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(0.5))

        def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
            out = self.gain * x
            assert not out.requires_grad
            return out

    assert not walk(Watched(), normal(2, 3), SIGMAS, TAUS, TEMPERATURES).requires_grad


def test_caller_s_tensors_are_not_written_to() -> None:
    start, draws, states = normal(3, 1, 2, 2), DRAWS.clone(), []
    kept = start.clone()
    walk(
        small_mixture(), start, SIGMAS, TAUS, TEMPERATURES,
        noise=lambda k, x: draws[k], callback=lambda k, x, sigma: states.append((x, x.clone())),
    )  # fmt: skip
    assert torch.equal(start, kept) and torch.equal(draws, DRAWS)
    assert all(torch.equal(now, then) for now, then in states)


def test_callback_and_noise_are_called_as_documented() -> None:
    asked: list[int] = []
    seen: list[tuple[int, float]] = []

    def noise(k: int, x: Tensor) -> Tensor:
        asked.append(k)
        return torch.zeros_like(x)

    last: list[Tensor] = []

    def callback(k: int, x: Tensor, sigma: float) -> None:
        seen.append((k, sigma))
        last[:] = [x]

    temperatures = [0.0, 0.5, 1.0, 0.0]
    end = walk(
        small_mixture(), normal(3, 1, 2, 2), torch.tensor(SIGMAS), torch.tensor(TAUS), torch.tensor(temperatures),
        noise=noise, callback=callback,
    )  # fmt: skip
    assert asked == [1, 2]  # nothing is drawn where T is 0
    assert seen == list(enumerate(SIGMAS))
    assert torch.equal(end, last[0])


def test_default_noise_is_standard_normal() -> None:
    torch.manual_seed(0)
    flat = GaussianMixture([1.0], torch.zeros(1, 2), 1e12)  # next to no drift
    end = walk(flat, torch.zeros(20000, 2), [1.0], [2.0], [0.25])
    assert end.std().item() == pytest.approx(1.0, rel=5 / 80000**0.5)  # five standard errors
    assert abs(end.mean().item()) < 5 / 40000**0.5


def test_rows_of_a_batch_do_not_influence_each_other() -> None:
    start = normal(3, 1, 2, 2)
    operator = operators.Inpainting((1, 2, 2), (normal(3, 1, 2, 2, seed=9) > 0)[:, :1])
    measurement = normal(3, 1, 2, 2, seed=3)
    likelihood = Measurement(operator, GaussianNoise(0.5), measurement)
    together = walk(
        small_mixture(), start, SIGMAS, TAUS, TEMPERATURES, measurement=likelihood, noise=lambda k, x: DRAWS[k]
    )
    for row in range(3):
        one = Measurement(
            operators.Inpainting((1, 2, 2), operator.mask[row : row + 1]),
            GaussianNoise(0.5),
            measurement[row : row + 1],
        )
        alone = walk(
            small_mixture(), start[row : row + 1], SIGMAS, TAUS, TEMPERATURES,
            measurement=one, noise=lambda k, x, row=row: DRAWS[k, row : row + 1],
        )  # fmt: skip
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-12, atol=1e-12)


def test_state_is_at_least_single_precision() -> None:
    for given, kept in ((torch.float16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2):
        assert walk(small_mixture(), normal(1, 1, 2, 2).to(given), SIGMAS, TAUS, TEMPERATURES).dtype == kept


def test_step_sizes_of_every_kind_agree() -> None:
    likelihood = Measurement(operators.Identity((1, 2, 2)), GaussianNoise(0.5), normal(3, 1, 2, 2, seed=2))
    numbers = [0.5 / (1 / sigma**2 + 1 / 0.25) for sigma in SIGMAS]
    kinds: list[Any] = [
        numbers,
        torch.tensor(numbers, dtype=torch.float64),
        [torch.full((3, 1, 1, 1), tau, dtype=torch.float64) for tau in numbers],
        [PreconditionedStep(likelihood.operator, sigma, eta=0.5, scale=0.5) for sigma in SIGMAS],
    ]
    number, *others = (
        walk(
            small_mixture(), normal(3, 1, 2, 2), SIGMAS, steps, TEMPERATURES,
            measurement=likelihood, noise=lambda k, x: DRAWS[k],
        )
        for steps in kinds
    )  # fmt: skip
    for other in others:
        torch.testing.assert_close(other, number, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "settings"), [("inpainting", {"missing": 0.5}), ("super_resolution", {"factor": 2})])
def test_preconditioned_step_is_the_dense_matrix(name: str, settings: dict[str, Any]) -> None:
    operator = operators.make(name, image_shape=(1, 4, 6), **settings)
    matrix = operator(torch.eye(24, dtype=torch.float64).reshape(24, 1, 4, 6)).reshape(24, -1).T
    dense = 0.3 * torch.linalg.inv(torch.eye(24, dtype=torch.float64) / 0.7**2 + matrix.T @ matrix / 0.2**2)
    values, vectors = torch.linalg.eigh(dense)
    step, v = PreconditionedStep(operator, sigma=0.7, eta=0.2, scale=0.3), normal(2, 1, 4, 6)
    for result, exact in ((step.apply(v), dense), (step.sqrt(v), (vectors * values.sqrt()) @ vectors.T)):
        torch.testing.assert_close(result, (v.flatten(1) @ exact).reshape(v.shape), rtol=1e-10, atol=1e-12)


def test_a_state_that_is_not_finite_names_the_step() -> None:
    draws = DRAWS.clone()
    draws[1, 2, 0, 0, 0] = float("nan")
    with pytest.raises(RunError, match=r"not finite after step 1 \(sigma = 2\)"):
        walk(small_mixture(), normal(3, 1, 2, 2), SIGMAS, TAUS, TEMPERATURES, noise=lambda k, x: draws[k])


@pytest.mark.parametrize(
    ("sigmas", "taus", "temperatures", "said"),
    [
        (SIGMAS, TAUS[:3], TEMPERATURES, "4 sigmas, 3 step sizes and 4 temperatures"),
        ([4.0, 0.0], TAUS[:2], TEMPERATURES[:2], "step 1 has sigma = 0.0"),
        (SIGMAS, [-1.0, *TAUS[1:]], TEMPERATURES, "step 0 has .* step size -1.0"),
        (SIGMAS, TAUS, [-1.0, *TEMPERATURES[1:]], "step 0 has .* temperature -1.0"),
        (SIGMAS, TAUS, [float("nan"), *TEMPERATURES[1:]], "step 0 has .* temperature nan"),
    ],
)
def test_impossible_settings_are_named(sigmas: Any, taus: Any, temperatures: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        walk(small_mixture(), normal(1, 1, 2, 2), sigmas, taus, temperatures)
