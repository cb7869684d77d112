"""The benchmark of GPUs, in its quick form on the CPU."""

from __future__ import annotations

import csv
from pathlib import Path

import gpu
import pytest
import torch

from randomwalk.errors import InputError


def test_tasks_of_both_networks_in_every_mode(tmp_path: Path) -> None:
    tasks = ["ve_uncond", "vp_inpainting"]
    words = ["--device", "cpu", "--quick", "--out", str(tmp_path / "out"), "--tasks", *tasks]
    assert gpu.main(gpu.options().parse_args(words)) == 0
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "images_per_second"]
    cases = {f"{task}, batch {batch}" for task in tasks for batch in (1, 2)}
    assert {(row["case"], row["method"]) for row in rows} == {(case, mode) for case in cases for mode in gpu.MODES}
    assert all(float(row["value"]) > 0 for row in rows)


def test_operations_are_two_for_each_product() -> None:
    """A network of one 1 x 1 convolution of three channels on 4 x 4 pixels, for two images."""

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    denoiser = gpu.NetworkDenoiser(Network(), 0.1, 1.0)
    denoiser.forward = lambda x, sigma: denoiser.call_network(x, torch.ones(1))  # type: ignore[method-assign]
    assert gpu.operations(denoiser, 2, 4, torch.device("cpu")) == 2 * 2 * 3 * 3 * 16


def test_impossible_options_are_refused(tmp_path: Path) -> None:
    for words in (["--batches", "0"], ["--steps", "0"]):
        with pytest.raises(InputError, match=words[0]):
            gpu.main(gpu.options().parse_args([*words, "--out", str(tmp_path / "out")]))
