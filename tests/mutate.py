"""Mutation tests: apply each edit of `mutations.EDITS` to a copy of the project, and see whether the tests notice.

    python tests/mutate.py                     all edits
    python tests/mutate.py --only heun         those whose file or text contains "heun"
    python tests/mutate.py --jobs 2 --limit 600

The tests of an edit are those that import the edited module: first the test that caught it the last time (recorded in
``tests/mutations.json``), then the files that import it directly and name it, then the others, each only as long as
nothing has failed. The copies are in a temporary folder: the working tree is never changed.

Prints each edit with the test that caught it, and exits with 1 if one survives. Edits with a note are not run.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from mutations import EDITS, Edit

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "tests" / "mutations.json"
TEST_LIMIT = 60
"""Seconds of CPU time after which a single test counts as failed: an edit may make an endless loop."""
PACKAGES = ("randomwalk", "guided_diffusion", "score_sde")
FIRST = 2
"""Files that are run, and so imported, before the others."""
HEAVY = ("torch", "scipy.stats", "scipy.special", "pydantic", "matplotlib.figure")
"""Libraries that are imported once, before the processes that run tests are forked."""


# --- which tests import a module -------------------------------------------------------------------------------------


@cache
def modules() -> dict[str, str]:
    """Files of the library, the helpers of tests and the benchmarks by the names of their imports."""
    found = {}
    for folder in PACKAGES:
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = str(file.relative_to(ROOT))
    for folder, files in (("tests", "*_*.py"), ("benchmarks", "**/*.py")):
        for file in (ROOT / folder).glob(files):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            found.setdefault(".".join(parts), str(file.relative_to(ROOT)))
    return found


@cache
def imports_of(file: str) -> frozenset[str]:
    """Files that a file imports, at any place in it; a name that a package passes on counts as an import of both."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(modules()[name] for name in found if name in modules())


@cache
def distances(test: str) -> dict[str, int]:
    """Number of imports from a test to every file that it reaches; helpers of tests count as the test."""
    found = {test: 0}
    todo = [test]
    while todo:
        file = todo.pop(0)
        for other in imports_of(file):
            step = 0 if other.startswith("tests/") else 1
            if other not in found or found[file] + step < found[other]:
                found[other] = found[file] + step
                todo.append(other)
    return found


def tests_of(file: str) -> list[str]:
    """Test files that import a file: direct importers first, and among equals those that say most of its names."""
    tree = ast.parse((ROOT / file).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)} | {Path(file).stem}
    names |= {setting for name in names for setting in YAML_NAMES.get(name, ())}
    reached = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        test = str(path.relative_to(ROOT))
        if (distance := distances(test).get(file)) is not None:
            said = names & set(re.findall(r"\w+", path.read_text()))
            reached.append((distance > 2, not said, -len(said) / len(names), distance, path.stat().st_size, test))
    return [test for *_, test in sorted(reached)]


def _yaml_names() -> dict[str, list[str]]:
    """Names in YAML of the classes and functions in a table such as ``SAMPLERS``, by the names in Python."""
    found: dict[str, list[str]] = {}
    for file in (ROOT / "randomwalk").rglob("*.py"):
        for key, value in re.findall(r'"(\w+)": (\w+),', file.read_text()):
            found.setdefault(value, []).append(key)
    return found


YAML_NAMES = _yaml_names()


# --- running tests on a copy -----------------------------------------------------------------------------------------


@dataclass(eq=False)
class Watcher:
    """Plugin of pytest that notes the first failure, and stops when the time is over, which is that of the CPU."""

    seconds: float
    failed: str | None = None
    broken: bool = False
    """Whether a file of tests could not be imported."""
    over: bool = False
    count: int = field(default=0)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        signal.setitimer(signal.ITIMER_PROF, TEST_LIMIT)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.count += report.when == "call"
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and self.failed is None:
            self.failed, self.broken = report.nodeid, True

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if time.process_time() > self.seconds:
            self.over = True
            pytest.exit("the time is over")


def run_tests(tree: Path, tests: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run tests in a copy of the project, in a process of its own, up to the first failure."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.chdir(tree)
        sys.path[0] = str(tree)
        sys.modules.pop("mutations", None)
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)

        def late(*_: object) -> None:
            raise TimeoutError(f"the test takes more than {TEST_LIMIT} seconds")

        signal.signal(signal.SIGPROF, late)
        watcher = Watcher(seconds)
        code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests], plugins=[watcher])
        answer = {**vars(watcher), "seconds": time.process_time(), "code": int(code)}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = json.loads(pipe.read() or "{}")
    os.waitpid(child, 0)
    return answer or {"failed": tests[0], "broken": True, "over": False, "count": 0, "seconds": 0.0, "code": 3}


def copy_of_project(into: Path) -> Path:
    """Copy the files of the project, and compile those that are Python."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, into / name)
    compileall.compile_dir(into, quiet=2)
    return into


# --- the edits -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Fate of an edit: the test that caught it, or None; why it is no result, or "" if it is one."""

    edit: Edit
    caught: str | None
    seconds: float
    trouble: str = ""

    def line(self) -> str:
        fate = self.trouble or self.caught or (f"not run: {self.edit.note}" if self.edit.note else "SURVIVED")
        return f"{self.seconds:6.1f} s  {self.edit}\n          {fate}"


_SOUND: set[str] = set()
"""Tests that pass without any edit."""


def try_edit(edit: Edit, record: dict[str, str], limit: float, trees: Any) -> Result:
    """Apply an edit to one of the copies, run its tests, and undo it."""
    if edit.note:
        return Result(edit, None, 0.0)
    started, tree = time.monotonic(), trees.get()
    file = tree / edit.file
    before, times = file.read_bytes(), file.stat()
    try:
        text = before.decode()
        if text.count(edit.old) != 1:
            return Result(edit, None, 0, f"its text occurs {text.count(edit.old)} times")
        tests = tests_of(edit.file)
        known = record.get(str(edit), "")
        if known and not (ROOT / known.split("::")[0]).is_file():
            known = ""
        seen, spent = 0, 0.0
        file.write_text(text.replace(edit.old, edit.new))
        for some in filter(None, ([known] if known else [], tests[:FIRST], tests[FIRST:])):
            found = run_tests(tree, some, limit - spent)
            seen, spent = seen + found["count"], spent + found["seconds"]
            if found["failed"] and not (found["code"] == 4 and some == [known]):  # 4: the recorded test is no more
                break
            if found["over"]:
                return Result(edit, None, time.monotonic() - started, f"SURVIVED {seen} tests in {limit:g} s")
            if found["code"] not in (0, 4):
                return Result(edit, None, time.monotonic() - started, f"pytest failed with exit status {found['code']}")
        seconds, caught = time.monotonic() - started, found["failed"]
        if caught and caught not in _SOUND.union(record.values()):  # it may fail without the edit too
            file.write_bytes(before)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
            if run_tests(tree, [caught], limit)["failed"]:
                return Result(edit, None, seconds, f"{caught} fails without the edit too")
            _SOUND.add(caught)
        return Result(edit, caught, seconds)
    finally:
        file.write_bytes(before)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        trees.put(tree)


def recorded() -> dict[str, str]:
    """The test that caught each edit the last time."""
    return json.loads(RECORD.read_text()) if RECORD.is_file() else {}


def note_catch(edit: Edit, test: str) -> None:
    known = {str(one) for one in EDITS}
    kept = {key: value for key, value in {**recorded(), str(edit): test}.items() if key in known}
    RECORD.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="edits whose file or text contains this")
    parser.add_argument("--jobs", type=int, default=1, help="edits at a time")
    parser.add_argument(
        "--limit", type=float, default=600, help="CPU seconds of tests for an edit that nothing catches"
    )
    arguments = parser.parse_args()
    edits = [edit for edit in EDITS if arguments.only in str(edit)]
    record = recorded()
    for name in HEAVY:
        __import__(name)
    context = get_context("fork")
    results = []
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder, context.Manager() as manager:
        trees = manager.Queue()
        for job in range(arguments.jobs):
            trees.put(copy_of_project(Path(folder) / str(job)))
        attempt = partial(try_edit, record=record, limit=arguments.limit, trees=trees)
        with context.Pool(arguments.jobs) as pool:
            for result in pool.imap_unordered(attempt, edits):
                print(result.line(), flush=True)
                results.append(result)
                if result.caught:
                    note_catch(result.edit, result.caught)
    survived = [result for result in results if not result.caught and not result.edit.note]
    noted = sum(not result.caught and bool(result.edit.note) for result in results)
    print(f"{len(results)} edits: {sum(bool(r.caught) for r in results)} caught, {noted} change nothing, "
          f"{len(survived)} survived")  # fmt: skip
    for result in survived:
        print(result.line())
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
