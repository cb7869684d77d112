"""Short runs of every program, to be killed at any moment."""

from __future__ import annotations

import argparse
import csv
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from kill_tools import NEEDS_SPACE, TIMES, Change, End, Fault, Server  # noqa: E402
from page_tools import lasting  # noqa: E402
from sampling_tools import save_images, write_config  # noqa: E402

from randomwalk.config.bridge import BridgeConfig  # noqa: E402
from randomwalk.config.files import load_training  # noqa: E402
from randomwalk.denoisers.checkpoints import build_network, save_denoiser  # noqa: E402
from randomwalk.runs.folder import RunFolder  # noqa: E402
from randomwalk.runs.report import is_report  # noqa: E402
from randomwalk.studies.bridge.model import save_bridge  # noqa: E402
from randomwalk.studies.bridge.trainer import build_bridge  # noqa: E402

MLP = {"name": "mlp", "hidden": 8, "num_blocks": 1, "time_scale": 250.0}
EDM = {"name": "edm", "sigma_data": 2.0}
UNET = {
    "name": "unet", "image_size": 8, "in_channels": 1, "out_channels": 1, "model_channels": 32, "num_res_blocks": 1,
    "channel_mult": [1], "num_head_channels": 32,
}  # fmt: skip
KARRAS = {"name": "karras", "num_steps": 4, "sigma_min": 0.02, "sigma_max": 20.0}


def _yaml(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"output": str(path.with_name("run")), "device": "cpu", **settings}))
    return path


def images(base: Path) -> list[str]:
    """Two samples of the restoration of an image, in two batches."""
    path = write_config(base, 1, num_samples=2, batch_size=1, output=str(base / "run"))
    return ["sample", "--config", str(path)]


def points(base: Path) -> list[str]:
    """Sampling of points in three batches."""
    record = {"config": {"data": {"dataset": "points", "set": "swiss_roll"}}}
    torch.manual_seed(0)
    weights = base / "weights.safetensors"
    save_denoiser(weights, {"network": MLP, "denoiser": EDM, "training": record}, build_network(MLP).state_dict())
    settings = {"network": {"path": str(weights)}, "sampler": {"name": "ddpm_small", "schedule": KARRAS}}
    settings |= {"num_images": 60, "batch_size": 20, "animation_frames": 3}
    return ["sample", "--config", str(_yaml(base / "task.yaml", settings))]


def bridge_sampling(base: Path) -> list[str]:
    """Points sent over an untrained bridge, both ways."""
    bridge_training(base)
    config = load_training(base / "task.yaml")
    assert isinstance(config, BridgeConfig)
    made = build_bridge(config)
    save_bridge(RunFolder(base), "bridge.safetensors", made, made.state_dict(), {})
    settings = {"bridge": {"path": str(base / "bridge.safetensors")}, "num_points": 60, "num_steps": 3}
    return ["sample", "--config", str(_yaml(base / "task.yaml", settings | {"animation_frames": 3}))]


def restoring(base: Path) -> list[str]:
    """Restoration of one photograph, whose result is the only file."""
    photo = save_images(base / "photos", 1) / "picture a.png"
    return ["restore", str(photo), "--noise", "20", "--device", "cpu"]


def restoring_with_report(base: Path) -> list[str]:
    """The same with a page, whose file comes before that of the result."""
    return [*restoring(base), "--report"]


def image_training(base: Path) -> list[str]:
    """Four steps on images, with two checkpoints."""
    settings = {
        "data": {"path": str(save_images(base / "images", 6)), "image_size": 8, "channels": 1, "fit": "crop",
                 "num_validation": 2},
        "network": UNET, "denoiser": {"name": "vp"}, "optimizer": {"warmup_images": 8}, "ema": {"half_life_images": 16},
        "batch_size": 2, "num_images": 8, "log_every": 1, "checkpoint_images": 4, "validate_images": 8,
        "validation_sigmas": [0.5],
    }  # fmt: skip
    return ["train", "--config", str(_yaml(base / "task.yaml", settings))]


def point_training(base: Path) -> list[str]:
    """Four steps on points, with two checkpoints."""
    settings = {
        "data": {"dataset": "points", "set": "mixture"}, "network": MLP, "denoiser": EDM,
        "objective": {"levels": {"name": "log_normal", "mean": -0.3, "std": 1.3}},
        "optimizer": {"learning_rate": 1e-2}, "ema": {"half_life_images": 64}, "batch_size": 16, "num_images": 64,
        "log_every": 1, "checkpoint_images": 32, "validate_images": 64,
    }  # fmt: skip
    return ["train", "--config", str(_yaml(base / "task.yaml", settings))]


def bridge_training(base: Path) -> list[str]:
    """One fit of each direction of a bridge."""
    settings = {
        "bridge": {"source": {"name": "moons"}, "target": {"name": "gaussian"}, "iterations": 2, "first_steps": 2,
                   "steps": 2, "num_pairs": 64, "num_steps": 3},
        "network": MLP, "batch_size": 16, "log_every": 1,
        "evaluation": {"num_points": 200, "num_steps": 3, "floor_repeats": 1, "num_transport": 100,
                       "animation_frames": 3},
    }  # fmt: skip
    return ["train", "--config", str(_yaml(base / "task.yaml", settings))]


def embedding(base: Path) -> list[str]:
    """Training on two photographs, with two checkpoints, and its samples."""
    settings = {
        "data": {"path": str(ROOT / "data" / "photographs"), "image_size": 16, "num_images": 2},
        "method": {"name": "score_embedding", "base": 2.0, "num_levels": 3, "density": {"name": "intensity"},
                   "time_scale": 1.0},
        "network": {"name": "ddpm_unet", "image_size": 16, "nf": 8, "ch_mult": [1], "num_res_blocks": 1,
                    "attn_resolutions": [], "num_classes": 2, "dropout": 0.1},
        "batch_size": 2, "num_steps": 4, "checkpoint_steps": 2, "profile": {"enabled": True, "every_steps": 2},
    }  # fmt: skip
    return ["train", "--config", str(_yaml(base / "task.yaml", settings))]


PROGRAMS: dict[str, Callable[[Path], list[str]]] = {
    make.__name__: make
    for make in (
        images,
        points,
        bridge_sampling,
        image_training,
        point_training,
        bridge_training,
        embedding,
        restoring,
        restoring_with_report,
    )
}
"""Programs by name: each writes what it needs into a folder, and returns the words after ``randomwalk``."""
READ = {".yaml", ".json", ".npy", ".pt", ".safetensors"}
"""Endings of the files that a resumed run reads."""
FALLBACK = "validated_before.pt"
"""State to fall back on: a run killed between a validation and its checkpoint validates again, and keeps both."""


# --- what a run leaves -----------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A value without times, and with the bytes of tensors, to be compared."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items() if key not in TIMES}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), value.contiguous().numpy().tobytes()]
    return value


def _content(path: Path) -> Any:
    """What must be the same in every run of a config: all of a file but times."""
    if path.name == "run.json":
        found = json.loads(path.read_text())
        return {key: found.get(key) for key in ("seed", "inputs", "classes", "notes")}
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text()))
    if path.suffix == ".html" and is_report(path):
        return lasting(path)
    if path.name == "timings.csv" or path.suffix == ".html":
        return "times"
    if path.name == "crossings.csv":
        return len(path.read_text().splitlines())
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return _plain(list(csv.DictReader(file)))
    if path.suffix == ".pt":
        return _plain(torch.load(path, weights_only=True))
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            facts = {key: _plain(json.loads(text)) for key, text in file.metadata().items() if text[:1] == "{"}
            return [facts, {key: _plain(file.get_tensor(key)) for key in file.keys()}]  # noqa: SIM118
    return path.read_bytes()


def contents(folder: Path) -> dict[str, Any]:
    """Content of every file below a folder but `FALLBACK`, by its path."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != FALLBACK]
    return {str(path.relative_to(folder)): _content(path) for path in paths}


# --- a fault and what comes after it ---------------------------------------------------------------------------------


class Case:
    """A program with the result and the changes of its uninterrupted run.

    Args:
        name: of the program.
        base: an empty folder.
        server: that runs it.

    Attributes:
        seconds: of processor time of all runs.
    """

    def __init__(self, name: str, base: Path, server: Server) -> None:
        self.base, self.server, self.words = base, server, PROGRAMS[name](base)
        self.before = set(base.rglob("*"))
        server.warm(self.words)
        self.clear()
        self.seconds = 0.0
        self.whole = self._run(self.words)
        if self.whole.status:
            raise RuntimeError(f"{name}: {self.whole.err}")
        self.changes, self.expected = self.whole.changes, contents(base)

    def _run(self, words: list[str], fault: Fault | None = None) -> End:
        end = self.server.run(self.base, words, fault)
        self.seconds += end.seconds
        return end

    def clear(self) -> None:
        """Remove what runs have left."""
        for path in sorted(set(self.base.rglob("*")) - self.before, reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()

    def faults(self, kinds: Sequence[str] = ("kill", "full")) -> list[Fault]:
        """Every fault: before each change, and amid each file that is written."""
        found = []
        for kind in kinds:
            for n, change in enumerate(self.changes):
                if kind == "kill" or change.kind in NEEDS_SPACE:
                    found.append(Fault(kind, n))
                if change.kind == "write":
                    found.append(Fault(kind, n, change.size // 2))
        return found

    def one_for_each_write(self, every: int = 1) -> list[Fault]:
        """One fault for each file that is written: its kind and its moment change from one to the next.

        Args:
            every: of the files that no resumed run reads (figures, tables), only each such one.
        """
        writes = [n for n, change in enumerate(self.changes) if change.kind == "write"]
        read = {n for n in writes if Path(self._named(self.changes[n])).suffix in READ}
        chosen = sorted(read | set([n for n in writes if n not in read][::every]))
        found = []
        for turn, n in enumerate(chosen):
            change, half = self.changes[n], self.changes[n].size // 2
            after = (k for k in range(n, len(self.changes)) if self.changes[k].path == change.path)
            renamed = next((k for k in after if self.changes[k].kind == "rename"), n)
            kinds = (Fault("kill", n, half), Fault("full", n, half), Fault("kill", n), Fault("kill", renamed))
            found.append(kinds[turn % len(kinds)])
        return found

    def place(self, fault: Fault) -> str:
        """Words for a fault."""
        if fault.after is not None:
            return f"killed after {fault.after:.3f} s"
        change = self.changes[fault.at]
        moment = "amid" if fault.half is not None else "before"
        return f"{fault.kind} {moment} {change.kind} {self._named(change)} (change {fault.at})"

    def _named(self, change: Change) -> str:
        """Final path of the file of a change."""
        later = (other.to for other in self.changes if other.kind == "rename" and other.path == change.path)
        return str(Path(next(later, change.path)).relative_to(self.base))

    def problem(self, fault: Fault) -> str:
        """Let a fault happen, resume, and compare; returns what is wrong, or nothing."""
        self.clear()
        end = self._run(self.words, fault)
        if fault.kind == "full":
            change = self.changes[fault.at]
            # Another folder can be chosen for the output: a folder that cannot be made is bad input.
            names = {Path(self._named(change)).name, Path(change.path).name}
            if wrong := self._unclear(end, names, (1, 2) if change.kind == "mkdir" else (1,)):
                return wrong
        if fault.kind == "kill" and end.status not in (-signal.SIGKILL, -signal.SIGXFSZ, 0 if fault.after else -9):
            return f"was not killed: status {end.status}; {end.err[-300:]}"
        folders = [path.parent for path in self.base.glob("run*/config.yaml")]
        again = [self.words[0], "--resume", str(folders[0])] if folders else self.words
        whole = {str(path.relative_to(self.base)) for path in self.base.rglob("*")} >= self.expected.keys()
        if folders or not whole:  # a restored photograph is not replaced
            resumed = self._run(again)
            if resumed.status:
                return f"{' '.join(again[:2])} ends with {resumed.status}: {resumed.err[-400:]}"
        found = contents(self.base)
        if found.keys() != self.expected.keys():
            lost, more = self.expected.keys() - found.keys(), found.keys() - self.expected.keys()
            return f"{len(lost)} files are missing: {sorted(lost)[:3]}; {len(more)} too many: {sorted(more)[:3]}"
        changed = [name for name, content in self.expected.items() if found[name] != content]
        return f"other contents: {changed}" if changed else ""

    @staticmethod
    def _unclear(end: End, names: set[str], allowed: Sequence[int]) -> str:
        """What is wrong with the end of a run whose disk is full."""
        messages = [line for line in end.err.splitlines() if line.startswith("error:")]
        if "Traceback" in end.err:
            return f"traceback: {end.err.splitlines()[-1]}"
        if end.status not in allowed or len(messages) != 1:
            return f"ends with {end.status} and {len(messages)} messages: {end.err[-300:]}"
        named = any(name in messages[0] for name in names)
        return "" if named else f"the message names none of {sorted(names)}: {messages[0]}"


def main() -> int:
    """Try every fault of every program, and kills at random moments; print what fails."""
    made = argparse.ArgumentParser(description=main.__doc__)
    made.add_argument("programs", nargs="*", default=list(PROGRAMS), metavar="PROGRAM", help=", ".join(PROGRAMS))
    made.add_argument("--random", type=int, default=20, metavar="N", help="kills at random moments (20)")
    made.add_argument("--kinds", nargs="+", default=["kill", "full"], choices=["kill", "full", "none"])
    made.add_argument("--one", action="store_true", help="one fault for each write, as in the test, and no random ones")
    made.add_argument("--figures", action="store_true", help="draw the figures, which takes ten times as long")
    chosen, failed = made.parse_args(), 0
    for name in chosen.programs:
        with tempfile.TemporaryDirectory() as base, Server(chosen.figures) as server:
            started = time.perf_counter()
            case = Case(name, Path(base).resolve(), server)
            shares = np.random.default_rng(0).uniform(0, 1, chosen.random)
            faults = case.faults(chosen.kinds) + [Fault("kill", after=s * case.whole.elapsed) for s in shares]
            faults = case.one_for_each_write() if chosen.one else faults
            print(f"{name}: {len(case.changes)} changes, {len(faults)} faults", flush=True)
            problems = 0
            for turn, fault in enumerate(faults, 1):
                if found := case.problem(fault):
                    problems += 1
                    print(f"  {case.place(fault)}: {found}", flush=True)
                if turn % 25 == 0:
                    print(f"  {turn} tried", flush=True)
            seconds = f"{time.perf_counter() - started:.0f} s, {case.seconds:.0f} s of processor time"
            print(f"{name}: {problems} fail; {seconds}", flush=True)
            failed += problems
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
