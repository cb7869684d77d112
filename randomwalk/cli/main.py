"""The command `randomwalk`: choose a command by its name and pass the other words on to it."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import randomwalk

COMMANDS = {
    "restore": "denoise, fill in, enlarge or sharpen one photograph",
    "sample": "sample images, or restore measured ones, from the settings in a YAML file",
    "train": "train a denoiser from the settings in a YAML file",
    "compare": "put sampling runs side by side: metrics, paired differences, images under one slider",
    "calibrate": "find intervals with a stated coverage, from a run with known truths",
    "check": "report versions, device and memory, and try one small restoration",
}
"""Commands and what they do. Each is a module of this folder with a function ``command(words, prog) -> status``."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the words name; returns its exit status.

    Args:
        words: command-line arguments; ``sys.argv[1:]`` if None.
    """
    words = sys.argv[1:] if words is None else words
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="randomwalk",
        usage="randomwalk COMMAND ...",
        description="Sample images and solve inverse problems with score-based diffusion models.",
        epilog="\n".join(
            ["commands:", *(f"  {name:{width}}  {purpose}" for name, purpose in COMMANDS.items()),
             "", "randomwalk COMMAND --help explains the options of a command."]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"randomwalk {randomwalk.__version__}")
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    name = parser.parse_args(words[:1]).command
    status: int = importlib.import_module(f"randomwalk.cli.{name}").command(words[1:], f"randomwalk {name}")
    return status
