"""Run folder of a run while it works: opened, described, locked, and removed if nothing came of it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from randomwalk import distributed
from randomwalk.config import TrainConfig
from randomwalk.config.bridge import BridgeConfig, BridgeSampleConfig
from randomwalk.config.files import dump
from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.distributed import Context
from randomwalk.errors import InputError
from randomwalk.run_folder import RunFolder, environment

Config = TrainConfig | BridgeConfig | BridgeSampleConfig | ScoreEmbeddingConfig


def only_process(device: str, task: str) -> Context:
    """Context of a run that is made for a single process, on the device that its config names.

    Raises:
        InputError: there are several processes.
    """
    if distributed.launch().size > 1:
        raise InputError(f"{task} in one process: start it without torchrun or mpiexec")
    return distributed.connect(device)


@contextlib.contextmanager
def session(
    config: Config, context: Context, folder: RunFolder | None = None, facts: Mapping[str, Any] | None = None,
    script: str = "train.py",
) -> Iterator[RunFolder]:  # fmt: skip
    """Open the folder of a run, and hold it while the run works in the block.

    A new folder gets config.yaml and run.json. Any folder is locked, cleared of the temporary files of a process that
    was killed, and its path printed with the command that resumes the run. A new folder is removed if the block fails
    before it has a result. All of this is done by the main process; the others learn where the folder is.

    Args:
        config: of the run.
        context: this process among the others.
        folder: of an earlier run that is resumed; None makes a new one at ``config.output``.
        facts: what run.json says besides the environment.
        script: which resumes the run.

    Raises:
        InputError: no folder can be made, or another process works in it.
    """
    if not context.is_main:
        yield RunFolder(context.broadcast())
        return
    is_new = folder is None
    folder = RunFolder.create(config.output) if folder is None else folder
    try:
        with folder.gone_if_it_fails():
            if is_new:
                folder.write_text("config.yaml", dump(config))
            folder.lock()
            folder.remove_leftovers()
            if is_new:
                folder.write_json("run.json", environment(str(context.device), context.size, facts))
            resume = f"python {script} --resume {shlex.quote(str(folder.path))}"
            print(f"run folder: {folder.path}   (if interrupted: {resume})", flush=True)
            context.broadcast(str(folder.path))
            yield folder
    finally:
        folder.unlock()
