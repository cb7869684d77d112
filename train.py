"""Train a denoiser as a YAML file says: the command `randomwalk train`."""

import sys

from randomwalk.cli.train import command, main, parser

__all__ = ["command", "main", "parser"]

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
