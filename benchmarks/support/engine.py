"""Engine of the benchmarks: cases x methods x items, measured once, recorded, resumed, and tuned into YAML files."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from randomwalk import samplers
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.denoisers.wrappers import CountingDenoiser
from randomwalk.errors import InputError, RunError
from randomwalk.operators import Measurement
from randomwalk.rng import Draws
from randomwalk.runs.folder import RunFolder, alone_in
from randomwalk.samplers import Sampler, schedules
from support.common import bar

Settings = dict[str, Any]
Record = dict[str, Any]
"""Result of one method on one item: qualities, evaluations, seconds; or `FAILED` with the reason."""
FAILED = "failed"
SCHEDULE = ("schedule", "num_steps", "sigma_min", "sigma_max")
"""Settings of a sampler's noise levels; the others are the sampler's own."""
START = ("start_std", "start_mean")
"""Settings of the start: its standard deviation, and ``measurement`` to start from the image interpolated from it."""


# --- settings --------------------------------------------------------------------------------------------------------


def read_yaml(path: Path) -> dict[Any, Any]:
    """Content of a YAML file; empty if there is no such file."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def combinations(given: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Settings]:
    """All candidates in a mapping, or in each of a list of mappings.

    Every list among the values of a mapping holds alternatives. They are combined in every way; the first candidate has
    the first alternative of each.
    """
    if not isinstance(given, Mapping):
        return [candidate for part in given for candidate in combinations(part)]
    choices = [value if isinstance(value, list) else [value] for value in given.values()]
    return [dict(zip(given, values, strict=True)) for values in itertools.product(*choices)]


def write_setting(path: Path, keys: Sequence[Any], value: Any) -> None:
    """Set one entry of a YAML file. Its first comment and the entries of other processes stay.

    Args:
        keys: path of the entry in nested mappings.
    """
    with alone_in(path.parent):
        text = path.read_text(encoding="utf-8") if path.is_file() else "# Written by --tune.\n"
        comment = "".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
        section = data = read_yaml(path)
        for key in keys[:-1]:
            section = section.setdefault(key, {})
        section[keys[-1]] = value
        RunFolder(path.parent).write_text(path.name, comment + yaml.safe_dump(data, sort_keys=False, width=120))


# --- records ---------------------------------------------------------------------------------------------------------


class Records:
    """Records by case, method and item. Each is saved as soon as it is there, so that an interrupted run can go on.

    Args:
        folder: where records.json is written.
        earlier: folders of earlier runs; their records are not measured again.
    """

    def __init__(self, folder: RunFolder, earlier: str | Sequence[str] | None) -> None:
        self.folder = folder
        self.found: dict[str, dict[str, dict[str, Any]]] = {}
        for left in [earlier] if isinstance(earlier, str) else earlier or []:
            path = Path(left) / "records.json"
            try:
                self._add(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise InputError(f"--resume {left}: {path} cannot be read ({error})") from error

    def _add(self, records: dict[str, dict[str, dict[str, Any]]]) -> None:
        """Add the records of another run. Where a method has another config there, the first ones stay."""
        for case, methods in records.items():
            for method, other in methods.items():
                own = self.found.setdefault(case, {}).setdefault(method, other)
                if own["config"] == other["config"]:
                    own["images"] = {**other["images"], **own["images"]}

    def of(self, case: str, method: str, config: Mapping[str, Any]) -> dict[str, Record]:
        """Records by item. Those of an earlier run are dropped if its config differs."""
        kept = self.found.setdefault(case, {})
        if kept.get(method, {}).get("config") != config:
            kept[method] = {"config": dict(config), "images": {}}
        images: dict[str, Record] = kept[method]["images"]
        return images

    def save(self) -> None:
        """Write records.json."""
        self.folder.write_json("records.json", self.found)


@dataclass(frozen=True)
class Job:
    """A method on the items of a case.

    Attributes:
        config: everything that decides a record besides the item, as in JSON.
        items: names of images or seeds.
        payload: further arguments of the measuring function; must be picklable for several processes.
    """

    case: str
    method: str
    config: Mapping[str, Any]
    items: Sequence[str]
    payload: Any = None


Found = dict[str, dict[str, dict[str, Record]]]
"""Records by case, method and item."""


def measure(
    jobs: Sequence[Job],
    do: Callable[[Job], Sequence[Record]],
    records: Records,
    label: str,
    *,
    at_once: int = 1,
    processes: int = 1,
    keep_failures: bool = True,
) -> Found:
    """Measure what has no record yet.

    Args:
        do: makes one record for each item of a job; a function of a module if there are several processes.
        label: of the progress bar.
        at_once: most items in one call of ``do``.
        processes: number of processes.
        keep_failures: whether a RunError becomes the record of its items instead of ending the benchmark.
    """
    kept = [records.of(job.case, job.method, job.config) for job in jobs]
    parts = []
    for job, done in zip(jobs, kept, strict=True):
        left = [item for item in job.items if item not in done]
        parts += [replace(job, items=left[k : k + at_once]) for k in range(0, len(left), at_once)]
    total = sum(len(job.items) for job in jobs)
    with bar(total, label, "items", initial=total - sum(len(part.items) for part in parts)) as tick:
        for part, made in _results(parts, do, processes, keep_failures):
            records.of(part.case, part.method, part.config).update(zip(part.items, made, strict=True))
            records.save()
            tick(len(part.items), f"{part.case}: {part.method}")
    found: Found = {}
    for job, done in zip(jobs, kept, strict=True):
        found.setdefault(job.case, {}).setdefault(job.method, {}).update({item: done[item] for item in job.items})
    return found


def _results(
    parts: Sequence[Job], do: Callable[[Job], Sequence[Record]], processes: int, keep_failures: bool
) -> Iterator[tuple[Job, Sequence[Record]]]:
    """Jobs with their records, in the order in which they end."""
    if processes == 1:
        for part in parts:
            yield part, _guarded(do, part, keep_failures)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_guarded, do, part, keep_failures): part for part in parts}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _guarded(do: Callable[[Job], Sequence[Record]], job: Job, keep_failures: bool) -> Sequence[Record]:
    try:
        return do(job)
    except RunError as error:
        if not keep_failures:
            raise
        return [{FAILED: str(error)} for _ in job.items]


def failure(records: Mapping[str, Record]) -> str | None:
    """Reason of the first failure, with its item; None if all went well."""
    return next((f"{item}: {record[FAILED]}" for item, record in records.items() if FAILED in record), None)


def choose(
    candidates: Sequence[Settings],
    loss: Callable[[Settings, bool], float],
    finalists: int | None = None,
) -> tuple[Settings, list[float]]:
    """The candidate of the least loss, and the losses of all that went through to the end.

    Args:
        loss: ``loss(settings, all_items)``; infinite if the method fails.
        finalists: if there are more candidates, only this many go on to all items after a look at some of them.
    """
    left = list(candidates)
    if finalists and len(left) > finalists:
        first = [loss(settings, False) for settings in left]
        left = [left[n] for n in sorted(range(len(left)), key=first.__getitem__)[:finalists]]
    losses = [loss(settings, True) for settings in left]
    return left[min(range(len(left)), key=losses.__getitem__)], losses


# --- posterior samplers ----------------------------------------------------------------------------------------------


class Clock:
    """Seconds since its creation: processor time, which other programs do not lengthen, or wall time on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = self._now()

    def seconds(self) -> float:
        """Seconds since the start."""
        return self._now() - self.start

    def _now(self) -> float:
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def make_sampler(row: str, settings: Mapping[str, Any]) -> tuple[Sampler, Tensor]:
    """A posterior sampler and its noise levels.

    Args:
        row: name of the sampler; a comma and a remark may follow.
        settings: those of `SCHEDULE`, those of `START`, and the sampler's own.

    Raises:
        InputError: unknown name or setting, or impossible value.
    """
    own = {key: value for key, value in settings.items() if key not in (*SCHEDULE, *START)}
    name, num_steps, sigma_min, sigma_max = (settings[key] for key in SCHEDULE)
    return samplers.make(row.split(",")[0], **own), schedules.make(
        name, num_steps, sigma_min=sigma_min, sigma_max=sigma_max
    )


def sample(
    row: str,
    settings: Mapping[str, Any],
    denoiser: Denoiser,
    measurement: Measurement,
    num_samples: int,
    draws: Draws,
) -> tuple[Tensor, Record]:
    """Posterior samples ``[M, num_samples, C, H, W]`` of M measurements, and their cost.

    Returns:
        The samples, and the denoiser's evaluations and vector-Jacobian products (vjps) for a sample with the seconds of
        all samples.

    Raises:
        InputError: a setting that the sampler, the operator or the denoiser does not allow.
        RunError: the state is not finite.
    """
    sampler, sigmas = make_sampler(row, settings)
    for sigma in (float(sigmas[0]), float(sigmas[-1])):
        denoiser.check_sigma(sigma)
    counter, clock = CountingDenoiser(denoiser), Clock(measurement.y.device)
    start: Tensor | None = None
    std, mean = settings.get("start_std"), settings.get("start_mean")
    if std is not None or mean is not None:
        start = (float(sigmas[0]) if std is None else std) * draws.normal(measurement.operator.image_shape)
        if mean == "measurement":
            start = start + measurement.operator.interpolated(measurement.y).repeat_interleave(num_samples, 0)
    x = sampler.sample(counter, sigmas, measurement, num_samples=num_samples, start=start, draws=draws)
    cost = {"evaluations": counter.evaluations, "vjps": counter.vjps, "seconds": clock.seconds()}
    return x.unflatten(0, (-1, num_samples)), cost
