"""Every write of a short run of every program, killed or with a full disk: the resumed run ends with the same bits.

`python tests/kills.py` tries every moment of every write, and random ones. Here each file that a resumed run reads
meets one fault in turn, and so does every fourth one of the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("a fork, /proc and bounds on the size of files", allow_module_level=True)

from kill_tools import Fault, Server
from kills import PROGRAMS, Case, contents


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_fault_at_any_write_is_survived(name: str, tmp_path: Path, server: Server) -> None:
    case = Case(name, tmp_path.resolve(), server)
    wrong = [f"{case.place(fault)}: {found}" for fault in case.one_for_each_write(4) if (found := case.problem(fault))]
    assert not wrong, "\n".join(wrong)


def test_the_faults_do_what_they_say(tmp_path: Path, server: Server) -> None:
    """A killed process leaves half of a temporary file, and one whose disk is full says so."""
    case = Case("restoring", tmp_path.resolve(), server)
    [write] = [n for n, change in enumerate(case.changes) if change.kind == "write"]
    half = case.changes[write].size // 2
    case.clear()
    assert server.run(case.base, case.words, Fault("kill", write, half)).status < 0
    [left] = set(case.base.rglob("*")) - case.before
    assert left.suffix == ".tmp" and left.stat().st_size == half > 0
    case.clear()
    assert server.run(case.base, case.words, Fault("full", write, half)).status == 1
    assert not set(case.base.rglob("*")) - case.before
    assert contents(case.base) != case.expected
