"""Train a denoiser: python train.py --config configs/vp_train.yaml"""

from __future__ import annotations

import argparse
import sys

from randomwalk import cli


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Train a denoiser as the YAML file says.",
        epilog="example: python train.py --config configs/vp_train.yaml --set data.path=my_photos output=runs/mine",
    )
    parser.add_argument("--config", metavar="FILE", help="the training (YAML); see configs/*_train.yaml")
    cli.add_run_options(parser)
    args = parser.parse_args()
    if (args.config is None) == (args.resume is None):
        parser.error("give either --config FILE or --resume FOLDER")

    def command() -> int:
        from randomwalk.config.bridge import BridgeConfig
        from randomwalk.configio import load_training
        from randomwalk.runs import RunFolder

        source = args.config or RunFolder.resume(args.resume).file("config.yaml")
        config = load_training(source, cli.overrides(args))
        if isinstance(config, BridgeConfig):
            from randomwalk.bridge import training

            return training.run(config, resume=args.resume, dry_run=args.dry_run)

        from randomwalk.training import run

        return run(config, resume=args.resume, dry_run=args.dry_run)

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
