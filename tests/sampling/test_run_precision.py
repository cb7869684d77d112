"""The precision of a run: chosen by the device and the sampler, told, and kept when the run is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_tools import arrays_of, make_config

from randomwalk.config.files import load_sample_config
from randomwalk.denoisers import precision
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import loading
from randomwalk.sampling import run as sampling
from randomwalk.sampling.foresight import notes_of
from randomwalk.sampling.loading import load_task

SCHEDULE = {"name": "geometric", "num_steps": 3, "sigma_max": 20.0}


@pytest.mark.parametrize(
    ("sampler", "found", "why"),
    [
        ({"name": "ddrm"}, "bf16", "this processor has units for bf16"),
        ({"name": "dps"}, "fp32", "the sampler differentiates the network"),
        ({"name": "mmps"}, "fp32", "the sampler differentiates the network"),
    ],
)
def test_samplers_that_differentiate_the_network_keep_fp32(
    sampler: dict[str, Any], found: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    task = load_task(make_config(tmp_path, 1, sampler={**sampler, "schedule": SCHEDULE}), torch.device("cpu"))
    assert notes_of(task)[-1] == f"precision: {found}, since {why}"
    assert task.denoiser.autocast_dtype == (torch.bfloat16 if found == "bf16" else None)


def test_a_solver_with_a_tolerance_keeps_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    changes = {"data": None, "measurement": None, "num_images": 1, "sampler": {"name": "ode", "schedule": SCHEDULE}}
    task = load_task(make_config(tmp_path, 1, **changes), torch.device("cpu"))
    assert task.precision == ("fp32", "the solver holds a tolerance below the rounding of bf16")


def test_a_precision_that_the_config_states_needs_no_note(tmp_path: Path) -> None:
    task = load_task(make_config(tmp_path, 1, precision="bf16"), torch.device("cpu"))
    assert task.precision == ("bf16", "") and not any(line.startswith("precision") for line in notes_of(task))


@pytest.mark.parametrize("began_in_bf16", [True, False])
def test_a_resumed_run_goes_on_in_the_precision_in_which_it_began(
    began_in_bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: began_in_bf16)
    config = make_config(tmp_path, 3, batch_size=1)
    assert sampling.run(config) == 0
    folder = Path(config.output)
    assert RunFolder(folder).read_json("run.json")["inputs"]["precision"] == ("bf16" if began_in_bf16 else "fp32")
    whole = arrays_of(folder)
    (folder / "state" / "batch_00001.json").unlink()
    monkeypatch.setattr(precision, "has_bf16", lambda device: not began_in_bf16)  # another machine
    assert sampling.run(load_sample_config(folder / "config.yaml"), RunFolder.resume(folder)) == 0
    for name, values in arrays_of(folder).items():
        assert (values == whole[name]).all(), name


@pytest.mark.parametrize(
    ("compile", "pays", "compiled"), [("auto", True, True), ("auto", False, False), (False, True, False)]
)
def test_auto_compiles_where_it_pays(
    compile: str | bool, pays: bool, compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(loading, "pays_to_compile", lambda device, evaluations: asked.append(evaluations) or pays)
    monkeypatch.setattr(torch, "compile", lambda network: torch.nn.Sequential(network))
    task = load_task(make_config(tmp_path, 5, compile=compile), torch.device("cpu"))
    assert isinstance(task.denoiser.network, torch.nn.Sequential) == compiled
    assert asked == ([3 * 6] if compile == "auto" else [])  # batches times steps
