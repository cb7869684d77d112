"""`randomwalk train` and `train.py`: train a denoiser as a YAML file says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from randomwalk.cli import options
from randomwalk.config import TrainConfig
from randomwalk.config.bridge import BridgeConfig
from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.config.training import PointData
from randomwalk.errors import InputError


def parser(prog: str = "train.py") -> argparse.ArgumentParser:
    """Parser of the options."""
    start = "python train.py" if prog == "train.py" else prog
    made = options.Parser(
        config_option="--config",
        config=TrainConfig,
        prog=prog,
        description="Train a denoiser from the settings in a YAML file.",
        epilog=f"example: {start} --config configs/folder_train.yaml --set data.path=my_pictures",
    )
    made.add_argument("--config", metavar="YAML", help="the training; see configs/*_train.yaml")
    options.add_run_options(made)
    group = made.add_argument_group("for the trainings on few images in configs/score_embedding/")
    group.add_argument(
        "--profile", action="store_true", help="measure samples during training (short for --set profile.enabled=true)"
    )
    group.add_argument("--no-train", action="store_true", help="make the samples and report of a finished run again")
    return made


def main(args: argparse.Namespace) -> int:
    """Run the training that the options name; returns the exit status."""
    config, source = options.train_config(args)
    if args.no_train and not isinstance(config, ScoreEmbeddingConfig):
        raise InputError(f"--no-train: is for the trainings in configs/score_embedding/; {source} is not one of them")
    options.check(config, args)
    # PyTorch is imported from here on: the config and its files are known to be good.
    if isinstance(config, ScoreEmbeddingConfig):
        from randomwalk.studies.score_embedding import training as score_embedding

        return score_embedding.run(config, resume=args.resume, dry_run=args.dry_run, no_train=args.no_train)
    if isinstance(config, BridgeConfig):
        from randomwalk.studies.bridge import training as bridge

        return bridge.run(config, resume=args.resume, dry_run=args.dry_run)
    if isinstance(config.data, PointData):
        from randomwalk.studies.points import training as points

        return points.run(config, resume=args.resume, dry_run=args.dry_run)
    from randomwalk import training

    return training.run(config, resume=args.resume, dry_run=args.dry_run)


def command(words: Sequence[str], prog: str = "train.py") -> int:
    """Run `train` with command-line arguments; returns the exit status."""
    made = parser(prog)
    args = made.parse_args(words)
    if (args.config is None) == (args.resume is None):
        made.error("give either --config YAML or --resume FOLDER")
    return options.run(lambda: main(args))
