"""Sessions of runs, in which a folder is locked before anything else, described, and let go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from randomwalk import distributed
from randomwalk.config.bridge import BridgeConfig
from randomwalk.config.files import load_training
from randomwalk.errors import InputError, RunError, Terminated
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.session import only_process, session

CONFIG = Path(__file__).parents[2] / "configs" / "bridge" / "moons_to_swiss_roll.yaml"
CPU = distributed.connect("cpu")
PATH = os.environ | {"PYTHONPATH": str(CONFIG.parents[2]), "OMP_NUM_THREADS": "1"}


def config_of(output: Path, *changes: str) -> BridgeConfig:
    made = load_training(CONFIG, [f"output={output}", "device=cpu", *changes])
    assert isinstance(made, BridgeConfig)
    return made


@pytest.fixture
def config(tmp_path: Path) -> BridgeConfig:
    return config_of(tmp_path / "runs" / "bridge")


def begun(config: BridgeConfig, earlier: RunFolder | None = None) -> RunFolder:
    with session("train", config.output, CPU, earlier) as held:
        held.begin(config)
    return held.folder


def test_a_new_folder_is_described_and_says_how_to_resume(
    config: BridgeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with session("train", config.output, CPU) as held:
        assert list(held.folder.path.iterdir()) == []  # locked before anything is written
        held.begin(config, {"classes": ["cat"]})
        assert held.folder.read_json("run.json")["classes"] == ["cat"]
        assert load_training(held.folder.file("config.yaml")) == config
    assert f"python train.py --resume {config.output}" in capsys.readouterr().out


def test_a_second_session_is_refused_until_the_first_one_ends(config: BridgeConfig) -> None:
    with session("train", config.output, CPU) as first:
        for earlier in (RunFolder(first.folder.path), None):  # resumed, and started anew
            with (
                pytest.raises(InputError, match="another process is working"),
                session("train", config.output, CPU, earlier),
            ):
                pass
        first.begin(config)
    first.folder.file(".log.csv.host-1-0.tmp").touch()  # of a process that was killed
    with session("train", config.output, CPU, RunFolder.resume(first.folder.path)) as second:
        assert not list(second.folder.path.glob(".*.tmp"))


@pytest.mark.parametrize("results", [False, True])
@pytest.mark.parametrize("error", [RunError("no"), OSError(5, "no")])
def test_a_new_folder_goes_with_a_failure_unless_it_has_a_result(
    config: BridgeConfig, results: bool, error: Exception
) -> None:
    hint = f"no\nthe work so far is kept in {config.output}; resume with: python train.py --resume {config.output}"
    with pytest.raises(RunError) as raised, session("train", config.output, CPU) as held:
        held.begin(config)
        if results:
            held.folder.write_text("log.csv", "step\n1\n")
        raise error
    assert str(raised.value).endswith(hint if results else "no")
    assert Path(config.output).parent.exists() == results


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Terminated])
def test_an_interrupted_run_stays_once_it_has_begun(config: BridgeConfig, stop: type[BaseException]) -> None:
    with pytest.raises(stop), session("train", config.output, CPU):
        raise stop
    assert not Path(config.output).parent.exists()
    with pytest.raises(stop, match=r"^all of it; the work so far is kept .* --resume"), session(
        "train", config.output, CPU
    ) as held:  # fmt: skip
        held.begin(config)
        raise stop("all of it")
    RunFolder.resume(config.output)


def test_a_run_of_one_process_is_not_started_by_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "launch", lambda: distributed.Launch("torchrun", 1, 2))
    with pytest.raises(InputError, match="training a bridge takes one process"):
        only_process("cpu", "training a bridge")


# --- two at once -----------------------------------------------------------------------------------------------------

STARTER = """
import sys, time
from pathlib import Path
from randomwalk.cli.options import run
from randomwalk.distributed import connect
from randomwalk.errors import RunError
from randomwalk.runs.session import session

output, go = Path(sys.argv[1]), Path(sys.argv[2])

def main():
    with session("train", str(output), connect("cpu")) as held:
        time.sleep(0.2)
        if turn % 2:
            raise RunError("failed at once")
        held.folder.write_text("config.yaml", "seed: 0")
    return 0

for turn in range(6):
    (go / f"ready_{turn}_{sys.argv[3]}").touch()
    while len(list(go.glob(f"ready_{turn}_*"))) < 2:
        time.sleep(0.002)
    output = Path(sys.argv[1]).with_name(f"run_{turn}")
    print(run(main), flush=True)
"""


def test_of_two_that_start_at_once_one_is_refused(tmp_path: Path) -> None:
    """Six times over, in folders that no one has made; every second time the one that has it fails and removes it."""
    (tmp_path / "starter.py").write_text(STARTER)
    (tmp_path / "go").mkdir()
    words = [sys.executable, str(tmp_path / "starter.py"), str(tmp_path / "deep" / "run"), str(tmp_path / "go")]
    processes = [
        subprocess.Popen([*words, str(k)], cwd=CONFIG.parents[2], env=PATH, text=True, stdout=-1, stderr=-1)
        for k in range(2)
    ]
    said = [process.communicate(timeout=240) for process in processes]
    statuses = [list(map(int, out.split())) for out, _ in said]
    assert [sorted(pair) for pair in zip(*statuses, strict=True)] == [[0, 2], [1, 2]] * 3
    lines = [line for _, err in said for line in err.splitlines() if line.startswith("error: ")]
    assert sum("another process is working in this folder; let it end first" in line for line in lines) == 6
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == [f"run_{turn}" for turn in range(0, 6, 2)]


def test_an_empty_folder_and_one_with_leftovers_are_free_and_one_with_a_run_is_not(config: BridgeConfig) -> None:
    path = Path(config.output)
    path.mkdir(parents=True)
    (path / ".config.yaml.host-1-0.tmp").touch()  # killed before anything was there
    assert begun(config).path == path
    assert not list(path.glob(".*"))
    beside = begun(config).path
    assert beside.parent == path.parent and beside.name.startswith("bridge_2")


def test_a_folder_that_vanishes_before_it_is_locked_is_made_again(
    config: BridgeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, vanished = RunFolder.lock, []

    def late(self: RunFolder) -> None:
        if not vanished:
            vanished.append(self.path)
            self.path.rmdir()
        lock(self)

    monkeypatch.setattr(RunFolder, "lock", late)
    assert begun(config).path == vanished[0]


# --- changes ---------------------------------------------------------------------------------------------------------


def test_changes_on_resumption_are_recorded_and_others_refused(config: BridgeConfig) -> None:
    folder = begun(config)
    changed = config_of(folder.path, "batch_size=64", "optimizer.learning_rate=0.5", "output=elsewhere")
    begun(changed, RunFolder.resume(folder.path))
    (entry,) = folder.read_json("run.json")["resumed"]
    rate = config.optimizer.learning_rate
    assert entry["changed"] == {"batch_size": [config.batch_size, 64], "optimizer.learning_rate": [rate, 0.5]}
    kept = load_training(folder.file("config.yaml"))
    assert isinstance(kept, BridgeConfig)
    assert (kept.batch_size, kept.optimizer.learning_rate, kept.output) == (64, 0.5, config.output)
    begun(kept, RunFolder.resume(folder.path))  # the next one keeps them
    assert "changed" not in folder.read_json("run.json")["resumed"][1]
    assert folder.first_value("batch_size", 64) == config.batch_size
    with pytest.raises(InputError, match=r"differs .* in seed \(0 in its config\.yaml\); .*May change: .*batch_size"):
        begun(config_of(folder.path, "seed=1"), RunFolder.resume(folder.path))


def test_a_run_killed_before_it_was_described_is_described_when_resumed(config: BridgeConfig) -> None:
    folder = begun(config)
    folder.file("run.json").unlink()
    begun(config, RunFolder.resume(folder.path))
    assert folder.read_json("run.json")["device"] == "cpu"
