"""Run every file of configs/ by the command that a user would type: how each ends, how long it takes and how well.

Trainings of over ten minutes run for a twentieth of their length; the time of the whole is extrapolated and compared
with what the file says. Data and weights that are not here are replaced by small ones, which the table says.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import common, config_plan
from support.common import ROOT, Report
from support.config_figures import Figure, figures, whole_seconds
from support.config_plan import WEIGHTS, Job
from support.stand_ins import StandIns, tells_what_to_do

from randomwalk.config import SampleConfig, TrainConfig
from randomwalk.config.training import PointData
from randomwalk.denoisers.checkpoints import resolve_device
from randomwalk.runs.environment import git_commit
from randomwalk.runs.folder import RunFolder

LONG = 600.0
"""Seconds above which a training is cut."""
TWENTIETH = 1 / 20
RECORDS = "records.json"
SIDE = 64
"""Side of the photographs that the quick form restores, in pixels; it takes as many steps as the config."""
VALIDATION_SIDE = 192
"""Stand-ins for validation photographs, one of each: other cuts than those for training."""
NOT_RUN = "not run"
PROBE = ".probe"
"""Suffix of the folder of a training that measures its speed."""
PHOTOGRAPHS, STAND_IN = "stand-in photographs", "stand-in data"
EPILOG = """\
If --out holds an earlier run of the same form, that run is continued: what is done is kept, and what failed is run
again. Delete the folder to start afresh. Its subfolder logs/ holds what each command printed.
exit status: 0 all ran; 1 some did not.
"""


@dataclass
class Run:
    """Outcome of a command."""

    status: int
    seconds: float
    processor: float
    output: str
    folder: Path

    @property
    def message(self) -> str:
        """Its last output: from the line with the error on, or the last lines."""
        lines = [line.rstrip() for line in self.output.replace("\r", "\n").splitlines() if line.strip()]
        errors = [k for k, line in enumerate(lines) if line.startswith("error:")]
        return "\n".join(lines[errors[-1] :] if errors else lines[-8:])


@dataclass
class Plan:
    """Changes with which a file is run, and their description in the table."""

    changes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    obstacle: str | None = None


@dataclass
class Setting:
    """Settings shared by all commands."""

    folder: RunFolder
    options: argparse.Namespace
    stand_ins: StandIns
    cpu: bool

    def target(self, job: Job, suffix: str = "") -> Path:
        """The run folder of a file."""
        return self.folder.path.absolute() / "runs" / (Path(job.name).with_suffix("").as_posix() + suffix)

    def run(self, job: Job, changes: list[str], suffix: str = "") -> Run:
        """Run a file, as a user would, in a folder of its own."""
        target = self.target(job, suffix)
        shutil.rmtree(target, ignore_errors=True)
        device = [] if self.options.device == "auto" else ["--device", self.options.device]
        command = [sys.executable, *job.command, "--set", f"output={target}", *changes, *device]
        log = self.folder.file(f"logs/{job.name}{suffix}.txt")
        log.parent.mkdir(parents=True, exist_ok=True)
        before, start = os.times(), time.perf_counter()
        with log.open("wb") as file:
            done = subprocess.run(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False
            )
        seconds, after = time.perf_counter() - start, os.times()
        processor = sum(getattr(after, key) - getattr(before, key) for key in ("children_user", "children_system"))
        return Run(done.returncode, seconds, processor, log.read_text(encoding="utf-8", errors="replace"), target)


# --- what is run -----------------------------------------------------------------------------------------------------


def plan(job: Job, training: Job | None, records: dict[str, Any], setting: Setting) -> Plan:
    """Requirements of a file, and the changes of the quick form."""
    made = Plan()
    if job.trains:
        _provide_images(job, made, setting)
    elif isinstance(job.config, SampleConfig):
        if job.config.data is not None:
            _provide_pictures(job.config, made, setting)
        if training is None and not (ROOT / job.config.network.path).exists() and job.config.network.architecture:
            made.changes += setting.stand_ins.tiny_weights(str(ROOT / job.path))
            made.notes.append("random weights, tiny")
            if not setting.options.quick and setting.cpu:
                made.changes.append("data.num_images=1" if job.config.data else "num_images=1")
                made.notes.append("1 image")
    if training is not None:
        _provide_weights(job, training, records, made, setting)
    if setting.options.quick:
        made.changes += config_plan.quick(job, training)
    return made


def is_standard(job: Job) -> bool:
    """True if a file trains on a set that is downloaded, not on a folder of the user."""
    config = job.config
    return isinstance(config, TrainConfig) and config.data.dataset not in ("folder", "points")


def _provide_images(job: Job, made: Plan, setting: Setting) -> None:
    """Photographs for a training on a folder that is not here; the initial weights of the photographs' network."""
    config = job.config
    if not isinstance(config, TrainConfig) or isinstance(config.data, PointData):
        return
    paths = [config.data.path] if isinstance(config.data.path, str) else config.data.path
    if config.data.dataset == "folder" and not all((ROOT / path).exists() for path in paths):
        folder = setting.stand_ins.photographs()
        made.changes.append(f"data.path={folder}")
        if config.data.validation_path is not None:
            made.changes.append(f"data.validation_path={setting.stand_ins.photographs(VALIDATION_SIDE, rows=1)}")
        made.notes.append(PHOTOGRAPHS)
    elif is_standard(job) and setting.options.offline:
        made.changes += stand_in_set(job, setting.stand_ins)
        made.notes.append(STAND_IN)
    if config.initial_weights is not None and not (ROOT / config.initial_weights).exists():
        made.changes.append("initial_weights=")
        made.notes.append("from random weights")


def stand_in_set(job: Job, stand_ins: StandIns) -> list[str]:
    """Changes that give a training a small set in place of a standard one."""
    if isinstance(job.config, TrainConfig) and job.config.data.channels == 1:
        return [f"data.path={stand_ins.grey()}", "data.num_validation=8"]
    return ["data.dataset=folder", f"data.path={stand_ins.ten_classes()}", "data.num_validation=8"]


def _provide_pictures(config: SampleConfig, made: Plan, setting: Setting) -> None:
    """Cuts of photographs for a task whose folder is not here, or, in the quick form, whose pictures are large."""
    assert config.data is not None
    path = ROOT / config.data.path
    if not path.exists():
        made.changes.append(f"data.path={setting.stand_ins.photographs()}")
        made.notes.append(PHOTOGRAPHS)
    elif setting.options.quick and config_plan.small_pictures(config):
        made.changes.append(f"data.path={setting.stand_ins.photographs(SIDE)}")
        made.notes.append(f"photographs cut to {SIDE} x {SIDE}")


def _provide_weights(job: Job, training: Job, records: dict[str, Any], made: Plan, setting: Setting) -> None:
    """The weights of the training that was run before."""
    record, weights, config = records[training.name], job.weights, job.config
    if record["status"] != 0:
        made.obstacle = f"needs the weights of {training.path}, which {'failed' if record['failed'] else 'was not run'}"
        return
    assert weights is not None
    made.changes.append(f"{weights[0]}={setting.target(training) / WEIGHTS}")
    if record["form"] not in ("quick", "whole"):
        made.notes.append(f"weights of {record['form']} of the training")
    if not isinstance(config, SampleConfig):
        return
    labels = config.guidance.labels if config.guidance is not None else []
    named = any(isinstance(label, str) for label in (labels if isinstance(labels, list) else [labels]))
    if PHOTOGRAPHS in record["notes"] and named:
        classes = sorted(folder.name for folder in setting.stand_ins.photographs().iterdir())
        made.changes.append(f"guidance.labels=[{', '.join(classes)}]")
    if setting.cpu and record["share"] < TWENTIETH:
        made.changes += ["num_images=2", f"sampler.schedule.num_steps={min(100, config.sampler.schedule.num_steps)}"]
        made.notes.append("2 images, 100 steps at most")


def execute(job: Job, made: Plan, setting: Setting) -> dict[str, Any]:
    """Run a file in the form that the options and its length ask for.

    Returns:
        Facts of the job, for `RECORDS`.
    """
    if made.obstacle is not None:
        return _record(job, made, NOT_RUN, None, failed=False, message=made.obstacle)
    quick, share, form = setting.options.quick, 1.0, "quick" if setting.options.quick else "whole"
    tries = config_plan.probe(job) if job.trains and not quick else []
    run = setting.run(job, [*made.changes, *tries], PROBE if tries else "")
    if run.status == 2 and is_standard(job) and STAND_IN not in made.notes:
        if not quick or not tells_what_to_do(run.message):
            return _record(job, made, NOT_RUN, run, failed=not tells_what_to_do(run.message), message=run.message)
        made.notes.append(f"{STAND_IN}; without it: {' '.join(run.message.split())}")
        run = setting.run(job, [*made.changes, *stand_in_set(job, setting.stand_ins)])
    elif tries and run.status == 0:
        whole = whole_seconds(job, run.folder, run.seconds)
        if whole > LONG:
            share = min(TWENTIETH, 60 * setting.options.most / whole)
            form = f"1/{1 / share:,.0f}"
        run = setting.run(job, [*made.changes, *config_plan.shortened(job, share)])
    record = _record(job, made, form, run, failed=run.status != 0, message=run.message if run.status else "")
    record["share"] = share
    if run.status == 0:
        record["figures"] = figures(job, run.folder)
        if not quick:
            whole = whole_seconds(job, run.folder, run.seconds) if share < 1 else run.seconds
            # Files state the time of a core that does nothing else: the clock on the wall also counts what others do.
            record["whole_seconds"] = whole * (run.processor / run.seconds if setting.cpu else 1)
            record["said_seconds"] = config_plan.says(job.text)
    return record


def _record(job: Job, made: Plan, form: str, run: Run | None, failed: bool, message: str) -> dict[str, Any]:
    return {
        "file": _digest(job),
        "commit": git_commit(),
        "form": form,
        "changes": made.changes,
        "notes": made.notes,
        "status": run and run.status,
        "failed": failed,
        "message": message,
        "seconds": run and run.seconds,
        "processor_seconds": run and run.processor,
        "figures": [],
    }


def _is_done(job: Job, record: dict[str, Any] | None, quick: bool) -> bool:
    """True if a record is of this file in this form, and ran."""
    if record is None or record["failed"] or record["form"] == NOT_RUN:
        return False
    return (record["form"] == "quick") == quick and bool(record["file"] == _digest(job))


def _digest(job: Job) -> str:
    return hashlib.sha256(job.text.encode()).hexdigest()


# --- what is said ----------------------------------------------------------------------------------------------------


def tell(report: Report, records: dict[str, Any]) -> None:
    """The table, and the rows of results.csv."""
    rows = []
    for name, record in records.items():
        found: list[Figure] = [
            ("exit status", record["status"], ""),
            ("seconds", record["seconds"], "s"),
            ("processor seconds", record["processor_seconds"], "s"),
            *record["figures"],
            ("whole, extrapolated" if record.get("share", 1) < 1 else "whole", record.get("whole_seconds"), "s"),
            ("whole, as the file says", record.get("said_seconds"), "s"),
        ]
        for metric, value, unit in found:
            if value is not None:
                report.add(f"configs/{name}", record["form"], metric, value, unit)
        shown = ", ".join(f"{metric} {value:.3g} {unit}".strip() for metric, value, unit in record["figures"])
        notes = [f"**failed**: {' '.join(record['message'].split())}"] if record["failed"] else record["notes"]
        if record["form"] == NOT_RUN and not record["failed"]:
            notes = [f"not run: {' '.join(record['message'].split())}"]
        numbers = [_number(record[key]) for key in ("status", "seconds", "processor_seconds")]
        rows.append([name, record["form"], *numbers, shown, *_duration(record), "; ".join(notes).replace("|", "\\|")])
    counts = [sum(r["failed"] for r in records.values()), sum(r["form"] == NOT_RUN for r in records.values())]
    head = ("config", "form", "exit status", "s", "processor s", "figures", "whole", "the file says", "notes")
    commits = sorted({str(record["commit"]) for record in records.values()})
    notes = [f"{len(records)} files, {counts[0]} failed, {counts[1]} not run", f"commit: {', '.join(commits)}"]
    report.table("Every config", head, rows, notes)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _duration(record: dict[str, Any]) -> tuple[str, str]:
    """Duration of the full run beside the one that the file states, and their ratio."""
    whole, said = record.get("whole_seconds"), record.get("said_seconds")
    if whole is None:
        return "-", "-"
    if said is None:
        return _time(whole), "says nothing"
    return _time(whole), f"{_time(said)} (x {whole / said:.2g})"


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def options() -> argparse.ArgumentParser:
    """Options of the command line."""
    made = common.parser(__doc__ or "", EPILOG)
    made.add_argument("configs", nargs="*", metavar="FILE", help="files of configs/ (all of them)")
    made.add_argument(
        "--most",
        type=float,
        default=60.0,
        metavar="MINUTES",
        help="most minutes for a training, which is cut to fit (60)",
    )
    made.add_argument(
        "--offline", action="store_true", help="do not look for standard sets: train on a few images of data/ instead"
    )
    return made


def main(chosen: argparse.Namespace) -> int:
    """Run the files that are not done yet."""
    device = resolve_device(chosen.device)
    jobs = config_plan.read_jobs(chosen.configs)
    out = Path(chosen.out or "results/benchmarks/every_config")
    report = Report("every_config", chosen, str(device), folder=RunFolder(out) if (out / RECORDS).is_file() else None)
    folder = report.folder
    records: dict[str, Any] = folder.read_json(RECORDS) if folder.has(RECORDS) else {}
    setting = Setting(folder, chosen, StandIns(folder.path.absolute() / "stand_ins"), device.type == "cpu")
    with common.bar(len(jobs), "configs", "files") as tick:
        for job in jobs:
            if not _is_done(job, records.get(job.name), chosen.quick):
                training = config_plan.trained_by(job, jobs)
                records[job.name] = execute(job, plan(job, training, records, setting), setting)
                folder.write_json(RECORDS, records)
            tick(note=job.name)
    found = {job.name: records[job.name] for job in jobs}
    tell(report, found)
    failed = {name: record for name, record in found.items() if record["failed"]}
    for name, record in failed.items():
        report.say(f"configs/{name}: exit status {record['status']}\n\n```\n{record['message']}\n```")
    report.save()
    return 1 if failed else 0


if __name__ == "__main__":
    common.start(main, options())
