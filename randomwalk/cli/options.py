"""What the scripts have in common: options, and how a command ends."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from randomwalk import distributed
from randomwalk.errors import InputError, RunError, Terminated
from randomwalk.progress import show_notes

if TYPE_CHECKING:
    from randomwalk.config import SampleConfig
    from randomwalk.config.base import Settings
    from randomwalk.config.bridge import BridgeSampleConfig
    from randomwalk.run_folder import RunFolder


class Parser(argparse.ArgumentParser):
    """Options of a script; one that it does not have gets a pointer to how keys of the config are set.

    Args:
        config_option: the option that names the config.
    """

    def __init__(self, *, config_option: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.config_option = config_option

    def error(self, message: str) -> NoReturn:
        _, unknown, words = message.partition("unrecognized arguments: ")
        given = words.split() if unknown else []
        if given and given[0].endswith((".yaml", ".yml")):
            message += f"; the config is given by {self.config_option} {given[0]}"
        elif given and given[0].startswith("--"):
            key, equals, value = given[0].lstrip("-").partition("=")
            value = value if equals else (given[1] if len(given) > 1 else "VALUE")
            message += f"; keys of the config are set by --set, as in --set {key}={value}"
        super().error(message)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of every script that runs a config."""
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the config, e.g. --set seed=3 sampler.schedule.num_steps=100",
    )
    parser.add_argument("--resume", metavar="FOLDER", help="go on with an interrupted run, in its folder")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the config with all defaults, check every file, start nothing"
    )
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (short for --set device=...)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="of the network (short for --set precision=...)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network (--set compile=true)")


def overrides(args: argparse.Namespace) -> list[str]:
    """``KEY=VALUE`` for everything that the options of `add_run_options` override."""
    found = list(args.set)
    options = ("device", "precision", "max_memory")
    found += [f"{key}={value}" for key in options if (value := getattr(args, key, None)) is not None]
    return found + (["compile=true"] if args.compile else [])


def sample_config(args: argparse.Namespace) -> tuple[SampleConfig | BridgeSampleConfig, RunFolder | None]:
    """The task that the options of sample.py name, and with ``--resume`` the folder of the run; imports no PyTorch.

    Raises:
        InputError: the config is not valid, or is not that of the run.
    """
    from randomwalk.config.files import load_sampling
    from randomwalk.lookup import expand
    from randomwalk.run_folder import RunFolder, differences

    changes = overrides(args)
    source = expand(args.diffusion_config) if args.diffusion_config else None
    if args.resume is None:
        assert source is not None
        return load_sampling(source, changes), None
    folder = RunFolder.resume(args.resume)
    path = folder.file("config.yaml")
    kept = load_sampling(path).model_dump(mode="json")
    config = load_sampling(source or path, changes)
    if changed := set(differences(kept, config.model_dump(mode="json"))) - {"device", "output", "max_memory"}:
        raise InputError(
            f"--resume {args.resume}: the config differs from {path} in {', '.join(sorted(changed))}; "
            "leave that as it was (only device and max_memory may change), or start a new run"
        )
    return config, folder


def check(config: Settings, args: argparse.Namespace) -> None:
    """See that the files of a config are there; imports no PyTorch. A dry run prints the config all the same.

    Raises:
        InputError: something is missing.
    """
    from randomwalk.cli.file_checks import check_files
    from randomwalk.config.files import dump

    try:
        check_files(config, new=args.resume is None)
    except InputError:
        if args.dry_run and not distributed.launch().rank:
            show_notes(getattr(config, "notes", ()))
            print(dump(config), end="", flush=True)
        raise


def run(command: Callable[[], int]) -> int:
    """Exit status of a command: its own; 2 for bad input, 1 for a failure, 130 or 143 for a signal.

    The errors that a user can do something about are one message on the standard error, without a traceback.
    """
    previous = signal.signal(signal.SIGTERM, _terminate)
    start = distributed.Launch()
    try:
        start = distributed.launch()
        return command()
    except InputError as error:
        status, message = 2, f"error: {error}"
    except (RunError, OSError) as error:
        status, message = 1, f"error: {error}"
    except KeyboardInterrupt as stop:
        status, message = 130, f"interrupted{_detail(stop)}"
    except Terminated as stop:
        status, message = 143, f"terminated{_detail(stop)}"
    except BaseException:
        # A mistake of the program keeps its traceback, but the other processes must not wait for this one.
        if start.launcher == "mpiexec":
            sys.excepthook(*sys.exc_info())
            distributed.abort(1)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    who = f"[process {start.rank} of {start.size}] " if start.rank else ""
    print(f"{who}{message}", file=sys.stderr, flush=True)
    distributed.abort(status)
    return status


def _detail(stop: BaseException) -> str:
    return f": {stop}" if str(stop) else ""


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated
