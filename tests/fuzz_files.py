"""Damaged and hostile files of every kind that the program reads, given to its commands.

    python tests/fuzz_files.py --examples 2000 [--seed N] [--jobs 2] [--kind weights]

Every file is a function of the seed and its number. A command either takes it (then its values are finite and of the
right shape), skips it with a line that names it, or refuses it by one `InputError` that names it. Whatever else
happens is a failure, printed with the command that repeats it: another exception, more than `SECONDS` of processor
time, more than `GIB` of memory, a message that is longer than a screen or names no file, code of the file executed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from file_damage import KINDS, Material, Trial, nothing_drawn  # noqa: E402

from randomwalk.errors import InputError, RunError  # noqa: E402

SECONDS = 5.0
"""Processor time that a case may take."""
WALL = 30.0
"""Time after which a case counts as hanging, though it uses no processor: it waits for something."""
GIB = 2.0
LONGEST = 6000
"""Characters of a message that still fits a screen."""
GOOD = ("accepted", "skipped", "refused")


@dataclass(frozen=True)
class Outcome:
    """What a command did with a file.

    Attributes:
        number: of the case.
        kind: of the file.
        result: one of `GOOD`, or the name of the failure.
        what: the damage, and the message or traceback.
    """

    number: int
    kind: str
    result: str
    what: str


def kind_of(number: int, kinds: Sequence[str]) -> str:
    """Kind of a case: in turn, each as often as its share says."""
    turns = [kind for kind in kinds for _ in range(KINDS[kind].share)]
    return turns[number % len(turns)]


def run_case(material: Material, seed: int, number: int, kinds: Sequence[str], keep: Path | None = None) -> Outcome:
    """Make the file of a case, and give it to its command, in this process."""
    kind = kind_of(number, kinds)
    draws = np.random.default_rng((seed, number))
    with tempfile.TemporaryDirectory(dir=material.folder) as name:
        folder = Path(name) if keep is None else keep
        try:
            trial = KINDS[kind].make(draws, material, folder)
        except Exception:
            return Outcome(number, kind, "not made", traceback.format_exc())
        out, before = io.StringIO(), _peak()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), nothing_drawn():
                status = trial.run()
            result, text = ("accepted" if status == 0 else "skipped"), out.getvalue()
            if status:
                result, text = _judged(trial, "\n".join(line for line in text.splitlines() if "error" in line))
        except InputError as error:
            result, text = _judged(trial, str(error), refused=True)
        except BaseException as error:
            result = {RunError: "failed", MemoryError: "memory"}.get(type(error), "traceback")
            text = traceback.format_exc()
        if trial.canary.exists():
            result = "executed"
        elif _peak() - max(before, material.memory) > GIB or "allocate memory" in text:
            result = "memory"
        if keep is None:
            _writable(folder)
        return Outcome(number, kind, result, f"{trial.what}\n{text}")


def _judged(trial: Trial, text: str, refused: bool = False) -> tuple[str, str]:
    if not any(name in text for name in trial.names):
        return "unnamed", text
    if len(text) > LONGEST:
        return "too long", text[:LONGEST]
    if "Traceback" in text:
        return "traceback", text
    return ("refused" if refused else "skipped"), text


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _writable(folder: Path) -> None:
    """Let the temporary folder be removed, whatever the case made of its permissions."""
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if not path.is_symlink():
                path.chmod(0o700)


# --- processes -------------------------------------------------------------------------------------------------------


def _worker(pipe: Connection, material: Material, seed: int, numbers: Sequence[int], kinds: Sequence[str]) -> None:
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as nowhere:  # what C libraries write
        os.dup2(nowhere.fileno(), 2)
    limit = int((GIB + 0.5) * 2**30) + _data_segment()
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for number in numbers:
        pipe.send(number)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # ends the process, also within a library
        outcome = run_case(material, seed, number, kinds)
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send(outcome)
    pipe.send(None)


def _data_segment() -> int:
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))


def outcomes(
    material: Material, seed: int, numbers: Sequence[int], kinds: Sequence[str], jobs: int = 1
) -> Iterator[Outcome]:
    """Run cases in child processes; one that hangs or dies is an outcome too, and the rest goes on in another one."""
    fork = multiprocessing.get_context("fork")
    left = [list(numbers[k::jobs]) for k in range(jobs)]
    running: dict[Connection, tuple[multiprocessing.process.BaseProcess, int, float, int]] = {}

    def start(k: int) -> None:
        mine, theirs = fork.Pipe()
        process = fork.Process(target=_worker, args=(theirs, material, seed, left[k], kinds), daemon=True)
        process.start()
        theirs.close()
        running[mine] = (process, k, time.monotonic(), -1)

    for k in range(jobs):
        if left[k]:
            start(k)
    while running:
        ready = wait(list(running), timeout=1)
        for pipe, (process, k, since, number) in list(running.items()):
            message, dead = None, False
            if pipe in ready:
                try:
                    message = pipe.recv()
                    if message is None:
                        del running[pipe]
                        process.join()
                        continue
                except (EOFError, OSError):
                    dead = True
            elif time.monotonic() - since > WALL:
                process.kill()
                dead = True
            if dead:
                process.join()
                del running[pipe]
                how = "hang" if process.exitcode in (-signal.SIGPROF, -signal.SIGKILL) else "killed"
                yield Outcome(number, kind_of(number, kinds), how, f"the process ended with {process.exitcode}")
                left[k] = left[k][left[k].index(number) + 1 :] if number in left[k] else []
                if left[k]:
                    start(k)
            elif isinstance(message, Outcome):
                yield message
                running[pipe] = (process, k, time.monotonic(), message.number)
            elif message is not None:
                running[pipe] = (process, k, time.monotonic(), message)


def main() -> int:
    """Run the cases, and print their counts and the failures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one case, in this process; its files are kept")
    parser.add_argument("--show", action="store_true", help="print what happened in every case")
    args = parser.parse_args()
    torch.set_num_threads(1)
    home = Path(tempfile.mkdtemp(prefix="fuzz_files_"))
    try:
        started = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), nothing_drawn():
            material = Material(home)
        material.memory = _peak()
        print(f"material: {time.monotonic() - started:.1f} s", flush=True)
        if args.only is not None:
            folder = Path(tempfile.mkdtemp(prefix=f"case_{args.only}_"))
            print(run_case(material, args.seed, args.only, args.kind, folder))
            print(f"files: {folder}")
            return 0
        counts: dict[str, Counter[str]] = {kind: Counter() for kind in args.kind}
        repeat = f"python tests/fuzz_files.py --seed {args.seed}" + (
            f" --kind {' '.join(args.kind)}" if len(args.kind) < len(KINDS) else ""
        )
        failures = 0
        for outcome in outcomes(material, args.seed, range(args.examples), args.kind, args.jobs):
            counts[outcome.kind][outcome.result] += 1
            if outcome.result not in GOOD or args.show:
                failures += outcome.result not in GOOD
                print(f"\n{outcome.result}: {outcome.kind}: {outcome.what[:4000]}", flush=True)
                print(f"  repeat: {repeat} --only {outcome.number}", flush=True)
        columns = [*GOOD, *sorted({name for found in counts.values() for name in found} - set(GOOD))]
        print(f"\n{'kind':14}" + "".join(f"{name:>11}" for name in columns))
        for kind, found in counts.items():
            print(f"{kind:14}" + "".join(f"{found[name]:11}" for name in columns))
        total = sum(counts.values(), Counter())
        print(f"{'all':14}" + "".join(f"{total[name]:11}" for name in columns))
        print(f"{args.examples} files in {time.monotonic() - started:.0f} s, {failures} failures")
        return 1 if failures else 0
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
