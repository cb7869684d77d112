"""`randomwalk calibrate`: intervals that cover the truth as often as they say, from a run with known truths."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from randomwalk.cli import options
from randomwalk.cli.compare import read_run
from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sampling
from randomwalk.errors import InputError
from randomwalk.lookup import printable
from randomwalk.runs.folder import RunFolder

EXAMPLE = """\
example:
  randomwalk sample --config configs/vp_posterior.yaml --set data.num_images=32
  randomwalk calibrate results/vp_posterior
  randomwalk sample --config configs/vp_posterior.yaml --set seed=1 intervals=intervals.json

The first run simulates its measurements, so that it knows the true images. The last one writes the limits of
each pixel's interval, even for images whose truth is not known (measurement.given).
exit status: 0 done; 2 the folder is not a finished run with several samples and known truths, or has too few images.
"""


def parser(prog: str = "randomwalk calibrate") -> argparse.ArgumentParser:
    """Parser of the options."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Find the factor that turns the standard deviation of samples into intervals with the stated "
        "coverage, on average over images (conformal risk control).",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", metavar="RUN", help="folder of a finished run with several samples and known truths")
    made.add_argument("--level", type=float, default=0.9, help="share of the pixels to cover (default: 0.9)")
    made.add_argument("--output", type=Path, default=Path("intervals.json"), metavar="FILE", help="(intervals.json)")
    made.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    return made


def main(args: argparse.Namespace) -> int:
    """Calibrate a run; returns the exit status."""
    if not 0 < args.level < 1:
        raise InputError(f"--level: found {args.level:g}; allowed: a share between 0 and 1, such as 0.9")
    output = args.output.expanduser()
    if output.exists() and not args.overwrite:
        raise InputError(f"--output: {output} exists already; replace it with --overwrite, or choose another name")
    if not output.absolute().parent.is_dir():
        raise InputError(f"--output: {output}: there is no folder {output.absolute().parent}")
    run = read_run(args.run)
    config = load_sampling(run.folder.file("config.yaml"))
    assert isinstance(config, SampleConfig)
    if config.measurement is None or config.given:
        raise InputError(f"{args.run}: has no known truths: calibrate on a run that simulates its measurements")
    if config.num_samples < 2:
        raise InputError(f"{args.run}: has one sample of each image; calibrate on a run with num_samples of 8 or more")

    from randomwalk.sampling import intervals  # imports NumPy: --help needs none

    found = intervals.scores_of_run(run.folder)
    made = intervals.Intervals(
        args.level, intervals.factor(found, args.level), len(found), intervals.settings_of(config)
    )
    RunFolder(output.absolute().parent).write_text(output.name, made.text())
    covered = sum(float((one <= made.factor).mean()) for one in found) / len(found)
    print(
        f"{printable(str(output))}: mean ± {made.factor:.3g} standard deviations covers {100 * covered:.1f}% of the "
        f"pixels of these {len(found)} images, and on average at least {100 * made.level:g}% of those of new images"
    )
    return 0


def command(words: Sequence[str], prog: str = "randomwalk calibrate") -> int:
    """Run `randomwalk calibrate` with command-line arguments; returns the exit status."""
    args = parser(prog).parse_args(words)
    return options.run(lambda: main(args))
