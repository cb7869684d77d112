"""Class labels: guidance against closed forms, with every sampler, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_tools import NETWORK, arrays_of, make_config, read_metrics
from torch import Tensor

from randomwalk import GaussianMixture, operators, samplers
from randomwalk.config.samplers import POSTERIOR_NAMES, PRIOR_NAMES
from randomwalk.denoisers.adapters import make as make_adapter
from randomwalk.denoisers.checkpoints import build_network, load_denoiser, save_denoiser
from randomwalk.denoisers.denoiser import NetworkDenoiser, broadcast_sigma
from randomwalk.denoisers.guidance import GuidedDenoiser, guided
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.errors import InputError
from randomwalk.operators import Measurement
from randomwalk.operators.noise import GaussianNoise
from randomwalk.rng import ImageDraws, generator
from randomwalk.sampling import figures
from randomwalk.sampling import run as sampling
from randomwalk.sampling.loading import load_task

SHAPE = (1, 2, 4)
NONE = 2
MEANS = torch.stack([torch.full((8,), -0.6), torch.linspace(-0.5, 1.5, 8)]).double()
VARIANCES = torch.tensor([0.3, 0.1], dtype=torch.float64)
ALL = GaussianMixture([0.4, 0.6], MEANS.reshape(2, *SHAPE), VARIANCES)


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes longer than everything else here, and is looked at in other tests."""
    monkeypatch.setattr(figures, "calibration_figure", lambda calibrations: b"")
    monkeypatch.setattr(figures, "schedule_figure", lambda *arguments: b"")


class Oracle(NetworkDenoiser):
    """The exact denoiser of each component of a mixture, a class each, and of the mixture for the class NONE."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__(torch.nn.Identity(), 1e-3, 100.0, null_label=NONE)
        self.calls: list[Tensor] = []

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None and len(label) == len(x)
        self.calls.append(label)
        of_class = label.clamp(max=1)
        m = MEANS[of_class].reshape(-1, *SHAPE).to(x)
        v = VARIANCES[of_class].to(x).reshape(-1, 1, 1, 1)
        s2 = broadcast_sigma(sigma, x) ** 2
        given = m + v / (v + s2) * (x - m)
        return torch.where(label.reshape(-1, 1, 1, 1) == NONE, ALL(x, sigma), given)


class Swapped(GuidedDenoiser):
    """A mistake: w and 1 - w exchanged."""

    def _combined(self, *arguments: Any) -> Tensor:
        without = GuidedDenoiser(self.inner, self.get_buffer("labels"), 0.0)._combined(*arguments)
        given = GuidedDenoiser(self.inner, self.get_buffer("labels"), 1.0)._combined(*arguments)
        return torch.lerp(given, without, self.scale)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 1, 0])
X = normal(4, *SHAPE)


# --- closed forms ------------------------------------------------------------------------------------------------


def log_density(x: Tensor, sigma: Tensor, labels: Tensor, scale: float) -> Tensor:
    """``(1 - w) log p_sigma(x) + w log p_sigma(x | label)``, whose gradient guidance is to be."""
    variance = VARIANCES[labels] + sigma**2
    given = -(x.flatten(1) - MEANS[labels]).square().sum(1) / (2 * variance)
    return (1 - scale) * ALL.log_prob(x, sigma) + scale * given


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 7.5])
def test_the_score_is_the_gradient_of_the_extrapolated_log_density(scale: float) -> None:
    """Up to rounding: everything is in float64."""
    sigma = torch.tensor([0.2, 0.2, 1.0, 30.0], dtype=torch.float64)
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(log_density(x, sigma, LABELS, scale).sum(), x)

    def check(denoiser: GuidedDenoiser) -> None:
        torch.testing.assert_close(denoiser.score(X, sigma), expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            denoiser(X, sigma), X + broadcast_sigma(sigma, X) ** 2 * expected, rtol=1e-9, atol=1e-9
        )

    check(GuidedDenoiser(Oracle(), LABELS, scale))
    if scale != 0.5:  # where both are the same
        with pytest.raises(AssertionError):
            check(Swapped(Oracle(), LABELS, scale))


def test_a_scale_of_one_samples_the_class() -> None:
    """The flow of a Normal(m, v) is known: ``x - m`` shrinks like ``sqrt(v + sigma^2)``, and D takes the last step.
    Each image is compared with its own, so that the tolerance is that of the solver."""
    high, low = 50.0, 0.01
    x = high * normal(4, *SHAPE, seed=1)
    solver = samplers.make("ode", rtol=1e-9, atol=1e-9)
    m, v = MEANS[LABELS].reshape(4, *SHAPE), VARIANCES[LABELS].reshape(4, 1, 1, 1)
    last = m + ((v + low**2) / (v + high**2)).sqrt() * (x - m)
    expected = m + v / (v + low**2) * (last - m)
    found = solver.sample(GuidedDenoiser(Oracle(), LABELS), [high, low], start=x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    others = solver.sample(GuidedDenoiser(Oracle(), 1 - LABELS), [high, low], start=x)
    assert (others - expected).abs().amax((1, 2, 3)).min() > 0.1


def test_jacobian_products_go_through_both_halves() -> None:
    v = normal(*X.shape, seed=2)
    products = []
    for scale in (0.0, 1.0, 3.0):
        _, product = GuidedDenoiser(Oracle(), LABELS, scale).linearized(X, 0.5)
        products.append(product(v))
    torch.testing.assert_close(products[2], -2 * products[0] + 3 * products[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("scale", "cost"), [(0.0, 1), (1.0, 1), (2.0, 2)])
def test_evaluations_of_the_network_are_counted_and_made_in_one_batch(scale: float, cost: int) -> None:
    oracle = Oracle()
    counting = CountingDenoiser(GuidedDenoiser(oracle, LABELS, scale))
    counting(X, 1.0)
    counting.score(X, torch.ones(4))
    _, product = counting.linearized(X, 1.0)
    product(X)
    assert (counting.evaluations, counting.vjps) == (3 * cost, cost)
    assert [len(label) for label in oracle.calls] == 3 * [4 * cost]


def test_rows_of_one_measurement_share_its_label() -> None:
    x = normal(6, *SHAPE)
    found = GuidedDenoiser(Oracle(), torch.tensor([1, 0]), 2.0)(x, 1.0)
    expected = GuidedDenoiser(Oracle(), torch.tensor([1, 1, 1, 0, 0, 0]), 2.0)(x, 1.0)
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="evenly"):
        GuidedDenoiser(Oracle(), LABELS)(x, 1.0)


def test_the_label_reaches_a_network_through_its_adapter() -> None:
    class Network(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return y.to(x).reshape(-1, 1, 1, 1).expand(x.shape)

    denoiser = make_adapter("edm", Network(), null_label=0)
    denoiser.num_classes = 6
    c_out = 0.5 / 1.25**0.5
    for scale in (0, 1, 3):
        x = torch.zeros(2, 1, 1, 1)
        found = GuidedDenoiser(denoiser, torch.tensor([5, 1]), scale)(x, 1.0).flatten()
        torch.testing.assert_close(found, c_out * scale * torch.tensor([5.0, 1.0]), rtol=1e-6, atol=0)


# --- every sampler -----------------------------------------------------------------------------------------------

SIGMAS = [20.0, 5.0, 1.0, 0.3, 0.1]
WALK: dict[str, Any] = {"step_scale": 0.7, "initial_temperature": 0.1}
PRIOR_SETTINGS: dict[str, dict[str, Any]] = {"random_walk": WALK, "predictor_corrector": {"sde": {"name": "vp"}}}
POSTERIOR_SETTINGS: dict[str, dict[str, Any]] = {
    "random_walk": WALK,
    "daps": {"ode_steps": 2},
    "split_gibbs": {"prior_steps": 2},
}


@pytest.mark.parametrize("name", PRIOR_NAMES)
def test_an_image_depends_on_its_own_label_alone(name: str) -> None:
    sampler = samplers.make(name, **PRIOR_SETTINGS.get(name, {}))

    def sample(labels: list[int], scale: float = 2.0) -> Tensor:
        draws = ImageDraws([generator(0, i) for i in range(4)])
        x = SIGMAS[0] * draws.normal(SHAPE).double()
        return sampler.sample(GuidedDenoiser(Oracle(), torch.tensor(labels), scale), SIGMAS, start=x, draws=draws)

    first, second = sample([0, 1, 1, 0]), sample([0, 1, 0, 0])
    change = (first - second).abs().amax((1, 2, 3))
    # The steps of ode are shared, so its images differ within its tolerance of 1e-5 times the levels' amplification.
    assert change[2] > 0.1 and change[[0, 1, 3]].max() <= (1e-3 if name == "ode" else 0)
    assert (sample([0, 1, 1, 0], 1.0) - first).abs().amax((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("name", [name for name in POSTERIOR_NAMES if name != "posterior_mean"])
def test_samples_of_a_measurement_depend_on_its_label_alone(name: str) -> None:
    sampler = samplers.make(name, **POSTERIOR_SETTINGS.get(name, {}))
    y = X[:2] * (torch.arange(8).reshape(SHAPE) % 2)

    def sample(labels: list[int]) -> Tensor:
        masks = [generator(1), generator(1)]
        operator = operators.make("inpainting", image_shape=SHAPE, generators=masks, missing=0.5)
        draws = ImageDraws([generator(0, i) for i in range(6)])
        denoiser = GuidedDenoiser(Oracle(), torch.tensor(labels), 2.0)
        measurement = Measurement(operator, GaussianNoise(0.3), operator(y))
        x = sampler.sample(denoiser, SIGMAS, measurement, num_samples=3, draws=draws)
        return x.reshape(2, 3, *SHAPE)

    first, second = sample([0, 1]), sample([0, 0])
    assert torch.equal(first[0], second[0]) and (first[1] - second[1]).abs().max() > 0.05


# --- sample.py ---------------------------------------------------------------------------------------------------


def save_conditional(path: Path, num_classes: int | None = 4, null_label: int | None = 3) -> Path:
    """A tiny UNet with seeded weights that is sensitive to its labels."""
    network = NETWORK | {"num_classes": num_classes, "use_scale_shift_norm": True, "norm_groups": 8}
    draws = torch.Generator().manual_seed(0)
    state = {
        key: torch.randn(value.shape, generator=draws) * (1 if "label" in key else 0.1)
        for key, value in build_network(network).state_dict().items()
    }
    denoiser = {"name": "vp"} | ({} if null_label is None else {"null_label": null_label})
    save_denoiser(path, {"network": network, "denoiser": denoiser}, state)
    return path


FREE: dict[str, Any] = {"data": None, "measurement": None, "num_images": 4, "animation_frames": 0, "batch_size": 3}
FREE["sampler"] = {"name": "ddim", "schedule": {"name": "geometric", "num_steps": 5, "sigma_max": 20.0}}


def free_run(folder: Path, guidance: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """Arrays of an unconditional run by name."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"path": str(save_conditional(folder / "classes.safetensors"))}
    config = make_config(folder, network=weights, guidance=guidance, **FREE | changes)
    assert sampling.run(config) == 0
    return arrays_of(Path(config.output))


def test_image_i_gets_label_i_whatever_the_batch(tmp_path: Path) -> None:
    listed = free_run(tmp_path / "a", {"labels": [0, 2], "scale": 2.5})
    single = [free_run(tmp_path / f"b{k}", {"labels": k, "scale": 2.5}, batch_size=4) for k in (0, 2)]
    for i in range(4):
        name = f"{i:04d}"
        # Batches of another size may sum in another order.
        assert abs(listed[name] - single[i % 2][name]).max() < 1e-4 < abs(listed[name] - single[1 - i % 2][name]).max()
    rows = read_metrics(tmp_path / "a" / "run")
    assert [row["label"] for row in rows] == ["0", "2", "0", "2"] and {row["evaluations"] for row in rows} == {"10"}
    assert (tmp_path / "a" / "run" / "overview.png").is_file()


def test_without_guidance_the_class_none_is_used(tmp_path: Path) -> None:
    nothing, zero = free_run(tmp_path / "a", None), free_run(tmp_path / "b", {"labels": 1, "scale": 0.0})
    assert all((nothing[name] == zero[name]).all() for name in nothing)
    rows = read_metrics(tmp_path / "a" / "run")
    assert {(row["label"], row["evaluations"]) for row in rows} == {("", "5")}


@pytest.mark.parametrize("name", ["random_walk", "tds"])
def test_samples_of_a_measurement_are_of_its_class(name: str, tmp_path: Path) -> None:
    """Also where all samples of an image are made together, in a batch of several images."""
    settings: dict[str, Any] = {"step_scale": 0.7} if name == "random_walk" else {}
    schedule = {"name": "geometric", "num_steps": 4, "sigma_min": 0.1, "sigma_max": 20.0}
    weights = {"path": str(save_conditional(tmp_path / "classes.safetensors"))}
    changes = {"sampler": {"name": name, **settings, "schedule": schedule}, "network": weights}
    found = []
    for labels in ([0, 1], [0, 2]):
        guidance = {"labels": labels, "scale": 3.0}
        config = make_config(tmp_path / str(labels), 2, **changes, guidance=guidance, num_samples=2, batch_size=4)
        task = load_task(config, torch.device("cpu"))
        (units,) = task.batches()
        batch = task.sample(units, torch.stack([task.load_image(unit.image) for unit in units]))
        assert [task.label_of(unit.image) for unit in units] == [labels[0]] * 2 + [labels[1]] * 2
        assert batch.evaluations == 8
        found.append(batch.x)
    assert torch.equal(found[0][:2], found[1][:2]) and (found[0][2:] - found[1][2:]).abs().amax((1, 2, 3)).min() > 0.01


@pytest.mark.parametrize(
    ("classes", "null", "guidance", "message"),
    [
        (None, None, {"labels": 0}, r"guidance: the network has no classes"),
        (4, 3, {"labels": [0, 1, 0, 0, 0, 4]}, r"guidance\.labels: found 4; allowed: 0 to 2"),
        (4, 3, {"labels": 3}, r"guidance\.labels: found 3; allowed: 0 to 2"),
        (4, 0, {"labels": 0}, r"guidance\.labels: found 0; allowed: 1 to 3"),
        (4, 1, {"labels": 1}, r"guidance\.labels: found 1; allowed: 0 to 3 but 1"),
        (4, None, {"labels": 1, "scale": 2.0}, r"guidance\.scale: found 2; allowed: 1"),
        (4, None, {"labels": 1, "scale": 0.0}, r"guidance\.scale: found 0; allowed: 1"),
        (4, None, None, r"guidance: missing; .* guidance: \{labels: 0\}"),
    ],
)
def test_what_the_network_cannot_do_is_refused(
    classes: int | None, null: int | None, guidance: dict[str, Any] | None, message: str, tmp_path: Path
) -> None:
    weights = {"path": str(save_conditional(tmp_path / "classes.safetensors", classes, null))}
    config = make_config(tmp_path, network=weights, guidance=guidance, **FREE)
    with pytest.raises(InputError, match=message):
        load_task(config, torch.device("cpu"))


def test_a_network_of_classes_alone_is_used_at_scale_one(tmp_path: Path) -> None:
    """The public class-conditional networks have no null label."""
    weights = {"path": str(save_conditional(tmp_path / "classes.safetensors", 4, None))}
    task = load_task(make_config(tmp_path, network=weights, guidance={"labels": 3}, **FREE), torch.device("cpu"))
    x = torch.randn(2, *task.images.shape)
    found = task.denoiser_of([0, 1])(x, 1.0)
    assert isinstance(task.denoiser, NetworkDenoiser)
    assert torch.equal(found, task.denoiser(x, 1.0, torch.tensor([3, 3])))
    assert not torch.equal(found, task.denoiser(x, 1.0, torch.tensor([0, 3])))


def test_other_denoisers_pass_through(tmp_path: Path) -> None:
    assert guided(ALL, None) is ALL
    plain = load_denoiser(save_conditional(tmp_path / "none.safetensors", None, None))
    assert guided(plain, None) is plain
