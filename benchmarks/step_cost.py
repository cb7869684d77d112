"""Cost of a step of sample.py beyond the network's forward pass, and of the preparations before the first step.

A walk with everything that sample.py does at each step (draws, update, counting, bar, snapshots) and the bare forward
pass of its network, in inference mode, take turns in one process: beside each of its passes the network is run once
more on the very same tensors. The first table has the median over the walks of the time of a walk, less that of the
bare passes, over that of the bare passes; and the part of a step that is spent outside the network, which a busy
machine disturbs less than the ratio. The second says what that part is, by Python's profiler on one more walk. The
third has the seconds to build a schedule of 1000 levels and to answer `sample.py --help`.

On the CPU the verdict goes by the processor's time, which waiting for other programs does not lengthen, though sharing
caches and memory with them does. Waiting threads count as busy there, so use one: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import cProfile
import math
import pstats
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from support.common import ROOT, Report, add_weights, check_least, parser, start
from torch import nn

from randomwalk import distributed, samplers
from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.checkpoints import load_denoiser, make_denoiser, resolve_device
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.denoisers.wrappers import Probe
from randomwalk.rng import ImageDraws
from randomwalk.samplers import schedules, walk
from randomwalk.sampling.batch import SampleId
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.progress import Progress, Recorder
from randomwalk.sampling.task import Task
from randomwalk.sampling.task_images import TaskImages

RATIO, SCHEDULE, HELP = 1.02, 0.010, 2.0
"""Targets: loop over forward pass, seconds for a schedule, seconds for --help."""

CASES = ("vp", "ve", "fp32", "bf16", "ffhq")
"""Cases: two networks for 32 x 32 pixels, that for photographs in two precisions, and an FFHQ UNet."""

RANGES: dict[str, dict[str, Any]] = {
    "sigma 0.02 to 100": {"sigma_min": 0.02, "sigma_max": 100.0},
    "DDPM table": {"beta_min": 1e-4, "beta_max": 0.02, "num_timesteps": 1000},
}


@dataclass
class Case:
    """A task whose steps are timed.

    Args:
        turns: how many walks, after one to warm up.
    """

    name: str
    task: Task
    turns: int

    @property
    def steps(self) -> int:
        """Evaluations of each walk: one more than levels, if the last state is denoised."""
        return self.task.num_steps

    @property
    def network(self) -> NetworkDenoiser:
        """The adapter that holds the network."""
        assert isinstance(self.task.denoiser, NetworkDenoiser)
        return self.task.denoiser


@dataclass(frozen=True)
class Clock:
    """Seconds on the wall and of the processor; they add and subtract."""

    wall: float
    processor: float

    @classmethod
    def now(cls, device: torch.device) -> Clock:
        """The time, when all that was started on a GPU is done."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return cls(time.perf_counter(), time.process_time())

    def __add__(self, other: Clock) -> Clock:
        return Clock(self.wall + other.wall, self.processor + other.processor)

    def __sub__(self, other: Clock) -> Clock:
        return Clock(self.wall - other.wall, self.processor - other.processor)


@dataclass(frozen=True)
class Timing:
    """Times of every walk.

    Args:
        walks: without the bare passes.
        outside: the part of it outside the network.
        bare: the bare passes, as many as the walk has steps.
        memory: peak, in MiB.
    """

    walks: list[Clock]
    outside: list[Clock]
    bare: list[Clock]
    memory: float

    def ratios(self, clock: str) -> list[float]:
        """Walk over bare passes by ``clock``, "wall" or "processor"."""
        pairs = zip(self.walks, self.bare, strict=True)
        return [getattr(walk, clock) / getattr(bare, clock) for walk, bare in pairs]

    def medians(self, clock: str, steps: int) -> list[float]:
        """Seconds for each step: of the bare pass, of the walk, and outside the network."""
        return [statistics.median(getattr(t, clock) for t in x) / steps for x in (self.bare, self.walks, self.outside)]


def shortened(config: SampleConfig, steps: int) -> SampleConfig:
    """The config with another number of steps."""
    schedule = config.sampler.schedule.model_copy(update={"num_steps": steps})
    return config.model_copy(update={"sampler": config.sampler.model_copy(update={"schedule": schedule})})


def bundled_case(weights: Path, network: str, device: torch.device, steps: int, turns: int) -> Case:
    """configs/fashion/{network}_inpainting.yaml: 16 images of 32x32, with a measurement and preconditioned steps."""
    changes = [f"network.path={weights}", f"data.path={ROOT / 'data' / 'fashion_mnist'}", "batch_size=16"]
    path = ROOT / "configs" / "fashion" / f"{network}_inpainting.yaml"
    config = load_sample_config(path, [*changes, "data.num_images=16", "precision=fp32"])
    return Case(f"{weights.name}, 32x32, batch 16", load_task(shortened(config, steps), device), turns)


def photo_case(weights: Path, precision: str, device: torch.device, steps: int, turns: int) -> Case:
    """configs/vp_inpainting.yaml: three photographs of 256x256, with a measurement and preconditioned steps."""
    changes = [f"network.path={weights}", f"data.path={ROOT / 'data' / 'photographs'}", f"precision={precision}"]
    config = load_sample_config(ROOT / "configs" / "vp_inpainting.yaml", changes)
    task = load_task(shortened(config, steps), device)
    return Case(f"{weights.name}, 256x256, batch {len(task.images)}, {precision}", task, turns)


def ffhq_case(device: torch.device, steps: int, turns: int) -> Case:
    """One image of configs/ffhq256/vp_uncond_sigmoidSchedule.yaml, random weights: time does not depend on them."""
    config = shortened(load_sample_config(ROOT / "configs" / "ffhq256" / "vp_uncond_sigmoidSchedule.yaml"), steps)
    network, denoiser = (
        section.model_dump(exclude_none=True)
        for section in (config.network.architecture, config.network.denoiser)
        if section is not None
    )
    torch.manual_seed(0)
    made = make_denoiser(network, denoiser).eval().requires_grad_(False).to(device)
    made.network.to(memory_format=torch.channels_last)
    sampler = samplers.from_settings(config.sampler)
    images = TaskImages(config, (3, 256, 256), None, ["random weights"])
    task = Task(config, device, made, sampler, sampler.levels(made), images)
    millions = sum(parameter.numel() for parameter in made.parameters()) / 1e6
    return Case(f"FFHQ-256 UNet, {millions:.0f} M parameters, batch 1", task, turns)


class Shadow:
    """Runs a network once more on the very tensors that it is given, and takes the time of both passes.

    The second pass comes before and after the first one in turns, so that neither always finds the caches warm.

    Args:
        first: whether the second pass begins with coming before.

    Attributes:
        own: time of the first passes, those that are asked for.
        bare: time of the second passes.
    """

    def __init__(self, network: nn.Module, device: torch.device, first: bool = True) -> None:
        self.own = self.bare = self._began = Clock(0, 0)
        self._device, self._comes_before = device, first
        self._hooks = [network.register_forward_pre_hook(self._before), network.register_forward_hook(self._after)]

    def remove(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks:
            hook.remove()

    def _before(self, network: nn.Module, given: tuple[Any, ...]) -> None:
        if self._comes_before:
            self._run(network, given)
        self._began = Clock.now(self._device)

    def _after(self, network: nn.Module, given: tuple[Any, ...], output: object) -> None:
        self.own += Clock.now(self._device) - self._began
        if not self._comes_before:
            self._run(network, given)
        self._comes_before = not self._comes_before

    def _run(self, network: nn.Module, given: tuple[Any, ...]) -> None:
        began = Clock.now(self._device)
        network.forward(*given)  # not network(...), which would call the hooks
        self.bare += Clock.now(self._device) - began


def loop(case: Case) -> Callable[[], None]:
    """One batch as sample.py makes it, all but writing its files."""
    task = case.task
    count = 1 if task.images.source is None else len(task.images)
    units = [SampleId(image, 0) for image in range(count)]
    truth = (
        None if task.images.source is None else torch.stack([task.load_image(i) for i in range(count)]).to(task.device)
    )
    context = distributed.connect(str(task.device))

    def once() -> None:
        progress = Progress(context, task.num_steps)
        recorder = Recorder(range(count), task.num_steps, task.config.animation_frames)
        progress.start_batch(truth)

        def watch(k: int, x: torch.Tensor, sigma: float, probe: Any) -> None:
            recorder.watch(k, x, sigma, probe)
            progress.watch(k, x, sigma, probe)

        task.sample(units, truth, watch)
        progress.close()

    return once


def measure(case: Case) -> Timing:
    """Walks with a bare pass beside each of theirs; the first walk warms up."""
    device, walk = case.task.device, loop(case)
    timing = Timing([], [], [], 0)
    forget_peak(device)
    for turn in range(case.turns + 1):
        shadow = Shadow(case.network.network, device, first=turn % 2 == 0)
        began = Clock.now(device)
        walk()
        taken = Clock.now(device) - began - shadow.bare
        shadow.remove()
        if turn:
            timing.walks.append(taken)
            timing.outside.append(taken - shadow.own)
            timing.bare.append(shadow.bare)
    return replace(timing, memory=peak(device))


def outside(case: Case) -> dict[str, float]:
    """Processor seconds of a step of one walk, in the network and in each part outside it, under the profiler."""
    profiler, walk_once = cProfile.Profile(time.process_time), loop(case)
    profiler.runcall(walk_once)
    found = pstats.Stats(profiler).stats  # type: ignore[attr-defined]

    def spent(function: Callable[..., object]) -> float:
        code = function.__code__
        entry = found.get((code.co_filename, code.co_firstlineno, code.co_name))
        return 0.0 if entry is None else entry[3] / case.steps

    network, draws = spent(type(case.network.network).forward), spent(ImageDraws.noise)
    parts = {
        "network": network,
        "random numbers": draws,
        "snapshots for the animation": spent(Recorder.watch),
        "bar, with its PSNR": spent(Progress.watch),
        "adapter of the network": spent(Probe.score) + spent(Probe.forward) - network,
        "check that the state is finite": spent(walk.all_finite),
    }
    step = spent(type(case.task.sampler).run) - sum(parts.values())
    return {**parts, "update, with the measurement": step}


def forget_peak(device: torch.device) -> None:
    """Begin to measure the peak of memory anew, where that can be done."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak(device: torch.device) -> float:
    """Peak of memory in MiB: allocated on the GPU, or resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def interval(values: list[float]) -> tuple[float, float]:
    """95% confidence interval of the median, from the ranks; all the values if they are fewer than six."""
    ordered, rank, outside = sorted(values), 0, 0.0
    while (outside := outside + math.comb(len(values), rank) / 2 ** len(values)) <= 0.025:
        rank += 1
    return ordered[max(rank - 1, 0)], ordered[-max(rank, 1)]


def judge(ratios: list[float]) -> str:
    """Verdict on the target. A loop that contains the forward pass cannot cost less than the pass."""
    low, high = interval(ratios)
    if high < 1:
        return "inconclusive, a ratio below 1 is an error of the measurement"
    if high <= RATIO:
        return "met"
    return "MISSED" if low > RATIO else "inconclusive, the interval contains the target"


def network_table(report: Report, cases: Sequence[Callable[[], Case]]) -> None:
    """The table of ratios."""
    clock = "wall" if "cuda" in report.settings["device"] else "processor"
    rows, notes = [], []
    spent_rows, spent_head = [], ["case"]
    for make_case in cases:
        case = make_case()
        timing = measure(case)
        seconds = timing.medians(clock, case.steps)
        ratio, wall = (statistics.median(timing.ratios(name)) for name in (clock, "wall"))
        low, high = interval(timing.ratios(clock))
        shown = [*(f"{1e3 * x:.2f}" for x in seconds), f"{ratio:.4f}", f"{low:.4f} to {high:.4f}", f"{wall:.4f}"]
        rows.append([case.name, f"{case.turns} x {case.steps}", *shown, f"{timing.memory:.0f}"])
        for metric, value, unit in (
            ("forward_pass", seconds[0], "s"),
            ("evaluation_in_the_loop", seconds[1], "s"),
            ("outside_the_network", seconds[2], "s"),
            ("ratio", ratio, "1"),
            ("ratio_low", low, "1"),
            ("ratio_high", high, "1"),
            ("ratio_on_the_wall", wall, "1"),
            ("peak_memory", timing.memory, "MiB"),
        ):
            report.add("step cost", case.name, metric, value, unit)
        notes.append(f"{case.name}: ratio {ratio:.4f}, target at most {RATIO}: {judge(timing.ratios(clock))}")
        parts = outside(case)
        for part, value in parts.items():
            report.add("step cost", case.name, part, value, "s")
        shares = [f"{1e3 * value:.2f} ({value / parts['network']:.1%})" for value in parts.values()]
        spent_rows.append([case.name, *shares])
        spent_head = ["case", *parts]
    head = ["case", "walks x steps", "forward pass (ms)", "in the loop (ms)", "outside the network (ms)"]
    head += ["ratio", "interval", "by the wall clock", "peak (MiB)"]
    what = "memory allocated on the GPU" if clock == "wall" else "resident memory of the process"
    notes.append(f"medians over the walks, of {clock} time; interval: 95% confidence, all walks where fewer than six")
    notes.append(f"peak: {what}; {torch.get_num_threads()} threads")
    report.table("One network evaluation in sample.py's loop", head, rows, notes)
    note = "milliseconds of processor time for each step, and relative to the network; measured by a profiler"
    report.table("What a step consists of", spent_head, spent_rows, [note])


# --- before the first step -----------------------------------------------------------------------------------


def small_table(report: Report, repeats: int) -> None:
    """The table of the schedules and of --help."""
    rows, worst = [], 0.0
    for name in schedules.SCHEDULES:
        if name == "even_time":  # made of an SDE, and as quick as that
            continue
        for span, settings in RANGES.items():
            if name == "pretrained" and "num_timesteps" not in settings:
                continue
            taken = median_seconds(name, settings)
            worst = max(worst, taken)
            rows.append([f"schedule {name}, {span}, 1000 levels", f"{1e3 * taken:.2f}"])
            report.add("schedule", f"{name}, {span}", "build", taken, "s")
    command = [sys.executable, str(ROOT / "sample.py"), "--help"]
    runs = [seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(repeats)]
    taken = statistics.median(runs)
    rows.append(["sample.py --help", f"{1e3 * taken:.0f}"])
    report.add("command", "sample.py --help", "answer", taken, "s")
    notes = [
        f"slowest schedule: {1e3 * worst:.2f} ms, target under {1e3 * SCHEDULE:g} ms: {_met(worst < SCHEDULE)}",
        f"--help: {taken:.2f} s, target under {HELP:g} s: {_met(taken < HELP)} (median of {repeats})",
    ]
    report.table("Before the first step", ["what", "ms"], rows, notes)


def median_seconds(name: str, settings: Mapping[str, Any]) -> float:
    """Seconds to build a schedule, median of 21."""
    return statistics.median(seconds(lambda: schedules.make(name, 1000, **settings)) for _ in range(21))


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock time of a call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _met(holds: bool) -> str:
    return "met" if holds else "MISSED"


# --- the script ----------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    add_weights(made)
    made.add_argument("--turns", type=int, default=5, metavar="N", help="walks of each case (5)")
    made.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="only these")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Print both tables."""
    check_least(chosen, turns=1)
    device = resolve_device(chosen.device)
    for name in ("vp", "ve"):
        load_denoiser(getattr(chosen, name))  # a file that does not load is told now
    report = Report("step_cost", chosen, str(device))

    def case(name: str) -> Case:
        if name == "ffhq":
            return ffhq_case(device, 2, 1 if chosen.quick else chosen.turns)
        if name in ("vp", "ve"):
            return bundled_case(getattr(chosen, name), name, device, 30, chosen.turns)
        photographs = ROOT / "pretrained_models" / "photo.safetensors"
        return photo_case(photographs, name, device, 4 if chosen.quick else 20, chosen.turns)

    cases = [partial(case, name) for name in chosen.cases]
    network_table(report, cases)
    small_table(report, 3 if chosen.quick else 5)
    return report.finish()


if __name__ == "__main__":
    start(main, options())
