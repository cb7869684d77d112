"""Time and memory: peak and processor time of a restoration against megapixels, and what 50 runs in one process leave.

Each case is a process of its own with the settings of configs/photo_NAME.yaml, but for the number of steps, and its
figures are the system's: the largest resident memory of the process, and the time of its processors, of which starting
takes a few seconds. Both are drawn against the size in sizes.png. Denoising takes one evaluation. The photograph is one
of data/photographs, enlarged, with noise, and for inpainting with a painted line. On the CPU. Steps are long: 24 of 24
megapixels take hours. The runs in one process are small ones; after each, free memory is given back to the system, as
far as the C library can.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from support.common import ROOT, Report, check_least, parser, start

from randomwalk.errors import InputError, RunError
from randomwalk.images import sheets

SIZES = {
    0.06: (300, 200), 0.24: (600, 400), 1: (1200, 800), 3: (2000, 1500), 6: (3000, 2000), 12: (4000, 3000),
    24: (6000, 4000),
}  # fmt: skip
"""Width and height by megapixels."""
BOUNDS = {12: 4.0, 24: 6.0}
"""Promised peak in GiB by megapixels."""
CHILD = """
import resource, sys
from randomwalk.cli.main import main
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print("used", used.ru_maxrss, used.ru_utime + used.ru_stime)
sys.exit(status)
"""

RUNS = {
    "denoise": ["sample", "--config", "configs/photo_denoise.yaml", "--set"],
    "inpainting": ["sample", "--config", "configs/photo_inpainting.yaml", "--set", "sampler.schedule.num_steps=3"],
    "points training": [
        "train", "--config", "configs/toy/moons_train.yaml", "--set", "num_images=1024", "checkpoint_images=512",
        "validate_images=1024",
    ],
    "image training": [
        "train", "--config", "configs/folder_train.yaml", "--set", "data.path=data/fashion_mnist",
        "data.image_size=32", "network.image_size=32", "data.num_validation=8", "batch_size=8", "num_images=32",
        "checkpoint_images=16", "validate_images=32",
    ],
}  # fmt: skip
"""Small runs, which are repeated in one process."""
REPEATED = """
import ctypes, gc, sys
from pathlib import Path
from randomwalk.cli.main import main
folder, runs, words = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
for k in range(runs):
    if main([*words, f"output={folder}/{k}"]):
        sys.exit(1)
    gc.collect()
    if trim is not None:
        trim(0)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    print("resident", resident)
"""
SETTLED = 5
"""Runs after which the memory should not grow."""


def write_photograph(folder: Path, width: int, height: int) -> Path:
    """Write a noisy photograph and its mask; returns the photograph."""
    with Image.open(ROOT / "data" / "photographs" / "coffee.png") as image:
        pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    draws, noisy = np.random.default_rng(0), np.empty_like(pixels)
    for row, line in enumerate(pixels):
        noisy[row] = (line + 10 * draws.standard_normal(line.shape)).clip(0, 255).round()
    mask = np.full((height, width), 255, np.uint8)
    mask[height // 3 : height // 3 + 20] = 0
    Image.fromarray(mask).save(folder / "photo_mask.png")
    Image.fromarray(noisy).save(folder / "photo.png")
    return folder / "photo.png"


def used(task: str, width: int, height: int, evaluations: int) -> tuple[float, float]:
    """Peak in GiB and processor seconds of a run.

    Raises:
        RunError: it failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["sample", "--config", str(ROOT / "configs" / f"photo_{task}.yaml"), "--set"]
        words += [f"data.path={write_photograph(folder, width, height)}", f"output={folder / 'run'}", "device=cpu"]
        words += [f"sampler.schedule.num_steps={evaluations}"] if task != "denoise" else []
        done = subprocess.run([sys.executable, "-c", CHILD, *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"photo_{task}, {width}x{height}: {done.stderr[-500:]}")
    unit = 2**30 if sys.platform == "darwin" else 2**20
    _, largest, seconds = done.stdout.splitlines()[-1].split()
    return int(largest) / unit, float(seconds)


def draw(found: Mapping[str, Sequence[tuple[float, float, float]]]) -> bytes:
    """Draw memory and time against megapixels, as a PNG.

    Args:
        found: megapixels, GiB and seconds of the sizes by the name of the run.
    """
    figure = sheets.new_figure((9, 3.8))
    for axis, column, label in zip(figure.subplots(1, 2), (1, 2), ("peak (GiB)", "processor time (s)"), strict=True):
        for name, rows in found.items():
            axis.plot([row[0] for row in rows], [row[column] for row in rows], marker="o", markersize=4, label=name)
        axis.set(xscale="log", xlabel="megapixels", ylabel=label)
        axis.set_xticks([row[0] for row in max(found.values(), key=len)])
        axis.set_xticklabels([f"{row[0]:g}" for row in max(found.values(), key=len)])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        sheets.tidy(axis)
        sheets.legend_below(axis)
    figure.subplots_adjust(left=0.07, right=0.98, top=0.96, bottom=0.24, wspace=0.22)
    return sheets.png(figure)


def residents(words: list[str], runs: int) -> list[float]:
    """Resident memory in MiB after each of some runs in one process.

    Raises:
        RunError: one failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", REPEATED, folder, str(runs), *words], cwd=ROOT, capture_output=True, text=True
        )
    if done.returncode:
        raise RunError(f"{' '.join(words)}: {done.stderr[-500:]}")
    return [int(line.split()[1]) / 2**20 for line in done.stdout.splitlines() if line.startswith("resident ")]


def repeated(report: Report, runs: int) -> None:
    """The table of runs in one process."""
    rows = []
    for name, words in RUNS.items() if Path("/proc/self/statm").is_file() else ():
        found = residents(words, runs)
        settled = found[min(SETTLED, len(found)) - 1]
        rows.append([name, f"{found[0]:.0f}", f"{settled:.0f}", f"{found[-1]:.0f}", f"{found[-1] - settled:+.1f}"])
        print(" ".join(rows[-1]), file=sys.stderr, flush=True)
        report.add(f"{runs} runs", name, "growth", found[-1] - settled, "MiB")
    head = ["run", "after 1 (MiB)", f"after {SETTLED}", f"after {runs}", "growth"]
    report.table(f"Resident memory after {runs} runs in one process", head, rows)


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--megapixels", type=float, nargs="*", choices=SIZES, default=list(SIZES), help="all of them; none: no peaks"
    )
    made.add_argument("--evaluations", type=int, nargs="+", default=[1, 24], metavar="N", help="1 24")
    made.add_argument("--tasks", nargs="+", choices=("denoise", "inpainting"), default=["denoise", "inpainting"])
    made.add_argument("--runs", type=int, default=50, metavar="N", help="in one process; 0: none (50)")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Print the table."""
    if chosen.device not in ("auto", "cpu"):
        raise InputError("--device: resident memory is measured on the CPU; expected cpu")
    if min(chosen.evaluations) < 1:
        raise InputError("--evaluations: expected 1 or more")
    check_least(chosen, runs=0)
    sizes = {0.08: (320, 240)} if chosen.quick else {mp: SIZES[mp] for mp in chosen.megapixels}
    report, rows = Report("memory", chosen, "cpu"), []
    drawn: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for task in chosen.tasks:
        for megapixels, (width, height) in sizes.items():
            for evaluations in [1] if chosen.quick or task == "denoise" else chosen.evaluations:
                found, seconds = used(task, width, height, evaluations)
                bound = BOUNDS.get(int(megapixels))
                verdict = "-" if bound is None else f"{bound:g}: {'met' if found <= bound else 'MISSED'}"
                rows.append([task, f"{megapixels:g}", str(evaluations), f"{found:.2f}", verdict, f"{seconds:.1f}"])
                print(" ".join(rows[-1]), file=sys.stderr, flush=True)
                case = f"{megapixels:g} MP, {evaluations} evaluations"
                report.add(case, task, "peak_memory", found, "GiB")
                report.add(case, task, "processor_time", seconds, "s")
                plural = "" if evaluations == 1 else "s"
                drawn[f"{task}, {evaluations} evaluation{plural}"].append((width * height / 1e6, found, seconds))
    head = ["task", "MP", "evaluations", "peak (GiB)", "bound (GiB)", "processor time (s)"]
    report.table("Peak memory and time of a restoration", head, rows)
    if drawn:
        report.folder.write_bytes("sizes.png", draw(drawn))
    if chosen.runs:
        repeated(report, 6 if chosen.quick else chosen.runs)
    return report.finish()


if __name__ == "__main__":
    start(main, options())
