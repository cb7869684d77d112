"""sample.py from the outside: what a run leaves, and that nothing changes it that should not."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sampling_tools import (
    ROOT,
    SIZE,
    arrays_of,
    files_of,
    make_config,
    read_metrics,
    save_weights,
    write_config,
)

from randomwalk.cli import options as cli
from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.errors import InputError, RunError, Terminated
from randomwalk.rng import generator
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import run as sampling
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.task import Task


def changed(config: SampleConfig, **changes: Any) -> SampleConfig:
    return config.model_copy(update=changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[SampleConfig, Path]:
    """A run of five images, two at a time."""
    config = make_config(tmp_path_factory.mktemp("finished"))
    torch.set_num_threads(1)
    assert sampling.run(config) == 0
    return config, Path(config.output)


# --- the command ---------------------------------------------------------------------------------------------


def test_help_is_quick_and_explains() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "sample.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    for word in ("example:", "python sample.py --diffusion_config configs/", "--resume", "--set", "--dry-run"):
        assert word in done.stdout


def test_a_config_is_refused_before_pytorch_is_imported(tmp_path: Path) -> None:
    path = write_config(tmp_path, sampler={"name": "random_walks"})
    code = (
        "import sys; sys.argv = ['sample.py', '--config', sys.argv[1]]; import sample\n"
        "from randomwalk.cli import options as cli\n"
        "status = cli.run(lambda: sample.main(sample.parser().parse_args()))\n"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and "random_walks" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_command_restores_and_says_where(tmp_path: Path) -> None:
    path = write_config(tmp_path, count=3)
    command = [sys.executable, "sample.py", "--diffusion_config", str(path), "--set", "seed=4", "animation_frames=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/run/overview.png" in done.stdout and f"{tmp_path}/run/metrics.csv" in done.stdout
    assert "PSNR (dB)" in done.stdout and "12/12 steps" in done.stderr
    assert load_sample_config(tmp_path / "run" / "config.yaml").seed == 4


# --- what a run leaves ---------------------------------------------------------------------------------------


def test_a_run_leaves_everything(finished: tuple[SampleConfig, Path]) -> None:
    config, run = finished
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    letters = "abcde"
    stems = [f"{i:04d}_picture_{letters[i]}" for i in range(5)]
    expected = {"config.yaml", "run.json", "schedule.png", "metrics.csv", "overview.png", "report.html"}
    for stem in stems:
        expected |= {f"images/{stem}_{kind}" for kind in ("truth.png", "measurement.png", "sample0.png", "walk.webp")}
        expected |= {f"arrays/{stem}_{kind}.npy" for kind in ("measurement", "sample0")}
    expected |= {f"state/batch_0000{b}.json" for b in range(3)}
    assert names == expected
    assert load_sample_config(run / "config.yaml") == config
    facts = RunFolder(run).read_json("run.json")
    assert facts["versions"]["torch"] == torch.__version__ and facts["seed"] == 3 and facts["device"] == "cpu"
    animation = Image.open(run / "images" / f"{stems[0]}_walk.webp")
    assert getattr(animation, "n_frames", 1) == 3


def test_pictures_are_clipped_not_stretched(finished: tuple[SampleConfig, Path]) -> None:
    _, run = finished
    for name, x in arrays_of(run).items():
        if name.endswith("sample0"):
            pixels = np.asarray(Image.open(run / "images" / f"{name}.png"))
            np.testing.assert_array_equal(pixels, np.rint((np.clip(x[0], -1, 1) + 1) * 127.5).astype(np.uint8))


def test_the_metrics_are_those_of_the_arrays(finished: tuple[SampleConfig, Path]) -> None:
    config, run = finished
    task = load_task(config, torch.device("cpu"))
    rows = read_metrics(run)
    assert [(row["image"], row["sample"]) for row in rows] == [(str(i), "0") for i in range(5)]
    arrays = list(arrays_of(run).items())
    for i, row in enumerate(rows):
        truth = task.load_image(i).numpy()
        restored = next(value for name, value in arrays if name.startswith(f"000{i}") and name.endswith("sample0"))
        psnr = 10 * np.log10(4 / ((np.clip(restored, -1, 1) - truth) ** 2).mean())
        assert float(row["psnr"]) == pytest.approx(psnr, abs=1e-3)
        assert row["evaluations"] == "6" and float(row["seconds"]) > 0
        assert float(row["ssim"]) < 1 and float(row["measurement_psnr"]) > 0


def test_every_image_has_its_own_mask_and_noise(finished: tuple[SampleConfig, Path]) -> None:
    config, run = finished
    masks = []
    for i in range(5):
        draws = generator(config.seed, i, 0)
        mask = np.ones(SIZE * SIZE, dtype=np.float32)
        mask[draws.choice(mask.size, mask.size // 2, replace=False)] = 0
        truth = load_task(config, torch.device("cpu")).load_image(i).numpy()
        noise = draws.standard_normal((1, SIZE, SIZE), dtype=np.float32)
        expected = mask.reshape(1, SIZE, SIZE) * truth + np.float32(0.2) * noise
        measured = next(v for n, v in arrays_of(run).items() if n.startswith(f"000{i}") and n.endswith("measurement"))
        np.testing.assert_allclose(measured, expected, atol=1e-6)
        # What is missing is grey in the picture, not noise.
        pixels = np.asarray(Image.open(next((run / "images").glob(f"000{i}*_measurement.png"))))
        assert set(pixels[mask.reshape(SIZE, SIZE) == 0]) == {128}
        masks.append(mask)
    assert not any(np.array_equal(masks[0], mask) for mask in masks[1:])


def test_samples_of_a_measurement(tmp_path: Path) -> None:
    config = make_config(tmp_path, count=2, num_samples=3)
    assert sampling.run(config) == 0
    arrays = arrays_of(Path(config.output))
    for stem in ("0000_picture_a", "0001_picture_b"):
        samples = np.stack([arrays[f"{stem}_sample{s}"] for s in range(3)])
        assert not np.array_equal(samples[0], samples[1])
        np.testing.assert_allclose(arrays[f"{stem}_mean"], samples.mean(0), atol=1e-6)
        np.testing.assert_allclose(arrays[f"{stem}_std"], samples.std(0, ddof=1), atol=1e-5)
        assert (Path(config.output) / "images" / f"{stem}_std.png").is_file()
    rows = read_metrics(Path(config.output))
    assert [row["sample"] for row in rows] == ["0", "1", "2", "mean"] * 2
    truth = load_task(config, torch.device("cpu")).load_image(0).numpy()
    error = np.clip(arrays["0000_picture_a_mean"], -1, 1) - truth
    assert float(rows[3]["psnr"]) == pytest.approx(10 * np.log10(4 / (error**2).mean()), abs=1e-3)


def test_unconditional_images(tmp_path: Path) -> None:
    sampler = {"name": "ddim", "schedule": {"name": "pretrained", "num_steps": 5}}
    config = make_config(tmp_path, data=None, measurement=None, sampler=sampler, num_images=5)
    assert sampling.run(config) == 0
    run = tmp_path / "run"
    assert sorted(path.name for path in (run / "images").glob("*.png")) == [f"000{i}.png" for i in range(5)]
    assert all(x.shape == (1, SIZE, SIZE) for x in arrays_of(run).values()) and len(arrays_of(run)) == 5
    assert [row["psnr"] for row in read_metrics(run)] == [""] * 5
    assert (run / "overview.png").is_file() and (run / "images" / "0004_walk.webp").is_file()
    again = changed(config, output=str(tmp_path / "three"), num_images=3, batch_size=3)
    assert sampling.run(again) == 0
    for name, x in arrays_of(tmp_path / "three").items():
        np.testing.assert_allclose(x, arrays_of(run)[name], atol=1e-4)


def test_super_resolution_shows_its_pixels(tmp_path: Path) -> None:
    measurement = {"operator": {"name": "super_resolution", "factor": 3}, "noise": {"std": 0.05}}
    config = make_config(tmp_path, count=1, measurement=measurement)
    assert sampling.run(config) == 0
    run = Path(config.output)
    pixels = np.asarray(Image.open(run / "images" / "0000_picture_a_measurement.png"))
    assert pixels.shape == (SIZE, SIZE)
    np.testing.assert_array_equal(pixels, pixels[::3, ::3].repeat(3, 0).repeat(3, 1))
    assert read_metrics(run)[0]["measurement_psnr"]


# --- promise 1: image i depends on (seed, i) -------------------------------------------------------------------


def test_the_batch_size_does_not_matter(finished: tuple[SampleConfig, Path], tmp_path: Path) -> None:
    config, run = finished
    other = changed(config, output=str(tmp_path / "run"), batch_size=4)
    assert sampling.run(other) == 0
    first, second = arrays_of(run), arrays_of(tmp_path / "run")
    assert first.keys() == second.keys()
    for name, value in first.items():
        if name.endswith("measurement"):
            np.testing.assert_array_equal(value, second[name])
        else:
            np.testing.assert_allclose(value, second[name], atol=1e-4)


def test_the_number_of_images_does_not_matter(finished: tuple[SampleConfig, Path], tmp_path: Path) -> None:
    config, run = finished
    assert config.data is not None
    fewer = changed(config, output=str(tmp_path / "run"), data=changed(config.data, num_images=2))  # type: ignore[arg-type]
    assert sampling.run(fewer) == 0
    for name, value in arrays_of(tmp_path / "run").items():
        np.testing.assert_array_equal(value, arrays_of(run)[name])


def test_another_seed_is_another_image(finished: tuple[SampleConfig, Path], tmp_path: Path) -> None:
    config, run = finished
    sampling.run(changed(config, output=str(tmp_path / "run"), seed=4))
    assert not any(np.array_equal(v, arrays_of(run)[name]) for name, v in arrays_of(tmp_path / "run").items())


# --- promise 3: nothing silent -------------------------------------------------------------------------------


def corrupt(config: SampleConfig, name: str = "picture c.png") -> Path:
    assert config.data is not None
    path = Path(config.data.path) / name
    path.write_bytes(path.read_bytes()[:60])
    return path


def test_a_corrupt_image_is_skipped_and_told(
    finished: tuple[SampleConfig, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path)
    path = corrupt(config)
    whole = Path(make_config(tmp_path / "whole").data.path) / "picture c.png"  # type: ignore[union-attr]
    assert cli.run(lambda: sampling.run(config)) == 1
    text = capfd.readouterr().err
    assert "1 of 5 images could not be read" in text and "picture c.png" in text and "Traceback" not in text
    run = Path(config.output)
    assert [row["image"] for row in read_metrics(run)] == ["0", "1", "3", "4"]
    # The others are those of a run without the accident. (Image 3 was alone in its batch.)
    for name, value in arrays_of(run).items():
        np.testing.assert_allclose(value, arrays_of(finished[1])[name], atol=1e-4)
    # The image is mended: a resumed run adds it.
    path.write_bytes(whole.read_bytes())
    assert sampling.run(config, RunFolder.resume(run)) == 0
    assert {k: v for k, v in files_of(run).items() if k != "config.yaml"} == {
        k: v for k, v in files_of(finished[1]).items() if k != "config.yaml"
    }


def test_a_folder_of_corrupt_images_only(tmp_path: Path) -> None:
    """There is no result, and so no folder."""
    config = make_config(tmp_path, count=1)
    corrupt(config, "picture a.png")
    with pytest.raises(InputError, match=r"none of the 1 images can be used:\n  image 0: .*picture a.png"):
        sampling.run(config)
    assert not Path(config.output).exists()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda c: changed(c, data=changed(c.data, path=c.output + "-no")), "no such folder"),
        (lambda c: changed(c, data=changed(c.data, path=str(ROOT / "randomwalk"))), "no images"),
        (lambda c: changed(c, network=changed(c.network, path="nowhere.pt")), "nowhere.pt"),
        (lambda c: changed(c, device="gpu"), "device"),
        (lambda c: changed(c, measurement=None, data=None, num_images=2, num_samples=2), "num_samples"),
        (lambda c: load_changed(c, "sampler.schedule.sigma_max=1e6"), "sampler.schedule"),
        (lambda c: load_changed(c, "sampler={name: ddim, schedule: {name: geometric, num_steps: 5}}"), "measurement"),
        (lambda c: load_changed(c, "measurement.operator={name: super_resolution, factor: 5}"), "factor"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message_and_no_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], break_it: Callable[[SampleConfig], SampleConfig], message: str
) -> None:
    config = make_config(tmp_path)
    for command in (sampling.run, sampling.dry_run):
        assert cli.run(lambda command=command: command(break_it(config))) == 2  # type: ignore[misc]
        text = capfd.readouterr().err
        assert text.startswith("error: ") and message in text and "Traceback" not in text
    assert not Path(config.output).exists()


def load_changed(config: SampleConfig, change: str) -> SampleConfig:
    return load_sample_config(Path(config.output).parent / "task.yaml", [change])


def test_more_images_than_there_are(tmp_path: Path) -> None:
    config = make_config(tmp_path, count=2)
    more = changed(config, data=changed(config.data, num_images=3))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="3 asked for"):
        sampling.dry_run(more)


def test_dry_run_prints_the_config_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(tmp_path)
    assert sampling.dry_run(config) == 0
    text = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(text)
    assert load_sample_config(tmp_path / "printed.yaml") == config
    assert "5 of 5 in" in text and "5 samples in 3 batches" in text
    assert not Path(config.output).exists()
    corrupt(config)
    assert sampling.dry_run(config) == 1


def test_a_walk_that_is_not_finite_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = make_config(tmp_path, count=1)
    save_weights(Path(config.network.path), scale=1e30)
    assert cli.run(lambda: sampling.run(config)) == 1
    text = capfd.readouterr().err
    assert "not finite" in text and "--resume" not in text and "Traceback" not in text
    assert not Path(config.output).exists()


@pytest.mark.parametrize(
    ("raised", "status"), [(KeyboardInterrupt, 130), (Terminated, 143), (RunError, 1), (OSError, 1)]
)
def test_how_a_command_ends(raised: type[BaseException], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise raised("why")

    assert cli.run(command) == status
    assert "why" in capsys.readouterr().err


# --- promise 4: nothing lost ---------------------------------------------------------------------------------


def fail_at(monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException) -> None:
    """Let the walk of the given batch (from 0) fail."""
    calls = iter(range(1000))
    sample = Task.sample

    def failing(self: Task, *args: Any) -> Any:
        if next(calls) == call:
            raise error
        return sample(self, *args)

    monkeypatch.setattr(Task, "sample", failing)


@pytest.mark.parametrize("error", [RunError("walk went wrong"), KeyboardInterrupt()])
def test_what_is_finished_stays_and_the_rest_is_resumed(
    finished: tuple[SampleConfig, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    config = changed(finished[0], output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        fail_at(patch, 1, error)
        with pytest.raises(type(error), match="--resume"):
            sampling.run(config)
    run = tmp_path / "run"
    assert len(list((run / "images").glob("*_sample0.png"))) == 2
    with monkeypatch.context() as patch:
        fail_at(patch, 2, AssertionError("a finished batch was done again"))
        assert sampling.run(config, RunFolder.resume(run)) == 0
    expected = files_of(finished[1])
    expected["config.yaml"] = (run / "config.yaml").read_bytes()
    assert files_of(run) == expected
    assert len(RunFolder(run).read_json("run.json")["resumed"]) == 1


def test_a_lost_file_is_made_again(finished: tuple[SampleConfig, Path], tmp_path: Path) -> None:
    config = changed(finished[0], output=str(tmp_path / "run"))
    sampling.run(config)
    before = files_of(tmp_path / "run")
    next((tmp_path / "run" / "images").glob("0003*_sample0.png")).unlink()
    sampling.run(config, RunFolder.resume(tmp_path / "run"))
    assert files_of(tmp_path / "run") == before


def test_resume_refuses_what_would_mix_two_runs(tmp_path: Path) -> None:
    path = write_config(tmp_path, count=3)
    config = load_sample_config(path)
    sampling.run(config)
    run = RunFolder.resume(config.output)
    weights = Path(config.network.path).read_bytes()
    save_weights(Path(config.network.path), seed=1)
    with pytest.raises(InputError, match="not the file"):
        sampling.run(config, run)
    Path(config.network.path).write_bytes(weights)
    images = Path(config.data.path)  # type: ignore[union-attr]
    (images / "picture b.png").rename(images / "picture x.png")
    with pytest.raises(InputError, match=r"picture b\.png, picture x\.png"):
        sampling.run(config, run)


def test_resume_takes_the_config_of_the_run(tmp_path: Path) -> None:
    import sample

    path = write_config(tmp_path, count=2)
    config = load_sample_config(path)
    sampling.run(config)

    def parse(*words: str) -> tuple[SampleConfig, RunFolder | None]:
        return cli.sample_config(sample.parser().parse_args(["--resume", config.output, *words]))

    assert parse()[0] == config
    assert parse("--config", str(path), "--device", "auto")[0] == changed(config, device="auto")
    with pytest.raises(InputError, match=r"seed"):
        parse("--set", "seed=9")
    with pytest.raises(InputError, match=r"sampler\.schedule\.num_steps"):
        parse("--config", str(path), "--set", "sampler.schedule.num_steps=9")


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    config = make_config(tmp_path, count=1)
    sampling.run(config)
    holder = RunFolder(config.output)
    holder.lock()
    with pytest.raises(InputError, match="another process"):
        sampling.run(config, RunFolder.resume(config.output))
    holder.unlock()
    assert sampling.run(config, RunFolder.resume(config.output)) == 0


KILLER = """
import math, os, random, shutil, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import matplotlib.figure
from randomwalk.cli import options as cli
from randomwalk.sampling import run as sampling
from randomwalk.config.files import load_sample_config
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import run as sampling

config = load_sample_config(sys.argv[1])

def stamps(output):
    found = {}
    for path in output.rglob("*"):
        try:
            found[path] = path.stat().st_mtime_ns
        except FileNotFoundError:  # a temporary file that was renamed
            pass
    return found

def start(output, writes):
    '''Run, or resume, in a process that is killed after so many writes and a moment; its status, None if killed.'''
    before = stamps(output)
    child = os.fork()
    if child == 0:
        task = config.model_copy(update={"output": str(output)})
        folder = RunFolder.resume(output) if (output / "config.yaml").exists() else None
        os._exit(cli.run(lambda: sampling.run(task, folder)))
    while len(stamps(output).items() - before.items()) < writes:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None

base = Path(config.output)
assert start(base, math.inf) == 0
random.seed(int(sys.argv[2]))
killed = base.with_name("killed")
kills = 0
while (status := start(killed, random.randint(1, 12) if kills < 6 else math.inf)) is None:
    kills += 1
    if not (killed / "config.yaml").exists():
        shutil.rmtree(killed, ignore_errors=True)
assert status == 0, status
print(kills)
"""


def test_a_run_killed_at_any_moment_ends_like_one_that_was_not(tmp_path: Path) -> None:
    path = write_config(tmp_path, count=5, num_samples=2, batch_size=3)
    done = subprocess.run([sys.executable, "-c", KILLER, str(path), "0"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) >= 3
    whole, killed = files_of(tmp_path / "run"), files_of(tmp_path / "killed")
    whole.pop("config.yaml"), killed.pop("config.yaml")
    assert whole == killed


def test_the_start_has_its_mean_and_spread_and_draws_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``mean + std n``, with n independent of the measurement's noise, of the other samples and images."""
    measurement = {"operator": {"name": "denoising"}, "noise": {"std": 0.2}}
    config = make_config(tmp_path, 3, measurement=measurement, num_samples=2, start={"mean": 3.0, "std": 2.0})
    task = load_task(config, torch.device("cpu"))
    starts: list[torch.Tensor] = []

    def sample(self: Any, denoiser: Any, sigmas: Any, measurement: Any, *, start: torch.Tensor, **rest: Any) -> Any:
        starts.append(start)
        return start

    monkeypatch.setattr(type(task.sampler), "sample", sample)
    noise = []
    for ids in task.batches():
        batch = task.sample(ids, torch.stack([task.load_image(one.image) for one in ids]))
        assert batch.measurement is not None and batch.truth is not None
        noise.append((batch.measurement - batch.truth)[[one.sample == 0 for one in ids]] / 0.2)
    n = ((torch.cat(starts) - 3) / 2).flatten(1).double()
    assert n.shape == (6, SIZE * SIZE)
    assert abs(float(n.mean())) < 4.5 / n.numel() ** 0.5
    assert abs(float(n.square().mean()) - 1) < 4.5 * (2 / n.numel()) ** 0.5
    rows = torch.cat([n, torch.cat(noise).flatten(1).double()])
    products = (rows @ rows.T / SIZE**2).fill_diagonal_(0)
    assert (rows.square().mean(1) - 1).abs().max() < 4.5 * (2 / SIZE**2) ** 0.5
    assert len(rows) == 9 and float(products.abs().max()) < 4.5 / SIZE
