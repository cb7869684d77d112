"""Several processes: finding each other, sharing a run, and losing one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sampling_tools import ROOT, files_of, write_config

from randomwalk import distributed
from randomwalk.config.files import load_sample_config
from randomwalk.distributed import Context, Launch, choose_device, first_host, launch
from randomwalk.errors import InputError, RunError
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling import run as sampling

SCRIPTS = Path(sys.executable).parent
LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"],
    "mpiexec": [str(SCRIPTS / "mpiexec"), "-n", "2", sys.executable],
    "slurm": [sys.executable],
}
NO_MPIEXEC = shutil.which(LAUNCHERS["mpiexec"][0]) is None
TIMEOUT = 200


def start(launcher: str, *words: str | Path, environ: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start two processes of a script (for slurm one, with its variables in ``environ``), each with one thread."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "PMI", "OMPI"))}
    clean |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(environ or {})}
    command = [*LAUNCHERS[launcher], *map(str, words)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def launchers() -> list[object]:
    missing = pytest.mark.skipif(NO_MPIEXEC, reason="no mpiexec: pip install mpich")
    return ["torchrun", pytest.param("mpiexec", marks=missing)]


# --- who am I ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Launch()),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, Launch("torchrun", 1, 4, 1, 2)),
        ({"PMI_RANK": "2", "PMI_SIZE": "3"}, Launch("mpiexec", 2, 3, 2, 3)),
        ({"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"},
         Launch("mpiexec", 2, 3, 0, 1)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
          "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, Launch("mpiexec", 1, 2, 1, 2)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2"},
         Launch("slurm", 3, 4, 1, 2)),
        # A batch script of a job of 4 tasks is one process.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, Launch()),
        # srun --mpi=pmi2 also sets PMI_RANK, but there is no mpiexec to ask.
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1", "PMI_RANK": "1", "PMI_SIZE": "2"},
         Launch("slurm", 1, 2, 1, 2)),
        # mpiexec inside an allocation of Slurm.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "PMI_RANK": "5", "PMI_SIZE": "8"}, Launch("mpiexec", 5, 8, 5, 8)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Launch()),
    ],
)  # fmt: skip
def test_the_launcher_is_found_in_the_environment(environ: dict[str, str], expected: Launch) -> None:
    assert launch(environ) == expected


@pytest.mark.parametrize("environ", [{"RANK": "a", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}])
def test_a_contradictory_environment_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(InputError, match="torchrun"):
        launch(environ)


def test_nothing_heavy_is_imported_to_find_out() -> None:
    code = "import sys, randomwalk.distributed as d; d.launch(); assert not {'torch', 'mpi4py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_first_host_of_slurms_list() -> None:
    for text, host in (
        ("gpu[003-005,9],cpu1", "gpu003"), ("node7", "node7"), ("a,b", "a"), ("n[7,9]", "n7"), ("r[1-2]-ib", "r1-ib")
    ):  # fmt: skip
        assert first_host(text) == host


def test_devices(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(choose_device("auto", rank)) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert str(choose_device("cuda:1", 0)) == "cuda:1"
    assert str(choose_device("cpu", 1)) == "cpu"
    with pytest.raises(InputError, match="device: 'gpu' is not known"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(choose_device("auto")) == "cpu"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("count", "device", "found", "words"),
    [(0, "cuda", "cpu", "no CUDA GPU"), (0, "cuda:1", "cpu", "no CUDA GPU"), (1, "cuda:1", "cuda:0", "1 CUDA GPU;"),
     (2, "cuda:7", "cuda:0", "2 CUDA GPUs;")],
)  # fmt: skip
def test_a_gpu_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: int, device: str, found: str, words: str
) -> None:
    """An existing device replaces it, and one process on the machine says so."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert str(choose_device(device)) == found
    note = capsys.readouterr().err
    assert note.startswith(f"note: device: {device} asked for") and words in note and f"continuing with {found}" in note
    choose_device(device, local_rank=1)
    assert capsys.readouterr().err == ""


# --- meeting, with threads for processes ---------------------------------------------------------------------


def together(size: int, work: Callable[[Context], object], lost_after: float = 30) -> list[object]:
    """Results or errors of ``work`` in ``size`` processes, which are threads here."""
    store = torch.distributed.HashStore()
    contexts = [
        Context(Launch("torchrun", rank, size, rank, size), torch.device("cpu"), store, lost_after)
        for rank in range(size)
    ]
    results: list[object] = [None] * size

    def run(context: Context) -> None:
        try:
            results[context.rank] = work(context)
        except RunError as error:
            results[context.rank] = error
            context.fail(error)
        finally:
            context.close()

    threads = [threading.Thread(target=run, args=(context,), daemon=True) for context in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a process waits forever"
    return results


def test_everyone_gets_what_rank_0_says() -> None:
    def work(context: Context) -> object:
        context.barrier()
        return [context.broadcast({"folder": f"run{context.rank}"}), context.broadcast([context.rank])]

    assert together(3, work) == [[{"folder": "run0"}, [0]]] * 3


def test_a_barrier_waits_for_the_last() -> None:
    arrived: list[int] = []

    def work(context: Context) -> object:
        time.sleep(0.2 * context.rank)
        arrived.append(context.rank)
        context.barrier()
        seen = len(arrived)
        context.barrier()
        return seen

    assert together(3, work) == [3, 3, 3]


def test_the_work_is_shared_without_overlap() -> None:
    shares = together(3, lambda context: list(context.share(8)))
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert list(Context(Launch(), torch.device("cpu")).share(3)) == [0, 1, 2]


def test_rank_0_sees_the_work_of_the_others() -> None:
    def work(context: Context) -> object:
        context.work_done = 10 * (context.rank + 1)
        if not context.is_main:
            context.close()
        context.barrier()
        return context.work_of_others() if context.is_main else None

    assert together(3, work)[0] == 50


def test_one_that_fails_ends_the_others_waiting() -> None:
    def work(context: Context) -> object:
        if context.rank == 1:
            raise RunError("the disk is full")
        context.barrier()
        return None

    for result in together(3, work)[::2]:
        assert isinstance(result, RunError) and "process 1 of 3: the disk is full" in str(result)


def test_one_that_falls_silent_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BEAT", 0.05)

    def work(context: Context) -> object:
        if context.rank == 1:
            context.store = torch.distributed.PrefixStore("elsewhere", context.store)  # no sign of life arrives
            return None
        context.barrier()
        return None

    lost = together(2, work, lost_after=0.5)[0]
    assert isinstance(lost, RunError) and "process 1 of 2 was lost" in str(lost)


# --- processes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Config of five images in three batches, and the files of its run by one process."""
    sampler = {"name": "ddpm_small", "schedule": {"name": "geometric", "num_steps": 6}}
    unconditional = {"data": None, "measurement": None, "num_images": 5, "sampler": sampler}
    path = write_config(tmp_path_factory.mktemp("alone"), count=1, animation_frames=2, **unconditional)
    torch.set_num_threads(1)
    assert sampling.run(load_sample_config(path)) == 0
    return path, files_of(path.parent / "run")


@pytest.mark.parametrize("launcher", launchers())
def test_two_processes_leave_the_files_of_one(
    launcher: str, alone: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    path, expected = alone
    process = start(launcher, "sample.py", "--config", path, "--set", f"output={tmp_path / 'run'}")
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, err
    assert out.count("run folder") == 1 and "18/18 steps" in err
    assert '"world_size": 2' in (tmp_path / "run" / "run.json").read_text()
    found = files_of(tmp_path / "run")
    found["config.yaml"] = expected["config.yaml"]
    assert found == expected


@pytest.mark.parametrize("met", [False, True])
@pytest.mark.parametrize("launcher", launchers())
def test_bad_input_is_one_message_of_one_process(
    launcher: str, met: bool, alone: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    """Before the processes meet, and after; torchrun adds its own report, and makes 1 of every status."""
    path, _ = alone
    change = ("sampler.schedule.sigma_max=1e6", "is outside the range") if met else ("seeed=1", "unknown key")
    process = start(launcher, "sample.py", "--config", path, "--set", f"output={tmp_path / 'run'}", change[0])
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == (1 if launcher == "torchrun" else 2)
    said = [line for line in err.splitlines() if "error: " in line and "ChildFailedError" not in line]
    assert len(said) == 1 and said[0].count(change[1]) == 1 and "another process" not in err
    assert not (tmp_path / "run").exists() and "options.py" not in err


DYING = """
import os, signal, sys
import sample
from randomwalk import distributed
from randomwalk.cli import options as cli
from randomwalk.sampling.results import Results
from randomwalk.sampling.image_results import ImageResults

rank = int(sys.argv.pop(1))
distributed.LOST_AFTER = 10
if distributed.launch().rank == rank:
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    ImageResults.write_batch = die
sys.exit(cli.run(lambda: sample.main(sample.parser().parse_args())))
"""


@pytest.mark.parametrize(("launcher", "rank"), [("torchrun", 1), ("mpiexec", 0)])
def test_a_process_that_dies_ends_the_run_which_can_be_resumed(
    launcher: str, rank: int, alone: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    if launcher == "mpiexec" and NO_MPIEXEC:
        pytest.skip("no mpiexec: pip install mpich")
    path, expected = alone
    (tmp_path / "dying.py").write_text(DYING)
    run = tmp_path / "run"
    process = start(launcher, tmp_path / "dying.py", str(rank), "--config", path, "--set", f"output={run}")
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode != 0 and f"--resume {run}" in out + err
    config = load_sample_config(run / "config.yaml")
    assert sampling.run(config, RunFolder.resume(run)) == 0
    found = files_of(run)
    found["config.yaml"] = expected["config.yaml"]
    assert found == expected


def test_a_step_of_slurm_notices_a_process_that_died(alone: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    """By default, srun lets the others wait forever, so they must notice it themselves."""
    path, _ = alone
    (tmp_path / "dying.py").write_text(DYING)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": str(port)}
    words = (tmp_path / "dying.py", "1", "--config", path, "--set", f"output={tmp_path / 'run'}")
    processes = [
        start("slurm", *words, environ={**step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
        for rank in range(2)
    ]
    _, err = processes[0].communicate(timeout=TIMEOUT)
    processes[1].communicate(timeout=TIMEOUT)
    assert (processes[0].returncode, processes[1].returncode) == (1, -signal.SIGKILL)
    assert "error: process 1 of 2 was lost" in err and f"--resume {tmp_path / 'run'}" in err
    assert len(list((tmp_path / "run" / "state").iterdir())) == 2  # rank 0's batches
