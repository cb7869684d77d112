"""Points in the plane: sets, distances, examples, figures, and runs of train.py and sample.py on them."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from randomwalk import distributed
from randomwalk.config import SampleConfig, TrainConfig
from randomwalk.config.files import load_sample_config, load_train_config
from randomwalk.config.training import PointData
from randomwalk.config.weights import describe_missing_weights
from randomwalk.denoisers.checkpoints import build_network, load_denoiser, save_denoiser
from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import run as sampling
from randomwalk.studies.points import datasets, figures, metrics, scores, simulation
from randomwalk.studies.points.results import PointResults, Recorder, results_for
from randomwalk.studies.points.training import PointExamples, PointTrainingSet
from randomwalk.training.trainer import Trainer
from score_sde import sdes

TOY = Path(__file__).parents[2] / "configs" / "toy"
NETWORK = {"name": "mlp", "hidden": 48, "num_blocks": 2, "time_scale": 250.0}
EDM = {"name": "edm", "sigma_data": 2.0}


def training(output: Path, **changes: Any) -> TrainConfig:
    """A training on points."""
    settings: dict[str, Any] = {
        "output": str(output),
        "data": {"dataset": "points", "set": "mixture"},
        "network": NETWORK,
        "denoiser": EDM,
        "objective": {"levels": {"name": "log_normal", "mean": -0.3, "std": 1.3}},
        "optimizer": {"learning_rate": 1e-2, "warmup_images": 10_000, "decay": "cosine", "betas": [0.9, 0.99]},
        "ema": {"half_life_images": 10_000, "warmup_ratio": 0.1},
        "batch_size": 256,
        "num_images": 2048,
    }
    return TrainConfig.model_validate({**settings, **changes})


def trainer(config: TrainConfig) -> Trainer:
    """It, ready to run."""
    return Trainer(config, distributed.connect("cpu"), RunFolder.create(config.output), PointTrainingSet(config))


# --- sets ----------------------------------------------------------------------------------------------------


def test_config_knows_every_set() -> None:
    assert get_args(PointData.model_fields["set"].annotation) == datasets.SETS


@pytest.mark.parametrize("name", datasets.SETS)
def test_sets_are_centred_and_have_one_scale(name: str) -> None:
    x = datasets.make(name).sample(20_000, np.random.default_rng(0))
    assert x.shape == (20_000, 2) and x.dtype == np.float32
    # Mean of both coordinates: 5 standard errors of 20,000 points; the mixtures are within a tenth of the scale.
    assert abs(x.mean()) < 5 * 2 / math.sqrt(20_000)
    assert abs(x.std() / datasets.STD - 1) < (0.1 if name in datasets.MIXTURES else 5 / math.sqrt(20_000))


def test_every_set_has_its_configs() -> None:
    for name in sorted({*datasets.SETS} - {"gaussian"}):
        train = load_train_config(TOY / f"{name}_train.yaml")
        sample = load_sample_config(TOY / f"{name}_sample.yaml")
        assert isinstance(train.data, PointData) and train.data.set == name
        assert sample.network.path == f"{train.output}/model.safetensors" and sample.num_images == 10_000


def test_weights_that_are_still_to_be_trained_name_their_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOY.parent.parent)
    assert "train.py --config configs/toy/moons_train.yaml" in describe_missing_weights("results/toy/moons/model.pt")
    assert "train.py --config" not in describe_missing_weights("results/toy/elsewhere/model.pt")


# --- distances -----------------------------------------------------------------------------------------------


def test_distances_of_clouds_that_can_be_computed_by_hand() -> None:
    """A cloud at the origin, and one half of which is 5 away: one nearest point is at 0, half of the others at 25."""
    a, b = np.zeros((100, 2)), np.zeros((100, 2))
    b[:50] = (3, 4)
    assert metrics.chamfer(a, b).value == pytest.approx(0 + 12.5) and metrics.emd(a, b).value == pytest.approx(2.5)
    b[:] = (3, 4)
    assert metrics.chamfer(a, b).value == pytest.approx(25 + 25) and metrics.emd(a, b).value == pytest.approx(5)
    two = metrics.chamfer(np.concatenate([a, a, a[:7]]), np.concatenate([a, b, a[:7]]))  # 7 points are left out
    assert two.value == pytest.approx(25) and two.error == pytest.approx(25)


def test_earth_movers_distance_is_that_of_the_best_assignment() -> None:
    from scipy.optimize import linear_sum_assignment

    a, b = np.random.default_rng(0).standard_normal((2, 200, 2))
    costs = [np.linalg.norm(a[s, None] - b[None, s], axis=2) for s in (slice(0, 100), slice(100, 200))]
    best = [cost[linear_sum_assignment(cost)].mean() for cost in costs]
    assert metrics.emd(a, b).value == pytest.approx(np.mean(best), rel=1e-6)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(InputError, match="found only 99"):
        metrics.chamfer(np.zeros((99, 2)), np.zeros((99, 2)))


FACTS = {
    # How points are made, and the recorded Chamfer distance of 10,000 of them from the swiss roll.
    "floor": (lambda roll, g: roll.sample(10_000, g), 0.079),
    "roll + N(0, 0.2^2)": (lambda roll, g: roll.sample(10_000, g) + 0.2 * g.standard_normal((10_000, 2)), 0.139),
    "roll + N(0, 0.3^2)": (lambda roll, g: roll.sample(10_000, g) + 0.3 * g.standard_normal((10_000, 2)), 0.211),
    "N(0, I)": (lambda roll, g: g.standard_normal((10_000, 2)), 1.88),
    "square": (lambda roll, g: g.uniform(-4, 4, (10_000, 2)), 1.02),
}


@pytest.mark.parametrize("fact", FACTS)
def test_chamfer_distance_agrees_with_recorded_values(fact: str) -> None:
    make, expected = FACTS[fact]
    roll, g = datasets.make("swiss_roll"), np.random.default_rng(1)
    found = [metrics.chamfer(make(roll, g), roll.sample(10_000, g)) for _ in range(4)]
    value, error = (np.mean([getattr(distance, key) for distance in found]) for key in ("value", "error"))
    # The record compares with one set of points, so it has the error of one draw; ours has that of 4.
    assert abs(value - expected) < 4 * error * math.sqrt(1 + 1 / 4)


def test_the_swiss_roll_runs_from_three_to_nine_quarter_turns_with_a_hole() -> None:
    points = datasets._swiss_roll(40_000, np.random.default_rng(0))
    t = np.hypot(*points.T) / np.pi
    np.testing.assert_allclose(np.histogram(t, [1.5, 2.5, 3.5, 4.5])[0] / len(t), [3 / 8, 2 / 8, 3 / 8], atol=0.01)
    np.testing.assert_allclose(points / t[:, None] / np.pi, np.stack([np.cos(np.pi * t), np.sin(np.pi * t)], 1))


def test_the_dark_squares_of_the_checkerboard_touch_at_their_corners() -> None:
    points = datasets.make("checkerboard").sample(8000, np.random.default_rng(0))
    squares = np.histogram2d(*points.T, bins=4, range=[(-points.max(), points.max())] * 2)[0] > 100
    np.testing.assert_array_equal(squares, np.add.outer(np.arange(4), np.arange(4)) % 2 == 0)


def test_the_floor_is_reproducible_and_has_an_error() -> None:
    roll = datasets.make("swiss_roll")
    first, second = (metrics.floor("chamfer", roll, 1000, repeats) for repeats in (3, 3))
    assert first == second and 0 < first.error < 0.2 * first.value
    assert metrics.floor("emd", roll, 1000, 1).value == pytest.approx(0.6, abs=0.1)  # 5 errors of 10 clouds


# --- examples ------------------------------------------------------------------------------------------------


def parts(config: TrainConfig, count: int, rank: int = 0, size: int = 1, first: int = 0) -> list[torch.Tensor]:
    """The first parts as one tensor each: x, N and u side by side."""
    micro = config.batch_size // size // config.accumulate
    stream = PointExamples(config, datasets.make("swiss_roll"), rank, size, first, micro)
    found = [stream.next() for _ in range(count)]
    return [torch.cat([x.flatten(1), noise.flatten(1), u[:, None]], 1) for x, u, noise in found]


def test_examples_are_the_same_from_any_position_and_on_any_number_of_processes(tmp_path: Path) -> None:
    config = training(tmp_path, batch_size=8)
    whole = parts(config, 5)
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], parts(config, 2, first=24), strict=True))
    shares = [parts(config, 5, rank, 4) for rank in range(4)]
    assert all(torch.equal(w, torch.cat([share[k] for share in shares])) for k, w in enumerate(whole))
    halves = parts(config.model_copy(update={"accumulate": 2}), 10)
    assert torch.equal(torch.cat(whole), torch.cat(halves))


def test_examples_are_new_at_every_step_and_even_in_u(tmp_path: Path) -> None:
    found = torch.cat(parts(training(tmp_path, batch_size=64), 10))
    assert len(found.unique(dim=0)) == 640
    assert (found[:, 4].sort().values - (torch.arange(640) + 0.5) / 640).abs().max() < 3 / 640  # golden ratio
    assert not torch.equal(found[:64], torch.cat(parts(training(tmp_path, batch_size=64, seed=1), 1)))


def take_steps(made: Trainer, count: int) -> Trainer:
    """Some steps of a training, from where it is, without what else is due."""
    made.begin()
    for _ in range(count):
        made.train_step()
    return made


def test_a_resumed_training_takes_the_same_steps(tmp_path: Path) -> None:
    whole = take_steps(trainer(training(tmp_path / "a", batch_size=32)), 8)
    half = take_steps(trainer(training(tmp_path / "b", batch_size=32)), 4)
    half.save()
    resumed = Trainer(half.config, half.context, half.folder, PointTrainingSet(half.config))
    resumed.resume()
    assert resumed.step == 4
    take_steps(resumed, 4)
    for name, value in whole.ema.average.items():
        assert torch.equal(value, resumed.ema.average[name]), name


# --- sampling ------------------------------------------------------------------------------------------------


def task_of(folder: Path, weights: Path, **changes: Any) -> SampleConfig:
    """A sampling task of 300 points in 3 batches."""
    schedule = {"name": "karras", "num_steps": 12, "sigma_min": 0.02, "sigma_max": 20.0}
    sampler = {"name": "ddpm_small", "schedule": schedule}
    settings = {"output": str(folder), "network": {"path": str(weights)}, "sampler": sampler, "device": "cpu"}
    settings |= {"num_images": 300, "batch_size": 128, "animation_frames": 5}
    return SampleConfig.model_validate({**settings, **changes})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """An untrained network that says it was trained on the swiss roll."""
    torch.manual_seed(0)
    record = {"config": {"data": {"dataset": "points", "set": "swiss_roll"}}}
    path = tmp_path / "weights.safetensors"
    save_denoiser(path, {"network": NETWORK, "denoiser": EDM, "training": record}, build_network(NETWORK).state_dict())
    return path


def test_sampling_does_not_depend_on_batches_or_interruptions(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sampling.run(task_of(tmp_path / "whole", weights, batch_size=300), results_for=results_for) == 0
    write = PointResults.write_batch

    def die(self: PointResults, b: int, *rest: Any) -> None:
        if b == 1:
            raise KeyboardInterrupt
        write(self, b, *rest)

    config = task_of(tmp_path / "parts", weights)
    monkeypatch.setattr(PointResults, "write_batch", die)
    with pytest.raises(KeyboardInterrupt):
        sampling.run(config, results_for=results_for)
    monkeypatch.undo()
    before = (tmp_path / "parts" / "arrays" / "batch_00000.npy").stat().st_mtime_ns
    assert sampling.run(config, RunFolder.resume(tmp_path / "parts"), results_for) == 0
    assert (tmp_path / "parts" / "arrays" / "batch_00000.npy").stat().st_mtime_ns == before
    whole, resumed = (np.load(tmp_path / name / "samples.npy") for name in ("whole", "parts"))
    assert whole.shape == (300, 2) and np.abs(whole - resumed).max() < 1e-4  # sums in another order
    for name in ("samples.png", "score_field.png", "sde.png", "particles.gif", "schedule.png"):
        with Image.open(tmp_path / "parts" / name) as image:
            assert np.asarray(image.convert("L")).std() > 5, name
    with Image.open(tmp_path / "parts" / "particles.gif") as image:
        assert image.n_frames == 5
    with (tmp_path / "parts" / "metrics.csv").open() as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"chamfer", "emd"} and all(float(row["ratio"]) > 1.2 for row in rows.values())


def test_weights_that_name_no_set_are_compared_with_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.safetensors"
    save_denoiser(path, {"network": NETWORK, "denoiser": EDM}, build_network(NETWORK).state_dict())
    assert (
        sampling.run(task_of(tmp_path / "run", path, num_images=50, animation_frames=0), results_for=results_for) == 0
    )
    assert "nothing to compare with" in capsys.readouterr().out
    assert not (tmp_path / "run" / "particles.gif").exists()


def test_the_film_ends_with_the_samples_and_knows_its_levels() -> None:
    recorder, levels = Recorder(6, 3), [9.0, 5.0, 3.0, 2.0, 1.0, 0.5]
    for k, sigma in enumerate(levels):
        recorder.watch(k, torch.full((4, 2, 1, 1), float(k)), sigma, None)  # type: ignore[arg-type]
    assert [frame[0, 0] for frame in recorder.frames] == [0, 2, 5] and recorder.sigmas == [5.0, 2.0, 0.0]


# --- SDEs and scores -----------------------------------------------------------------------------------------


def off(curves: figures.SDECurves) -> float:
    """Largest distance of a simulated mean or standard deviation from the theory, in standard errors."""
    mean = np.interp(curves.times, curves.t, curves.mean)
    std = np.interp(curves.times, curves.t, curves.std)
    errors = np.maximum(std, 1e-9) / math.sqrt(curves.num_paths)
    spread = math.sqrt(2 * curves.num_paths) * abs(curves.stds[1:] / std[1:] - 1)
    return float(max((abs(curves.means - mean)[1:] / errors[1:]).max(), spread.max()))


@pytest.mark.parametrize("name", sdes.SDES)
def test_simulated_sdes_follow_the_theory(name: str) -> None:
    """Within 4.5 standard errors of 25 numbers, and the bias of 1000 Euler steps, at most 1% here."""
    curves = simulation.sde_curves(sdes.make(name), num_paths=2000)
    assert off(curves) < 4.5 + 0.01 * math.sqrt(2 * 2000)
    assert off(dataclasses.replace(curves, std=curves.std * math.sqrt(2))) > 10


def test_relative_errors_and_their_figure() -> None:
    points = datasets.make("mixture")
    assert points.mixture is not None
    true, draws = scores.field_of(points.mixture), np.random.default_rng(0)
    truth = points.sample(500, draws)
    errors = scores.relative_errors(lambda x, s: 1.1 * true(x, s), true, truth, [0.1, 1.0], draws)
    assert errors[0.1] == pytest.approx(0.1, rel=1e-4) and errors[1.0] == pytest.approx(0.1, rel=1e-4)
    drawn = figures.score_error(lambda x, s: -true(x, s), true, [("a", 1.0)], {0.5: 0.1, 1.0: 0.2}).convert("RGB")
    assert np.asarray(drawn.convert("L")).std() > 5
    cold, hot = ((np.asarray(drawn, dtype=int) - colour) ** 2 for colour in ((0, 0, 4), (252, 253, 191)))
    assert min((cold.sum(2) < 300).sum(), (hot.sum(2) < 300).sum()) > 500  # the ends of the map of the differences


# --- all of it -----------------------------------------------------------------------------------------------


def test_training_and_sampling_find_the_score_of_a_mixture(tmp_path: Path) -> None:
    """300 steps of a small network: the error of the score is below 30% of it from sigma = 0.2 on, and the samples are
    nearly as near to the set as exact points; the score at a wrong sigma is not that near."""
    trainer(training(tmp_path / "run", num_images=300 * 256, log_every=100)).run()
    found = next(csv.DictReader((tmp_path / "run" / "validation.csv").open()))
    assert 0 < float(found["chamfer"]) < 0.3 and 0 < float(found["denoising_at_0.1"]) < 2 * 2 * 0.1**2
    path = tmp_path / "run" / "model.safetensors"
    sampler = {"name": "heun", "schedule": {"name": "karras", "num_steps": 15, "sigma_min": 0.02, "sigma_max": 20.0}}
    config = task_of(tmp_path / "samples", path, num_images=2000, batch_size=2000, sampler=sampler, animation_frames=0)
    assert sampling.run(config, results_for=results_for) == 0
    with (tmp_path / "samples" / "metrics.csv").open() as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    errors = {float(key[15:]): float(row["value"]) for key, row in rows.items() if key.startswith("score_error_at_")}
    assert max(error for sigma, error in errors.items() if sigma >= 0.2) < 0.3
    assert float(rows["chamfer"]["ratio"]) < 1.6 and float(rows["emd"]["ratio"]) < 1.3
    learned, exact = scores.field_of(load_denoiser(path)), datasets.make("mixture")
    assert exact.mixture is not None
    truth, true = exact.sample(1000, np.random.default_rng(0)), scores.field_of(exact.mixture)
    broken = scores.relative_errors(lambda x, s: learned(x, 2 * s), true, truth, [0.5], np.random.default_rng(1))
    assert broken[0.5] > 0.4, (errors, broken)


def test_the_error_of_a_score_is_relative_to_the_true_one_at_noisy_points() -> None:
    seen: dict[float, np.ndarray] = {}

    def true(x: np.ndarray, sigma: float) -> np.ndarray:
        seen[sigma] = x
        return -x / (1 + sigma**2)

    truth = np.zeros((4000, 2))
    found = scores.relative_errors(lambda x, s: 3 * true(x, s), true, truth, [0.5, 3.0], np.random.default_rng(0))
    assert found == {0.5: pytest.approx(2), 3.0: pytest.approx(2)}
    for sigma, x in seen.items():
        assert abs(x.var() / sigma**2 - 1) < 4.5 * math.sqrt(2 / x.size)


def test_simulated_paths_spread_as_the_sde_says() -> None:
    """From 0, by 200 Euler steps, whose bias of the variance is half a step of the rate."""
    num = 4000
    _, states = simulation.euler_maruyama(sdes.OU(1.0), 0.0, num, 200, 200)
    assert abs(states[-1].std() / math.sqrt(1 - math.exp(-1)) - 1) < 4.5 / math.sqrt(2 * num) + 1 / 400
