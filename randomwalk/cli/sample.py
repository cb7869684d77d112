"""`randomwalk sample` and `sample.py`: sample images, or restore measured ones, as a YAML file says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from randomwalk.cli import options
from randomwalk.config import SampleConfig
from randomwalk.config.bridge import BridgeSampleConfig

EXAMPLE = """\
example:
  python sample.py --diffusion_config configs/vp_inpainting.yaml
  python sample.py --diffusion_config configs/vp_inpainting.yaml --set seed=7 sampler.schedule.name=cosine
  python sample.py --resume runs/vp_inpainting
  torchrun --nproc-per-node 2 sample.py --diffusion_config configs/vp_inpainting.yaml

The images, the numbers and the config with all its defaults are written to the run folder, which the config names
(output).
exit status: 0 done; 1 failed, or some images could not be read; 2 bad input; 130 or 143 interrupted.
"""


def parser(prog: str = "sample.py") -> argparse.ArgumentParser:
    """Parser of the options."""
    example = EXAMPLE
    if prog != "sample.py":
        example = example.replace("python sample.py", prog).replace("sample.py", f"-m {prog}")
    made = options.Parser(
        config_option="--diffusion_config",
        config=SampleConfig,
        prog=prog,
        description="Sample images, or restore measured ones, from the settings in a YAML file.",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--diffusion_config", "--config", metavar="YAML", help="the task, e.g. configs/vp_inpainting.yaml"
    )
    options.add_run_options(made)
    made.add_argument(
        "--max-memory",
        type=float,
        metavar="GIB",
        help="most memory that a process may use; large images are denoised in tiles (short for --set max_memory=...)",
    )
    return made


def main(args: argparse.Namespace) -> int:
    """Run the task that the options name; returns the exit status."""
    config, folder = options.sample_config(args)
    options.check(config, args)
    # PyTorch is imported from here on: the config and its files are known to be good.
    if isinstance(config, BridgeSampleConfig):
        with options.loading():
            from randomwalk.studies.bridge import sampling as bridge

        return bridge.run(config, folder, args.dry_run)
    with options.loading():
        from randomwalk.sampling import run as sampling
        from randomwalk.studies.points.results import results_for

    return sampling.dry_run(config) if args.dry_run else sampling.run(config, folder, results_for)


def command(words: Sequence[str], prog: str = "sample.py") -> int:
    """Run `sample` with command-line arguments; returns the exit status."""
    made = parser(prog)
    args = made.parse_args(words)
    if args.diffusion_config is None and args.resume is None:
        made.error("give --diffusion_config YAML, or --resume FOLDER")
    return options.run(lambda: main(args))
