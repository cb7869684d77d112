"""Who am I of how many: the one module that knows about processes.

A program is started alone, by ``torchrun``, by ``mpiexec`` or as a Slurm step, and finds its rank in the environment.
Processes meet at a small key-value store that rank 0 (or torchrun's agent) keeps. Every process beats there once a
second, so that one that is lost ends the others' waiting with a message instead of never.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from randomwalk.errors import InputError, RunError
from randomwalk.lookup import optional_library

if TYPE_CHECKING:
    import torch

BEAT = 1.0
"""Seconds between two signs of life."""
LOST_AFTER = 120.0
"""Seconds without one after which a process counts as lost."""
JOIN_WITHIN = 600.0
"""Seconds in which all processes must have started."""


@dataclass(frozen=True)
class Launch:
    """How this process was started."""

    launcher: Literal["alone", "torchrun", "mpiexec", "slurm"] = "alone"
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


# Launcher and its variables: rank, size, rank on the machine, processes on the machine.
_VARIABLES: list[tuple[Literal["torchrun", "mpiexec", "slurm"], tuple[str, str, str, str]]] = [
    ("torchrun", ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")),
    ("mpiexec", ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
                 "OMPI_COMM_WORLD_LOCAL_SIZE")),
    ("mpiexec", ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")),
    # The step's own count: SLURM_NTASKS is also set in a batch script, where this is the only process.
    ("slurm", ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")),
]  # fmt: skip


def launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """The launcher and the rank, from the environment; imports nothing.

    Raises:
        InputError: the variables contradict each other.
    """
    if environ.get("PMI_SIZE") == environ.get("SLURM_STEP_NUM_TASKS") and "PMI_SIZE" in environ:
        # srun --mpi=pmi2 sets both; there is no mpiexec then.
        environ = {k: v for k, v in environ.items() if not k.startswith("PMI_")}
    for launcher, (rank_key, size_key, local_key, local_size_key) in _VARIABLES:
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
    """The device that a config's ``device`` means for this process.

    ``auto`` is a GPU where there is one. Processes on a machine take its GPUs in turn, unless one is named. In place of
    a GPU that is not there, what is there is taken, with a note.

    Raises:
        InputError: an unknown name.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if found is None:
        raise InputError(f"device: {device!r} is not known; expected auto, cpu, cuda or cuda:N")
    if device == "cpu" or not count:
        if device.startswith("cuda"):
            _say_once(f"device: {device} asked for, but PyTorch finds no CUDA GPU; going on with cpu", local_rank)
        return torch.device("cpu")
    index = local_rank % count
    if found[1] is not None and int(found[1]) < count:
        index = int(found[1])
    elif found[1] is not None:
        there = "cuda:0 alone" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        _say_once(f"device: {device} asked for, but there is {there}; going on with cuda:{index}", local_rank)
    return torch.device("cuda", index)


def _say_once(note: str, local_rank: int) -> None:
    if not local_rank:
        print(f"note: {note}", file=sys.stderr, flush=True)


class Context:
    """This process among the others.

    Args:
        start: how it was started.
        device: where it computes.
        store: where the processes meet; None for a process alone.
        lost_after: seconds without a sign of life after which another process counts as lost; `LOST_AFTER` by default.

    Attributes:
        rank, size: which process this is, of how many.
        local_rank: which one on this machine.
    """

    def __init__(self, start: Launch, device: torch.device, store: Any = None, lost_after: float | None = None) -> None:
        self.launch, self.device, self.store = start, device, store
        self.lost_after = LOST_AFTER if lost_after is None else lost_after
        self.rank, self.size, self.local_rank = start.rank, start.size, start.local_rank
        self.work_done = 0
        self._sequence = 0
        self._closed = threading.Event()
        self._store_error: str | None = None
        self._last_beats: dict[int, tuple[str, float]] = {}
        self._last_check = self._last_sum = -math.inf
        self._others = 0
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        if store is not None:
            self._heart.start()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and sums up."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of ``count`` pieces of work are this process's."""
        return range(self.rank, count, self.size)

    # --- signs of life -------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        tick = 0
        while not self._closed.is_set():
            tick += 1
            try:
                self.store.set(f"alive/{self.rank}", f"{tick}:{self.work_done}")
            except RuntimeError as error:
                self._store_error = str(error).splitlines()[0]
                return
            self._closed.wait(BEAT)

    def _beat_of(self, rank: int) -> str:
        key = f"alive/{rank}"
        return self.store.get(key).decode() if self.store.check([key]) else ""

    def work_of_others(self) -> int:
        """Sum of what the other processes last reported as ``work_done``."""
        if self.store is None or self._closed.is_set():
            return 0
        now = time.monotonic()
        if now - self._last_sum >= BEAT:
            self._last_sum = now
            with self._contact():
                beats = [self._beat_of(rank) for rank in range(self.size) if rank != self.rank]
            self._others = sum(int(beat.split(":")[1]) for beat in beats if beat)
        return self._others

    def check(self) -> None:
        """Raise RunError if another process has failed or was lost. Cheap enough for every batch."""
        if self.store is None or self._closed.is_set():
            return
        with self._contact():
            if self.store.check(["failed"]):
                raise RunError(f"another process failed: {self.store.get('failed').decode()}")
            now = time.monotonic()
            if now - self._last_check < BEAT:
                return
            self._last_check = now
            # Rank 0 watches all; the others watch rank 0, which would tell them.
            for rank in range(1, self.size) if self.is_main else [0]:
                beat = self._beat_of(rank)
                if beat != self._last_beats.get(rank, (None,))[0]:
                    self._last_beats[rank] = (beat, now)
                elif now - self._last_beats[rank][1] > self.lost_after and not beat.startswith("done"):
                    raise RunError(f"process {rank} of {self.size} was lost: no sign of life for {self.lost_after:g} s")

    @contextlib.contextmanager
    def _contact(self) -> Iterator[None]:
        """A store that does not answer means that the process that keeps it is gone."""
        try:
            if self._store_error is not None:
                raise RuntimeError(self._store_error)
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"the process that others meet at (rank 0) does not answer: {reason}") from error

    def _wait(self, ready: Callable[[], bool], on_wait: Callable[[], None] | None = None) -> None:
        while True:
            with self._contact():
                if ready():
                    return
            self.check()
            if on_wait is not None:
                on_wait()
            time.sleep(0.05)

    # --- meeting -------------------------------------------------------------------------------------------------

    def broadcast(self, value: Any = None) -> Any:
        """Rank 0's ``value`` (anything that JSON holds), in every process.

        Raises:
            RunError: another process failed or was lost.
        """
        if self.store is None:
            return value
        self._sequence += 1
        key = f"value/{self._sequence}"
        if self.is_main:
            with self._contact():
                self.store.set(key, json.dumps(value))
            return value
        self._wait(lambda: self.store.check([key]))
        return json.loads(self.store.get(key))

    def barrier(self, on_wait: Callable[[], None] | None = None) -> None:
        """Wait until every process is here, calling ``on_wait`` in the meantime.

        Raises:
            RunError: another process failed or was lost.
        """
        if self.store is None:
            return
        self._sequence += 1
        here, left = f"here/{self._sequence}", f"left/{self._sequence}"
        with self._contact():
            self.store.add(here, 1)
        self._wait(lambda: self.store.add(here, 0) == self.size, on_wait)
        if not self.is_main:
            with self._contact():
                self.store.add(left, 1)
        else:
            # Rank 0 may keep the store: it goes on last, when nobody needs this barrier any more.
            self._wait(lambda: self.store.add(left, 0) == self.size - 1)

    def fail(self, message: str) -> None:
        """Tell the other processes that this one ends with an error."""
        if self.store is not None and not self._closed.is_set():
            with contextlib.suppress(RuntimeError):
                self.store.set("failed", f"process {self.rank} of {self.size}: {message}")

    def close(self) -> None:
        """End the signs of life, as a process does that has nothing left to do."""
        if self.store is not None and not self._closed.is_set():
            self._closed.set()
            self._heart.join(BEAT)
            with contextlib.suppress(RuntimeError):
                self.store.set(f"alive/{self.rank}", f"done:{self.work_done}")


def connect(device: str = "auto", start: Launch | None = None) -> Context:
    """Meet the other processes, if there are any.

    Args:
        device: auto, cpu, cuda or cuda:N; see `choose_device`.
        start: how this process was started; from the environment by default.

    Raises:
        InputError: an unknown name of a device.
        RunError: the others are not found.
    """
    start = launch() if start is None else start
    where = choose_device(device, start.local_rank)
    if start.size == 1:
        return Context(start, where)
    import torch
    from torch.distributed import rendezvous

    if where.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // start.local_size))
    if start.launcher == "mpiexec":
        _meet_by_mpi()
    elif start.launcher == "slurm":
        _meet_by_slurm()
    os.environ.update(RANK=str(start.rank), WORLD_SIZE=str(start.size), LOCAL_RANK=str(start.local_rank))
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_WITHIN)))
    except (RuntimeError, ValueError) as error:
        raise RunError(f"process {start.rank} of {start.size} does not find the others: {error}") from error
    return Context(start, where, torch.distributed.PrefixStore("randomwalk", store))


def _meet_by_mpi() -> None:
    """Agree by MPI on the address of rank 0's store."""
    MPI = optional_library("mpi4py.MPI", "mpi", "a start by mpiexec (torchrun does without)")
    import socket

    comm = MPI.COMM_WORLD
    names = comm.allgather(MPI.Get_processor_name())
    address = None
    if comm.Get_rank() == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            host = "127.0.0.1" if len(set(names)) == 1 else socket.getfqdn()
            address = (host, free.getsockname()[1])
    host, port = comm.bcast(address)
    os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))


def _meet_by_slurm() -> None:
    """The first machine of the step keeps the store, at a port that follows from the job's number."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "localhost")
    job, step = os.environ.get("SLURM_JOB_ID", "0"), os.environ.get("SLURM_STEP_ID", "0")
    os.environ.setdefault("MASTER_ADDR", first_host(nodes))
    os.environ.setdefault("MASTER_PORT", str(20_000 + (int(job) * 31 + int(step)) % 20_000))


def first_host(nodes: str) -> str:
    """First name of a Slurm list of machines: ``gpu[003-005,9],cpu1`` -> ``gpu003``."""
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    if found is None:
        raise InputError(f"Slurm's list of machines {nodes!r} is not understood; set MASTER_ADDR and MASTER_PORT")
    return "".join(part or "" for part in found.groups())


def init_process_group(context: Context) -> None:
    """Make ``torch.distributed`` ready for collectives among the processes: NCCL on GPUs, gloo otherwise.

    Raises:
        RunError: the group cannot be formed.
    """
    import torch.distributed as dist

    if context.store is None or dist.is_initialized():
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


def abort(status: int) -> None:
    """End all processes of an mpiexec, which would otherwise wait for this one; does nothing elsewhere."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.Get_size() > 1:
        sys.stderr.flush()
        mpi.COMM_WORLD.Abort(status)
