"""This process among the others of a run: its rank, its device, and where they meet.

A program is started alone, by ``torchrun``, by ``mpiexec`` or as a Slurm step, and finds its rank in the environment.
Processes meet at a small key-value store that rank 0 (or torchrun's agent) keeps. Each gives a sign of life there once
a second, so that the others stop with a message when one is lost, instead of waiting forever.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from randomwalk.errors import InputError, RunError
from randomwalk.lookup import optional_library

if TYPE_CHECKING:  # imported late, since YAML mistakes are answered without PyTorch
    import torch

BEAT = 1.0
"""Seconds between two signs of life."""
LOST_AFTER = 120.0
"""Seconds without a sign of life after which a process counts as lost."""
JOIN_WITHIN = 600.0
"""Seconds within which all processes must have started."""
LINGER = 10.0
"""Longest wait in seconds of a process that leaves the message to another one, which may end them all first."""

_met = False
"""Whether this process has met the others."""
_told_elsewhere = False
"""Whether another process has failed first, and gives the message."""


@dataclass(frozen=True)
class Launch:
    """How this process was started.

    Attributes:
        launcher: "alone", "torchrun", "mpiexec" or "slurm".
        rank, size: number of this process, and of how many.
        local_rank, local_size: the same among the processes on this machine.
    """

    launcher: str = "alone"
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


# Launcher, and its variables in the order of the fields of `Launch`.
_VARIABLES = [
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("mpiexec", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    # The number of tasks of the step: SLURM_NTASKS is also set in a batch script, where this is the only process.
    ("slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
]  # fmt: skip


def launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """Find the launcher and the rank in the environment, without importing PyTorch or MPI.

    Raises:
        InputError: the variables contradict each other.
    """
    if "PMI_SIZE" in environ and environ["PMI_SIZE"] == environ.get("SLURM_STEP_NUM_TASKS"):
        # srun --mpi=pmi2 sets both, but there is no mpiexec then.
        environ = {key: value for key, value in environ.items() if not key.startswith("PMI_")}
    for launcher, rank_key, size_key, local_key, local_size_key in _VARIABLES:
        if rank_key not in environ or size_key not in environ:
            continue
        try:
            rank, size = int(environ[rank_key]), int(environ[size_key])
            local_rank, local_size = int(environ.get(local_key, rank)), int(environ.get(local_size_key, size))
        except ValueError as error:
            raise InputError(f"{launcher}: {rank_key} and {size_key} must be integers ({error})") from error
        if not 0 <= rank < size:
            raise InputError(f"{launcher}: {rank_key}={rank} is not below {size_key}={size}")
        if size > 1:
            return Launch(launcher, rank, size, local_rank, local_size)
    return Launch()


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """Choose the device on which this process computes.

    The processes on a machine take turns at its GPUs, unless one is named. A GPU that does not exist is replaced by a
    device that does, with a note from the first process on the machine.

    Args:
        device: "auto" (a GPU if there is one, CUDA's or Apple's), "cpu", "mps", "cuda" or "cuda:N".
        local_rank: number of this process on its machine.

    Raises:
        InputError: the name is unknown.
    """
    import torch

    found = re.fullmatch(r"auto|cpu|mps|cuda(?::(\d+))?", device)
    if found is None:
        raise InputError(f"device: {device!r} is not known; expected auto, cpu, mps, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = -1 if found[1] is None else int(found[1])
    has_mps = torch.backends.mps.is_available()
    if device == "cpu" or (device == "mps" and not has_mps) or not (count or has_mps):
        chosen = torch.device("cpu")
    elif device == "mps" or not count:
        chosen = torch.device("mps")
    else:
        chosen = torch.device("cuda", number if 0 <= number < count else local_rank % count)
    if device not in ("auto", chosen.type, str(chosen)) and not local_rank:
        there = f"{count or 'no'} CUDA GPU{'s' * (count > 1)}" if device != "mps" else "no mps device"
        print(f"note: device: {device} asked for, but PyTorch finds {there}; continuing with {chosen}", file=sys.stderr)
    return chosen


class Context:
    """This process among the others.

    Args:
        start: how it was started.
        device: where it computes.
        store: key-value store at which the processes meet; its own for a process alone.
        lost_after: seconds without a sign of life after which another process counts as lost; `LOST_AFTER` by default.

    Attributes:
        rank, size: number of this process, and of how many.
        work_done: units of work that this process has done, which the main process sees.
    """

    def __init__(self, start: Launch, device: torch.device, store: Any = None, lost_after: float | None = None) -> None:
        from torch.distributed import HashStore

        self.device, self.rank, self.size = device, start.rank, start.size
        self.store = HashStore() if store is None else store
        self.lost_after = LOST_AFTER if lost_after is None else lost_after
        self.work_done = self._meetings = 0
        self._signs: dict[int, tuple[str, float]] = {}
        self._next_check = 0.0
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        if store is not None:
            self._heart.start()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes summaries."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Indices of the ``count`` pieces of work that are this process's."""
        return range(self.rank, count, self.size)

    def _beat(self) -> None:
        """Give a sign of life and report the work done every `BEAT` seconds, until `close`."""
        beats = reported = 0
        with contextlib.suppress(RuntimeError):  # the store is gone, as the main thread will find too
            while True:
                closed, done = self._closed.is_set(), self.work_done
                self.store.add("work", 0 if self.is_main else done - reported)
                self.store.set(f"alive/{self.rank}", "done" if closed else str(beats))
                if closed:
                    return
                beats, reported = beats + 1, done
                self._closed.wait(BEAT)

    def _ask(self, question: str, *arguments: Any) -> Any:
        """Answer of the store; if there is none, the process that keeps it is gone."""
        try:
            return getattr(self.store, question)(*arguments)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"the process at which the others meet (rank 0) does not answer: {reason}") from error

    def _look_up(self, key: str) -> str:
        return self._ask("get", key).decode() if self._ask("check", [key]) else ""

    def work_of_others(self) -> int:
        """Sum of ``work_done`` over all processes but the main one."""
        return self._ask("add", "work", 0)

    def check(self) -> None:
        """Check that no other process has failed or was lost; cheap enough for every batch.

        Raises:
            InputError: one has, for bad input.
            RunError: one has, for another reason.
        """
        if failed := self._look_up("failed"):
            kind, message = json.loads(failed)
            raise (InputError if kind == InputError.__name__ else RunError)(f"another process failed: {message}")
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + BEAT
        # Rank 0 watches all others, and they watch rank 0, which would tell them.
        for rank in range(1, self.size) if self.is_main else [0]:
            sign = self._look_up(f"alive/{rank}")
            if sign != self._signs.setdefault(rank, (sign, now))[0]:
                self._signs[rank] = (sign, now)
            elif now - self._signs[rank][1] > self.lost_after and sign != "done":
                raise RunError(f"process {rank} of {self.size} was lost: no sign of life for {self.lost_after:g} s")

    def barrier(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """Wait until every process is here, calling ``on_wait`` in the meantime.

        Raises:
            RunError: another process failed or was lost.
        """
        self._meetings += 1
        key = f"here/{self._meetings}"
        self._ask("add", key, 1)
        while self._ask("add", key, 0) < self.size:
            self.check()
            on_wait()
            time.sleep(0.05)

    def broadcast(self, value: Any = None) -> Any:
        """Rank 0's ``value``, anything that JSON holds, in every process.

        Raises:
            RunError: another process failed or was lost.
        """
        key = f"value/{self._meetings}"
        if self.is_main:
            self._ask("set", key, json.dumps(value))
        self.barrier()
        return json.loads(self._ask("get", key))

    def fail(self, error: BaseException) -> None:
        """Tell the other processes that this one ends with an error; the first to do so is the one that prints it."""
        global _told_elsewhere
        message = f"process {self.rank} of {self.size}: {error or type(error).__name__}"
        with contextlib.suppress(RuntimeError):
            if self.store.add("failures", 1) == 1:
                self.store.set("failed", json.dumps([type(error).__name__, message]))
            else:
                _told_elsewhere = True

    def close(self) -> None:
        """Leave the other processes; rank 0, which may keep the store, leaves last.

        If one has failed, the others leave last instead: rank 0 may have a folder to remove, and mpiexec ends all
        processes with the first that leaves.
        """
        if self._closed.is_set() or not self._heart.is_alive():
            return
        self._closed.set()
        self._heart.join(5 * BEAT)
        until = time.monotonic() + 5 * BEAT
        with contextlib.suppress(RunError):
            while time.monotonic() < until and self.is_main != bool(self._look_up("failed")):
                awaited = range(1, self.size) if self.is_main else [0]
                if all(self._look_up(f"alive/{rank}") == "done" for rank in awaited):
                    return
                time.sleep(0.05)


def connect(device: str = "auto", start: Launch | None = None) -> Context:
    """Meet the other processes, if there are any.

    Args:
        device: "auto", "cpu", "mps", "cuda" or "cuda:N"; see `choose_device`.
        start: how this process was started; from the environment by default.

    Raises:
        InputError: the name of the device is unknown, or MPI cannot be used.
        RunError: the others are not found.
    """
    global _met
    start = launch() if start is None else start
    chosen = choose_device(device, start.local_rank)
    if start.size == 1:
        return Context(start, chosen)
    import torch
    from torch.distributed import PrefixStore, rendezvous

    if chosen.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // start.local_size))
    if start.launcher == "mpiexec":
        host, port = _address_by_mpi()
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
    elif start.launcher == "slurm":  # the first machine of the step, at a port that follows from the job's number
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "localhost")
        job, step = os.environ.get("SLURM_JOB_ID", "0"), os.environ.get("SLURM_STEP_ID", "0")
        os.environ.setdefault("MASTER_ADDR", first_host(nodes))
        os.environ.setdefault("MASTER_PORT", str(20_000 + (int(job) * 31 + int(step)) % 20_000))
    os.environ.update(RANK=str(start.rank), WORLD_SIZE=str(start.size), LOCAL_RANK=str(start.local_rank))
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_WITHIN)))
    except (RuntimeError, ValueError) as error:
        raise RunError(f"process {start.rank} of {start.size} does not find the others: {error}") from error
    _met = True
    return Context(start, chosen, PrefixStore("randomwalk", store))


def _address_by_mpi() -> tuple[str, int]:
    """Host of rank 0 and a free port there, known to all processes by MPI."""
    MPI = optional_library("mpi4py.MPI", "mpi", "starting with mpiexec (unlike torchrun)")
    names = MPI.COMM_WORLD.allgather(MPI.Get_processor_name())
    address = None
    if MPI.COMM_WORLD.Get_rank() == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            address = ("127.0.0.1" if len(set(names)) == 1 else socket.getfqdn(), free.getsockname()[1])
    host, port = MPI.COMM_WORLD.bcast(address)
    return host, port


def first_host(nodes: str) -> str:
    """First name in a Slurm list of machines: ``gpu[003-005,9],cpu1`` -> ``gpu003``."""
    found = re.match(r"([^,\[]*)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    return "".join(part or "" for part in found.groups()) if found else ""


def init_process_group(context: Context) -> None:
    """Prepare ``torch.distributed`` for collectives among the processes: NCCL on GPUs, gloo elsewhere.

    Raises:
        RunError: the group cannot be formed.
    """
    import torch.distributed as dist

    if context.size == 1 or dist.is_initialized():
        return
    on_gpu = context.device.type == "cuda"
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=dist.PrefixStore("group", context.store),
            rank=context.rank,
            world_size=context.size,
            timeout=timedelta(seconds=600),
            device_id=context.device if on_gpu else None,
        )
    except RuntimeError as error:
        raise RunError(f"process {context.rank} of {context.size} cannot join the group: {error}") from error


def cleanup(context: Context) -> None:
    """Undo `init_process_group` and leave the other processes."""
    if context.size > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()
    context.close()


def leaves_message(start: Launch, stopped: bool) -> bool:
    """Whether another process prints the message of the error with which this one ends.

    Processes that have met know who failed first. Before they meet, all read the same config and files: the first
    process on each machine speaks. A process that leaves the message to another one waits a while to be ended, since
    torchrun and mpiexec end all processes with the first that fails, perhaps before it has spoken.

    Args:
        start: how this process was started.
        stopped: whether a signal ends it, for which there is nothing to wait.
    """
    if not (_told_elsewhere if _met else start.local_rank > 0):
        return False
    if not stopped and (start.launcher == "torchrun" or (_met and start.launcher == "mpiexec")):
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(LINGER)
    return True


def abort(status: int) -> None:
    """End all processes of an mpiexec, which would otherwise wait for this one; does nothing elsewhere."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.Get_size() > 1:
        sys.stderr.flush()
        mpi.COMM_WORLD.Abort(status)
