"""Images a second of the seven FFHQ-256 tasks (configs/ffhq256), and the share of the measured matrix rate.

Each task walks a few steps from its own start, with its sampler, operator and noise, on random pictures: in fp32, in
bf16 and in bf16 compiled, in batches of 1 and of 16. Images a second are those of the whole walk, its number of steps
times the median time of a step. Weights are random: the time does not depend on them. The matrix rate is that of one
large product of square matrices in the same run (float32 with TF32, as convolutions take it), and the share is the
network's arithmetic, as PyTorch's counter has it, over the time of a step at that rate. The target is a share of 45%
in bf16 at the largest batch. Networks are compiled once for each batch size, which takes a minute or so; the seconds
are in the table. --quick takes small networks on small images, and the compiler's front end alone.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch
from support.common import ROOT, Report, check_least, parser, start
from torch.utils.flop_counter import FlopCounterMode

from randomwalk import operators, samplers
from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.checkpoints import make_denoiser, resolve_device
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.errors import InputError
from randomwalk.operators import Measurement
from randomwalk.operators import noise as noises

CONFIGS = ROOT / "configs" / "ffhq256"
MODES = ("fp32", "bf16", "compiled")
TARGET = 0.45
"""Share of the matrix rate in bf16 at the largest batch."""
SIDE, QUICK_SIDE = 256, 32
QUICK = {
    "unet": {"model_channels": 32, "channel_mult": [1, 2], "attention_resolutions": [], "num_head_channels": 32},
    "ncsnpp": {"nf": 16, "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": []},
}
"""Settings of the small networks of the quick form."""


def synchronized(device: torch.device) -> float:
    """The time in seconds, when all that was started on a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(function: Callable[[], object], device: torch.device, times: int) -> float:
    """Median time of a call, after one to warm up."""
    function()
    taken = []
    for _ in range(times):
        began = synchronized(device)
        function()
        taken.append(synchronized(device) - began)
    return statistics.median(taken)


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Operations a second of a product of two square matrices."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return 2 * side**3 / seconds(lambda: a @ b, device, 10)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def network_of(config: SampleConfig, device: torch.device, quick: bool) -> NetworkDenoiser:
    """The network of a config with random weights."""
    assert config.network.architecture is not None and config.network.denoiser is not None
    network = config.network.architecture.model_dump(exclude_none=True)
    network |= QUICK[network["name"]] if quick else {}
    torch.manual_seed(0)
    made = make_denoiser(network, config.network.denoiser.model_dump(exclude_none=True))
    made.eval().requires_grad_(False).to(device)
    made.network.to(memory_format=torch.channels_last)
    return made


def walk_of(config: SampleConfig, denoiser: NetworkDenoiser, batch: int, side: int) -> Callable[[list[float]], object]:
    """The task's walk along some noise levels, for a batch of random pictures."""
    sampler = samplers.from_settings(config.sampler)
    device = next(denoiser.parameters()).device
    shape = (3, side, side)
    x = torch.rand((batch, *shape), device=device) * 2 - 1
    measurement = None
    if config.measurement is not None:
        settings = config.measurement.operator.model_dump()
        operator = operators.make(image_shape=shape, generators=None, **settings).to(device)
        noise = noises.make(**config.measurement.noise.model_dump())
        measurement = Measurement(operator, noise, operator(x))
    return lambda levels: sampler.sample(denoiser, levels, measurement, start=x)


def step_seconds(walk: Callable[[list[float]], object], levels: list[float], device: torch.device, steps: int) -> float:
    """Seconds of a step: the median of three short walks over their number of steps."""
    chosen = levels[:: max(1, len(levels) // steps)][:steps]
    return seconds(lambda: walk(chosen), device, 3) / len(chosen)


def operations(denoiser: NetworkDenoiser, batch: int, side: int, device: torch.device) -> float:
    """Operations of one evaluation, two for each product, by PyTorch's counter."""
    x = torch.zeros((1, 3, side, side), device=device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        denoiser(x, 1.0)
    return float(batch * counter.get_total_flops())


def measure(report: Report, chosen: argparse.Namespace, device: torch.device) -> None:
    """The table of all tasks; every row is written as it comes."""
    side, steps = (QUICK_SIDE, 1) if chosen.quick else (SIDE, chosen.steps)
    batches = (1, 2) if chosen.quick else tuple(chosen.batches)
    rates = {
        "fp32": matrix_rate(device, torch.float32, 256 if chosen.quick else 8192),
        "bf16": matrix_rate(device, torch.bfloat16, 256 if chosen.quick else 8192),
    }
    for name, rate in rates.items():
        report.add("matrix product", name, "rate", rate, "1/s")
    report.say("\n".join(f"* matrix rate in {name}: {rate / 1e12:.3g} Tera/s" for name, rate in rates.items()))
    head = ["task", "mode", "batch", "ms a step", "images/s", "share of the matrix rate", "compiled in (s)"]
    rows: list[list[str]] = []
    shares: list[float] = []
    by_network: dict[str, list[str]] = {}
    for name in chosen.tasks:
        by_network.setdefault(name.split("_")[0], []).append(name)
    for mode in chosen.modes:  # compiling, which is slow, last
        for names in by_network.values():
            configs = {name: load_sample_config(CONFIGS / f"{name}.yaml") for name in names}
            denoiser = network_of(next(iter(configs.values())), device, chosen.quick)
            counted = {batch: operations(denoiser, batch, side, device) for batch in batches}
            denoiser.autocast_dtype = None if mode == "fp32" else torch.bfloat16
            rate = rates["fp32" if mode == "fp32" else "bf16"]
            if mode == "compiled":
                torch.compiler.reset()
                backend = "eager" if chosen.quick else "inductor"
                denoiser.network = torch.compile(denoiser.network, dynamic=False, backend=backend)  # type: ignore[assignment]
            for batch in batches:
                compiling = 0.0
                for name, config in configs.items():
                    levels = samplers.from_settings(config.sampler).levels(denoiser).tolist()
                    walk = walk_of(config, denoiser, batch, side)
                    began = synchronized(device)
                    walk(levels[:1])
                    compiling = synchronized(device) - began if mode == "compiled" and not compiling else compiling
                    taken = step_seconds(walk, levels, device, steps)
                    images, share = batch / (taken * len(levels)), counted[batch] / taken / rate
                    shown = [f"{1e3 * taken:.1f}", f"{images:.3g}", f"{share:.0%}", f"{compiling:.0f}"]
                    rows.append([name, mode, str(batch), *shown])
                    print(" ".join(rows[-1]), flush=True)
                    case = f"{name}, batch {batch}"
                    report.add(case, mode, "step", taken, "s")
                    report.add(case, mode, "images_per_second", images, "1/s")
                    report.add(case, mode, "share_of_matrix_rate", share, "1")
                    report.save()
                    if mode != "fp32" and batch == max(batches):
                        shares.append(share)
            del denoiser
            gc.collect()
    notes = [f"images of {side} x {side} pixels; {steps} steps of each walk timed; {torch.get_num_threads()} threads"]
    if shares and device.type == "cuda":
        met = "met" if min(shares) >= TARGET else "MISSED"
        best, worst = max(shares), min(shares)
        found = f"{worst:.0%} to {best:.0%} of the matrix rate"
        notes.append(f"bf16, batch {max(batches)}: {found}, target at least {TARGET:.0%}: {met}")
    report.table("The tasks of FFHQ-256", head, rows, notes)


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    tasks = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    made.add_argument("--tasks", nargs="+", choices=tasks, default=tasks, help="some of the tasks (all)")
    made.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="some of the modes (all)")
    made.add_argument("--batches", nargs="+", type=int, default=[1, 16], metavar="N", help="batch sizes (1 16)")
    made.add_argument("--steps", type=int, default=5, metavar="N", help="steps of each walk that are timed (5)")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Print the table."""
    if min(chosen.batches) < 1:
        raise InputError("--batches: expected 1 or more")
    check_least(chosen, steps=1)
    device = resolve_device(chosen.device)
    report = Report("gpu", chosen, str(device))
    measure(report, chosen, device)
    return report.finish()


if __name__ == "__main__":
    start(main, options())
