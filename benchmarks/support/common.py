"""Options, tables and output files of the benchmarks."""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from randomwalk.cli.options import run
from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.checkpoints import load_denoiser, resolve_device
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.denoisers.precision import choose_precision
from randomwalk.errors import InputError
from randomwalk.images.standard_sets import find_standard_set
from randomwalk.progress import bar as bar
from randomwalk.runs.environment import environment
from randomwalk.runs.folder import RunFolder, write_csv

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = {"vp": "VP, ADM UNet", "ve": "VE, NCSN++"}
"""Bundled networks for Fashion-MNIST."""
COLUMNS = ("case", "method", "metric", "value", "unit")


def parser(description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """Parser with the options of every benchmark."""
    made = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="a smaller version, to see that it works")
    made.add_argument(
        "--out", metavar="FOLDER", help="where table.md, results.csv and settings.json go (results/benchmarks/NAME)"
    )
    made.add_argument("--device", default="auto", help="auto (the default), cpu, cuda or cuda:N")
    return made


def add_fashion_mnist(made: argparse.ArgumentParser, purpose: str = "") -> None:
    """Add the option of benchmarks that need the whole of Fashion-MNIST."""
    what = "the four files of Fashion-MNIST" + (f", {purpose}" if purpose else "")
    made.add_argument(
        "--fashion-mnist",
        type=Path,
        default=find_standard_set("fashion_mnist", ROOT / "data") or ROOT / "data",
        metavar="FOLDER",
        help=f"{what} (default: those that a training has downloaded into data/, or Debian's dataset-fashion-mnist)",
    )


def add_weights(made: argparse.ArgumentParser, names: Iterable[str] = tuple(NETWORKS)) -> None:
    """Add an option for the weights of each of these networks."""
    for n in names:
        default = ROOT / "pretrained_models" / f"fashion_{n}.safetensors"
        made.add_argument(f"--{n}", type=Path, default=default, metavar="FILE", help=f"weights of the {NETWORKS[n]}")


def add_restoring(made: argparse.ArgumentParser, num_images: int) -> None:
    """Add the options of benchmarks in which networks restore test images.

    Args:
        num_images: default number of images.
    """
    made.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="of the networks; auto (the default) is bf16 on a GPU and on processors with units for it",
    )
    made.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    made.add_argument(
        "--num-images", type=int, default=num_images, metavar="N", help=f"test images to restore ({num_images})"
    )


def resolve_precision(precision: str, device: torch.device) -> str:
    """Precision on a device: "auto" becomes "bf16" where the device has units for it, else "fp32"."""
    return choose_precision(precision, device)[0]


def check_least(options: argparse.Namespace, **least: int) -> None:
    """Raise InputError for an option below its least value."""
    for name, low in least.items():
        if getattr(options, name) < low:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected {low} or more")


def check_num_images(options: argparse.Namespace) -> None:
    """Raise InputError for a number of images that data/fashion_mnist does not have, or that has no standard error."""
    if not 2 <= options.num_images <= 64:
        raise InputError(f"--num-images {options.num_images}: expected 2 to 64, which data/fashion_mnist has")


def start(main: Callable[[argparse.Namespace], int], made: argparse.ArgumentParser) -> None:
    """Run a benchmark and exit: 0 done, 1 failed, 2 bad input, the latter two with one message."""
    options = made.parse_args()
    sys.exit(run(lambda: main(options)))


class Report:
    """Tables and results of a benchmark. All files are rewritten after every table, each atomically.

    Args:
        name: name of the benchmark.
        options: its command line, which goes into settings.json with the versions.
        device: device that it runs on.
        packages: packages besides PyTorch and NumPy whose versions matter to the results.
        folder: folder of an earlier run to continue; by default a new one, given by the options.
    """

    def __init__(
        self,
        name: str,
        options: argparse.Namespace,
        device: str,
        packages: Sequence[str] = (),
        folder: RunFolder | None = None,
    ) -> None:
        self.folder = folder or RunFolder.create(options.out or Path("results") / "benchmarks" / name)
        facts = environment(device, 1)
        facts["versions"] |= {package: _version(package) for package in packages}
        facts["processor"] = processor()
        self.settings: dict[str, Any] = {
            "benchmark": name,
            "options": {key: _plain(value) for key, value in vars(options).items()},
            **facts,
        }
        self.results: list[dict[str, Any]] = []
        self.text = ""
        self.say(f"# {name}{' (quick)' if options.quick else ''}")

    def add(self, case: str, method: str, metric: str, value: float | tuple[float, float], unit: str) -> None:
        """Add a row to results.csv; for a mean and its standard error, two rows."""
        value, *error = value if isinstance(value, tuple) else (value,)
        self.results.append(dict(zip(COLUMNS, (case, method, metric, value, unit), strict=True)))
        if error:
            self.add(case, method, f"{metric}_standard_error", error[0], unit)

    def say(self, text: str) -> None:
        """Print a paragraph, and keep it for table.md."""
        print(f"\n{text}" if self.text else text, flush=True)
        self.text += f"\n{text}\n" if self.text else f"{text}\n"

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
        """Print a table with a title and notes below, and write everything so far."""
        self.say(f"## {title}")
        self.say(markdown(head, rows))
        if notes:
            self.say("\n".join(f"* {note}" for note in notes))
        self.save()

    def save(self) -> None:
        """Write table.md, results.csv and settings.json."""
        self.folder.write_text("table.md", self.text)
        write_csv(self.folder, "results.csv", COLUMNS, self.results)
        self.folder.write_json("settings.json", self.settings)

    def finish(self) -> int:
        """Write everything, say where it is, and return the exit status 0."""
        self.save()
        print(f"\nfiles: {self.folder.path}")
        return 0


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


# --- networks for Fashion-MNIST --------------------------------------------------------------------------------------


@dataclass
class Setup:
    """Options of a benchmark of the networks for Fashion-MNIST, its report, and where and how it computes.

    Attributes:
        quick_images: number of test images with ``--quick``.
    """

    options: argparse.Namespace
    report: Report
    device: torch.device
    precision: str
    quick_images: int = 8

    @classmethod
    def open(cls, name: str, options: argparse.Namespace, packages: Sequence[str], quick_images: int = 8) -> Setup:
        """Resolve device and precision, and open the report."""
        device = resolve_device(options.device)
        precision = resolve_precision(options.precision, device)
        report = Report(name, options, str(device), packages)
        report.settings["precision"] = precision
        return cls(options, report, device, precision, quick_images)

    @property
    def quick(self) -> bool:
        """True for the smaller version."""
        return bool(self.options.quick)

    @property
    def num_images(self) -> int:
        """Number of test images."""
        return self.quick_images if self.quick else int(self.options.num_images)

    @property
    def weights(self) -> dict[str, Path]:
        """Weights of the chosen networks, by `NETWORKS`."""
        chosen = getattr(self.options, "networks", NETWORKS)
        return {n: getattr(self.options, n) for n in chosen if hasattr(self.options, n)}

    def load(self) -> dict[str, NetworkDenoiser]:
        """Denoisers of the chosen networks."""
        return {
            n: load_denoiser(path, device=self.device, precision=self.precision) for n, path in self.weights.items()
        }

    def load_config(self, name: str, network: str, changes: Mapping[str, Any]) -> SampleConfig:
        """The task of a file of configs/ with a network and the test images of data/fashion_mnist.

        Args:
            name: path in configs/, without ".yaml".
            network: "vp" or "ve".
            changes: of further keys, in dotted form.
        """
        own = {
            "network.path": str(self.weights[network]),
            "data.path": str(ROOT / "data" / "fashion_mnist"),
            "data.num_images": self.num_images,
            "seed": self.options.seed,
            "precision": self.precision,
            **changes,
        }
        path = ROOT / "configs" / f"{name}.yaml"
        return load_sample_config(path, [f"{key}={json.dumps(value)}" for key, value in own.items()])


# --- tables ----------------------------------------------------------------------------------------------------------


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table, padded to be legible as text; the first column is left-aligned, the others right-aligned."""
    widths = [max(len(row[c]) for row in (head, *rows)) for c in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        pairs = zip(cells, widths, strict=True)
        return "| " + " | ".join(f"{c:>{w}}" if n else f"{c:<{w}}" for n, (c, w) in enumerate(pairs)) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ("-" if n == 0 else ":") for n, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def cell(value: tuple[float, float] | float, digits: int = 2) -> str:
    """Format ``mean ± standard error``, or a plain number."""
    mean, error = value if isinstance(value, tuple) else (value, math.nan)
    return f"{mean:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def verdict(gain: float, target: float, unit: str = "dB") -> str:
    """Statement whether a gain reaches its target."""
    return f"{gain:+.2f} {unit}, target {target:+g} {unit}: {'met' if gain >= target else 'MISSED'}"
