"""Sample images, or restore measured ones, as a YAML file says."""

from __future__ import annotations

import argparse
import sys

from randomwalk.cli import options as cli
from randomwalk.config.bridge import BridgeSampleConfig

EXAMPLE = """\
example:
  python sample.py --diffusion_config configs/vp_inpainting.yaml
  python sample.py --diffusion_config configs/vp_inpainting.yaml --set seed=7 sampler.schedule.name=cosine
  python sample.py --resume runs/vp_inpainting
  torchrun --nproc-per-node 2 sample.py --diffusion_config configs/vp_inpainting.yaml

The run folder, which the config names (output), gets the pictures, the numbers and the config with all its defaults.
exit status: 0 done; 1 failed, or some images could not be read; 2 bad input; 130 or 143 interrupted.
"""


def parser() -> argparse.ArgumentParser:
    """The options of sample.py."""
    made = cli.Parser(
        config_option="--diffusion_config",
        prog="sample.py",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--diffusion_config", "--config", metavar="YAML", help="the task, e.g. configs/vp_inpainting.yaml"
    )
    cli.add_run_options(made)
    made.add_argument(
        "--max-memory",
        type=float,
        metavar="GIB",
        help="memory that a process takes at most: large images are denoised in tiles (short for --set max_memory=...)",
    )
    return made


def main(args: argparse.Namespace) -> int:
    """Do what the options say; the exit status."""
    config, folder = cli.sample_config(args)
    cli.check(config, args)
    if isinstance(config, BridgeSampleConfig):
        from randomwalk.studies.bridge import sampling as over_a_bridge

        return over_a_bridge.run(config, folder, args.dry_run)
    from randomwalk.sampling import run as sampling  # PyTorch; not before the config and its files are known to be good
    from randomwalk.studies.points.results import results_for

    return sampling.dry_run(config) if args.dry_run else sampling.run(config, folder, results_for)


if __name__ == "__main__":
    options = parser().parse_args()
    if options.diffusion_config is None and options.resume is None:
        parser().error("give --diffusion_config YAML, or --resume FOLDER")
    sys.exit(cli.run(lambda: main(options)))
