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

from randomwalk.config.files import load_sample_config
from randomwalk.errors import InputError

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
    assert len(task.names) == 8 and task.num_steps == 5
    images, labels, evaluations = class_labels.made(task, "test")
    assert images.shape == (8, 1, 32, 32) and labels.tolist() == list(range(8)) and evaluations == 10
    assert ((images + 1) * 127.5 - ((images + 1) * 127.5).round()).abs().max() < 1e-3


@pytest.mark.parametrize("arguments", [["--num-images", "1"], ["--batch-size", "0"], ["--fashion-mnist", "nowhere"]])
def test_bad_arguments_are_told_before_anything_starts(arguments: list[str], tmp_path: Path) -> None:
    options = class_labels.options().parse_args([*arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match=arguments[0] if arguments[0] != "--fashion-mnist" else "nowhere"):
        class_labels.main(options)
    assert not (tmp_path / "out").exists()


def test_lessons_are_compared_by_the_same_samplers_if_asked(tmp_path: Path) -> None:
    """In place of those of their files, whose other settings would not fit them."""
    given = ["--samplers", "ddim", "ddpm_small", "--num-steps", "7", "--scales", "--out", str(tmp_path / "out")]
    options = class_labels.options().parse_args(given)
    setup = common.Setup(options, common.Report("class_labels", options, "cpu"), CPU, "fp32")
    assert options.scales == []
    for lesson in ("flow", "vp_continuous"):
        rows = class_labels.walks(setup, lesson)
        assert [name for name, _ in rows] == [f"{lesson}, ddim", f"{lesson}, ddpm_small"]
        for sampler, (_, changes) in zip(("ddim", "ddpm_small"), rows, strict=True):
            file = common.ROOT / "configs" / "fashion" / f"{lesson}_sample.yaml"
            found = load_sample_config(file, changes).sampler
            assert (found.name, found.schedule.name, found.schedule.num_steps) == (sampler, "pretrained", 7)
    plain = class_labels.options().parse_args(["--out", str(tmp_path / "out")])
    assert class_labels.walks(common.Setup(plain, setup.report, CPU, "fp32"), "ve") == [("ve", [])]
