"""Every config by its command: the paper's nine run in their quick form, and the benchmark judges rightly."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import every_config
import numpy as np
import pytest
from support import (
    config_figures,
    config_plan,
)
from support.config_plan import CONFIGS, Job
from support.stand_ins import CLASSES, StandIns, tells_what_to_do

from randomwalk.config import SampleConfig, TrainConfig
from randomwalk.config.bridge import BridgeConfig
from randomwalk.config.files import load_sampling, load_training
from randomwalk.errors import InputError

NEW = ("vp_uncond_sigmoidSchedule", "vp_uncond_pretrainedSchedule", "ve_uncond")
RESTORED = ("vp_super_resolution", "vp_inpainting", "ve_super_resolution", "ve_inpainting")
TRAINED = ("vp_train", "ve_train")
NINE = [f"{name}.yaml" for name in (*NEW, *RESTORED, *TRAINED)]


def run(out: Path, *files: str) -> tuple[int, dict[str, Any]]:
    """Exit status of the quick form, and its records."""
    options = every_config.options().parse_args(["--quick", "--offline", "--device", "cpu", "--out", str(out), *files])
    status = every_config.main(options)
    return status, json.loads((out / every_config.RECORDS).read_text())


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, dict[str, Any]]:
    """The paper's nine files, run once for all tests."""
    out = tmp_path_factory.mktemp("every") / "out"
    return out, *run(out, *NINE)


def figures_of(record: dict[str, Any]) -> dict[str, float]:
    return {metric: value for metric, value, _ in record["figures"]}


def test_all_nine_run(nine: tuple[Path, int, dict[str, Any]]) -> None:
    _, status, records = nine
    assert {name: record["message"] for name, record in records.items() if record["status"] != 0} == {}
    assert status == 0 and list(records) == NINE


@pytest.mark.parametrize("name", RESTORED)
def test_restored_photographs_are_nearer_to_the_truth(nine: tuple[Path, int, dict[str, Any]], name: str) -> None:
    found = figures_of(nine[2][f"{name}.yaml"])
    assert found["psnr"] > found["measurement_psnr"]


@pytest.mark.parametrize("name", NEW)
def test_new_images_are_as_many_as_asked_for(nine: tuple[Path, int, dict[str, Any]], name: str) -> None:
    out = nine[0]
    images = [np.load(file) for file in sorted((out / "runs" / name / "arrays").glob("*.npy"))]
    assert [image.shape for image in images] == [(1, 32, 32)] * config_plan.FEW_IMAGES
    assert not np.array_equal(*images)
    assert np.isfinite(images).all()


@pytest.mark.parametrize("name", TRAINED)
def test_trainings_leave_weights_that_denoise(nine: tuple[Path, int, dict[str, Any]], name: str) -> None:
    out, _, records = nine
    assert (out / "runs" / name / config_plan.WEIGHTS).is_file()
    # D(x) = x, which denoises nothing and is what the networks begin with, has -20 log10(sigma / 2) = 26 dB.
    assert figures_of(records[f"{name}.yaml"])["psnr_at_0.1"] > 26
    assert records[f"{name}.yaml"]["notes"] == [every_config.STAND_IN]


def test_results_are_in_long_form(nine: tuple[Path, int, dict[str, Any]]) -> None:
    out, _, records = nine
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ended = {row["case"]: float(row["value"]) for row in rows if row["metric"] == "exit status"}
    assert ended == {f"configs/{name}": 0.0 for name in NINE}
    table = (out / "table.md").read_text()
    assert all(f"| {name}" in table for name in records) and "9 files, 0 failed, 0 not run" in table


def test_what_is_done_is_not_done_again(
    nine: tuple[Path, int, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _, records = nine
    monkeypatch.setattr(every_config.Setting, "run", lambda *_: pytest.fail("it was run again"))
    assert run(out, *NINE) == (0, records)


def test_a_failure_is_shown_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[list[str]] = []

    def fails(self: every_config.Setting, job: Job, changes: list[str], suffix: str = "") -> every_config.Run:
        tries.append(changes)
        return every_config.Run(1, 1.0, 1.0, "a bar\rerror: no disk\nis left\n", self.target(job))

    monkeypatch.setattr(every_config.Setting, "run", fails)
    for count in (1, 2):
        status, records = run(tmp_path / "out", "ve_uncond.yaml")
        assert (status, len(tries)) == (1, count)
    assert records["ve_uncond.yaml"]["message"] == "error: no disk\nis left"
    assert "**failed**: error: no disk is left" in (tmp_path / "out" / "table.md").read_text()


def test_samples_whose_training_failed_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = lambda self, job, changes, suffix="": every_config.Run(1, 1.0, 1.0, "", self.target(job))  # noqa: E731
    monkeypatch.setattr(every_config.Setting, "run", broken)
    status, records = run(tmp_path / "out", "toy/moons_sample.yaml")
    assert status == 1 and list(records) == ["toy/moons_train.yaml", "toy/moons_sample.yaml"]
    assert records["toy/moons_sample.yaml"]["form"] == every_config.NOT_RUN
    assert "toy/moons_train.yaml, which failed" in records["toy/moons_sample.yaml"]["message"]


@pytest.mark.parametrize(
    ("message", "form", "failed"),
    [
        ("error: data.path: there is no mnist. Get it:\n  curl -O x", "not run", False),
        ("error: data.path: there is no mnist", "not run", True),
        ("error: one\ntwo\n  curl -O x", "not run", True),
    ],
)
def test_data_that_cannot_be_had_need_a_command_to_copy(
    message: str, form: str, failed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses = lambda self, job, changes, suffix="": every_config.Run(2, 1.0, 1.0, message, self.target(job))  # noqa: E731
    monkeypatch.setattr(every_config.Setting, "run", refuses)
    options = every_config.options().parse_args(["--device", "cpu", "--out", str(tmp_path / "out"), "vp_train.yaml"])
    assert every_config.main(options) == int(failed)
    record = json.loads((tmp_path / "out" / every_config.RECORDS).read_text())["vp_train.yaml"]
    assert (record["form"], record["failed"], record["message"]) == (form, failed, message)
    assert tells_what_to_do(message) is not failed


def test_every_file_is_run_after_the_training_that_it_needs() -> None:
    jobs = config_plan.read_jobs()
    assert {job.path for job in jobs} == {
        str(path.relative_to(CONFIGS.parent)) for path in CONFIGS.rglob("*.yaml") if "schema" not in path.parts
    }
    seen: set[str] = set()
    for job in jobs:
        training = config_plan.trained_by(job, jobs)
        assert training is None or training.name in seen, job.name
        if job.weights is not None and job.weights[1].startswith("results/"):
            assert training is not None, f"{job.name} uses {job.weights[1]}, which no training makes"
        seen.add(job.name)


def test_an_unknown_file_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"configs/no\.yaml: there is no such file"):
        run(tmp_path / "out", "no.yaml")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("job", config_plan.read_jobs(), ids=lambda job: job.name)
def test_every_change_is_one_that_the_config_takes(job: Job) -> None:
    load = load_training if job.trains else load_sampling
    assert job.config is not None
    assert isinstance(load(job.path, config_plan.quick(job)), type(job.config))
    if job.trains:
        load(job.path, config_plan.probe(job))
        cut = load(job.path, config_plan.shortened(job, 0.05))
        length = [config_plan.units(config)[0] for config in (cut, job.config)]  # type: ignore[arg-type]
        assert length[0] / length[1] == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("# Learn the moons: about a minute on one idle core.\na: 1", 60),
        ("# about 20 minutes on one core", 1200),
        ("# Half an hour\n# on one core", 1800),
        ("# are 10.2\n# hours. Made for a GPU.", 36720),
        ("# Measured: 196 seconds of training and 25 of measurements, 4 minutes in all.", 240),
        ("# 300 steps at 8.9 s are 44 minutes", 2640),
        ("# 25 processor-minutes", 1500),
        ("# Ten minutes on one idle core", 600),
        ("# which is 8 hours at 100 TFLOP/s by this reckoning", None),
        ("# of one second-hand thing, one secondary", None),
        ("minutes: 20 minutes  # as fast as 30", None),
        ("# Measured: 94 images a second of one core, so 36 minutes for them all.", 2160.0),
    ],
)
def test_what_a_file_says_of_its_duration(text: str, seconds: float | None) -> None:
    assert config_plan.says(text) == seconds


def test_the_time_of_the_whole_counts_the_start_once(tmp_path: Path) -> None:
    """10 s for the start, 2 s for 100 images: 1000 of them take 10 + 20 s."""
    config = load_training(CONFIGS / "toy" / "moons_train.yaml", ["num_images=1000", "batch_size=100"])
    assert isinstance(config, TrainConfig)
    rows = ["step,images,seconds", "1,100,7", *(f"{k},{100 * k},{7 + 2 * (k - 1)}" for k in range(2, 6))]
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    assert config_figures.whole_seconds(Job("", config, True, ""), tmp_path, 20.0) == pytest.approx(30)


def test_the_steps_of_a_bridge_are_counted_over_its_fits(tmp_path: Path) -> None:
    config = load_training(
        CONFIGS / "bridge" / "moons_to_swiss_roll.yaml",
        ["bridge.iterations=4", "bridge.first_steps=40", "bridge.steps=10"],
    )
    assert isinstance(config, BridgeConfig) and config_plan.units(config) == (100, "step")
    rows = ["fit,direction,step,seconds", "0,backward,10,1", "0,backward,20,2", "1,forward,10,3", "1,forward,20,4"]
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    assert config_figures.whole_seconds(Job("", config, True, ""), tmp_path, 5.0) == pytest.approx(5 + 60 * 0.1)


def test_stand_ins_are_what_the_trainings_read(tmp_path: Path) -> None:
    made = StandIns(tmp_path)
    images = np.frombuffer((made.grey() / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    labels = np.frombuffer((made.grey() / "train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    assert images.size == 64 * 28 * 28 and labels.size == 64
    assert [CLASSES[k] for k in labels[:4]] == ["boot", "pullover", "trouser", "trouser"]
    assert len(list(made.photographs().rglob("*.png"))) == 147
    assert sorted(p.name for p in made.ten_classes().iterdir()) == [str(k) for k in range(10)]
    changes = made.tiny_weights("configs/ffhq256/ve_uncond.yaml")
    config = load_sampling(CONFIGS / "ffhq256" / "ve_uncond.yaml", changes)
    assert isinstance(config, SampleConfig) and Path(config.network.path).is_file()
