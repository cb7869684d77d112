"""What the benchmarks share: their options, their tables, and the files that they leave."""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the library is used from its checkout, whatever the current folder is

from randomwalk.cli import options as cli  # noqa: E402
from randomwalk.images.standard_sets import find_standard_set  # noqa: E402
from randomwalk.progress import bar as bar  # noqa: E402
from randomwalk.run_folder import RunFolder, environment, write_csv  # noqa: E402

NETWORKS = {"vp": "VP, ADM UNet", "ve": "VE, NCSN++"}
"""The bundled ones."""
COLUMNS = ("case", "method", "metric", "value", "unit")


def parser(description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """The options of every benchmark."""
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
    """The option of those that need the whole of Fashion-MNIST."""
    what = "the four files of Fashion-MNIST" + (f", {purpose}" if purpose else "")
    made.add_argument(
        "--fashion-mnist",
        type=Path,
        default=find_standard_set("fashion_mnist", ROOT / "data") or ROOT / "data",
        metavar="FOLDER",
        help=f"{what} (default: those that a training has downloaded into data/, or Debian's dataset-fashion-mnist)",
    )


def add_weights(made: argparse.ArgumentParser, names: Iterable[str] = tuple(NETWORKS)) -> None:
    """An option for the file of weights of each of these bundled networks."""
    for n in names:
        default = ROOT / "pretrained_models" / f"fashion_{n}.safetensors"
        made.add_argument(f"--{n}", type=Path, default=default, metavar="FILE", help=f"weights of the {NETWORKS[n]}")


def add_restoring(made: argparse.ArgumentParser, num_images: int) -> None:
    """The options of the benchmarks in which networks restore test images, that many of them by default."""
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
    """What "auto" means on a device; any other as it is."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" or has_bf16() else "fp32"


def start(main: Callable[[argparse.Namespace], int], made: argparse.ArgumentParser) -> None:
    """Run a benchmark and exit: 0 done, 1 failed, 2 bad input, the latter two with one message."""
    options = made.parse_args()
    sys.exit(cli.run(lambda: main(options)))


class Report:
    """Tables and results of a benchmark. All files are written anew with every table, each whole or not at all.

    Args:
        name: of the benchmark.
        options: of its command line; they go into settings.json with the versions.
        device: that it runs on.
        packages: whose versions matter to the results, besides PyTorch and NumPy.
        folder: of an earlier run to go on with; without it a new one as the options say.
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

    def add(self, case: str, method: str, metric: str, value: float, unit: str) -> None:
        """One result, a row of results.csv."""
        self.results.append(dict(zip(COLUMNS, (case, method, metric, value, unit), strict=True)))

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


def has_bf16() -> bool:
    """Whether the processor has units for bfloat16; without them it is slower than float32."""
    try:
        return "_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


# --- tables --------------------------------------------------------------------------------------------------


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right, padded to be read as text too."""
    widths = [max(len(row[c]) for row in (head, *rows)) for c in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        pairs = zip(cells, widths, strict=True)
        return "| " + " | ".join(f"{c:>{w}}" if n else f"{c:<{w}}" for n, (c, w) in enumerate(pairs)) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ("-" if n == 0 else ":") for n, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def cell(value: tuple[float, float] | float, digits: int = 2) -> str:
    """``mean ± standard error``, or a plain number."""
    mean, error = value if isinstance(value, tuple) else (value, math.nan)
    return f"{mean:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def verdict(gain: float, target: float, unit: str = "dB") -> str:
    """Whether a gain reaches its target, in words."""
    return f"{gain:+.2f} {unit}, target {target:+g} {unit}: {'met' if gain >= target else 'MISSED'}"
