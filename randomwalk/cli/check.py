"""`randomwalk check`: report versions, device, precision and memory, and try one small restoration."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import randomwalk
from randomwalk.cli import options
from randomwalk.config.files import load_sample_config
from randomwalk.lookup import HOME

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "pillow", "pydantic", "safetensors")
OPTIONAL = {"mpi4py": "mpi", "torchdiffeq": "ode", "POT": "bridge", "deepinv": "deepinv"}
"""Optional libraries and the extras that install them."""
NOISE, LEAST_GAIN = 25, 6.0
"""Noise of the trial, of 255, and the least gain in PSNR (dB) of a healthy installation, which reaches about 10."""


def parser(prog: str = "randomwalk check") -> argparse.ArgumentParser:
    """Parser of the options."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Report versions, device, precision and memory, and denoise one small photograph.",
        epilog="exit status: 0 all is well; 1 the restoration failed or is poor; 2 a bundled file is missing.",
    )
    made.add_argument("--device", default="auto", help="auto (default), cpu, mps, cuda or cuda:N")
    return made


def main(args: argparse.Namespace) -> int:
    """Print the report and try the restoration; returns the exit status."""
    _line("randomwalk", f"{randomwalk.__version__}  ({Path(randomwalk.__file__).parent})")
    _line("Python", f"{platform.python_version()}  ({platform.platform()})")
    for name in LIBRARIES:
        _line(name, _version(name) or "missing")
    for name, extra in OPTIONAL.items():
        _line(name, _version(name) or f"not installed (optional, extra [{extra}])")
    bundled = sorted(path.stem for path in (HOME / "pretrained_models").glob("*.safetensors"))
    _line("weights", f"{', '.join(bundled) or 'none'}  ({HOME / 'pretrained_models'})")
    changes = [
        f"device={args.device}", "data.path=data/photographs/astronaut.png", "data.fit=crop", "image_size=[128, 128]",
        "measurement.given=false", f"measurement.noise.std={NOISE}",
    ]  # fmt: skip
    config = load_sample_config("configs/photo_denoise.yaml", changes)

    import torch  # after the versions, which are also of use where PyTorch does not load

    from randomwalk import distributed
    from randomwalk.images import metrics
    from randomwalk.sampling.loading import load_task
    from randomwalk.sampling.memory import GIB, SHARE, free_memory

    device = distributed.choose_device(config.device)
    cuda = device.type == "cuda"
    _line(
        "device", f"{device}  ({torch.cuda.get_device_name(device) if cuda else f'{torch.get_num_threads()} threads'})"
    )
    _line("free memory", f"{free_memory(device) / SHARE / GIB:.1f} GiB, of which a run takes at most {SHARE:.0%}")

    task = load_task(config, device)
    _line("precision", "{}, since {}".format(*task.precision))
    [units] = task.batches()
    truth = task.load_image(0)[None].to(device)
    start = time.perf_counter()
    batch = task.sample(units, truth)
    seconds = time.perf_counter() - start
    assert batch.measurement is not None
    before, after = (float(metrics.psnr(x, truth)) for x in (batch.measurement, batch.x))
    _line(
        "restoration",
        f"PSNR {before:.1f} dB -> {after:.1f} dB in {seconds:.1f} s (128 x 128 pixels, noise {NOISE} of 255)",
    )
    if not after - before > LEAST_GAIN:  # also if it is NaN
        print(f"error: the restoration gains less than {LEAST_GAIN:g} dB", file=sys.stderr)
        return 1
    print("all is well")
    return 0


def _line(name: str, value: str) -> None:
    print(f"{name:13}{value}", flush=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def command(words: Sequence[str], prog: str = "randomwalk check") -> int:
    """Run `check` with command-line arguments; returns the exit status."""
    args = parser(prog).parse_args(words)
    return options.run(lambda: main(args))
