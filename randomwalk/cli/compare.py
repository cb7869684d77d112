"""`randomwalk compare`: sampling runs side by side, with paired differences of their metrics."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randomwalk.cli import options
from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sampling
from randomwalk.errors import InputError
from randomwalk.lookup import expand, near, printable, program
from randomwalk.runs import report
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.report import Column, Extra, Page, Picture, Shown, Table, link

EXAMPLE = """\
example:
  randomwalk compare results/random_walk results/ddrm results/dps

Prints the metrics of each run, and the paired differences of the other runs from the first one over the images that
they all have; and writes compare.html, with those images under one slider.
exit status: 0 done; 2 a folder is not a finished sampling run, or the runs have no image in common.
"""
METRICS = {
    "psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3), "psnr_minmax": ("min-max PSNR, dB", 2),
    "residual": ("residual / noise", 2), "evaluations": ("evaluations", 0), "vjps": ("Jacobian products", 0),
    "seconds": ("seconds", 2),
}  # fmt: skip
"""Columns of metrics.csv that are compared, with their labels and digits."""
PAIRED = ("psnr", "ssim", "psnr_minmax", "residual")
"""Metrics that differ between images, so that a paired difference has an interval."""
LEVEL = 0.95


@dataclass
class Run:
    """Finished sampling run.

    Attributes:
        label: shortest end of its path that no other run has.
        values: metrics by image and column: the mean over the samples, each of which is a restoration.
        numbers: numbers of the images by name.
        pictures: names of the picture files by number of the image and kind.
    """

    folder: RunFolder
    values: dict[str, dict[str, float]]
    numbers: dict[str, int]
    pictures: dict[int, dict[str, str]]
    label: str = ""

    def picture(self, image: str, *kinds: str) -> Path | None:
        """Picture of an image, of the first kind that there is."""
        names = self.pictures.get(self.numbers[image], {})
        return next((self.folder.file(names[kind]) for kind in kinds if kind in names), None)


@dataclass
class Difference:
    """Mean of paired differences, and the half width of its interval (NaN for a single pair)."""

    mean: float
    half: float
    count: int


def parser(prog: str = "randomwalk compare") -> argparse.ArgumentParser:
    """Parser of the options."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Put sampling runs side by side: metrics, paired differences, and their images under one slider.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run; the first is the reference")
    made.add_argument("--output", default="compare.html", metavar="FILE", help="the page (default: compare.html)")
    made.add_argument("--overwrite", action="store_true", help="replace the page if it exists")
    return made


def read_run(path: str) -> Run:
    """Read a finished sampling run.

    Raises:
        InputError: it is none.
    """
    from randomwalk.sampling.report import pictures_of, rows_of  # imports Matplotlib: --help needs none

    folder = RunFolder(expand(path))
    if not folder.path.is_dir():
        raise InputError(f"{path}: there is no such folder{near(folder.path)}")
    if not folder.has("config.yaml"):
        raise InputError(f"{path}: is not a run folder: config.yaml is missing")
    try:
        config = load_sampling(folder.file("config.yaml"))
    except InputError as error:
        raise InputError(f"{path}: is not a sampling run ({str(error).splitlines()[0]})") from error
    if not isinstance(config, SampleConfig) or "metric" in next(iter(folder.read_csv("metrics.csv")), ()):
        raise InputError(f"{path}: is a run of points, which has no images to compare")
    rows = rows_of(folder)
    if not rows:
        raise InputError(f"{path}: is not finished; continue it with: {program('sample')} --resume {path}")
    return Run(folder, _values(rows), {key_of(row): row["image"] for row in rows}, pictures_of(folder))


def key_of(row: Mapping[str, Any]) -> str:
    """Name of an image, by which runs are paired; its number if it has none."""
    return str(row.get("name") or f"image {row['image']}")


def _values(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Metrics by image and column, averaged over the samples of an image."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["sample"] == "mean":
            continue
        columns = found.setdefault(key_of(row), {})
        for column in METRICS:
            if row.get(column) is not None:
                columns.setdefault(column, []).append(float(row[column]))
    return {image: {c: sum(v) / len(v) for c, v in columns.items()} for image, columns in found.items()}


def name_runs(runs: Sequence[Run]) -> None:
    """Label runs by the shortest ends of their paths that differ.

    Raises:
        InputError: a run is named twice.
    """
    paths = [run.folder.path.resolve() for run in runs]
    for k, path in enumerate(paths):
        if path in paths[:k]:
            raise InputError(f"{path}: is named twice; give different runs")
    for run, path in zip(runs, paths, strict=True):
        ends = range(1, len(path.parts) + 1)
        alone = (n for n in ends if sum(p.parts[-n:] == path.parts[-n:] for p in paths) == 1)
        run.label = printable("/".join(path.parts[-next(alone, len(path.parts)) :]))


def common_images(runs: Sequence[Run]) -> list[str]:
    """Names of the images that all runs have, in the order of the first.

    Raises:
        InputError: there is none.
    """
    common = [image for image in runs[0].values if all(image in run.values for run in runs)]
    if not common:
        names = "; ".join(f"{run.label} has {', '.join(list(run.values)[:3])}" for run in runs)
        raise InputError(f"the runs have no image in common, so there is nothing to compare: {names}")
    return common


def difference(pairs: Sequence[tuple[float, float]]) -> Difference:
    """Mean of ``b - a`` over pairs, with the interval of Student's t, ``mean ± t_{n-1} s / sqrt(n)``.

    Args:
        pairs: values (a, b) of the same image in the reference and another run.
    """
    from scipy.stats import t  # slow to import: --help needs none

    gaps, n = [b - a for a, b in pairs], len(pairs)
    mean = sum(gaps) / n
    if n < 2:
        return Difference(mean, math.nan, n)
    std = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (n - 1))
    return Difference(mean, float(t.ppf((1 + LEVEL) / 2, n - 1)) * std / math.sqrt(n), n)


# --- tables --------------------------------------------------------------------------------------------------


def metrics_table(runs: Sequence[Run], images: Sequence[str]) -> Table:
    """Means over the common images, a row for each run."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        row: dict[str, Any] = {"run": run.label, "images": len(images)}
        for column in METRICS:
            found = [run.values[image][column] for image in images if column in run.values[image]]
            row[column] = sum(found) / len(found) if found else None
        rows.append(row)
    columns = [Column(c, label, digits) for c, (label, digits) in METRICS.items() if any(row[c] for row in rows)]
    heads = [Column("run", "run", text=True), Column("images", "common images", 0), *columns]
    return Table("Metrics", heads, rows, "Means over the images that all runs have.", first=True)


def differences_table(runs: Sequence[Run], images: Sequence[str]) -> Table:
    """Paired differences of the other runs from the first one."""
    rows: list[dict[str, Any]] = []
    for run in runs[1:]:
        for column in PAIRED:
            both = [(runs[0].values[image].get(column), run.values[image].get(column)) for image in images]
            pairs = [(a, b) for a, b in both if a is not None and b is not None and math.isfinite(b - a)]
            if not pairs:
                continue
            found, (label, digits) = difference(pairs), METRICS[column]
            low, high = found.mean - found.half, found.mean + found.half
            sure = "" if math.isnan(found.half) else "yes" if low * high > 0 else "no"
            interval = "" if math.isnan(found.half) else f"{low:+.{digits}f} to {high:+.{digits}f}"
            rows.append(
                {"run": run.label, "metric": label, "difference": f"{found.mean:+.{digits}f}", "interval": interval,
                 "sure": sure, "images": found.count}
            )  # fmt: skip
    heads = [
        Column("run", "run", text=True), Column("metric", "metric", text=True), Column("difference", "difference"),
        Column("interval", "95% interval"), Column("sure", "zero is outside"), Column("images", "images", 0),
    ]  # fmt: skip
    said = (
        "The difference is run minus reference, averaged over the same images; the interval is Student's t over them."
    )
    return Table(f"Paired differences from {runs[0].label}", heads, rows, said, first=True)


def text_of(table: Table) -> str:
    """Table as aligned columns of text."""

    def cell(column: Column, value: Any) -> str:
        if value is None or value == "":
            return "-"
        return f"{value:.{column.digits}f}" if isinstance(value, float) and column.digits is not None else str(value)

    lines = [[column.label for column in table.columns]]
    lines += [[cell(column, row.get(column.key)) for column in table.columns] for row in table.rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(table.columns))]
    texts = [column.text for column in table.columns]
    rows = (
        "  ".join(f"{c:<{w}}" if text else f"{c:>{w}}" for c, w, text in zip(line, widths, texts, strict=True))
        for line in lines
    )
    return "\n".join([table.title, *(f"  {row}".rstrip() for row in rows), f"  ({table.caption})"])


def doubts(runs: Sequence[Run], images: Sequence[str]) -> list[str]:
    """Reasons why the runs may not be comparable, a line each."""
    found = []
    for run in runs[1:]:
        for kind, what in (("truth", "true images"), ("measurement", "measurements")):
            count = sum(_differs(runs[0], run, image, kind) for image in images)
            if count:
                found.append(
                    f"{run.label} has different {what} from {runs[0].label}, in {count} of {len(images)} images"
                )
    return found


def _differs(a: Run, b: Run, image: str, kind: str) -> bool:
    """Whether two runs have different pictures of a kind of an image."""
    first, second = a.picture(image, kind), b.picture(image, kind)
    return first is not None and second is not None and first.read_bytes() != second.read_bytes()


# --- the page ------------------------------------------------------------------------------------------------


def page_of(
    runs: Sequence[Run], images: Sequence[str], tables: Sequence[Table], notes: Sequence[str], at: Path
) -> Page:
    """Page with the images of all runs under one slider.

    Args:
        runs: the runs.
        images: names of the common images.
        tables: above the images.
        notes: why the runs may not be comparable.
        at: folder of the page.
    """
    shown = [one for image in images[: report.MOST_IMAGES] if (one := _shown(runs, image, at)) is not None]
    made = Page("Comparison", " and ".join(run.label for run in runs), warnings=notes, images=shown)
    made.run = [(run.label, f"is {run.folder.path}") for run in runs]
    made.left, made.right = runs[0].label, runs[1].label
    made.images_title = f"{len(images)} common image{'s' if len(images) != 1 else ''}"
    if len(images) > len(shown):
        made.images_note = f"The first {len(shown)} of them."
    made.tables = [*tables, *_by_image(runs, images[: report.MOST_IMAGES])]
    return made


def _shown(runs: Sequence[Run], image: str, at: Path) -> Shown | None:
    """Measurement, restorations and truth of an image; None if a picture is missing."""
    found = {"measurement": runs[0].picture(image, "measurement")}
    found |= {run.label: run.picture(image, "mean", "sample0") for run in runs}
    found["truth"] = runs[0].picture(image, "truth")
    pictures = [Picture(label, _from(at, path)) for label, path in found.items() if path is not None]
    first = found[runs[0].label]
    size = None if first is None else report.size_of_png(first)
    if size is None:
        return None
    extras = [
        Extra(f"Animation: {run.label}", _from(at, path))
        for run in runs
        if (path := run.picture(image, "walk")) is not None
    ]
    values = [(run.label, run.values[image].get("psnr")) for run in runs]
    caption = ", ".join(f"{label} {value:.2f} dB" for label, value in values if value is not None)
    return Shown(image, pictures, size, caption, extras)


def _from(at: Path, path: Path) -> str:
    return link(os.path.relpath(path, at))


def _by_image(runs: Sequence[Run], images: Sequence[str]) -> list[Table]:
    """Table of one metric, the first that there is, of each image in each run, and of the difference of the last."""
    column = next((c for c in PAIRED if any(c in run.values[i] for run in runs for i in images)), None)
    if column is None:
        return []
    label, digits = METRICS[column]
    rows: list[dict[str, Any]] = []
    for k, image in enumerate(images):
        values = [run.values[image].get(column) for run in runs]
        gap = None if values[0] is None or values[-1] is None else values[-1] - values[0]
        rows.append({"image": image, "href": f"#image-{k}", "gap": gap, **{str(n): v for n, v in enumerate(values)}})
    heads = [Column("image", "image", text=True), *(Column(str(n), run.label, digits) for n, run in enumerate(runs))]
    gap_head = Column("gap", f"{runs[-1].label} − {runs[0].label}", digits)
    return [Table(f"{label} of each image", [*heads, gap_head], rows)]


# --- the command ---------------------------------------------------------------------------------------------


def main(args: argparse.Namespace) -> int:
    """Compare the runs that the options name; returns the exit status."""
    if len(args.runs) < 2:
        raise InputError("give at least two runs to compare")
    output = Path(expand(args.output))
    output = output / "compare.html" if output.is_dir() else output
    if not output.parent.is_dir():
        raise InputError(f"--output: {output}: there is no folder {output.parent}")
    if output.exists() and not (args.overwrite and report.is_report(output)):
        raise InputError(f"{output}: exists already; replace a page with --overwrite, or choose another with --output")
    runs = [read_run(path) for path in args.runs]
    name_runs(runs)
    images = common_images(runs)
    notes = doubts(runs, images)
    tables = [metrics_table(runs, images)]
    differences = differences_table(runs, images)
    tables += [differences] if differences.rows else []
    options.show_notes(f"warning: {line}" for line in notes)
    print("\n".join(map(text_of, tables)))
    folder = RunFolder(output.parent)
    folder.remove_leftovers_of(output.name)
    report.write(folder, page_of(runs, images, tables, notes, output.parent), output.name)
    print(f"page: {printable(str(output))}")
    return 0


def command(words: Sequence[str], prog: str = "randomwalk compare") -> int:
    """Run `compare` with command-line arguments; returns the exit status."""
    args = parser(prog).parse_args(words)
    return options.run(lambda: main(args))
