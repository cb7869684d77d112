"""The benchmark of class labels: what it counts, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import class_labels
import pytest
import torch
from support import (
    common,
    frechet,
    unconditional,
)
from torch import Tensor

from randomwalk import samplers
from randomwalk.config.files import load_sample_config, load_train_config
from randomwalk.denoisers.checkpoints import make_denoiser
from randomwalk.errors import InputError
from randomwalk.sampling.task import Task
from randomwalk.sampling.task_images import TaskImages

CPU = torch.device("cpu")


class Brightness(torch.nn.Module):
    """Class 1 is what is light."""

    def features(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3))], 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


def test_accuracy_is_the_share_seen_as_the_class_that_was_asked_for(tmp_path: Path) -> None:
    options = class_labels.options().parse_args(["--out", str(tmp_path / "out")])
    report = common.Report("class_labels", options, "cpu")
    setup = common.Setup(options, report, CPU, "fp32")
    images = torch.linspace(-1, 1, 8).reshape(8, 1, 1, 1).expand(8, 1, 4, 4).contiguous()
    moments = frechet.Moments(Brightness().features(images))
    judge = unconditional.Judge(Brightness(), CPU, 1.0, moments, moments)  # type: ignore[arg-type]
    wrong_twice = torch.tensor([0, 0, 1, 0, 1, 1, 0, 1])
    cells = class_labels.judged(setup, judge, "case", "name", images, wrong_twice)
    assert cells == ["0.00", "75.0 ± 15.3"]
    class_labels.sheet(setup, "a", images, wrong_twice)
    assert (report.folder.path / "samples_a.png").is_file()


def test_the_guided_task_has_the_scale_and_the_numbers_that_are_asked_for(tmp_path: Path) -> None:
    options = class_labels.options().parse_args(["--quick", "--out", str(tmp_path / "out")])
    report = common.Report("class_labels", options, "cpu")
    task = class_labels.load(common.Setup(options, report, CPU, "fp32"), "guided", "guidance.scale=3.0")
    assert len(task.images) == 8 and task.num_steps == 5
    images, labels, evaluations = class_labels.made(task, "test")
    assert images.shape == (8, 1, 32, 32) and labels.tolist() == list(range(8)) and evaluations == 10
    assert ((images + 1) * 127.5 - ((images + 1) * 127.5).round()).abs().max() < 1e-3


@pytest.mark.parametrize("arguments", [["--num-images", "1"], ["--batch-size", "0"], ["--fashion-mnist", "nowhere"]])
def test_bad_arguments_are_told_before_anything_starts(arguments: list[str], tmp_path: Path) -> None:
    options = class_labels.options().parse_args([*arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match=arguments[0] if arguments[0] != "--fashion-mnist" else "nowhere"):
        class_labels.main(options)
    assert not (tmp_path / "out").exists()


def test_lessons_are_compared_by_the_same_samplers_and_levels_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of those of their files, whose other settings would not fit them."""
    given = ["--samplers", "ddim", "--levels", "own", "flow", "karras", "--num-steps", "3", "7", "--scales"]
    options = class_labels.options().parse_args([*given, "--out", str(tmp_path / "out")])
    setup = common.Setup(options, common.Report("class_labels", options, "cpu"), CPU, "fp32")
    monkeypatch.setattr(class_labels, "load", loaded)
    assert options.scales == []
    for lesson, highest in (("flow", 199.0), ("vp_continuous", 152.2)):
        rows = {name.removeprefix(f"{lesson}, ddim, "): task for name, task in class_labels.tasks(setup, lesson)}
        assert list(rows) == [f"{levels} levels, {steps}" for levels in ("own", "flow", "karras") for steps in (3, 7)]
        for name, task in rows.items():
            assert task.config.sampler.name == "ddim" and len(task.sigmas) == int(name[-1])
        assert rows["own levels, 7"].sigmas[0].item() == pytest.approx(highest, rel=1e-3)
        times = rows["flow levels, 7"].sigmas / (1 + rows["flow levels, 7"].sigmas)
        torch.testing.assert_close(times.diff(), times.diff().mean().expand(6))
        assert rows["flow levels, 7"].sigmas[[0, -1]].tolist() == pytest.approx([150, 0.011])
        assert rows["karras levels, 7"].sigmas[[0, -1]].tolist() == pytest.approx([80, 0.02])


def loaded(setup: common.Setup, name: str, *changes: str) -> Task:
    """As `class_labels.load`, with an untrained network of the training's file."""
    config = load_sample_config(common.ROOT / "configs" / "fashion" / f"{name}.yaml", list(changes))
    trained = load_train_config(common.ROOT / "configs" / "fashion" / f"{name.replace('sample', 'train')}.yaml")
    denoiser = make_denoiser(trained.network.model_dump(), trained.denoiser.model_dump())
    sampler = samplers.from_settings(config.sampler)
    images = TaskImages(config, (1, 32, 32), None)
    return Task(config, setup.device, denoiser, sampler, sampler.levels(denoiser), images)


def test_lessons_have_the_samplers_of_their_files_if_no_others_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = class_labels.options().parse_args(["--out", str(tmp_path / "out")])
    setup = common.Setup(options, common.Report("class_labels", options, "cpu"), CPU, "fp32")
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(class_labels, "load", lambda setup, *given: asked.append(given))
    assert [name for name, _ in class_labels.tasks(setup, "ve")] == ["ve"] and asked == [("ve_sample",)]


def test_too_few_steps_are_refused(tmp_path: Path) -> None:
    options = class_labels.options().parse_args(["--num-steps", "10", "1", "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match="--num-steps 1: expected 2 or more"):
        class_labels.main(options)
