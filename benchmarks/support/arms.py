"""Several ways to train the same network: their configurations, their runs in parallel, and their records."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from randomwalk.config.score_embedding import EmbeddingMethod, ScoreEmbeddingConfig
from randomwalk.config.validate import validate
from randomwalk.config.yamltext import Document, read_document
from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder
from randomwalk.studies.score_embedding.embedding import displacements
from randomwalk.studies.score_embedding.solution import Solution
from randomwalk.studies.score_embedding.solvers import level_times
from randomwalk.studies.score_embedding.trainer import Trainer
from score_sde import sdes
from support import engine
from support.engine import Record, Records


@dataclass(frozen=True)
class Arm:
    """A row of the tables.

    Attributes:
        name, label: in the file, and in tables.
        trained: False for the closed form.
        counted: whether the seconds of the density and of the solver count.
        data: the configuration, without the changes of a run.
    """

    name: str
    label: str
    trained: bool
    counted: bool
    data: dict[str, Any]

    def config(self, seed: int, device: str, data: Mapping[str, Any]) -> ScoreEmbeddingConfig:
        """Configuration of a run.

        Args:
            data: changes of the section "data".

        Raises:
            InputError: the configuration is wrong.
        """
        changes = {"seed": seed, "output": "run", "device": device, "data": data}
        return validate(ScoreEmbeddingConfig, Document(merged(self.data, changes), f"arm {self.name}"))


@dataclass(frozen=True)
class Job:
    """A run: an arm on a case, with a seed; ``extra`` holds further arguments of its function."""

    case: str
    arm: Arm
    seed: int
    config: ScoreEmbeddingConfig
    extra: Any = None

    def described(self) -> dict[str, Any]:
        """Everything that decides the run, except its seed."""
        config: dict[str, Any] = json.loads(self.config.model_dump_json(exclude_none=True, exclude={"seed", "output"}))
        config["data"]["path"] = Path(config["data"]["path"]).name
        return config | {"trained": self.arm.trained, "counted": self.arm.counted}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``changes`` into ``base`` section by section; a section with another ``name`` replaces the old one."""
    out = dict(base)
    for key, value in changes.items():
        old = out.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and value.get("name") in (None, old.get("name")):
            value = merged(old, value)
        out[key] = value
    return out


def load(path: Path, quick: bool) -> list[Arm]:
    """Arms of a file: ``common`` merged with the ``config`` of each arm, and with ``quick`` if asked for."""
    data = read_document(path).data
    arms = []
    for name, given in data["arms"].items():
        own = merged(data["common"], given.get("config", {}))
        if quick:
            own = merged(merged(own, data["quick"]["common"]), data["quick"].get("arms", {}).get(name, {}))
        trained, counted = not given.get("closed_form", False), given.get("counted", True)
        arms.append(Arm(name, given["label"], trained, counted, own))
    return arms


def changed(arm: Arm, changes: Mapping[str, Any]) -> Arm:
    """Copy of an arm with changes of its configuration."""
    return replace(arm, data=merged(arm.data, changes))


def chosen(arms: Sequence[Arm], names: Sequence[str] | None) -> list[Arm]:
    """Arms of the given names, or all.

    Raises:
        InputError: an unknown name.
    """
    known = [arm.name for arm in arms]
    if unknown := sorted(set(names or ()) - set(known)):
        raise InputError(f"--arms: {', '.join(unknown)}; expected some of {', '.join(known)}")
    return [arm for arm in arms if not names or arm.name in names]


# --- runs ------------------------------------------------------------------------------------------------------------


def run(jobs: Sequence[Job], do: Callable[[Job], Record], records: Records, processes: int) -> list[Record]:
    """Records of all jobs, in their order; only jobs without a record run.

    Args:
        do: makes a record; a function of a module, since other processes call it.
        processes: number of processes.
    """
    one_each = [engine.Job(job.case, job.arm.name, job.described(), [str(job.seed)], job) for job in jobs]
    found = engine.measure(one_each, partial(_do, do), records, "runs", processes=processes, keep_failures=False)
    return [found[job.case][job.arm.name][str(job.seed)] for job in jobs]


def _do(do: Callable[[Job], Record], job: engine.Job) -> list[Record]:
    return [do(job.payload)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress bars of trainings, several of which may run at once."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def shift(trainer: Trainer) -> list[float]:
    """Displacement of the images by the embedding at each level: root mean square over pixels in [0, 1]."""
    field, settings = getattr(trainer.method, "field", None), trainer.config.method
    if field is None or not isinstance(settings, EmbeddingMethod):
        return []
    g = sdes.make("power_ve", base=settings.base).diffusion(level_times(settings.num_levels, settings.eps))
    moved = displacements(field, g)
    return [float(x) for x in moved.flatten(1).square().mean(1).sqrt()]


class Solved(Trainer):
    """Training that reads the solution of its equation from a file, or writes it there for the next training.

    For solvers that take longer than the training and do not depend on its seed.

    Args:
        path: the file.
    """

    def __init__(self, config: ScoreEmbeddingConfig, device: torch.device, folder: RunFolder, path: Path) -> None:
        super().__init__(config, device, folder)
        self.path = path

    def _solve(self, method: EmbeddingMethod) -> Solution:
        if self.path.is_file():
            kept = torch.load(self.path, map_location=self.device, weights_only=True)
            self.clock.seconds.update(kept["seconds"])
            score = kept["score"].double()
            return Solution(kept["times"], torch.zeros(()), score)
        solution = super()._solve(method)
        seconds = {stage: self.clock.seconds[stage] for stage in ("density", "solve")}
        kept = {"times": solution.times, "score": solution.score.float().cpu(), "seconds": seconds}
        RunFolder(self.path.parent).write_torch(self.path.name, kept)
        return solution


def one_thread() -> None:
    """Use one thread, as in all timed runs."""
    torch.set_num_threads(1)
