"""The benchmarks of score embedding: their arms, what they count, their tables, and going on after an interruption."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import score_embedding_ablation as ablation
import score_embedding_set as of_set
import torch
from support import (
    ablation_report,
    arms,
    common,
    frechet,
    set_report,
    unconditional,
)
from support.engine import Record, Records
from torch import Tensor

from randomwalk.config.score_embedding import EmbeddingMethod
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder
from score_sde import sdes


def curve(values: list[float], every: int = 10, **more: Any) -> Record:
    """A record with these measurements of SSIM, a second for every ten steps and two before the first."""
    steps = [every * (k + 1) for k in range(len(values))]
    columns = {"step": steps, "seconds": [2 + s / 10 for s in steps], "ssim": values}
    return {"curve": columns | {"mse": values, "evaluations": values}, "timings": {"solve": 2.0}, **more}


# --- the arms --------------------------------------------------------------------------------------------------------


def test_sections_are_merged_key_by_key_and_replaced_if_they_are_another_thing() -> None:
    base = {"seed": 1, "method": {"name": "a", "x": 1, "y": {"z": 1}}, "network": {"nf": 4}}
    same = arms.merged(base, {"method": {"x": 2, "y": {"w": 3}}, "network": {"nf": 8}})
    assert same == {"seed": 1, "method": {"name": "a", "x": 2, "y": {"z": 1, "w": 3}}, "network": {"nf": 8}}
    assert arms.merged(base, {"method": {"name": "b", "u": 1}})["method"] == {"name": "b", "u": 1}
    assert base["network"] == {"nf": 4}  # nothing is changed in place


@pytest.mark.parametrize("quick", [False, True])
def test_every_arm_of_the_ablation_is_a_valid_config_of_the_same_network(quick: bool) -> None:
    found = {arm.name: arm for arm in arms.load(ablation.SETTINGS, quick)}
    configs = {name: ablation.config_of(arm, "coffee", 1, "cpu") for name, arm in found.items()}
    # Without which there would be no verdict: the embedding switched off, and of the same size without meaning.
    assert {"exact", "legacy", "random", "none", "closed_form"} <= set(configs)
    methods = [configs[name].method for name in ("exact", "legacy", "random", "none")]
    embeddings = [m.embedding for m in methods if isinstance(m, EmbeddingMethod)]
    assert embeddings == ["score", "score", "random", "none"]
    differing = {"embedding": None, "solver": None}
    assert len({str(m.model_dump() | differing) for m in methods}) == 1  # nothing else differs between the four
    rest = [configs[n].model_dump(exclude={"method"}) for n in ("exact", "legacy", "random", "none")]
    assert all(other == rest[0] for other in rest)
    of_network = {"embedding", "centered"}  # how it is told the time, and the units of its input
    assert len({str(config.network.model_dump(exclude=of_network)) for config in configs.values()}) == 1
    assert len({config.batch_size for config in configs.values()}) == 1
    # DDPM and DDIM, normally trained, differ in their sampler and in nothing else.
    pair = [configs[f"{name}_normal"].model_dump() for name in ("ddpm", "ddim")]
    assert [p["method"].pop("sampler") for p in pair] == ["ddpm", "ddim"] and pair[0] == pair[1]
    # What a crossing has to last is the same for all, or more for what is measured rarely.
    windows = {name: config.profile.hold * (config.profile.every_steps or 0) for name, config in configs.items()}
    assert quick or all(window >= windows["none"] for window in windows.values())
    assert len({window for name, window in windows.items() if "published" not in name}) == 1


def test_the_published_baselines_never_get_to_their_learning_rate() -> None:
    """Na, Gao and Wan's configs: a warm-up of 5000 steps in a training of 1200, so a peak of 4.8e-5 of 2e-4."""
    found = {arm.name: ablation.config_of(arm, "coffee", 0, "cpu") for arm in arms.load(ablation.SETTINGS, False)}
    published, normal = found["ddpm_published"], found["ddpm_normal"]
    assert published.optimizer.warmup_images == 5000 * published.batch_size
    share = ablation_report.peak_rate(published) / published.optimizer.learning_rate
    assert share == pytest.approx(published.num_steps / 5000) and share < 0.5
    assert ablation_report.peak_rate(normal) == normal.optimizer.learning_rate
    assert published.ema is not None
    # 0.9999 after each step; and after n steps about min(0.9999, (1 + n) / (10 + n)): within 0.002 after 100 of them.
    assert 0.5 ** (published.batch_size / published.ema.half_life_images) == pytest.approx(0.9999, abs=1e-6)
    assert published.ema.warmup_ratio is not None
    assert 0.5 ** (1 / (published.ema.warmup_ratio * 100)) == pytest.approx(101 / 110, abs=0.01)


@pytest.mark.parametrize("quick", [False, True])
def test_every_arm_of_the_set_has_the_same_time_and_differs_in_its_field_alone(quick: bool) -> None:
    data = {"path": "nowhere", "num_images": 10}
    found = [arm.config(0, "cpu", data) for arm in arms.load(of_set.SETTINGS, quick)]
    rest = [config.model_dump(exclude={"method"}) for config in found]
    assert all(other == rest[0] for other in rest)
    assert found[0].time_limit is not None and found[0].ema is not None
    assert all(isinstance(c.method, EmbeddingMethod) and c.method.batches == "mixed" for c in found)


# --- crossings -------------------------------------------------------------------------------------------------------


def test_a_crossing_has_to_last() -> None:
    lucky = curve([0.2, 0.92, 0.3, 0.8, 0.92, 0.93, 0.94])
    place = ablation_report.crossing(lucky, 0.9, 3)
    assert place is not None
    assert place.steps == pytest.approx(40 + 10 * 0.1 / 0.12)  # between 0.8 at 40 and 0.92 at 50
    assert place.seconds == pytest.approx(2 + place.steps / 10)
    first = ablation_report.crossing(lucky, 0.9, 1)  # the mistake: the first rise of a noisy curve
    assert first is not None and first.steps < 20
    assert ablation_report.crossing(lucky, 0.9, 4) is None  # the training ended too early to know
    assert ablation_report.crossing(curve([]), 0.9, 3) is None


def test_the_closed_form_is_there_at_once() -> None:
    record = {"curve": {"step": [0], "seconds": [0.0], "ssim": [0.97]}, "timings": {}, "untrained": True}
    assert ablation_report.crossing(record, 0.95, 5) == ablation_report.Crossing(0, 0)
    assert ablation_report.crossing(record, 0.98, 5) is None


def test_runs_that_never_got_there_count_as_later_than_all() -> None:
    assert ablation_report.median_of_all([10, 30], 3) == 30
    assert ablation_report.median_of_all([10], 3) == math.inf
    assert ablation_report.median_of_all([10, 20, 30], 3) == 20


def test_ratios_are_of_pairs_and_geometric() -> None:
    value, low, high = ablation_report.ratio([20, 5], [10, 10])  # 2 and 1/2
    assert value == pytest.approx(1)
    half = 12.7062 * math.log(2) * math.sqrt(2) / math.sqrt(2)  # t of one degree of freedom, stdev of +-log 2
    assert math.log(high) == pytest.approx(half, rel=1e-4) and low * high == pytest.approx(1)
    slow = [10, 100, 1000]
    assert ablation_report.ratio([2 * x for x in slow], slow) == pytest.approx((2, 2, 2))  # whatever the images are


def report_of(found: ablation_report.Found, tmp_path: Path) -> tuple[str, dict[tuple[str, str, str], float]]:
    """table.md, and results.csv by case, method and metric."""
    chosen = ablation.options().parse_args(["--out", str(tmp_path / "out")])
    names = {arm for _, arm in found}
    profile = {"every_steps": 10, "hold": 5}
    loaded = [arm for arm in arms.load(ablation.SETTINGS, False) if arm.name in names]
    shown = [arms.changed(arm, {"profile": profile}) for arm in loaded]
    images = list(dict.fromkeys(image for image, _ in found))
    configs = {arm.name: ablation.config_of(arm, "coffee", 0, "cpu") for arm in shown}
    report = common.Report("test", chosen, "cpu")
    ablation_report.write(report, shown, configs, images, found)
    with report.folder.file("results.csv").open(newline="") as file:
        rows = {(r["case"], r["method"], r["metric"]): float(r["value"]) for r in csv.DictReader(file)}
    assert report.folder.file("ablation.png").stat().st_size > 5000
    return report.folder.file("table.md").read_text(), rows


def test_the_table_counts_all_runs_and_says_who_did_not_get_there(tmp_path: Path) -> None:
    rise = [0.5, 0.7, *[0.96] * 9]  # crosses 0.9 at 20 + 10 * 0.2 / 0.26
    late = [0.5, 0.6, 0.7, *[0.96] * 8]
    found = {}
    for image in ("astronaut", "coffee"):
        found[image, "exact"] = [curve(late), curve([0.5] * 11), {"failed": "NaN", **curve([])}]
        found[image, "none"] = [curve(rise), curve(rise), curve(rise)]
        one = {"step": [0], "seconds": [0.0], "ssim": [0.999], "mse": [0.0], "evaluations": [50]}
        found[image, "closed_form"] = [{"curve": one, "timings": {}, "untrained": True}] * 3
    text, rows = report_of(found, tmp_path)
    pooled = text[text.index("## all images") :]
    exact = next(line for line in pooled.splitlines() if "correct score" in line)
    steps = {"exact": 30 + 10 * 0.2 / 0.26, "none": 20 + 10 * 0.2 / 0.26}  # between 0.7 and 0.96
    over = steps["exact"] / steps["none"]
    assert " 2 of 6 |" in exact and f"{over:.2f} ({over:.2f} to {over:.2f}; 2)" in exact
    assert "6 of 6" in next(line for line in pooled.splitlines() if "closed-form" in line)
    assert "NaN" in pooled
    label = next(arm.label for arm in arms.load(ablation.SETTINGS, False) if arm.name == "exact")
    assert rows["all images", label, "reached_0.9"] == 2 and rows["all images", label, "runs_0.9"] == 6
    assert rows["all images", label, "steps_0.9_median_of_all"] == math.inf
    assert rows["all images", label, "steps_0.9_median"] == pytest.approx(steps["exact"])
    assert rows["coffee, seed 0", "exact", "seconds_0.9"] == pytest.approx(2 + steps["exact"] / 10)
    assert ("coffee, seed 1", "exact", "seconds_0.9") not in rows


def test_a_run_that_has_ended_keeps_its_last_value_in_the_figure() -> None:
    steps, (low, middle, high) = ablation_report.band([curve([0.1, 0.9]), curve([0.3, 0.3, 0.3, 0.5])])
    assert steps.tolist() == [10, 20, 30, 40]
    assert high.tolist() == [0.3, 0.9, 0.9, 0.9] and low.tolist() == [0.1, 0.3, 0.3, 0.5]
    assert middle.tolist() == pytest.approx([0.2, 0.6, 0.6, 0.7])


# --- runs ------------------------------------------------------------------------------------------------------------


def test_an_interrupted_benchmark_goes_on_and_another_config_is_run_anew(tmp_path: Path) -> None:
    done: list[tuple[str, int]] = []

    def do(job: arms.Job) -> Record:
        done.append((job.arm.name, job.seed))
        if len(done) == 4:
            raise KeyboardInterrupt
        return {"seed": job.seed}

    few = [arm for arm in arms.load(ablation.SETTINGS, True) if arm.name in ("exact", "none")]

    def jobs(seeds: int, steps: int) -> list[arms.Job]:
        changed = [few[0], arms.changed(few[1], {"num_steps": steps})]
        return [
            arms.Job("coffee", arm, seed, ablation.config_of(arm, "coffee", seed, "cpu"))
            for seed in range(seeds)
            for arm in changed
        ]

    with pytest.raises(KeyboardInterrupt):
        arms.run(jobs(3, 6), do, Records(RunFolder(tmp_path), None), 1)
    assert done == [("exact", 0), ("none", 0), ("exact", 1), ("none", 1)]
    records = arms.run(jobs(3, 6), do, Records(RunFolder.create(tmp_path / "next"), str(tmp_path)), 1)
    assert done[4:] == [("none", 1), ("exact", 2), ("none", 2)]
    assert [record["seed"] for record in records] == [0, 0, 1, 1, 2, 2]
    del done[:]
    arms.run(jobs(1, 7), do, Records(RunFolder.create(tmp_path / "third"), str(tmp_path / "next")), 1)
    assert done == [("none", 0)]


def test_a_run_gives_its_curve_its_seconds_and_the_size_of_its_embedding() -> None:
    arm = next(arm for arm in arms.load(ablation.SETTINGS, True) if arm.name == "exact")
    arm = arms.changed(arm, {"num_steps": 2, "profile": {"every_steps": 1}, "sampling": {"tolerance": 0.1}})
    record = ablation.do(arms.Job("coffee", arm, 0, ablation.config_of(arm, "coffee", 0, "cpu")))
    assert record["curve"]["step"] == [1, 2]
    timings = record["timings"]
    assert timings["total"] == pytest.approx(timings["density"] + timings["solve"] + timings["training"], abs=1e-3)
    assert record["curve"]["seconds"][-1] == pytest.approx(timings["total"], abs=1e-3)
    assert len(record["shift"]) == 20 and record["shift"][0] == 0 < record["shift"][1] < record["shift"][19]


def test_the_closed_form_gives_the_photograph_back() -> None:
    arm = next(arm for arm in arms.load(ablation.SETTINGS, True) if arm.name == "closed_form")
    record = ablation.do(arms.Job("coffee", arm, 0, ablation.config_of(arm, "coffee", 0, "cpu")))
    assert record["curve"]["step"] == [0] and record["curve"]["seconds"] == [0]
    assert record["curve"]["ssim"][0] > 1 - 1e-6  # Tweedie's step ends on it exactly; float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--seeds", "0"], "--seeds 0"), (["--images", "dog"], "dog"), (["--arms", "exact", "ddmp"], "ddmp")],
)
def test_bad_arguments_are_told_before_anything_starts(arguments: list[str], message: str, tmp_path: Path) -> None:
    chosen = ablation.options().parse_args([*arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match=message):
        ablation.main(chosen)
    assert not (tmp_path / "out").exists()


# --- the set ---------------------------------------------------------------------------------------------------------


class Shrunk(Denoiser):
    """``D(y) = factor y``."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.factor * x


def test_the_held_out_loss_is_that_of_the_training() -> None:
    """A network of score 0 denoises nothing, ``D(y) = y``: its loss is that of the noise, ``E |z|^2 / (2 g^2)``."""
    arm = arms.load(of_set.SETTINGS, True)[0]
    config = arm.config(0, "cpu", {"path": "nowhere", "num_images": 10})
    assert isinstance(config.method, EmbeddingMethod)
    sigmas, _ = of_set.levels(config)
    images = torch.zeros(8, 1, 32, 32)
    mse = of_set.errors(Shrunk(1.0), images, sigmas)
    # Relative standard error of a mean of squares of n normal draws: sqrt(2 / n); five of them.
    slack = 5 * math.sqrt(2 / images.numel())
    assert torch.tensor(mse).sqrt().tolist() == pytest.approx(sigmas.tolist(), rel=slack)
    t = 0.001 + 0.999 * (torch.arange(of_set.TIMES) + 0.5) / of_set.TIMES
    g = sdes.make("power_ve", base=config.method.base).diffusion(t)
    expected = float((1024 / (2 * g.double() ** 2)).mean())
    assert of_set.loss_of(config, mse, 1024) == pytest.approx(expected, rel=slack)
    assert of_set.errors(Shrunk(1.0), images[:2], sigmas) == of_set.errors(Shrunk(1.0), images[:2], sigmas)
    assert of_set.loss_of(config, of_set.errors(Shrunk(0.5), images, sigmas), 1024) < 0.3 * expected


def test_samples_of_the_set_start_with_the_moments_of_noisy_images() -> None:
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(20, 1, 3, 3, generator=draws)
    mean, root = of_set.start_law(images, 2.0)
    far = images.flatten(1) - mean
    wanted = far.T @ far / 19 + 4 * torch.eye(9)
    torch.testing.assert_close(root @ root.T, wanted, rtol=1e-5, atol=1e-5)  # float32
    torch.testing.assert_close(mean, images.flatten(1).mean(0))


class Mean(torch.nn.Module):
    """Features of a picture: its mean and its largest value."""

    def features(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3))], 1)


def test_the_table_of_the_set_compares_seed_by_seed(tmp_path: Path) -> None:
    chosen = of_set.options().parse_args(["--out", str(tmp_path / "out")])
    report = common.Report("test", chosen, "cpu")
    shown = arms.load(of_set.SETTINGS, False)
    configs = {arm.name: arm.config(0, "cpu", {"path": "nowhere", "num_images": 10}) for arm in shown}
    found = {}
    for arm in shown:
        scale = 1.1 if arm.name == "exact" else 1.0
        found[arm.name] = [
            {
                "steps": 100 + seed, "timings": {"density": 1.0, "solve": 2.0, "training": 97.0}, "shift": [0.0, 0.25],
                "sigma": [0.1 * 2**k for k in range(of_set.TIMES)], "mse": [scale * 0.01 * (seed + 1)] * of_set.TIMES,
                "loss": scale * 10.0 ** (seed + 1), "frechet": 30.0,
            }
            for seed in range(3)
        ]  # fmt: skip
    draws = torch.Generator().manual_seed(0)
    pictures = torch.rand(60, 1, 8, 8, generator=draws)
    moments = frechet.Moments(Mean().features(pictures))
    judge = unconditional.Judge(Mean(), torch.device("cpu"), 0.9, moments, moments)  # type: ignore[arg-type]
    floor = set_report.floor(judge, pictures, 20, 20)
    set_report.write(report, shown, configs, found, floor, judge)
    text = report.folder.file("table.md").read_text()
    exact = next(line for line in text.splitlines() if line.startswith("| embedding, correct"))
    # Seeds differ tenfold; their ratios do not at all.
    assert "1.100 (1.100 to 1.100)" in exact and "30.00 ± 0.00" in exact and "| 101 ± 1 |" in exact
    assert "published solver: the seconds of its density and solver are not in the budget" in text
    assert report.folder.file("set.png").stat().st_size > 5000
