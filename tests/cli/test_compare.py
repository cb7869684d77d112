"""`randomwalk compare`: paired differences against SciPy's, pages with their pictures, and refusals in one message."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from page_tools import data_of
from sampling_tools import ROOT, make_config, read_metrics
from scipy import stats

from randomwalk.cli import compare
from randomwalk.cli.main import main
from randomwalk.errors import RunError
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import run as sampling
from randomwalk.sampling.image_results import ImageResults


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs on the same five images, one of them with two samples of each; and the second without its first image."""
    base = tmp_path_factory.mktemp("compare")
    one = make_config(base, 5, output=str(base / "one" / "run"))
    assert sampling.run(one) == 0
    sampler = one.sampler.model_copy(update={"step_scale": 0.3})
    two = one.model_copy(update={"output": str(base / "two" / "run"), "sampler": sampler, "num_samples": 2})
    assert sampling.run(two) == 0
    return base / "one" / "run", base / "two" / "run"


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    draws = np.random.default_rng(0)
    a, b = draws.normal(20, 3, 12), draws.normal(20.5, 3, 12)
    found = compare.difference(list(zip(a.tolist(), b.tolist(), strict=True)))
    expected = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert found.mean == pytest.approx((b - a).mean()) and found.count == 12
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(tuple(expected))
    assert np.isnan(compare.difference([(1.0, 2.0)]).half)


def test_the_interval_covers_the_true_difference() -> None:
    """In 2000 experiments with 4 pairs, 95% of the intervals do, to within four standard errors."""
    draws = np.random.default_rng(1)
    pairs = draws.normal((3.0, 3.5), 1.0, (2000, 4, 2)) + draws.normal(0, 5, (2000, 4, 1))
    found = [compare.difference([(a, b) for a, b in one]) for one in pairs]
    share = np.mean([abs(one.mean - 0.5) < one.half for one in found])
    assert abs(share - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)


def test_runs_are_put_side_by_side(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *map(str, runs)]) == 0
    out, data = capsys.readouterr().out, data_of(tmp_path / "compare.html")
    values = []
    for run in runs:
        rows = [row for row in read_metrics(run) if row["sample"] != "mean"]
        names = sorted({row["name"] for row in rows})
        values.append([np.mean([float(row["psnr"]) for row in rows if row["name"] == name]) for name in names])
    gap = np.subtract(values[1], values[0])
    half = stats.t.ppf(0.975, 4) * gap.std(ddof=1) / np.sqrt(5)
    assert f"{gap.mean():+.2f}" in out and f"{gap.mean() - half:+.2f} to {gap.mean() + half:+.2f}" in out
    metrics, differences, by_image = data["tables"]
    assert [row["psnr"] for row in metrics["rows"]] == pytest.approx([np.mean(v) for v in values])
    assert [row["run"] for row in metrics["rows"]] == ["one/run", "two/run"]
    assert differences["rows"][0]["difference"] == f"{gap.mean():+.2f}" and differences["rows"][0]["images"] == 5
    assert sorted(row["gap"] for row in by_image["rows"]) == pytest.approx(sorted(gap))
    labels = ["measurement", "one/run", "two/run", "truth"]
    assert [[one["label"] for one in image["pictures"]] for image in data["images"]] == [labels] * 5
    for image in data["images"]:
        paths = [tmp_path / unquote(one["src"]) for one in image["pictures"]]
        assert all(path.is_file() for path in paths)
        assert paths[1].name.endswith("_sample0.png") and paths[2].name.endswith("_mean.png")
    assert (data["left"], data["right"], data["warnings"]) == ("one/run", "two/run", [])


def test_other_measurements_are_noted(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_config(tmp_path, 5, seed=4)
    assert sampling.run(other) == 0
    assert main(["compare", str(runs[0]), str(tmp_path / "run"), "--output", str(tmp_path)]) == 0
    [line] = data_of(tmp_path / "compare.html")["warnings"]
    assert "different measurements" in line and "in 5 of 5 images" in line and line in capsys.readouterr().err


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one message with which a command is refused."""
    assert main(["compare", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_runs_that_cannot_be_compared_are_refused(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = str(runs[0])
    other = make_config(tmp_path / "others", 2)
    for path in sorted((tmp_path / "others" / "images").iterdir()):
        path.rename(path.with_name(f"other {path.name}"))
    assert sampling.run(other) == 0
    capsys.readouterr()
    said = refusal([first, str(tmp_path / "others" / "run")], capsys)
    assert "no image in common" in said and "picture a.png" in said and "other picture a.png" in said
    assert "at least two" in refusal([first], capsys)
    assert "named twice" in refusal([first, f"{first}/."], capsys)
    assert "no such folder" in refusal([first, "nowhere"], capsys)
    (tmp_path / "empty").mkdir()
    assert "config.yaml is missing" in refusal([first, "empty"], capsys)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "config.yaml").write_text((ROOT / "configs" / "photo" / "train.yaml").read_text())
    assert "is not a sampling run" in refusal([first, "training"], capsys)
    for text, said in (
        ("metric,value\nchamfer,1\n", "is a run of points"), ("image,name\n0,a\n", "is damaged"),
        ("image,sample\n,0\n", "no image"),
        ("image,sample,psnr\n0,0,high\n", "is damaged"), ("image,sample\n", "is not finished"),
    ):  # fmt: skip
        (tmp_path / "others" / "run" / "metrics.csv").write_text(text)
        assert said in refusal([first, str(tmp_path / "others" / "run")], capsys)
    (tmp_path / "compare.html").write_text("mine")
    assert "exists already" in refusal([first, str(runs[1]), "--overwrite"], capsys)
    assert (tmp_path / "compare.html").read_text() == "mine"


def test_an_unfinished_run_is_refused(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: ImageResults, *rest: object) -> None:
        raise RunError("dies")

    monkeypatch.setattr(ImageResults, "finish", dies)
    with pytest.raises(RunError):
        sampling.run(make_config(tmp_path, 2))
    capsys.readouterr()
    assert "is not finished; continue it with" in refusal([str(runs[0]), str(tmp_path / "run")], capsys)
    assert RunFolder(tmp_path / "run").has("report.html")
