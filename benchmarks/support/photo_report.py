"""Tables and figures of photo_restoration.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from randomwalk.images import sheets
from randomwalk.images.metrics import mean_and_error
from randomwalk.images.sheets import Row, overview
from randomwalk.runs.folder import RunFolder
from support.common import Report, cell
from support.engine import Record
from support.photo_baselines import CLASSICAL
from support.photo_plan import BEFORE, DEFAULT, DPIR, SAMPLE, walk_of
from support.photo_problems import Case

HEAD = ("method", "PSNR (dB)", "SSIM", "LPIPS", "walk, 24 - it (dB)", "photographs")
ABOVE_DPIR, FEWER = 0.1, 0.15
"""Aims in dB: of the walk over DPIR, and the most that half of its evaluations may cost."""
LOWEST = 8.0
"""Points of the distortion-perception figure are at most so many dB below the best."""


@dataclass(frozen=True)
class Result:
    """Results of all methods in a case.

    Attributes:
        images: records by method and photograph.
        failed: reasons why other methods have no records, by method.
    """

    case: Case
    images: Mapping[str, Mapping[str, Record]]
    failed: Mapping[str, str]

    def mean(self, title: str, metric: str = "psnr") -> tuple[float, float] | None:
        """Mean and standard error over the photographs; None without any."""
        values = [r[metric] for r in self.images.get(title, {}).values() if r[metric] is not None]
        return mean_and_error(values) if values else None

    def best(self, among: Callable[[str], bool]) -> str | None:
        """Method that is best by PSNR on these very photographs, which favours it; None without any.

        Each is compared with the walk on the photographs that it has.
        """
        gains = {title: self.gain(DEFAULT, title) for title in filter(among, self.images)}
        alone = {title: self.mean(title) for title in gains}
        found = {title: -gain[0] if (gain := gains[title]) else (alone[title] or (0.0,))[0] for title in gains}
        return max(found, key=found.__getitem__, default=None)

    @property
    def classical(self) -> str | None:
        """Best classical method."""
        return self.best(lambda title: title in CLASSICAL)

    @property
    def other(self) -> str | None:
        """Best method with a network besides DPIR and the walks."""
        return self.best(lambda title: title not in CLASSICAL and title != DPIR and "random_walk" not in title)

    def gain(self, title: str, rival: str | None) -> tuple[float, float] | None:
        """Mean and standard error of the PSNR of a method minus that of another, on the photographs of both.

        None if one of them has none.
        """
        own, other = self.images.get(title, {}), self.images.get(rival or "", {})
        gains = [own[key]["psnr"] - other[key]["psnr"] for key in own if key in other]
        return mean_and_error(gains) if gains else None

    def seconds(self, title: str) -> float:
        """Seconds for a megapixel."""
        records = self.images[title].values()
        return float(sum(r["seconds"] for r in records) / sum(r["megapixels"] for r in records))


# --- tables ----------------------------------------------------------------------------------------------------------


def case_table(report: Report, result: Result) -> None:
    """Print all methods in one case, and add them to results.csv."""
    rows = []
    for title, records in result.images.items():
        values = {metric: result.mean(title, metric) for metric in ("psnr", "ssim", "lpips")}
        psnr, seconds = values["psnr"], result.seconds(title)
        assert psnr is not None
        quality = [cell(psnr), *(_short(values[metric], 3) for metric in ("ssim", "lpips"))]
        behind = "" if title == DEFAULT else _signed(result.gain(DEFAULT, title))
        rows.append([title, *quality, behind, str(len(records))])
        for metric, unit in (("psnr", "dB"), ("ssim", "1"), ("lpips", "1")):
            if (value := values[metric]) is not None:
                report.add(result.case.name, title, metric, value, unit)
        for metric in ("evaluations", "vjps"):
            report.add(result.case.name, title, metric, next(iter(records.values()))[metric], "1")
        report.add(result.case.name, title, "seconds_per_megapixel", seconds, "s")
    rows += [[title, *["-"] * (len(HEAD) - 1)] for title in result.failed]
    notes = [
        "PSNR and differences: mean ± standard error; differences on the photographs of both",
        *(f"{title}: {why}" for title, why in result.failed.items()),
    ]
    report.table(result.case.heading, HEAD, rows, notes)


def summary(report: Report, results: Sequence[Result]) -> None:
    """Print one row for each case: PSNR of the best classical method, of peers, and of the walk."""
    walks = [walk_of(number) for number in (12, 24, 40)]
    head = ["degradation", "noise", "best classical", "PSNR (dB)", DPIR, BEFORE, *walks]
    head += [f"24 - {DPIR.split()[0]}", "24 - T set", "best other", "24 - other"]
    rows = []
    for r in results:
        found = [r.classical or "-", *(_psnr(r, title) for title in (r.classical, DPIR, BEFORE, *walks))]
        gains = [_signed(r.gain(DEFAULT, rival)) for rival in (DPIR, BEFORE)]
        other = [r.other or "-", _signed(r.gain(DEFAULT, r.other))]
        rows.append([r.case.title, f"{r.case.noise:g}", *found, *gains, *other])
        for rival in (r.classical, DPIR, BEFORE, r.other):
            if rival is not None and (gain := r.gain(DEFAULT, rival)) is not None:
                report.add(r.case.name, DEFAULT, f"gain_over_{rival}", gain, "dB")
    notes = [
        "PSNR: mean over the photographs; best classical, best other: the method whose mean is highest on these very "
        "photographs, which favours it",
        "differences: mean ± standard error, on the photographs of both",
        *verdicts(results),
    ]
    report.table("PSNR (dB) of the walk, classical methods and peers", head, rows, notes)


def verdicts(results: Sequence[Result]) -> list[str]:
    """Statements in how many cases the walk reaches its aims, and where it does not."""
    few, many = walk_of(12), walk_of(40)
    aims = [
        (f"{DEFAULT}: at least {DPIR} {ABOVE_DPIR:+g} dB", DEFAULT, DPIR, ABOVE_DPIR),
        (f"{DEFAULT}: at least {BEFORE}", DEFAULT, BEFORE, 0.0),
        (f"{few}: at least {DEFAULT} {-FEWER:+g} dB", few, DEFAULT, -FEWER),
        (f"{many}: at least {DPIR} {ABOVE_DPIR:+g} dB", many, DPIR, ABOVE_DPIR),
        (f"{many}: at least {BEFORE}", many, BEFORE, 0.0),
    ]
    said = []
    for what, own, rival, least in aims:
        gains = {r.case.name: gain[0] for r in results if (gain := r.gain(own, rival)) is not None}
        short = [f"{name} ({gain:+.2f})" for name, gain in gains.items() if gain < least]
        if gains:
            said.append(f"{what} in {len(gains) - len(short)} of {len(gains)}" + "".join(f"; not: {s}" for s in short))
    return said


def costs(report: Report, results: Sequence[Result]) -> None:
    """Print what each method costs, and how far it is below the walk on the average of its cases."""
    rows = []
    for title in dict.fromkeys(title for r in results for title in r.images):
        own = [r for r in results if title in r.images]
        seconds = statistics.fmean(r.seconds(title) for r in own)
        gains = [gain[0] for r in own if (gain := r.gain(DEFAULT, title)) is not None]
        behind = f"{statistics.fmean(gains):+.2f}" if gains and title != DEFAULT else ""
        rows.append([title, *_counts(title, own[0].images[title]), f"{seconds:.1f}", behind, str(len(own))])
    head = ["method", "evaluations", "vjps", "s / megapixel", "walk, 24 - it (dB)", "cases"]
    report.table("Cost of a restoration", head, rows, ["means over the cases of each method"])


def eye_table(report: Report, result: Result, distances: Mapping[str, float]) -> None:
    """Print all methods in a case for the eye, the best LPIPS first.

    Args:
        distances: Frechet distances of deep features of patches, by method.
    """
    order = sorted(result.images, key=lambda title: (result.mean(title, "lpips") or (0.0,))[0])
    rows = []
    for title in order:
        lpips, psnr = result.mean(title, "lpips"), result.mean(title)
        distance = f"{distances[title]:.2f}" if title in distances else ""
        quality = [
            "" if lpips is None else cell(lpips, 3),
            distance,
            _short(psnr),
            _short(result.mean(title, "ssim"), 3),
        ]
        rows.append([title, *quality, *_counts(title, result.images[title]), f"{result.seconds(title):.1f}"])
        if title in distances:
            report.add(result.case.name, title, "frechet_of_patches", distances[title], "1")
        for metric, value in (("lpips", lpips), ("psnr", psnr)):
            if value is not None:
                report.add(result.case.name, title, metric, value, "dB" if metric == "psnr" else "1")
    rows += [[title, *["-"] * 7] for title in result.failed]
    head = ["method", "LPIPS", "Frechet of patches", "PSNR (dB)", "SSIM", "evaluations", "vjps", "s / megapixel"]
    report.table(result.case.heading, head, rows, [f"{title}: {why}" for title, why in result.failed.items()])


def _counts(title: str, records: Mapping[str, Record]) -> list[str]:
    first = next(iter(records.values()))
    return ["", ""] if title in CLASSICAL else [str(first["evaluations"]), str(first["vjps"])]


def _psnr(result: Result, title: str | None) -> str:
    return "" if title is None else _short(result.mean(title))


def _short(value: tuple[float, float] | None, digits: int = 2) -> str:
    return "" if value is None else f"{value[0]:.{digits}f}"


def _signed(value: tuple[float, float] | None) -> str:
    return "-" if value is None else ("+" if value[0] >= 0 else "") + cell(value)


# --- distortion and perception ---------------------------------------------------------------------------------------


def distortion_perception(results: Sequence[Result], curve: Sequence[str]) -> Any:
    """Figure with LPIPS against PSNR in each case: the walk as kappa grows, once more denoised or not, and the others.

    Methods more than `LOWEST` below the best PSNR are left out.

    Args:
        curve: titles of the walk along the curve.
    """
    figure = sheets.new_figure((3.4 * len(results), 3.7))
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for axis, result in zip(axes, results, strict=True):
        found = {title: (result.mean(title), result.mean(title, "lpips")) for title in result.images}
        points = {title: (psnr[0], lpips[0]) for title, (psnr, lpips) in found.items() if psnr and lpips}
        best = max((psnr for psnr, _ in points.values()), default=0.0)
        for last, label, colour in ((True, "denoised at the end", "C0"), (False, "not", "C1")):
            if ours := [points[title] for title in curve if title in points and ("last denoised" in title) == last]:
                axis.plot(*zip(*ours, strict=True), "o-", ms=4, color=colour, label=f"walk, kappa from 0 to 1, {label}")
                axis.annotate("1", ours[-1], xytext=(3, 3), textcoords="offset points", fontsize=7, color=colour)
        for number, title in enumerate(title for title in points if title not in curve):
            style = {"marker": "*", "ms": 9} if title == SAMPLE else {"marker": "sDv^<>PX"[number % 8], "ms": 5}
            if points[title][0] > best - LOWEST:
                axis.plot(*points[title], linestyle="", color=f"C{2 + number % 8}", label=title, **style)
        axis.set_title(result.case.heading.removesuffix(", for the eye"), fontsize=9)
        axis.set_xlabel("PSNR (dB)")
        sheets.tidy(axis)
    axes[0].set_ylabel("LPIPS")
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="lower center", ncol=4, fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, 0.17, 1, 1))
    return figure


# --- figure ----------------------------------------------------------------------------------------------------------


class Pictures:
    """Restored images for the figure, kept as files for runs that continue this one.

    Args:
        folder: folder of the run.
        earlier: folders of earlier runs that it continues.
    """

    def __init__(self, folder: RunFolder, earlier: Sequence[str] | None) -> None:
        self.folder = folder
        self.earlier = [Path(left) for left in earlier or []]

    def has(self, case: Case, photo: str, title: str) -> bool:
        """True if this run or an earlier one has the image; the file of an earlier run is copied."""
        name = self._name(case, photo, title)
        found = next((left / name for left in self.earlier if (left / name).is_file()), None)
        if not self.folder.has(name) and found is not None:
            self.folder.write_bytes(name, found.read_bytes())
        return self.folder.has(name)

    def write(self, case: Case, photo: str, title: str, pixels: np.ndarray) -> None:
        """Write an image, uint8 ``[H, W, 3]``."""
        self.folder.write_image(self._name(case, photo, title), pixels)

    def read(self, case: Case, photo: str, title: str) -> np.ndarray:
        """Read an image, uint8 ``[H, W, 3]``."""
        with Image.open(self.folder.file(self._name(case, photo, title))) as image:
            return np.asarray(image.convert("RGB"))

    def _name(self, case: Case, photo: str, title: str) -> str:
        folder = f"images/{case.degradation}_{case.noise:g}{'_eye' if case.for_the_eye else ''}"
        return f"{folder}/{photo.replace('/', '_')}/{title.replace(' ', '_')}.png"


@dataclass(frozen=True)
class Shown:
    """Row of the figure: a photograph, uint8 ``[H, W, 3]``, and its measurement as an image of any size."""

    result: Result
    photo: str
    truth: np.ndarray
    measured: np.ndarray


def draw(pictures: Pictures, rows: Sequence[Shown], side: int) -> Image.Image:
    """Draw truth, measurement, best classical method, DPIR and the walk, with the PSNR of the whole image."""
    lines = []
    for row in rows:
        result = row.result
        found = [title if title in result.images else None for title in (result.classical, DPIR, DEFAULT)]
        restored = [None if t is None else pictures.read(result.case, row.photo, t) for t in found]
        tiles = [row.truth, enlarged(row.measured, row.truth), *restored]
        psnr = ["" if t is None else f"{result.images[t][row.photo]['psnr']:.2f} dB" for t in found]
        captions = [Path(row.photo).stem, f"noise {result.case.noise:g} of 255", *psnr]
        lines.append(Row(result.case.title, [None if tile is None else middle(tile, side) for tile in tiles], captions))
    headings = ("photograph", "measurement", "best classical", "DPIR", "the walk")
    return overview(lines, headings, side)


def enlarged(pixels: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Repeat the pixels of an image until it has the size of another, which is an integer multiple."""
    rows, columns = (big // small for big, small in zip(like.shape[:2], pixels.shape[:2], strict=True))
    return pixels.repeat(rows, axis=0).repeat(columns, axis=1)


def middle(pixels: np.ndarray, side: int) -> np.ndarray:
    """Centre of an image, at most ``side`` pixels along each side."""
    top, left = (max(0, size - side) // 2 for size in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]
