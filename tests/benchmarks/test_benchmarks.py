"""The frame of the benchmarks, the Frechet distance, and the arguments of the scripts."""

from __future__ import annotations

import argparse
import csv
import functools
import json
import math
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bundled_weights
import few_evaluations
import few_photographs
import fit_detection
import inverse_problems
import kept_law
import numpy as np
import pytest
import step_cost
import torch
from PIL import Image
from support import baselines, common, engine, frechet
from support.photo_problems import make_problem
from support.photographs import Photograph
from torch import Tensor

from randomwalk import operators
from randomwalk.config.samplers import POSTERIOR_NAMES
from randomwalk.denoisers.checkpoints import load_denoiser
from randomwalk.denoisers.denoiser import Denoiser, NetworkDenoiser
from randomwalk.denoisers.mixture import GaussianMixture
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.errors import InputError
from randomwalk.rng import ImageDraws, generator
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import fit
from randomwalk.sampling.loading import load_task


def test_a_report_leaves_its_table_results_and_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(quick=True, out=str(tmp_path / "out"), device="cpu", vp=Path("a.safetensors"))
    report = common.Report("made_up", options, "cpu", ["numpy", "no-such-package"])
    report.add("case", "method, with a comma", "psnr", 12.5, "dB")
    report.table("Title", ["method", "PSNR"], [["ours", "12.50"], ["theirs", "9.00"]], ["a note"])
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert lines[-6:] == [
        "| method |  PSNR |",
        "|--------|------:|",
        "| ours   | 12.50 |",
        "| theirs |  9.00 |",
        "",
        "* a note",
    ]
    assert (tmp_path / "out" / "table.md").read_text() == capsys.readouterr().out
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {"case": "case", "method": "method, with a comma", "metric": "psnr", "value": "12.5", "unit": "dB"}
    assert rows == [expected]
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["options"]["vp"] == "a.safetensors"
    assert settings["versions"]["numpy"] == np.__version__
    assert settings["versions"]["no-such-package"] == "not installed"


def test_a_verdict_compares_with_the_target() -> None:
    assert common.verdict(3.0, 3) == "+3.00 dB, target +3 dB: met"
    assert common.verdict(2.999, 3).endswith("MISSED")


def test_frechet_distance_of_two_normal_distributions() -> None:
    """In two dimensions tr((C_a C_b)^(1/2)) = sqrt(tr(C_a C_b) + 2 sqrt(det(C_a C_b)))."""
    draws = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 2, 2, generator=draws, dtype=torch.float64)
    a, b = (
        frechet.Moments(torch.randn(50, 2, generator=draws, dtype=torch.float64) @ m + shift)
        for m, shift in zip(maps, (0.0, 1.5), strict=True)
    )
    product = a.covariance @ b.covariance
    cross = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    expected = float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()) - 2 * cross
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet.frechet_distance(a, a) == pytest.approx(0, abs=1e-10)


def test_the_search_finds_the_best_setting_and_its_quality() -> None:
    truth = torch.zeros(3, 1, 4, 4)
    noisy = truth + 0.5
    tries = [{"shift": shift} for shift in (0.0, 0.4, 0.9)]
    for finalists in (0, 1):
        best = baselines.search(lambda image, shift: image - shift, noisy, truth, tries, finalists=finalists, first=2)
        assert best.settings == {"shift": 0.4}
        assert best.psnr == pytest.approx([10 * math.log10(4 / 0.1**2)] * 3, rel=1e-5)


def test_biharmonic_inpainting_keeps_what_is_observed() -> None:
    rows = torch.linspace(-0.8, 0.8, 12)[:, None].expand(12, 12)[None, None]
    mask = torch.ones(1, 1, 12, 12)
    mask[..., 4:7, 5] = 0
    filled = baselines.biharmonic(rows * mask, mask)
    assert torch.equal(filled[mask > 0], rows[mask > 0])
    torch.testing.assert_close(filled, rows.contiguous(), atol=1e-4, rtol=0)  # a plane solves the equation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-images", "65"], "which data/fashion_mnist has"),
        (["--batch-size", "0"], "expected 1 or more"),
        (["--fashion-mnist", "no/such/folder", "--parts", "unconditional"], "no/such/folder"),
        (["--parts", "denoising", "--vp", "missing.safetensors"], "missing.safetensors"),
    ],
)
def test_bad_arguments_are_told_before_anything_starts(arguments: list[str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chosen = bundled_weights.options().parse_args([*arguments, "--device", "cpu", "--out", str(out)])
    with pytest.raises(InputError, match=message):
        bundled_weights.main(chosen)
    assert not out.exists()


def test_step_cost_refuses_no_turns() -> None:
    with pytest.raises(InputError, match="--turns"):
        step_cost.main(step_cost.options().parse_args(["--turns", "0"]))


def test_the_interval_of_a_median_and_what_it_says() -> None:
    values = [1 + n / 1000 for n in range(25)]
    assert step_cost.interval(values) == (values[7], values[17])  # P(Bin(25, 1/2) <= 7) = 0.0216
    assert step_cost.interval(values[:5]) == (values[0], values[4])
    assert step_cost.judge([1.01, 1.015, 1.02]) == "met"
    assert step_cost.judge([1.04, 1.05]) == "MISSED"
    for ratios in ([1.01, 1.04], [0.97, 0.98]):
        assert step_cost.judge(ratios).startswith("inconclusive")


def test_the_parts_of_a_step_make_up_the_walk() -> None:
    weights = common.ROOT / "pretrained_models" / "fashion_vp.safetensors"
    case = step_cost.bundled_case(weights, "vp", torch.device("cpu"), 3, 1)
    parts = step_cost.outside(case)
    assert all(seconds > 0 for seconds in parts.values())
    assert parts["network"] > 0.5 * sum(parts.values())


def test_the_second_pass_sees_what_the_first_one_does() -> None:
    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor, condition: float) -> torch.Tensor:
            seen.append((x, condition))
            return 2 * x

    seen: list[tuple[torch.Tensor, float]] = []
    network, x = Double(), torch.ones(2)
    shadow = step_cost.Shadow(network, torch.device("cpu"))
    for condition in (0.25, 0.5):
        assert torch.equal(network(x, condition), 2 * x)
    assert [condition for _, condition in seen] == [0.25, 0.25, 0.5, 0.5]
    assert all(given is x for given, _ in seen)
    assert shadow.own.wall > 0 and shadow.bare.wall > 0
    shadow.remove()
    network(x, 1.0)
    assert len(seen) == 5


# --- inverse problems ------------------------------------------------------------------------------------------------


def make_setup(tmp_path: Path, *arguments: str) -> common.Setup:
    options = inverse_problems.options().parse_args([*arguments, "--quick", "--out", str(tmp_path / "out")])
    report = common.Report("inverse_problems", options, "cpu")
    return common.Setup(options, report, torch.device("cpu"), "fp32", quick_images=2)


DPS = inverse_problems.Method("dps")  # it can do all tasks


@pytest.fixture
def one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the network is read once."""
    monkeypatch.setattr("randomwalk.sampling.loading.load_prior", lambda network, *_: _load(str(network.path)))


@functools.cache
def _load(path: str) -> NetworkDenoiser:
    return load_denoiser(path)


def test_every_posterior_sampler_has_its_settings(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    configs = [
        inverse_problems.load_config(setup, inverse_problems.Method(name), "random_inpainting", {})
        for name in inverse_problems.METHODS
    ]
    assert {config.sampler.name for config in configs} == set(POSTERIOR_NAMES) - {"posterior_mean"}
    assert set(inverse_problems.SETTINGS["methods"]) == set(inverse_problems.METHODS)


def test_the_walk_with_momentum_has_a_row_for_each_number_of_evaluations(tmp_path: Path, one_network: None) -> None:
    setup = make_setup(tmp_path, "--num-samples", "3")
    method = inverse_problems.Method(inverse_problems.MOMENTUM, evaluations=18)
    assert method.title == "random_walk_momentum, 18"
    task = inverse_problems.load(setup, method, "deblurring")
    assert task.config.num_samples == 3 and task.num_steps == 3  # --quick is a sixth
    assert task.sampler.samples_posterior


def test_photographs_are_cut_at_their_middle(tmp_path: Path) -> None:
    folder = "data/photographs"
    setup = make_setup(tmp_path, "--photographs", folder, "--crop", "32")
    task = inverse_problems.load(setup, inverse_problems.Method("mmps"), "super_resolution")
    operator, _ = task.measurements.operator_of([1])
    assert task.images.shape == (3, 32, 32) and operator.measurement_shape == (3, 8, 8)
    picture = np.asarray(Image.open(sorted(Path(folder).glob("*.png"))[1]).convert("RGB"))
    top, left = (picture.shape[0] - 32) // 2, (picture.shape[1] - 32) // 2
    middle = torch.from_numpy(picture[top : top + 32, left : left + 32] / 127.5 - 1).permute(2, 0, 1)
    torch.testing.assert_close(task.load_image(1).double(), middle, atol=1e-6, rtol=0)
    setup.options.photographs, setup.options.quick, setup.options.num_images = folder, False, 99
    setup.report.folder.path.joinpath("photographs").rename(tmp_path / "away")
    with pytest.raises(InputError, match="expected 99"):
        inverse_problems.middles(setup)


def test_the_other_methods_have_as_many_levels_as_the_cost_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of 18 evaluations and 18 products costs 54, so that a cost of 108 is twice the levels."""
    setup = make_setup(tmp_path, "--cost", "108")
    setup.options.quick = False
    loaded = []

    class Stub:
        config = inverse_problems.load_config(setup, DPS, "deblurring", {})

        def sample(self, units: list[Any], x: Tensor) -> Any:
            return SimpleNamespace(evaluations=18, vjps=18)

        def load_image(self, image: int) -> Tensor:
            return torch.zeros(1, 4, 4)

    def load_task(config: Any, device: Any) -> Any:
        loaded.append(config.sampler.schedule.num_steps)
        return Stub()

    monkeypatch.setattr(inverse_problems, "load_task", load_task)
    inverse_problems.load(setup, DPS, "deblurring")
    inverse_problems.load(setup, inverse_problems.Method(inverse_problems.MOMENTUM, evaluations=7), "deblurring")
    assert loaded == [18, 36, 7]


def test_recalibrated_intervals_cover_by_the_other_images() -> None:
    """Of 19 equal images and one that is worse: the worse one alone is missed, before and after."""
    one = {"ranks": [0, 5, 0], "scores": [0.5, 1.0, 1.5, 2.0]}
    images = [one] * 19 + [{"ranks": [5, 0, 0], "scores": [9.0, 9.0, 9.0, 9.0]}]
    found = inverse_problems.coverages(images)
    assert found["coverage"][0] == pytest.approx(0.95)
    assert found["covered_by_std"][0] == pytest.approx(19 / 20 * 3 / 4)
    # The factor of 19 images may leave a loss of 20 / 10 - 1 = 1: all of the worse one, or less than one pixel of each.
    assert inverse_problems.recalibrated(images) == found["recalibrated"]
    assert found["recalibrated"][0] == pytest.approx(19 / 20)
    assert set(inverse_problems.coverages(images[:9])) == {"coverage"}
    assert not inverse_problems.can_recalibrate(9) and inverse_problems.can_recalibrate(10)


def test_rank_histograms_are_drawn() -> None:
    ranks = {name: inverse_problems.calibration.Calibration(np.array([[1, 2, 3]])) for name in "abcde"}
    assert Image.open(BytesIO(inverse_problems.rank_figure(ranks))).height > 100


def test_right_measurements_fit_and_wrong_ones_do_not() -> None:
    """With a denoiser of flat images, and an operator that loses nothing; the shares of the table."""
    prior = GaussianMixture([1.0], torch.zeros(1, *fit_detection.SHAPE), 1e-4)
    images = {"clothes": torch.zeros(20, *fit_detection.SHAPE), "inverted": torch.ones(20, *fit_detection.SHAPE)}
    for title, least, most in (
        ("right", 0.0, 0.05), ("noise stated as half", 1.0, 1.0), ("noise stated as double", 1.0, 1.0),
        ("inverted clothes", 1.0, 1.0),
    ):  # fmt: skip
        work = fit_detection.Work(
            fit_detection.CASES["deblurring"][title], prior, images, fit_detection.settings_of_walk(20)
        )
        job = engine.Job("deblurring", title, {}, [str(n) for n in range(20)], work)
        found = [record["p"] for record in fit_detection.do(job)]
        assert least <= fit_detection.share(found, fit.LEVEL)[0] <= most, title
    assert fit_detection.share([0.1, 0.3, 0.2, 0.001], 0.15) == (0.5, 0.25)


class Linear(Denoiser):
    """``D(x) = M x``, whatever sigma is."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix.T).reshape(x.shape)


def test_an_exact_denoiser_keeps_the_law_and_one_with_a_negative_jacobian_does_not() -> None:
    sigma, count = 0.5, 400
    draws = ImageDraws([generator(3, number, 0) for number in range(count)])
    x = math.hypot(0.5, sigma) * draws.normal((1, 6, 6))
    exact = GaussianMixture([1.0], torch.zeros(1, 1, 6, 6), 0.25)
    before, after = (
        kept_law.statistics(exact, state, sigma) for state in (x, kept_law.walked(exact, x, sigma, 1.6, 0.9, 80, draws))
    )
    for one, other in zip(before, after, strict=True):
        (mean, error), (later, _) = kept_law.with_error(one), kept_law.with_error(other)
        assert later == pytest.approx(mean, abs=4 * 2**0.5 * error)
    assert before[0].mean() == pytest.approx(0.5, abs=0.02)  # sigma^2 / (0.25 + sigma^2)
    opposed = Linear(-0.4 * torch.eye(36))  # curvature 1.6 (1 + 0.4) > 2
    assert kept_law.walked(opposed, x, sigma, 1.6, 0.9, 80, draws).abs().max() > 1e3
    assert kept_law.walked(opposed, x, sigma, 1.3, 0.9, 80, draws).abs().max() < 5


def test_facts_of_a_known_jacobian() -> None:
    odd = torch.zeros(4, 4)
    odd[0, 1], odd[1, 0] = 0.5, -0.5
    low, high, ratio = kept_law.jacobian_facts(
        Linear(torch.diag(torch.tensor([-0.3, 0.2, 0.5, 1.4])) + odd), torch.zeros(2, 1, 2, 2), 1.0
    )
    assert (low, high) == pytest.approx((-0.3, 1.4))
    assert ratio == pytest.approx((0.5 / (0.09 + 0.04 + 0.25 + 1.96)) ** 0.5)


@pytest.mark.parametrize("name", inverse_problems.METHODS)
def test_settings_of_every_task_are_right_or_refused_with_a_reason(
    name: str, tmp_path: Path, one_network: None
) -> None:
    """As far as sample.py --dry-run checks them."""
    setup, method = make_setup(tmp_path), inverse_problems.Method(name)
    assert set(inverse_problems.SETTINGS["methods"][name]) <= set(inverse_problems.TASKS)
    for task in inverse_problems.TASKS:
        if method.can_do(task):
            loaded = inverse_problems.load(setup, method, task)
            assert loaded.config.measurement == inverse_problems.load_config(setup, DPS, task, {}).measurement
            assert f"posterior/{name}" in loaded.config.output
        else:
            assert "linear" in inverse_problems.why_not(setup, method, DPS, task)


def test_a_task_that_the_sampler_can_do_may_not_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    less = inverse_problems.Method("tds")
    monkeypatch.delitem(inverse_problems.SETTINGS["methods"]["tds"], "phase_retrieval")
    with pytest.raises(InputError, match="tds: has no phase_retrieval, but the sampler can"):
        inverse_problems.why_not(make_setup(tmp_path), less, DPS, "phase_retrieval")


def test_crps_by_hand_and_without_bias_from_the_number_of_samples() -> None:
    assert inverse_problems.crps(torch.tensor([1.0, 2.0])[:, None], torch.tensor([4.0])) == pytest.approx(2.5 - 0.5)
    draws = torch.Generator().manual_seed(0)
    exact = 1 / math.sqrt(math.pi)  # of truth and samples ~ Normal(0, 1): half the mean distance of two of them
    for count in (2, 5):
        samples, truth = (torch.randn(n, 100_000, generator=draws) for n in (count, 1))
        assert inverse_problems.crps(samples, truth[0]) == pytest.approx(exact, abs=0.01)


def test_a_judgement_counts_the_contested_ranks() -> None:
    truth = torch.zeros(1, 16, 16)
    samples = torch.stack([truth + shift for shift in (-0.3, 0.2, 0.4)])
    truth[0, 0] = samples[:, 0, 0] = -1  # nobody doubts the first row
    found = inverse_problems.judge(samples, truth, np.random.default_rng(0))
    assert found["ranks"] == [0, 15 * 16, 0, 0]
    errors = [0.3**2, 0.2**2, 0.4**2]
    assert found["psnr"] == pytest.approx(np.mean([10 * math.log10(4 / (e * 15 / 16)) for e in errors]), abs=1e-3)
    assert found["psnr_of_mean"] == pytest.approx(10 * math.log10(4 / (0.1**2 * 15 / 16)), abs=1e-3)


def test_records_of_other_settings_are_not_taken_over(tmp_path: Path) -> None:
    first = engine.Records(RunFolder.create(tmp_path / "a"), None)
    first.of("task", "method", {"seed": 0})["3"] = {"psnr": 1.0}
    first.save()
    again = engine.Records(RunFolder.create(tmp_path / "b"), str(first.folder.path))
    assert again.of("task", "method", {"seed": 0}) == {"3": {"psnr": 1.0}}
    assert again.of("task", "method", {"seed": 1}) == {}
    with pytest.raises(InputError, match="--resume"):
        engine.Records(RunFolder.create(tmp_path / "c"), str(tmp_path / "nothing"))


def test_classical_deconvolution_is_better_than_the_blurred_image() -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    truth = torch.where((rows - 16).abs() + (columns - 16).abs() < 9, 1.0, -1.0)[None, None].repeat(2, 1, 1, 1)
    blur = operators.make("gaussian_blur", image_shape=(1, 32, 32), std=1.5)
    kernel = baselines.kernel_of(blur)
    assert kernel.sum() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
    y = blur(truth) + 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))

    def error(x: torch.Tensor) -> float:
        return float((x - truth).square().mean())

    for _, x in baselines.deconvolutions(y, truth, kernel).values():
        assert error(x) < 0.75 * error(y)
    assert error(baselines.variational(blur, y, 0.005, 60)) < 0.5 * error(y)


def test_forward_passes_are_counted_as_they_are_planned(tmp_path: Path) -> None:
    options = few_evaluations.options().parse_args(["--num-images", "2", "--out", str(tmp_path / "out")])
    report = common.Report("few_evaluations", options, "cpu")
    setup = common.Setup(options, report, torch.device("cpu"), "fp32")
    for sampler in few_evaluations.SAMPLERS:
        config = few_evaluations.with_steps(few_evaluations.config_of(setup, sampler, "inpainting"), 2)
        psnr, passes = few_evaluations.restored(load_task(config, torch.device("cpu")))
        assert passes == 2 * few_evaluations.cost_of_a_step(config)
        assert psnr[0] > 5  # random pixels have 3.6 dB


class Shrinking(Denoiser):
    """Denoiser of grey pictures with pixels of variance 1 / 4."""

    def forward(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        return x / (1 + 4 * sigma**2)

    def score(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        return -x / (0.25 + sigma**2)


@pytest.mark.parametrize("method", few_photographs.METHODS)
def test_the_methods_for_photographs_take_the_evaluations_that_they_are_given(method: str) -> None:
    """And come nearer to y than the start is."""
    for case in few_photographs.CASES[2:]:
        photo = Photograph(
            "photographs", "x", 0, 0.5 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
        )
        problem = make_problem(case, photo, 0)
        for budget in (4, 7):
            counter = CountingDenoiser(Shrinking())
            x = few_photographs.METHODS[method](problem, counter, photo.draws(0, 1), budget)
            assert counter.evaluations == budget and x.shape == (1, 3, 32, 32)
        start = problem.operator.interpolated(problem.y)
        misfit, before = (float((problem.y - problem.operator(z)).norm()) for z in (x, start))
        assert misfit < 0.8 * before


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (few_photographs, ["--budgets", "2"], "--budgets"),
        (inverse_problems, ["--num-images", "1"], "--num-images"),
        (inverse_problems, ["--methods", "nothing"], "nothing.yaml"),
        (inverse_problems, ["--resume", "no/such/folder"], "no/such/folder"),
        (inverse_problems, ["--num-samples", "1"], "--num-samples"),
        (inverse_problems, ["--evaluations", "100", "1"], "--evaluations 1: expected 2"),
        (fit_detection, ["--measurements", "1"], "--measurements"),
        (fit_detection, ["--fashion-mnist", "no/such/folder"], "no/such/folder"),
        (kept_law, ["--steps", "0"], "--steps"),
        (kept_law, ["--num-images", "65"], "--num-images"),
        (few_evaluations, ["--budgets", "1"], "--budgets"),
        (few_evaluations, ["--num-images", "65"], "--num-images"),
    ],
)
def test_bad_arguments_of_the_later_benchmarks(script: Any, arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        script.main(script.options().parse_args([*arguments, "--device", "cpu", "--out", str(tmp_path / "out")]))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("inpainting", {"missing": 0.5}, ["biharmonic"]),
        ("super_resolution", {"factor": 4}, ["bicubic interpolation", "pseudo-inverse"]),
        ("gaussian_blur", {"std": 1.0}, ["the measurement itself", "Wiener", "Richardson-Lucy"]),
        ("compressed_sensing", {"ratio": 0.5}, ["pseudo-inverse"]),
    ],
)
def test_the_classical_methods_of_each_operator(name: str, settings: dict[str, Any], expected: list[str]) -> None:
    operator = operators.make(name, image_shape=(1, 16, 16), **settings)
    truth = -torch.ones(2, 1, 16, 16)
    truth[..., 4:12, 4:12] = 0.5
    found, _ = baselines.classical(operator, operator(truth), truth, quick=True)
    assert list(found) == [*expected, "total variation"]
    assert all(x.shape == truth.shape and x.abs().max() <= 1 for x in found.values())


def test_no_classical_method_for_phase_retrieval() -> None:
    operator = operators.make("phase_retrieval", image_shape=(1, 16, 16))
    assert baselines.classical(
        operator, torch.zeros(1, *operator.measurement_shape), torch.zeros(1, 1, 16, 16), True
    ) == (
        {},
        [],
    )
