"""The run folder of a run while it works."""

from __future__ import annotations

from pathlib import Path

import pytest

from randomwalk import distributed
from randomwalk.config.bridge import BridgeConfig
from randomwalk.config.files import load_training
from randomwalk.errors import InputError, RunError
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.session import only_process, session

CONFIG = Path(__file__).parents[2] / "configs" / "bridge" / "moons_to_swiss_roll.yaml"


@pytest.fixture
def config(tmp_path: Path) -> BridgeConfig:
    made = load_training(CONFIG, [f"output={tmp_path / 'runs' / 'bridge'}", "device=cpu"])
    assert isinstance(made, BridgeConfig)
    return made


def test_a_new_folder_is_described_and_says_how_to_resume(
    config: BridgeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with session(config, distributed.connect("cpu"), facts={"classes": ["cat"]}) as folder:
        assert folder.read_json("run.json")["classes"] == ["cat"]
        assert load_training(folder.file("config.yaml")) == config
    assert f"python train.py --resume {config.output}" in capsys.readouterr().out


def test_a_second_session_is_refused_until_the_first_one_ends(config: BridgeConfig) -> None:
    context = distributed.connect("cpu")
    with (
        session(config, context) as first,
        pytest.raises(InputError, match="another process is working"),
        session(config, context, RunFolder.resume(first.path)),
    ):
        pass
    first.file(".log.csv.host-1-0.tmp").touch()  # of a process that was killed
    with session(config, context, RunFolder.resume(first.path)) as second:
        assert not list(second.path.glob(".*.tmp"))


@pytest.mark.parametrize("results", [False, True])
def test_a_new_folder_goes_with_a_failure_unless_it_has_a_result(config: BridgeConfig, results: bool) -> None:
    def fail() -> None:
        with session(config, distributed.connect("cpu")) as folder:
            if results:
                folder.write_text("log.csv", "step\n1\n")
            raise RunError("no")

    with pytest.raises(RunError, match="no"):
        fail()
    assert Path(config.output).parent.exists() == results


def test_a_run_of_one_process_is_not_started_by_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "launch", lambda: distributed.Launch("torchrun", 1, 2))
    with pytest.raises(InputError, match="a bridge is trained in one process"):
        only_process("cpu", "a bridge is trained")
