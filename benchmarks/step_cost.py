"""What a step of sample.py costs beyond the network's forward pass; and the small things before the first step.

A walk with everything that sample.py does at each step (draws, update, counting, bar, snapshots) and the bare forward
pass of its network, in inference mode, take turns in one process. The first table has the median over the turns of
the ratio of their seconds for each evaluation. The second has the seconds to build a schedule of 1000 levels and to
answer `sample.py --help`.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import ROOT, Report, parser, start

from randomwalk import distributed, samplers, schedules
from randomwalk.checkpoints import load_denoiser, make_denoiser, resolve_device
from randomwalk.config import SampleConfig
from randomwalk.configio import load_sample_config
from randomwalk.denoisers import NetworkDenoiser
from randomwalk.errors import InputError
from randomwalk.progress import Progress, Recorder
from randomwalk.task import Task, Unit, load_task, make_schedule

RATIO, SCHEDULE, HELP = 1.03, 0.010, 2.0
"""Targets: loop over forward pass, seconds for a schedule, seconds for --help."""

RANGES: dict[str, dict[str, Any]] = {
    "sigma 0.02 to 100": {"sigma_min": 0.02, "sigma_max": 100.0},
    "DDPM table": {"beta_min": 1e-4, "beta_max": 0.02, "num_timesteps": 1000},
}


@dataclass
class Case:
    """A task whose steps are timed.

    Args:
        steps: of each walk; as many forward passes are timed together.
        turns: how often walk and forward passes take turns, after one of each to warm up.
    """

    name: str
    task: Task
    steps: int
    turns: int

    @property
    def network(self) -> NetworkDenoiser:
        """The adapter that holds the network."""
        assert isinstance(self.task.denoiser, NetworkDenoiser)
        return self.task.denoiser


@dataclass(frozen=True)
class Timing:
    """Medians over the turns."""

    bare: float
    loop: float
    ratio: float
    memory: float
    ratios: list[float]


def shortened(config: SampleConfig, steps: int) -> SampleConfig:
    """The config with another number of steps."""
    schedule = config.sampler.schedule.model_copy(update={"num_steps": steps})
    return config.model_copy(update={"sampler": config.sampler.model_copy(update={"schedule": schedule})})


def bundled_case(weights: Path, network: str, device: torch.device, steps: int, turns: int) -> Case:
    """configs/{network}_inpainting.yaml: 16 images of 32x32, with a measurement and preconditioned steps."""
    changes = [f"network.path={weights}", f"data.path={ROOT / 'data' / 'fashion_mnist'}", "batch_size=16"]
    config = load_sample_config(ROOT / "configs" / f"{network}_inpainting.yaml", [*changes, "data.num_images=16"])
    return Case(f"{weights.name}, 32x32, batch 16", load_task(shortened(config, steps), device), steps, turns)


def ffhq_case(device: torch.device, steps: int, turns: int) -> Case:
    """configs/ffhq256/vp_uncond_sigmoid.yaml with one image and random weights: time does not depend on them."""
    config = shortened(load_sample_config(ROOT / "configs" / "ffhq256" / "vp_uncond_sigmoid.yaml"), steps)
    network, denoiser = (
        section.model_dump(exclude_none=True)
        for section in (config.network.architecture, config.network.denoiser)
        if section is not None
    )
    torch.manual_seed(0)
    made = make_denoiser(network, denoiser).eval().requires_grad_(False).to(device)
    made.network.to(memory_format=torch.channels_last)
    sampler = samplers.make(**config.sampler.model_dump(exclude_none=True, exclude={"schedule"}))
    task = Task(config, device, made, sampler, make_schedule(config, made), (3, 256, 256), None, ["random weights"])
    millions = sum(parameter.numel() for parameter in made.parameters()) / 1e6
    return Case(f"FFHQ-256 UNet, {millions:.0f} M parameters, batch 1", task, steps, turns)


def loop(case: Case) -> Callable[[], None]:
    """One batch as sample.py makes it, all but writing its files."""
    task = case.task
    count = 1 if task.source is None else len(task.names)
    units = [Unit(image, 0) for image in range(count)]
    truth = None if task.source is None else torch.stack([task.load_image(i) for i in range(count)]).to(task.device)
    context = distributed.connect(str(task.device))

    def once() -> None:
        progress = Progress(context, task.num_evaluations)
        recorder = Recorder(range(count), task.num_evaluations, task.config.animation_frames)
        progress.start_batch(truth)

        def watch(k: int, x: torch.Tensor, sigma: float, probe: Any) -> None:
            recorder.watch(k, x, sigma, probe)
            progress.watch(k, x, sigma, probe)

        task.sample(units, truth, watch)
        progress.close()

    return once


def forward(case: Case) -> Callable[[], None]:
    """As many passes through the bare network, at its own time or noise level."""
    task = case.task
    count = 1 if task.source is None else len(task.names)
    x = torch.randn((count, *task.image_shape)).to(task.device).contiguous(memory_format=torch.channels_last)
    condition = torch.full((count,), 0.5, device=task.device)

    def once() -> None:
        with torch.inference_mode():
            for _ in range(case.steps):
                case.network.network(x, condition)

    return once


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of a call, with what it has started on a GPU."""
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def measure(case: Case) -> Timing:
    """Walk and forward passes in turns; each turn begins with the other one than the last."""
    device, walk, bare = case.task.device, loop(case), forward(case)
    forget_peak(device)
    pairs = []
    for turn in range(case.turns + 1):
        first, second = (walk, bare) if turn % 2 else (bare, walk)
        a, b = seconds(first, device), seconds(second, device)
        pairs.append((a, b) if turn % 2 else (b, a))
    pairs = pairs[1:]
    ratios = [walk_time / bare_time for walk_time, bare_time in pairs]
    return Timing(
        statistics.median(bare_time for _, bare_time in pairs) / case.steps,
        statistics.median(walk_time for walk_time, _ in pairs) / case.steps,
        statistics.median(ratios),
        peak(device),
        ratios,
    )


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


def network_table(report: Report, cases: list[Callable[[], Case]]) -> None:
    """The table of ratios."""
    rows, notes = [], []
    for make_case in cases:
        case = make_case()
        timing = measure(case)
        spread = f"{min(timing.ratios):.3f} to {max(timing.ratios):.3f}"
        numbers = [f"{1e3 * timing.bare:.2f}", f"{1e3 * timing.loop:.2f}", f"{timing.ratio:.3f}", spread]
        rows.append([case.name, f"{case.turns} x {case.steps}", *numbers, f"{timing.memory:.0f}"])
        for metric, value, unit in (
            ("forward_pass", timing.bare, "s"),
            ("evaluation_in_the_loop", timing.loop, "s"),
            ("ratio", timing.ratio, "1"),
            ("peak_memory", timing.memory, "MiB"),
        ):
            report.add("step cost", case.name, metric, value, unit)
        met = "met" if timing.ratio <= RATIO else "MISSED"
        notes.append(f"{case.name}: ratio {timing.ratio:.3f}, target at most {RATIO}: {met}")
    head = ["case", "turns x steps", "forward pass (ms)", "in the loop (ms)", "ratio", "of the turns", "peak (MiB)"]
    what = "memory allocated on the GPU" if "cuda" in report.settings["device"] else "resident memory of the process"
    notes.append(f"medians over the turns; peak: {what}; {torch.get_num_threads()} threads")
    report.table("One network evaluation in sample.py's loop", head, rows, notes)


# --- before the first step -----------------------------------------------------------------------------------


def small_table(report: Report, repeats: int) -> None:
    """The table of the schedules and of --help."""
    rows, worst = [], 0.0
    for name in schedules.SCHEDULES:
        for span, settings in RANGES.items():
            if name == "pretrained" and "num_timesteps" not in settings:
                continue
            taken = median_seconds(name, settings)
            worst = max(worst, taken)
            rows.append([f"schedule {name}, {span}, 1000 levels", f"{1e3 * taken:.2f}"])
            report.add("schedule", f"{name}, {span}", "build", taken, "s")
    command = [sys.executable, str(ROOT / "sample.py"), "--help"]
    runs = [
        seconds(lambda: subprocess.run(command, check=True, capture_output=True), torch.device("cpu"))
        for _ in range(repeats)
    ]
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
    cpu = torch.device("cpu")
    return statistics.median(seconds(lambda: schedules.make(name, 1000, **settings), cpu) for _ in range(21))


def _met(holds: bool) -> str:
    return "met" if holds else "MISSED"


# --- the script ----------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    """The options of this script."""
    made = parser(__doc__ or "")
    for n in ("vp", "ve"):
        default = ROOT / "pretrained_models" / f"fashion_{n}.safetensors"
        made.add_argument(f"--{n}", type=Path, default=default, metavar="FILE", help=f"weights of the {n} network")
    made.add_argument("--turns", type=int, default=25, metavar="N", help="of the bundled networks (25)")
    made.add_argument("--ffhq-turns", type=int, default=5, metavar="N", help="of the FFHQ network, 0 leaves it out (5)")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Print both tables."""
    if chosen.turns < 1 or chosen.ffhq_turns < 0:
        raise InputError("--turns: expected 1 or more; --ffhq-turns: 0 or more")
    device = resolve_device(chosen.device)
    turns, ffhq_turns = (5, min(1, chosen.ffhq_turns)) if chosen.quick else (chosen.turns, chosen.ffhq_turns)
    weights = {n: getattr(chosen, n) for n in ("vp", "ve")}
    for path in weights.values():
        load_denoiser(path)  # a file that does not load is told now
    report = Report("step_cost", chosen, str(device))
    cases: list[Callable[[], Case]] = [
        lambda n=n, path=path: bundled_case(path, n, device, 30, turns)  # type: ignore[misc]
        for n, path in weights.items()
    ]
    if ffhq_turns:
        cases.append(lambda: ffhq_case(device, 2, ffhq_turns))
    network_table(report, cases)
    small_table(report, 3 if chosen.quick else 5)
    print(f"\nfiles: {report.folder.path}")
    return 0


if __name__ == "__main__":
    start(main, options())
