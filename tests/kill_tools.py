"""Processes that are killed, or whose disk is full, at a chosen change of the file system.

A change is what the operating system is asked for: a file opened for writing, renamed, linked or removed, a folder made
or removed, a wait for the disk. Python reports them all (`sys.addaudithook`), so nothing here depends on how a program
is built inside. Amid a file, the system itself ends the process or refuses the bytes, by a bound on the size of files
at half of what the whole file has, whichever library writes it.

`Server` is a process that has imported everything and forks one process for each run, so that a kill costs tenths of a
second.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
NEEDS_SPACE = ("write", "rename", "link", "mkdir", "sync")
"""Changes that a full disk can refuse."""
TIMES = {"seconds", "images_per_second", "minutes", "started", "resumed"}
"""Columns and keys that depend on when a run was made."""


@dataclass
class Change:
    """A change of the file system: its kind, the file's path, for a renamed one also the new path, and for a written
    one the size that it got."""

    kind: str
    path: str
    to: str = ""
    size: int = 0


@dataclass
class Fault:
    """What happens to a process: nothing, or from change number ``at`` on it is dead or its disk is full.

    Attributes:
        kind: "kill" or "full"; "" for nothing.
        at: number of the change, before which it happens.
        half: of the bytes that the file of this change would get, if it happens amid it; None for before it.
        after: seconds after which the process is killed from outside.
    """

    kind: str = ""
    at: int = -1
    half: int | None = None
    after: float | None = None


@dataclass
class End:
    """End of a process: exit status (negative for a signal), what it printed, its changes, and its seconds of processor
    time and by the clock."""

    status: int
    out: str
    err: str
    changes: list[Change] = field(default_factory=list)
    seconds: float = 0.0
    elapsed: float = 0.0


# --- in the process that is forked -----------------------------------------------------------------------------------


def watch(base: Path, fault: Fault) -> list[Change]:
    """Record the changes below ``base``, and let the fault happen at its own."""
    changes: list[Change] = []
    kinds = {"os.rename": "rename", "os.link": "link", "os.symlink": "link", "os.remove": "remove", "os.rmdir": "rmdir",
             "os.mkdir": "mkdir", "os.truncate": "write"}  # fmt: skip
    within = str(base) + os.sep

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & WRITING:
                return
            kind = "write"
        elif event in kinds:
            kind = kinds[event]
        else:
            return
        path = _resolved(arguments, event)
        if path is None or not path.startswith(within):
            return
        if (kind in ("remove", "rmdir") and not os.path.lexists(path)) or (kind == "mkdir" and os.path.lexists(path)):
            return  # nothing changes
        if kind == "rename":
            _measured(changes, path)
        changed(kind, path, str(Path(os.fsdecode(arguments[1])).absolute()) if kind == "rename" else path)

    def changed(kind: str, path: str, to: str) -> None:
        number = len(changes)
        changes.append(Change(kind, path, to))
        if fault.at < 0 or number < fault.at:
            return
        if number == fault.at and fault.half is not None:
            if fault.kind == "kill":
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.half, resource.RLIM_INFINITY))
        elif fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif number == fault.at or kind in ("write", "mkdir"):  # most file systems rename without more space
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    sync = os.fsync

    def synced(file: int) -> None:
        path = ""
        with contextlib.suppress(OSError):
            path = str(Path(f"/proc/self/fd/{file}").readlink())
        if path.startswith(within):
            changed("sync", path, path)
        sync(file)

    os.fsync = synced
    sys.addaudithook(seen)
    return changes


def _resolved(arguments: tuple[Any, ...], event: str) -> str | None:
    """Absolute path of what is changed: the source of a renaming, the new name of a link; None for a number."""
    path = arguments[1] if event in ("os.link", "os.symlink") else arguments[0]
    if isinstance(path, int):
        return None
    text = os.fsdecode(path)
    folder = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
    if isinstance(folder, int) and folder >= 0 and not Path(text).is_absolute():
        text = str(Path(f"/proc/self/fd/{folder}").readlink() / text)
    return str(Path(text).absolute())


def _measured(changes: list[Change], path: str) -> None:
    """Note the size of a file whose temporary name is about to go."""
    for change in reversed(changes):
        if change.kind == "write" and change.path == path and Path(path).exists():
            change.size = Path(path).stat().st_size
            return


def _child(base: Path, words: list[str], fault: Fault, report: int) -> None:
    status = 70
    try:
        # The bars' own lock is shared by all forks, and stays locked where one is killed amid a line.
        tqdm.set_lock(threading.RLock())
        changes = watch(base, fault)
        from randomwalk.cli.main import main

        status = main(words)
        for change in changes:
            if change.kind == "write" and not change.size and Path(change.path).exists():
                change.size = Path(change.path).stat().st_size
        os.write(report, json.dumps([asdict(change) for change in changes]).encode())
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


# --- the server ------------------------------------------------------------------------------------------------------


def _fork(base: Path, words: list[str], fault: Fault) -> End:
    pipes = [os.pipe() for _ in range(3)]
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        for place, (_, end) in zip((1, 2), pipes, strict=False):
            os.dup2(end, place)
        _child(base, words, fault, pipes[2][1])
    read: list[bytes] = [b""] * 3

    def drain(k: int) -> None:
        with os.fdopen(pipes[k][0], "rb") as file:
            read[k] = file.read()

    for _, end in pipes:
        os.close(end)
    readers = [threading.Thread(target=drain, args=(k,)) for k in range(3)]
    for reader in readers:
        reader.start()
    if fault.after is not None:
        time.sleep(max(0.0, fault.after - (time.perf_counter() - began)))
        os.kill(pid, signal.SIGKILL)  # a zombie at worst, since nobody has waited for it
    _, status, used = os.wait4(pid, 0)
    for reader in readers:
        reader.join()
    changes = [Change(**one) for one in json.loads(read[2] or b"[]")]
    texts = [text.decode(errors="replace") for text in read[:2]]
    seconds, elapsed = used.ru_utime + used.ru_stime, time.perf_counter() - began
    return End(os.waitstatus_to_exitcode(status), *texts, changes, seconds, elapsed)


def _draw_nothing() -> None:
    """Save every figure as the same few pixels, and make samples for one in two steps.

    They take nearly all of the time of such short runs.
    """
    from matplotlib.figure import Figure
    from PIL import Image

    from randomwalk.training import validation

    def savefig(self: Figure, out: Any, **options: Any) -> None:
        Image.new("RGB", (8, 8)).save(out, options.get("format", "png"))

    Figure.savefig = savefig  # type: ignore[method-assign]
    validation.GRID_STEPS = 2


def serve(figures: bool) -> None:
    """Answer requests, one JSON text in each line, until the input ends."""
    import torch

    torch.set_num_threads(1)
    from randomwalk.cli.main import main
    from randomwalk.runs import report

    report.RELOAD = math.inf  # one page on the way, so that each run changes the same files

    if not figures:
        _draw_nothing()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["warm"]:
            with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
                main(asked["words"])
            sys.stdout.flush()
            print("{}", file=answers, flush=True)
            continue
        end = _fork(Path(asked["base"]), asked["words"], Fault(**asked["fault"]))
        print(json.dumps(asdict(end)), file=answers, flush=True)


class Server:
    """Process that forks the runs; ends with the block.

    Args:
        figures: draw the figures.
    """

    def __init__(self, figures: bool = False) -> None:
        self.figures = figures

    def __enter__(self) -> Server:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "figures"[: 7 * self.figures]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
            text=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def run(self, base: Path, words: list[str], fault: Fault | None = None) -> End:
        """Run a command, ``randomwalk WORDS``, and watch the files below ``base``."""
        answer = self._ask(base=str(base), words=words, fault=asdict(fault or Fault()), warm=False)
        answer["changes"] = [Change(**change) for change in answer["changes"]]
        return End(**answer)

    def warm(self, words: list[str]) -> None:
        """Run a command in the server itself, which then has imported and prepared all that the command needs."""
        self._ask(words=words, warm=True)

    def _ask(self, **asked: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


if __name__ == "__main__":
    serve(figures="figures" in sys.argv)
