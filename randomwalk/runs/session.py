"""Session of a run of any program: its folder is made, locked, described, and removed if nothing came of it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randomwalk import distributed
from randomwalk.config.base import Settings
from randomwalk.config.files import dump, load_sampling, load_training
from randomwalk.config.resumption import changes
from randomwalk.distributed import Context
from randomwalk.errors import InputError, RunError, Terminated
from randomwalk.lookup import program
from randomwalk.runs import checkpoints
from randomwalk.runs.environment import environment
from randomwalk.runs.folder import RunFolder

LOADERS = {"sample": load_sampling, "train": load_training}


def only_process(device: str, task: str) -> Context:
    """Context of a run that is made for a single process, on the device that its config names.

    Raises:
        InputError: there are several processes.
    """
    if distributed.launch().size > 1:
        raise InputError(f"{task} takes one process: start it without torchrun or mpiexec")
    return distributed.connect(device)


@dataclass
class Session:
    """Run that works in a folder.

    Attributes:
        program: "sample" or "train".
        folder: of the run.
        context: this process among the others.
        is_resumed: whether the folder is of an earlier run.
        has_begun: whether the folder is described, so that the run can be resumed.
    """

    program: str
    folder: RunFolder
    context: Context
    is_resumed: bool
    has_begun: bool = False

    @property
    def resume_command(self) -> str:
        """Command that resumes the run."""
        return f"{program(self.program)} --resume {shlex.quote(str(self.folder.path))}"

    def begin(
        self, config: Settings, facts: Mapping[str, Any] | None = None, may_change: tuple[str, ...] | None = None
    ) -> None:
        """Describe the run in config.yaml and run.json, and print where it is and how to resume it.

        A resumed run adds to run.json where it goes on and which settings have changed, and config.yaml gets their new
        values. The main process does so; the others wait.

        Args:
            config: of the run.
            facts: what run.json says besides the environment.
            may_change: settings that may change on resumption; see `randomwalk.config.resumption.changes`.

        Raises:
            InputError: a setting has changed that may not.
        """
        if self.context.is_main:
            if self.is_resumed:
                self._go_on(config, facts or {}, may_change)
            else:
                self.folder.write_text("config.yaml", dump(config))
                self.folder.write_json("run.json", {**self._environment(), **(facts or {})})
                if self.folder.path != Path(config.output):  # type: ignore[attr-defined]
                    print(f"{config.output} is in use: this run goes to {self.folder.path}")  # type: ignore[attr-defined]
            print(f"run folder: {self.folder.path}   (if interrupted: {self.resume_command})", flush=True)
        self.context.barrier()
        self.has_begun = True

    def keep_notes(self, notes: Sequence[str]) -> None:
        """Keep the notes on a run, which has begun, in run.json for its report."""
        if self.context.is_main:
            self.folder.write_json("run.json", {**self.folder.facts(), "notes": list(notes)})

    def _environment(self) -> dict[str, Any]:
        return environment(str(self.context.device), self.context.size)

    def _go_on(self, config: Settings, facts: Mapping[str, Any], may_change: tuple[str, ...] | None) -> None:
        """Check and record the changes: first in run.json, so that none in config.yaml is without its old value."""
        began = LOADERS[self.program](self.folder.file("config.yaml"))
        changed = changes(began, config, f"--resume {self.folder.path}", may_change)
        now = {**self._environment(), **({"changed": changed} if changed else {})}
        if self.folder.has("run.json"):
            before = self.folder.facts()
            self.folder.write_json("run.json", {**before, **facts, "resumed": [*before.get("resumed", []), now]})
        else:  # killed before it was written
            self.folder.write_json("run.json", {**now, **facts})
        if changed:
            self.folder.write_text("config.yaml", dump(config.model_copy(update={"output": began.output})))
        for key, (old, new) in changed.items():
            print(f"{key}: {new} from now on, {old} before")

    def ended(self, error: BaseException) -> BaseException:
        """Error with which the run ends: says how to resume it, if there is something to resume.

        A new folder without results is removed.
        """
        is_interrupted = isinstance(error, KeyboardInterrupt | Terminated)
        if not (is_interrupted and self.has_begun) and self.folder.discard():
            is_resumable = False
        else:
            is_resumable = self.has_begun and (is_interrupted or self.folder.has_results)
        said = str(error)
        if is_resumable and "--resume" not in said:
            separator = "" if not said else "; " if is_interrupted else "\n"
            said += f"{separator}the work so far is kept in {self.folder.path}; resume with: {self.resume_command}"
        if isinstance(error, OSError):
            return RunError(said)
        return type(error)(said) if isinstance(error, InputError | RunError) or is_interrupted else error


@contextlib.contextmanager
def session(name: str, output: str, context: Context, earlier: RunFolder | None = None) -> Iterator[Session]:
    """Hold the folder of a run while it works in the block.

    Nothing is written, read or built before the folder is made and locked, by the main process. It is cleared of the
    temporary files of a process that was killed. Whatever ends the block is told to the other
    processes, and says how to resume the run. A new folder is removed if the block fails before it has a result.

    Args:
        name: of the program, "sample" or "train".
        output: where a new folder is made.
        context: this process among the others, which it leaves at the end.
        earlier: folder of an earlier run, for the main process; None for a new run.

    Raises:
        InputError: no folder can be made, or another process works in it.
    """
    folder: RunFolder | None = None
    try:
        if context.is_main:
            folder = _reopened(earlier) if earlier is not None else RunFolder.claim(output)
            folder.remove_leftovers()
        # The others are told whether the run is a new one, since they may not have been given its folder.
        told = None if folder is None else [str(folder.path), earlier is not None]
        try:
            path, is_resumed = context.broadcast(told)
        except BaseException:
            if folder is not None:
                folder.discard()
            raise
        run = Session(name, folder or RunFolder(path), context, is_resumed)
        try:
            yield run
        except BaseException as error:
            raised = run.ended(error)
            if raised is error:
                raise
            raise raised from (None if isinstance(error, KeyboardInterrupt | Terminated) else error)
    except BaseException as error:
        context.fail(error)
        raise
    finally:
        distributed.cleanup(context)
        if folder is not None:
            folder.unlock()


def _reopened(folder: RunFolder) -> RunFolder:
    """Lock the folder of an earlier run, and see to its checkpoint if it has one.

    Raises:
        InputError: another process works in it, or has removed it; or its checkpoints are damaged.
    """
    try:
        folder.lock()
    except FileNotFoundError as error:
        raise InputError(f"--resume {folder.path}: there is no such folder any more") from error
    try:
        checkpoints.settle(folder)
    except BaseException:
        folder.unlock()
        raise
    return folder
