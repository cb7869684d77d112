"""Options that the commands share, and the exit status of a command."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from randomwalk import distributed
from randomwalk.cli.file_checks import check_files
from randomwalk.config import SampleConfig, TrainConfig, hints
from randomwalk.config.base import Settings
from randomwalk.config.bridge import BridgeConfig, BridgeSampleConfig
from randomwalk.config.files import dump, load_sampling, load_training
from randomwalk.config.resumption import changes
from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.config.validate import schema_of
from randomwalk.errors import InputError, RunError, Terminated
from randomwalk.lookup import expand, printable
from randomwalk.progress import opening, show_notes
from randomwalk.runs.folder import RunFolder

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of the C library's mallopt."""


class Parser(argparse.ArgumentParser):
    """Argument parser whose error for an unknown option explains how to set a key of the config.

    Args:
        config_option: name of the option that takes the config file.
        config: its class.
        settings: arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, *, config_option: str, config: type[Settings], **settings: Any) -> None:
        super().__init__(**settings)
        self.config_option, self.config = config_option, config

    def error(self, message: str) -> NoReturn:
        _, unknown, words = message.partition("unrecognized arguments: ")
        given = words.split() if unknown else []
        if given and given[0].endswith((".yaml", ".yml")):
            message += f"; pass the config as {self.config_option} {given[0]}"
        elif given and given[0].startswith("--"):
            key, equals, value = given[0].lstrip("-").partition("=")
            key = key.replace("-", "_")
            value = value if equals else (given[1] if len(given) > 1 else "VALUE")
            keys = hints.keys_of(schema_of(self.config), {})
            if key in keys:
                message += f"; set a key of the config with --set {key}={value}"
            else:
                hint = hints.elsewhere(key, value, [k for k in keys if "." not in k], keys)
                message += f"; set a key of the config with --set KEY={value}; {hint}".rstrip("; ")
        super().error(message)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sample` and `train`."""
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the config, e.g. --set seed=3 sampler.schedule.num_steps=100",
    )
    parser.add_argument("--resume", metavar="FOLDER", help="continue an interrupted run in its folder")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the config and check every file, without starting",
    )
    parser.add_argument("--device", help="auto, cpu, mps, cuda or cuda:N (short for --set device=...)")
    parser.add_argument(
        "--precision", choices=["auto", "fp32", "bf16"], help="of the network (short for --set precision=...)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the network (short for --set compile=true)")


def overrides(args: argparse.Namespace) -> list[str]:
    """Changes to the config that the options of `add_run_options` ask for, ``KEY=VALUE`` each."""
    found = list(args.set)
    options = ("device", "precision", "max_memory")
    found += [f"{key}={value}" for key in options if (value := getattr(args, key, None)) is not None]
    return found + (["compile=true"] if args.compile else [])


def sample_config(args: argparse.Namespace) -> tuple[SampleConfig | BridgeSampleConfig, RunFolder | None]:
    """Load the task that the options of `sample` name, and with ``--resume`` its run folder. Imports no PyTorch.

    Raises:
        InputError: the config is not valid, or differs from that of the run to resume.
    """
    source = expand(args.diffusion_config) if args.diffusion_config else None
    if args.resume is not None:
        return resumed(load_sampling, args, source)
    assert source is not None
    return load_sampling(source, overrides(args)), None


def train_config(args: argparse.Namespace) -> tuple[TrainConfig | BridgeConfig | ScoreEmbeddingConfig, str]:
    """Load the training that the options of `train` name, and the path of its file. Imports no PyTorch.

    Raises:
        InputError: the config is not valid, or differs from that of the run to resume in what may not change.
    """
    profiled = ["profile.enabled=true"] if args.profile else []
    if args.resume is None:
        source = expand(args.config)
        return load_training(source, overrides(args) + profiled), source
    if args.no_train:  # which asks for more
        source = str(RunFolder.resume(args.resume).file("config.yaml"))
        return load_training(source, overrides(args) + profiled), source
    config, folder = resumed(load_training, args, None, profiled)
    return config, str(folder.file("config.yaml"))


def resumed(
    load: Callable[..., Any], args: argparse.Namespace, source: str | None, more: Sequence[str] = ()
) -> tuple[Any, RunFolder]:
    """Load the config of the run to resume, with the changes that the options ask for, and find its folder.

    Args:
        load: loader of the program's configs.
        args: the options.
        source: file to load in place of the folder's own.
        more: changes besides those of the options.

    Raises:
        InputError: the config is not valid, or differs from that of the run in what may not change.
    """
    folder = RunFolder.resume(args.resume)
    own = folder.file("config.yaml")
    began, config = load(own), load(source or own, [*overrides(args), *more])
    if type(began) is not type(config):
        raise InputError(f"--resume {args.resume}: {source} is for a different kind of run from {own}")
    changes(began, config, f"--resume {args.resume}")
    return config, folder


def check(config: Settings, args: argparse.Namespace) -> None:
    """Check that the files of a config exist. A dry run prints the config even if they do not. Imports no PyTorch.

    Raises:
        InputError: a file is missing.
    """
    try:
        check_files(config, new=args.resume is None)
    except InputError:
        if args.dry_run and not distributed.launch().rank:
            show_notes(getattr(config, "notes", ()))
            print(dump(config), end="", flush=True)
        raise


def loading() -> contextlib.AbstractContextManager[None]:
    """Context of the imports that bring PyTorch, which take seconds: a terminal shows them pass."""
    return opening("loading PyTorch", shown=distributed.launch().rank == 0)


def run(command: Callable[[], int]) -> int:
    """Run a command and return its exit status: its own, 2 for bad input, 1 for a failure, 130 or 143 for a signal.

    Errors that the user can fix are printed as one message on the standard error, without a traceback.
    """
    _keep_freed_memory()
    previous = signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    start = distributed.Launch()
    try:
        start = distributed.launch()
        return command()
    except InputError as error:
        status, message = 2, f"error: {error}"
    except (RunError, OSError) as error:
        status, message = 1, f"error: {error}"
    except KeyboardInterrupt as stop:
        status, message = 130, f"interrupted: {stop}" if str(stop) else "interrupted"
    except Terminated as stop:
        status, message = 143, f"terminated: {stop}" if str(stop) else "terminated"
    except BaseException:
        # A bug keeps its traceback, but the other processes must not wait for this one.
        if start.launcher == "mpiexec":
            sys.excepthook(*sys.exc_info())
            distributed.abort(1)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    if not distributed.leaves_message(start, stopped=status >= 130):
        who = f"[process {start.rank} of {start.size}] " if start.rank else ""
        shown = "\n".join(map(printable, f"{who}{message}".splitlines()))
        print(shown, file=sys.stderr, flush=True)
    distributed.abort(status)
    return status


def _keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones, where it can be asked to (glibc).

    It would give each large one back to the system, which clears it page by page when it is taken again: a quarter of
    the time of a network on photographs.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, size in ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(parameter, size)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated
