"""The run behind ``sample.py``: distributes the batches over processes and writes their results."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from randomwalk import distributed
from randomwalk.config import SampleConfig
from randomwalk.config.files import dump
from randomwalk.config.operators import blurs_of
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.distributed import Context
from randomwalk.errors import InputError
from randomwalk.images import sheets
from randomwalk.operators.blur import kernel_of
from randomwalk.operators.operator import cut
from randomwalk.progress import labelled, show_notes
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.report import Live
from randomwalk.runs.session import Session, session
from randomwalk.samplers.walk import PreconditionedStep
from randomwalk.sampling import doubts, figures
from randomwalk.sampling.batch import SampleId, stacked
from randomwalk.sampling.foresight import image_notes, notes_of
from randomwalk.sampling.image_results import ImageResults
from randomwalk.sampling.inputs import check_unchanged, inputs_of, read_inputs
from randomwalk.sampling.loading import load_task, with_range
from randomwalk.sampling.progress import Progress
from randomwalk.sampling.results import Results
from randomwalk.sampling.task import Task


def run(
    config: SampleConfig,
    folder: RunFolder | None = None,
    results_for: Callable[[RunFolder, Task], Results] = ImageResults,
) -> int:
    """Run a sampling task, or the rest of one.

    Args:
        config: the task.
        folder: of the interrupted run; None starts a new one.
        results_for: makes the writer of a task's results.

    Returns:
        Exit status: 0, or 1 if an image could not be read.

    Raises:
        InputError: a file is missing or does not fit.
        RunError: the run failed; finished batches are kept.
    """
    context = distributed.connect(config.device)
    with session("sample", config.output, context, folder) as held:
        config = with_range(config)
        if context.is_main:
            show_notes(config.notes)
        task = load_task(config, context.device)
        _begin(task, held, results_for)
        _restore_inputs(task, read_inputs(held.folder, task.images.sizes is not None))
        if context.is_main:
            notes = notes_of(task)
            show_notes(notes)
            held.keep_notes([*config.notes, *notes])
        results, batches = results_for(held.folder, task), task.batches()
        _work(results, batches, context)
        if not context.is_main:
            return 0
        status = results.finish(len(batches))
        print(f"report:   {results.write_report()}")
        return status


def dry_run(config: SampleConfig) -> int:
    """Check everything that a run needs, and print the complete config and the findings, without starting the run.

    Returns:
        Exit status: 0, or 1 if an image could not be read.

    Raises:
        InputError: a file is missing or does not fit.
    """
    if distributed.launch().rank:
        return 0
    config = with_range(config)
    show_notes(config.notes)
    print(dump(config), end="", flush=True)
    task = load_task(config, distributed.choose_device(config.device))
    show_notes(notes_of(task))
    shape, low, high = task.images.shape, float(task.sigmas[-1]), float(task.sigmas[0])
    levels = f"sigma {high:.4g} to {low:.4g}" if config.sampler.schedule else "at the level of the noise"
    pixels = "{}x{}".format(*shape[1:])
    if task.images.sizes is not None:
        found = sorted({size for size in task.images.sizes if size is not None}, key=math.prod)
        pixels = " to ".join("{}x{}".format(*size) for size in dict.fromkeys((found[0], found[-1])))
    print(f"# weights: {config.network.path} fits its network ({shape[0]} channels, {pixels} pixels)")
    print(f"# sampler: {config.sampler.name}, {task.num_steps} steps for each batch, {levels}")
    if task.budget is not None:
        print(f"# memory: at most {task.budget.gib:g} GiB ({task.budget.cause})")
    batches = task.batches()
    print(f"# work: {sum(map(len, batches))} samples in {len(batches)} batches, on {task.device}")
    unreadable, said = 0, set[str]()
    for image, name in enumerate(task.images.names if task.images.source is not None else []):
        try:
            task.load_measurable(image)
            show_notes(_unsaid(image_notes(task, image), said))
        except InputError as error:
            unreadable += 1
            print(f"error: image {image} ({name}): {error}", file=sys.stderr)
    if task.images.source is not None:
        where, count = task.images.source.where, len(task.images)
        print(f"# images: {count - unreadable} of {count} in {where} can be read")
    return 1 if unreadable else 0


def _restore_inputs(task: Task, inputs: Mapping[str, Any]) -> None:
    """Form batches and tiles by the image sizes and the memory when the run began, and compute in its precision."""
    began = inputs.get("precision", "fp32")  # runs of earlier versions do not say it
    if task.config.precision == "auto" and began != task.precision[0]:
        assert isinstance(task.denoiser, NetworkDenoiser)
        for denoiser in [task.denoiser] if task.camera is None else [task.denoiser, task.camera]:
            denoiser.autocast_dtype = torch.bfloat16 if began == "bf16" else None
        task.precision = (began, "the run began in it")
    if task.images.sizes is not None:
        task.grouped_by = [size and tuple(size) for size in inputs["sizes"]]
    if task.budget is not None and task.config.max_memory is None:
        task.budget.gib = inputs.get("memory", task.budget.gib)


# --- the folder ----------------------------------------------------------------------------------------------


def _begin(task: Task, held: Session, results_for: Callable[[RunFolder, Task], Results]) -> None:
    """Describe the run, or check that a resumed one has the inputs with which it began."""
    facts: dict[str, Any] = {}
    if held.context.is_main:
        if held.is_resumed:
            inputs = check_unchanged(task, held.folder, results_for(held.folder, task).skipped())
        else:
            inputs = inputs_of(task)
        facts = {"seed": task.config.seed, "inputs": inputs}
    held.begin(task.config, facts)
    measurement = task.config.measurement
    if held.context.is_main and measurement and blurs_of(measurement.operator) and not held.folder.has("kernel.png"):
        kernel = kernel_of(task.measurements.trial_operator())
        if kernel is not None:
            held.folder.write_image("kernel.png", sheets.kernel_picture(kernel.cpu().numpy()))
    if held.context.is_main and task.config.sampler.schedule and not held.folder.has("schedule.png"):
        plan, norm = task.plan(), None
        if plan is not None and isinstance(plan.step_sizes[0], PreconditionedStep):
            norm = plan.step_sizes[0].operator.norm()
        held.folder.write_bytes("schedule.png", figures.schedule_figure(task.sigmas.tolist(), plan, norm))


# --- the work ------------------------------------------------------------------------------------------------


def _work(results: Results, batches: Sequence[Sequence[SampleId]], context: Context) -> None:
    """Draw this process's share of the batches that are not done, and wait for the other processes."""
    task = results.task
    if context.size > 1:
        results.folder.keep()
    # Rank 0 decides once which batches are done: results of other processes appear while this one works.
    left = context.broadcast([b for b in range(len(batches)) if not results.is_done(b)] if context.is_main else None)
    if context.is_main:
        show_notes(results.damage)
    if context.is_main and len(left) < len(batches):
        print(f"{len(batches) - len(left)} of {len(batches)} batches are already done")
    progress = Progress(context, len(left) * task.num_steps)
    before, total = (len(batches) - len(left)) * task.num_steps, len(batches) * task.num_steps
    if context.is_main:
        live = Live(results.write_report)
        progress.follow = lambda done: live.tick(before + done, total)
        progress.follow(0)
    said: set[str] = set()
    try:
        for n in context.share(len(left)):
            context.check()
            _do_batch(results, left[n], batches[left[n]], progress, said)
        context.barrier(progress.refresh)
        progress.finish()
    finally:
        progress.close()


def _do_batch(results: Results, b: int, ids: Sequence[SampleId], progress: Progress, said: set[str]) -> None:
    """Load the images of a batch, draw its samples and write them; images that cannot be read are skipped."""
    task = results.task
    loaded: dict[int, torch.Tensor] = {}
    skipped: dict[int, str] = {}
    for image in dict.fromkeys(one.image for one in ids) if task.images.source is not None else ():
        try:
            loaded[image] = task.load_measurable(image)
        except InputError as error:
            skipped[image] = str(error)
            progress.say(f"warning: image {image} is skipped: {error}")
    ids = [one for one in ids if one.image not in skipped]
    if not ids:
        results.write_batch(b, None, skipped, ())
        progress.skip(task.num_steps)
        return
    together = stacked([loaded[one.image] for one in ids]).to(task.device) if loaded else None
    loaded.clear()
    record = results.watch_batch(ids)
    progress.start_batch(None if task.config.given or together is None else cut(together, task.margins))

    def watch(k: int, x: torch.Tensor, sigma: float, probe: Any) -> None:
        record(k, x, sigma, probe)
        progress.watch(k, x, sigma, probe)

    notes: list[str] = []

    def say_notes(lines: Sequence[str]) -> None:
        notes.extend(lines)
        for line in _unsaid(lines, said):
            progress.say(labelled(line))

    def on_images() -> list[str]:
        return [line for one in ids if one.sample == 0 for line in image_notes(task, one.image)]

    estimated_later = task.config.measurement is not None and task.config.measurement.estimate_noise
    if not estimated_later:
        say_notes(on_images())
    batch = task.sample(ids, together, watch, progress.tile)
    if estimated_later:
        say_notes(on_images())
    say_notes([f"warning: {line}" for line in doubts.of_batch(task, batch)])
    results.write_batch(b, batch, skipped, notes)


def _unsaid(lines: Sequence[str], said: set[str]) -> list[str]:
    """Lines that have not been said, which they are from now on."""
    found = [line for line in dict.fromkeys(lines) if line not in said]
    said.update(found)
    return found
