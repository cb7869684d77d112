"""Train a denoiser: python train.py --config configs/vp_train.yaml"""

from __future__ import annotations

import sys

from randomwalk.cli import options as cli


def main() -> int:
    parser = cli.Parser(
        config_option="--config",
        description="Train a denoiser as the YAML file says.",
        epilog="example: python train.py --config configs/folder_train.yaml --set data.path=my_pictures",
    )
    parser.add_argument("--config", metavar="FILE", help="the training (YAML); see configs/*_train.yaml")
    cli.add_run_options(parser)
    few = parser.add_argument_group("for the trainings of few images in configs/score_embedding/")
    few.add_argument(
        "--profile", action="store_true", help="measure samples on the way (short for --set profile.enabled=true)"
    )
    few.add_argument("--no-train", action="store_true", help="make samples and report anew, of a finished run")
    args = parser.parse_args()
    if (args.config is None) == (args.resume is None):
        parser.error("give either --config FILE or --resume FOLDER")

    def command() -> int:
        from randomwalk.config.bridge import BridgeConfig
        from randomwalk.config.files import load_training
        from randomwalk.config.score_embedding import ScoreEmbeddingConfig
        from randomwalk.config.training import PointData
        from randomwalk.errors import InputError
        from randomwalk.lookup import expand
        from randomwalk.run_folder import RunFolder

        source = expand(args.config) if args.config else RunFolder.resume(args.resume).file("config.yaml")
        changes = cli.overrides(args) + (["profile.enabled=true"] if args.profile else [])
        config = load_training(source, changes)
        cli.check(config, args)
        if isinstance(config, ScoreEmbeddingConfig):
            from randomwalk.studies.score_embedding import training as of_few_images

            return of_few_images.run(config, resume=args.resume, dry_run=args.dry_run, no_train=args.no_train)
        if args.no_train:
            raise InputError(f"--no-train: is for the trainings in configs/score_embedding/; {source} is another one")
        if isinstance(config, BridgeConfig):
            from randomwalk.studies.bridge import training

            return training.run(config, resume=args.resume, dry_run=args.dry_run)

        if isinstance(config.data, PointData):
            from randomwalk.studies.points.training import run
        else:
            from randomwalk.training import run

        return run(config, resume=args.resume, dry_run=args.dry_run)

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
