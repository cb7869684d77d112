"""The run behind ``sample.py``: shares the batches out, writes their results, sums them up."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from randomwalk import distributed
from randomwalk import run_folder as runs
from randomwalk.cli.options import show_notes
from randomwalk.config import SampleConfig
from randomwalk.config.files import dump
from randomwalk.distributed import Context
from randomwalk.errors import InputError, RunError, Terminated
from randomwalk.images import metrics
from randomwalk.lookup import program
from randomwalk.run_folder import RunFolder
from randomwalk.samplers.walk import PreconditionedStep
from randomwalk.sampling import figures
from randomwalk.sampling.batch import Unit
from randomwalk.sampling.progress import Progress
from randomwalk.sampling.results import MEAN, Results
from randomwalk.sampling.task import Task, load_task
from randomwalk.studies.points.results import PointResults, is_points

MOST_REASONS = 5
COLUMNS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "psnr_minmax": "min-max PSNR (dB)", "residual": "residual / noise"}


def run(config: SampleConfig, folder: RunFolder | None = None) -> int:
    """Do a sampling task, or what is left of it.

    Args:
        config: the task.
        folder: of the interrupted run; None starts a new one.

    Returns:
        Exit status: 0, or 1 if an image could not be read.

    Raises:
        InputError: a file is missing or does not fit.
        RunError: the run failed; what it finished is kept.
    """
    context = distributed.connect(config.device)
    try:
        if context.is_main:
            show_notes(config.notes)
        task = load_task(config, context.device)
        resumed = folder is not None
        if context.is_main and folder is None:
            folder = RunFolder.create(config.output)
        with contextlib.nullcontext() if folder is None else folder.gone_if_it_fails():
            folder = _open_folder(task, folder, resumed, context)
            _go_on_as_begun(task, folder.read_json("run.json")["inputs"])
            if context.is_main:
                show_notes(task.notes)
            with _resumable(folder):
                results = PointResults(folder, task) if is_points(task) else Results(folder, task)
                batches = task.batches()
                _work(results, batches, context)
                return _finish(results, len(batches)) if context.is_main else 0
    except BaseException as error:
        context.fail(str(error) or type(error).__name__)
        raise
    finally:
        distributed.cleanup(context)
        if folder is not None:
            folder.unlock()


def dry_run(config: SampleConfig) -> int:
    """Check everything that a run needs, print the resolved config and what was found, and start nothing.

    Returns:
        Exit status: 0, or 1 if an image could not be read.

    Raises:
        InputError: a file is missing or does not fit.
    """
    if distributed.launch().rank:
        return 0
    show_notes(config.notes)
    print(dump(config), end="", flush=True)
    task = load_task(config, distributed.choose_device(config.device))
    show_notes(task.notes)
    low, high = float(task.sigmas[-1]), float(task.sigmas[0])
    print(f"# weights: {config.network.path} fits its network ({task.image_shape[0]} channels, {_sizes(task)} pixels)")
    print(f"# sampler: {config.sampler.name}, {task.num_steps} steps for each batch, sigma {high:.4g} to {low:.4g}")
    if task.budget is not None:
        print(f"# memory: at most {task.budget.gib:g} GiB ({task.budget.cause})")
    units, batches = sum(map(len, task.batches())), len(task.batches())
    print(f"# work: {units} samples in {batches} batches, on {task.device}")
    unreadable = 0
    for image, name in enumerate(task.names if task.source is not None else []):
        try:
            task.load_measurable(image)
            show_notes(task.remarks(image))
        except InputError as error:
            unreadable += 1
            print(f"error: image {image} ({name}): {error}", file=sys.stderr)
    if task.source is not None:
        print(f"# images: {len(task.names) - unreadable} of {len(task.names)} in {task.source.where} can be read")
    return 1 if unreadable else 0


def _go_on_as_begun(task: Task, inputs: Mapping[str, Any]) -> None:
    """Form the batches, and choose the tiles, by the sizes and the memory that there were when the run began."""
    if task.sizes is not None:
        task.grouped_by = [size and tuple(size) for size in inputs["sizes"]]
    if task.budget is not None and task.config.max_memory is None:
        task.budget.gib = inputs.get("memory", task.budget.gib)


def _sizes(task: Task) -> str:
    if task.sizes is None:
        return "{}x{}".format(*task.image_shape[1:])
    found = sorted({size for size in task.sizes if size is not None}, key=math.prod)
    return " to ".join("{}x{}".format(*size) for size in dict.fromkeys((found[0], found[-1])))


# --- the folder ----------------------------------------------------------------------------------------------


def _open_folder(task: Task, folder: RunFolder | None, resumed: bool, context: Context) -> RunFolder:
    """Rank 0 begins or checks the folder; the others are told where it is."""
    if folder is None or not context.is_main:
        return RunFolder(context.broadcast())
    if not resumed:
        folder.write_text("config.yaml", dump(task.config))
        folder.lock()
        folder.write_json("run.json", _facts(task, context))
        folder.write_bytes("schedule.png", _schedule_figure(task))
        if folder.path != Path(task.config.output):
            print(f"{task.config.output} is in use: this run goes to {folder.path}")
    else:
        folder.lock()
        folder.remove_leftovers()
        _check_unchanged(task, folder)
        facts = folder.read_json("run.json")
        again = {key: value for key, value in _facts(task, context).items() if key not in ("inputs", "seed")}
        folder.write_json("run.json", {**facts, "resumed": [*facts.get("resumed", []), again]})
        if not folder.has("schedule.png"):
            folder.write_bytes("schedule.png", _schedule_figure(task))
    print(f"run folder: {folder.path}   (if interrupted: {_resume_command(folder)})", flush=True)
    context.broadcast(str(folder.path))
    return folder


def _resume_command(folder: RunFolder) -> str:
    return f"{program('sample')} --resume {shlex.quote(str(folder.path))}"


def _inputs(task: Task) -> dict[str, Any]:
    """What the results depend on besides the config."""
    path = Path(task.config.network.path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)
    found: dict[str, Any] = {"weights": path.name, "weights_sha256": digest}
    found["images"] = task.names if task.source is not None else []
    if task.budget is not None:
        found["memory"] = task.budget.gib
    if task.sizes is None:
        return found
    return {**found, "sizes": [size and list(size) for size in task.sizes], "grey": task.greys}


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _facts(task: Task, context: Context) -> dict[str, Any]:
    extra = {"seed": task.config.seed, "inputs": _inputs(task)}
    return runs.environment(str(context.device), context.size, extra)


def _check_unchanged(task: Task, folder: RunFolder) -> None:
    """Raise InputError if the run began with other weights or images than those there are now."""
    if not folder.has("run.json"):
        folder.write_json("run.json", {"seed": task.config.seed, "inputs": _inputs(task)})
        return
    then, now = folder.read_json("run.json")["inputs"], _inputs(task)
    if then["weights_sha256"] != now["weights_sha256"]:
        raise InputError(
            f"{task.config.network.path}: is not the file that {folder.path} began with; put that back, or start "
            "a new run"
        )
    if then["images"] != now["images"]:
        changed = sorted(set(then["images"]) ^ set(now["images"]))
        raise InputError(
            f"{task.config.data.path if task.config.data else ''}: the images are not those that {folder.path} began "
            f"with ({', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}); put them back, or start a new run"
        )
    for name, old, new in zip(now["images"], then.get("sizes", []), now.get("sizes", []), strict=False):
        if old and new and old != new:
            raise InputError(
                f"{name}: has {new[0]}x{new[1]} pixels, and had {old[0]}x{old[1]} when {folder.path} began; put that "
                "back, or start a new run"
            )
    if then.get("grey") != now.get("grey") and then.get("sizes") == now.get("sizes"):
        raise InputError(
            f"{task.config.data.path if task.config.data else ''}: not the same images are grey as when {folder.path} "
            "began; put them back, or start a new run"
        )


def _schedule_figure(task: Task) -> bytes:
    plan, norm = task.plan(), None
    if plan is not None and isinstance(plan.step_sizes[0], PreconditionedStep):
        norm = plan.step_sizes[0].operator.norm()
    return figures.schedule_figure(task.sigmas.tolist(), plan, norm)


@contextlib.contextmanager
def _resumable(folder: RunFolder) -> Iterator[None]:
    """Say in the message of whatever ends the run how to go on with it."""
    how = f"what is finished stays in {folder.path}; go on with: {_resume_command(folder)}"
    try:
        yield
    except (InputError, RunError) as error:
        if not folder.has_results:
            raise
        raise type(error)(f"{error}\n{how}") from error
    except OSError as error:
        raise RunError(f"{error}\n{how}" if folder.has_results else str(error)) from error
    except (KeyboardInterrupt, Terminated) as stop:
        raise type(stop)(how) from None


# --- the work ------------------------------------------------------------------------------------------------


def _work(results: Results | PointResults, batches: Sequence[Sequence[Unit]], context: Context) -> None:
    """Do this process's share of the batches that are not done, and wait for the others."""
    task = results.task
    if context.size > 1:
        results.folder.keep()
    # Which batches are done is decided once: the others' results appear while this process works.
    left = context.broadcast([b for b in range(len(batches)) if not results.is_done(b)] if context.is_main else None)
    if context.is_main and len(left) < len(batches):
        print(f"{len(batches) - len(left)} of {len(batches)} batches are already done")
    if task.source is not None and left:
        metrics.load()
    progress = Progress(context, len(left) * task.num_steps)
    try:
        for n in context.share(len(left)):
            context.check()
            _do_batch(results, left[n], batches[left[n]], progress)
        context.barrier(progress.refresh)
        progress.finish()
    finally:
        progress.close()


def _do_batch(results: Results | PointResults, b: int, units: Sequence[Unit], progress: Progress) -> None:
    task = results.task
    loaded: dict[int, torch.Tensor] = {}
    skipped: dict[int, str] = {}
    if task.source is not None:
        for image in dict.fromkeys(unit.image for unit in units):
            try:
                loaded[image] = task.load_measurable(image)
            except InputError as error:
                skipped[image] = str(error)
                progress.say(f"warning: image {image} is skipped: {error}")
    units = [unit for unit in units if unit.image not in skipped]
    if not units:
        results.write_batch(b, None, skipped=skipped)
        progress.skip(task.num_steps)
        return
    stacked = torch.stack([loaded[unit.image] for unit in units]).to(task.device) if loaded else None
    film = results.watch_batch(units)
    progress.start_batch(None if task.config.given else stacked)

    def watch(k: int, x: torch.Tensor, sigma: float, probe: Any) -> None:
        film(k, x, sigma, probe)
        progress.watch(k, x, sigma, probe)

    known_later = task.config.measurement is not None and task.config.measurement.estimate_noise
    if not known_later:
        _remark(task, units, progress)
    batch = task.sample(units, stacked, watch, progress.tile)
    if known_later:
        _remark(task, units, progress)
    results.write_batch(b, batch, skipped)


def _remark(task: Task, units: Sequence[Unit], progress: Progress) -> None:
    for unit in units:
        for line in task.remarks(unit.image) if unit.sample == 0 else ():
            progress.say(f"note: {line}")


# --- the end -------------------------------------------------------------------------------------------------


def _finish(results: Results | PointResults, num_batches: int) -> int:
    if isinstance(results, PointResults):
        print("\n".join(results.finish(num_batches)))
        print(f"pictures: {results.folder.file('samples.png')}, and others beside it")
        print(f"numbers:  {results.folder.file('metrics.csv')}, {results.folder.file('samples.npy')}")
        return 0
    rows, skipped = results.finish(num_batches)
    folder = results.folder.path
    if not rows and results.folder.discard(with_results=True):
        reasons = "\n  ".join(f"image {entry['image']}: {entry['reason']}" for entry in skipped[:MOST_REASONS])
        raise InputError(f"none of the {len(skipped)} images can be used:\n  {reasons}")
    print(_summary(rows, results.task.config.num_samples), end="")
    calibrations = results.calibrate(rows)
    for line in figures.calibration_lines(calibrations):
        print(f"  {line}")
    print(f"pictures: {folder / 'overview.png'} and {folder / 'images'}")
    print(f"numbers:  {folder / 'metrics.csv'}")
    if calibrations:
        print(f"spread:   {folder / 'calibration.png'} and {folder / 'calibration.csv'}")
    if not skipped:
        return 0
    what = "\n".join(f"  image {entry['image']}: {entry['reason']}" for entry in skipped)
    print(
        f"error: {len(skipped)} of {len(results.task.names)} images could not be read and were skipped:\n{what}",
        file=sys.stderr,
    )
    return 1


def _summary(rows: Sequence[Mapping[str, Any]], num_samples: int) -> str:
    """Means over the images with their standard errors, as a text table."""
    samples = [row for row in rows if row["sample"] != MEAN]
    if not samples:
        return ""
    seconds = metrics.over_images(samples, "seconds") or (0.0, 0.0)
    images = len({row["image"] for row in samples})
    head = f"{images} images" + (f", {num_samples} samples of each" if num_samples > 1 else "")
    spent = f"{samples[0]['evaluations']} network evaluations"
    if samples[0].get("vjps"):
        spent += f", {samples[0]['vjps']} vector-Jacobian products"
    lines = [f"{head}: {spent} and {seconds[0]:.3g} s per sample"]
    columns = {"measurement": ("measurement_", samples), "restored": ("", samples)}
    if num_samples > 1:
        columns["mean of samples"] = ("", [row for row in rows if row["sample"] == MEAN])
    table = []
    for key, label in COLUMNS.items():
        cells = [metrics.over_images(chosen, prefix + key) for prefix, chosen in columns.values()]
        if any(cells):
            table.append(f"  {label:<18}" + "".join(f"{_cell(cell, key):>20}" for cell in cells))
    if table:
        lines += ["  " + " " * 18 + "".join(f"{name:>20}" for name in columns), *table]
        lines.append("  (mean over the images ± standard error)")
    return "\n".join(lines) + "\n"


def _cell(value: tuple[float, float] | None, key: str) -> str:
    if value is None:
        return "-"
    digits = 3 if key == "ssim" else 2
    error = f" ± {value[1]:.{digits}f}" if value[1] == value[1] else ""
    return f"{value[0]:.{digits}f}{error}"
