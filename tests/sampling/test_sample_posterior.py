"""sample.py with a measurement: every sampler, every operator and noise, particles."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sampling_tools import SIZE, arrays_of, make_config, other_notes, read_metrics

from randomwalk.cli import options as cli
from randomwalk.config.samplers import POSTERIOR_NAMES
from randomwalk.errors import InputError
from randomwalk.operators import Identity, Measurement
from randomwalk.operators import noise as noises
from randomwalk.operators.noise import GaussianNoise
from randomwalk.rng import ImageDraws, generator
from randomwalk.samplers import SAMPLERS, RandomWalk, make
from randomwalk.samplers.walk import PosteriorFlow
from randomwalk.sampling import figures
from randomwalk.sampling import run as sampling
from randomwalk.sampling.figures import schedule_figure as draw_schedule
from randomwalk.sampling.loading import load_task

STEPS = 4
SCHEDULE = {"name": "geometric", "num_steps": STEPS, "sigma_min": 0.1, "sigma_max": 20.0}
REQUIRED: dict[str, dict[str, Any]] = {
    "random_walk": {"step_scale": 0.7},
    "split_gibbs": {"prior_steps": 2},
    "daps": {"ode_steps": 2},
}


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes longer than everything else here, and is looked at in other tests."""
    monkeypatch.setattr(figures, "calibration_figure", lambda calibrations: b"")
    monkeypatch.setattr(figures, "schedule_figure", lambda *arguments: b"")


def sampler(name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, **REQUIRED.get(name, {}), **settings, "schedule": SCHEDULE}


# --- every sampler -------------------------------------------------------------------------------------------

COUNTS = {
    "random_walk": (STEPS, 0),
    "dps": (STEPS, STEPS),
    "pigdm": (STEPS, STEPS),
    "ddrm": (STEPS, 0),
    "ddnm_plus": (STEPS, 0),
    "diffpir": (STEPS, 0),
    "daps": (2 * STEPS - 1, 0),  # the last level is the lowest, from which there is one step
    "mmps": (STEPS, 4 * STEPS),
    "tds": (STEPS, STEPS - 1),
}
"""Evaluations and vector-Jacobian products for each sample, of those for which they are known beforehand."""


@pytest.mark.parametrize("name", [name for name in POSTERIOR_NAMES if name != "posterior_mean"])
def test_every_sampler_runs_and_is_counted(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = make_config(tmp_path, count=2, sampler=sampler(name), num_samples=2, batch_size=3)
    assert sampling.run(config) == 0
    shown = capfd.readouterr()
    steps = load_task(config, torch.device("cpu")).num_steps
    batches = 2
    assert f"{batches * steps}/{batches * steps} steps" in shown.err
    rows = [row for row in read_metrics(Path(config.output)) if row["sample"] != "mean"]
    found = {(int(row["evaluations"]), int(row["vjps"])) for row in rows}
    assert len(rows) == 4 and len(found) == 1
    evaluations, vjps = found.pop()
    if name in COUNTS:
        assert (evaluations, vjps) == COUNTS[name]
    assert evaluations >= STEPS and (vjps > 0) == SAMPLERS[name].needs.gradient
    assert f"{evaluations} network evaluations" in shown.out
    assert (f"{vjps} vector-Jacobian products" in shown.out) == (vjps > 0)
    run = Path(config.output)
    assert all(np.isfinite(x).all() for x in arrays_of(run).values())


def test_of_a_sampler_that_is_no_walk_the_noise_levels_are_drawn() -> None:
    with_plan = Image.open(BytesIO(draw_schedule([3.0, 2.0, 1.0], RandomWalk(step_scale=0.7).plan([3.0, 2.0, 1.0]))))
    assert Image.open(BytesIO(draw_schedule([3.0, 2.0, 1.0]))).width < with_plan.width / 2


def test_step_sizes_are_drawn_where_most_and_where_nothing_is_measured() -> None:
    given = Measurement(Identity((1, 2, 2)), GaussianNoise(0.2), torch.zeros(1, 1, 2, 2))
    walk = RandomWalk(step_scale=0.7, preconditioned=True, prior_weight=0.4, kappa=1.0).plan([3.0, 2.0], given)
    drawn = figures._step_sizes(walk, norm=1.5)
    assert drawn["τ where nothing is measured"] == pytest.approx(np.array([0.7 * 9 / 0.4, 0.7 * 4 / 0.4]))
    most = [0.7 / (0.4 / s**2 + 1.5**2 / 0.04) for s in (3.0, 2.0)]
    assert drawn["τ where most is measured"] == pytest.approx(np.array(most))
    ddrm = make("ddrm", stochasticity=0.0).plan([3.0, 2.0], given)
    assert ddrm is not None
    assert figures._step_sizes(ddrm, None)["τ where nothing is measured"] == pytest.approx(np.array([3.0, 4.0]))
    drawn = figures._step_sizes(RandomWalk(step_scale=0.7).plan([3.0, 2.0]), None)
    assert drawn["τ"] == pytest.approx(np.array([6.3, 2.8]))
    momentum = RandomWalk(step_scale=0.7, preconditioned=True, momentum=0.5).plan([3.0, 2.0], given)
    drawn = figures._step_sizes(momentum, norm=1.5)
    gain = 1 / (1 + (2.0 / PosteriorFlow.FRACTION * 1.5 / 0.2) ** 2)
    assert drawn["τ where nothing is measured"] == pytest.approx(np.array([0.7 * 9, 0.5 * 4]))
    assert drawn["τ where most is measured"] == pytest.approx(
        np.array([0.7 / (1 / 9 + 1.5**2 / 0.04), 4 * gain * (1 - gain / 2)])
    )
    flow, last = momentum.step_sizes[-1], torch.full((1, 1, 2, 2), 3.0)  # the step along a score is what it is
    assert isinstance(flow, PosteriorFlow)
    moved = flow.move(torch.zeros_like(last), last, None, 0.0, torch.randn_like)
    torch.testing.assert_close(moved, flow.along_score(1.0) * last)
    capped = RandomWalk(step_scale=0.7, momentum=0.5).plan([3.0, 2.0], given)
    assert figures._step_sizes(capped, None)["τ"] == pytest.approx(np.array([0.04, 0.5 * 4]))


def test_the_random_walk_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    """Start, then steps, from the stream of (seed, image, 1 + sample), by the walk of randomwalk.samplers."""
    config = make_config(tmp_path, count=2, num_samples=2, batch_size=4, start={"mean": -0.5, "std": 3.0})
    assert sampling.run(config) == 0
    task = load_task(config, torch.device("cpu"))
    operator, draws = task.measurements.operator_of([0, 0, 1, 1])
    truth = torch.stack([task.load_image(i) for i in (0, 0, 1, 1)])
    noise = GaussianNoise(0.2)
    likelihood = Measurement(operator, noise, noise.apply(operator(truth), draws))
    walks = ImageDraws([generator(config.seed, image, 1 + s) for image in (0, 1) for s in (0, 1)])
    x = -0.5 + 3.0 * walks.normal(task.images.shape)
    walk = RandomWalk(step_scale=0.7, preconditioned=True)
    expected = walk.sample(task.denoiser, task.sigmas, likelihood, start=x, draws=walks)
    found = [value for name, value in arrays_of(Path(config.output)).items() if "_sample" in name]
    np.testing.assert_array_equal(np.stack(found), expected.numpy())


@pytest.mark.parametrize("name", ["dps", "ddrm", "split_gibbs"])
def test_samples_do_not_depend_on_the_batch(name: str, tmp_path: Path) -> None:
    runs = []
    for size in (1, 4):
        config = make_config(tmp_path / str(size), count=2, sampler=sampler(name), num_samples=2, batch_size=size)
        assert sampling.run(config) == 0
        runs.append(arrays_of(Path(config.output)))
    for key, value in runs[0].items():
        np.testing.assert_allclose(value, runs[1][key], atol=1e-4)


def test_refusals_come_before_anything_starts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"step_scale .*: found 3\.0; allowed: a number above 0 and below 2"):
        make_config(tmp_path / "first", count=1, sampler=sampler("random_walk", step_scale=3.0))
    config = make_config(
        tmp_path,
        count=1,
        sampler=sampler("daps", inner="exact"),
        measurement={"operator": {"name": "hdr"}, "noise": {"std": 0.2}},
    )
    assert cli.run(lambda: sampling.run(config)) == 2
    assert "inner: exact needs a linear operator" in capfd.readouterr().err and not Path(config.output).exists()


# --- every operator and noise --------------------------------------------------------------------------------

OPERATORS: dict[str, tuple[dict[str, Any], bool]] = {
    "gaussian_blur": ({"std": 1.0}, True),
    "motion_blur": ({"kernel_size": 5}, True),
    "compressed_sensing": ({"ratio": 0.5}, True),
    "fourier_subsampling": ({"acceleration": 2.0}, True),
    "hdr": ({}, True),
    "jpeg": ({}, True),
    "phase_retrieval": ({}, False),
    "composition": ({"first": {"name": "inpainting"}, "second": {"name": "super_resolution", "factor": 2}}, True),
}
"""Settings, and whether anything can be seen of a measurement."""


@pytest.mark.parametrize("name", OPERATORS)
def test_measurements_of_every_kind(name: str, tmp_path: Path) -> None:
    """Also those that are vectors, have two channels for a complex number, or more pixels than the image."""
    settings, visible = OPERATORS[name]
    measurement = {"operator": {"name": name, **settings}, "noise": {"std": 0.2}}
    walk = sampler("random_walk", step_scale=0.2)
    config = make_config(tmp_path, count=2, measurement=measurement, sampler=walk, animation_frames=2)
    assert sampling.run(config) == 0
    run, task = Path(config.output), load_task(config, torch.device("cpu"))
    operator, _ = task.measurements.operator_of([0])
    y = next(value for key, value in arrays_of(run).items() if key.endswith("measurement"))
    assert y.shape == operator.measurement_shape
    pictures = [np.asarray(Image.open(path)) for path in run.glob("images/*_measurement.png")]
    assert [p.shape for p in pictures] == ([(SIZE, SIZE)] * 2 if visible else [])
    assert all(bool(row["measurement_psnr"]) == visible for row in read_metrics(run))
    assert (run / "overview.png").is_file() and len(list(run.glob("images/*_walk.webp"))) == 2


@pytest.mark.parametrize(
    ("noise", "name"),
    [
        ({"name": "laplace", "std": 0.2}, "random_walk"),
        ({"name": "poisson", "peak": 30.0}, "random_walk"),
        ({"name": "poisson", "peak": 30.0}, "daps"),
        ({"name": "none"}, "ddrm"),
        ({"name": "none"}, "diffpir"),
    ],
)
def test_noise_of_every_kind(noise: dict[str, Any], name: str, tmp_path: Path) -> None:
    measurement = {"operator": {"name": "super_resolution", "factor": 2}, "noise": noise}
    config = make_config(tmp_path, count=1, measurement=measurement, sampler=sampler(name), animation_frames=0)
    assert sampling.run(config) == 0
    truth = load_task(config, torch.device("cpu")).load_image(0)[None]
    operator, draws = load_task(config, torch.device("cpu")).measurements.operator_of([0])
    y = arrays_of(Path(config.output))["0000_picture_a_measurement"]
    expected = noises.make(**noise).apply(operator(truth), draws)[0]
    np.testing.assert_array_equal(y, expected.numpy())


@pytest.mark.parametrize(
    ("measurement", "name", "message"),
    [
        ({"operator": {"name": "hdr"}, "noise": {"std": 0.2}}, "ddrm", "needs a linear operator"),
        ({"operator": {"name": "hdr"}, "noise": {"name": "laplace", "std": 0.2}}, "dps", "laplace"),
        ({"operator": {"name": "denoising"}, "noise": {"name": "none"}}, "tds", "positive std"),
        ({"operator": {"name": "denoising"}, "noise": {"name": "none"}}, "random_walk", "positive std"),
        (
            {"operator": {"name": "motion_blur", "kernel_size": 5, "boundary": "reflect"}, "noise": {"std": 0.2}},
            "ddrm",
            "spectral",
        ),
    ],
)
def test_what_a_sampler_cannot_do_is_said_before_anything_starts(
    measurement: dict[str, Any], name: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path, count=1, measurement=measurement, sampler=sampler(name), num_samples=2)
    for command in (sampling.run, sampling.dry_run):
        assert cli.run(lambda command=command: command(config)) == 2  # type: ignore[misc]
        text = capfd.readouterr().err
        assert text.startswith("error: ") and message in text and "Traceback" not in text
    assert not Path(config.output).exists()


# --- particles -----------------------------------------------------------------------------------------------


def test_particles_of_an_image_are_made_together(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Batches are whole images, of batch_size rows at most if that can be, and the samples do not depend on them."""
    runs, sizes = [], {2: [3, 3, 3], 7: [6, 3]}
    for size, expected in sizes.items():
        folder, weak = tmp_path / str(size), {"operator": {"name": "denoising"}, "noise": {"std": 5.0}}
        config = make_config(folder, count=3, measurement=weak, sampler=sampler("tds"), num_samples=3, batch_size=size)
        task = load_task(config, torch.device("cpu"))
        assert [len(batch) for batch in task.batches()] == expected
        assert all(len({u.image for u in batch}) * 3 == len(batch) for batch in task.batches())
        assert sampling.run(config) == 0
        note = "note: tds draws the 3 samples of an image jointly: a batch has 3 rows, although batch_size is 2"
        assert (note in capfd.readouterr().err) == (size == 2)
        runs.append(arrays_of(Path(config.output)))
    for key, value in runs[0].items():
        np.testing.assert_allclose(value, runs[1][key], atol=1e-4)


def test_one_particle_is_warned_of(tmp_path: Path) -> None:
    task = load_task(make_config(tmp_path, count=1, sampler=sampler("tds")), torch.device("cpu"))
    assert len(other_notes(task)) == 1 and "num_samples: 1" in other_notes(task)[0]


def test_an_image_that_does_not_decode_takes_its_particles_along(tmp_path: Path) -> None:
    config = make_config(tmp_path, count=3, sampler=sampler("tds"), num_samples=2, batch_size=6)
    path = Path(config.data.path) / "picture b.png"  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:60])
    assert sampling.run(config) == 1
    rows = read_metrics(Path(config.output))
    assert [(row["image"], row["sample"]) for row in rows] == [(i, s) for i in "02" for s in ("0", "1", "mean")]
