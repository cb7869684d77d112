"""Sample images, or restore measured ones, as a YAML file says: the command `randomwalk sample`."""

import sys

from randomwalk.cli.sample import command, main, parser

__all__ = ["command", "main", "parser"]

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
