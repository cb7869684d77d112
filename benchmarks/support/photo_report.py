"""Tables and figure of photo_restoration.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from randomwalk.images.metrics import mean_and_error
from randomwalk.images.sheets import Row, overview
from randomwalk.runs.folder import RunFolder
from support.common import Report, cell
from support.engine import Record
from support.photo_baselines import CLASSICAL
from support.photo_methods import PLUG_AND_PLAY
from support.photo_plan import WALK
from support.photo_problems import Case

HEAD = ("method", "PSNR (dB)", "Set5", "CBSD68", "SSIM", "LPIPS", "evaluations", "vjps", "s")
SETS = ("set5", "cbsd68")


@dataclass(frozen=True)
class Result:
    """Results of all methods in a case.

    Attributes:
        images: records by method and photograph.
        sampler: the posterior sampler besides the walk.
        failed: reasons why other methods have no records, by method.
    """

    case: Case
    images: Mapping[str, Mapping[str, Record]]
    sampler: str
    failed: Mapping[str, str]

    def mean(self, title: str, metric: str = "psnr", folder: str = "") -> tuple[float, float] | None:
        """Mean and standard error over the photographs (of a set); None without any."""
        records = self.images.get(title, {})
        values = [r[metric] for key, r in records.items() if key.startswith(folder) and r[metric] is not None]
        return mean_and_error(values) if values else None

    @property
    def classical(self) -> str:
        """Classical method with the best mean PSNR on these very photographs, which favours it."""
        return max((t for t in self.images if t in CLASSICAL), key=lambda t: (self.mean(t) or (0.0,))[0])

    def gain(self, title: str) -> tuple[float, float] | None:
        """Mean and standard error of the PSNR of a method minus that of the best classical one."""
        rival, own = self.images[self.classical], self.images.get(title)
        return mean_and_error([own[key]["psnr"] - rival[key]["psnr"] for key in own]) if own else None


# --- tables ----------------------------------------------------------------------------------------------------------


def case_table(report: Report, result: Result) -> None:
    """Print all methods in one case, and add them to results.csv."""
    rows = []
    for title, records in result.images.items():
        values = {metric: result.mean(title, metric) for metric in ("psnr", "ssim", "lpips", "seconds")}
        sets = [_short(result.mean(title, "psnr", folder)) for folder in SETS]
        first = next(iter(records.values()))
        counts = ["", ""] if title in CLASSICAL else [str(first["evaluations"]), str(first["vjps"])]
        lpips = _short(values["lpips"], 3)
        ssim, psnr = _short(values["ssim"], 3), values["psnr"]
        assert psnr is not None
        rows.append([title, cell(psnr), *sets, ssim, lpips, *counts, _short(values["seconds"])])
        for metric, unit in (("psnr", "dB"), ("ssim", "1"), ("lpips", "1"), ("seconds", "s")):
            if (value := values[metric]) is not None:
                report.add(result.case.name, title, metric, value, unit)
        for metric in ("evaluations", "vjps"):
            report.add(result.case.name, title, metric, first[metric], "1")
    rows += [[title, *["-"] * (len(HEAD) - 1)] for title in result.failed]
    count = len(next(iter(result.images.values())))
    notes = [f"mean over {count} photographs ± standard error", *(f"{t}: {why}" for t, why in result.failed.items())]
    report.table(f"{result.case.title}, noise {result.case.noise:g} of 255", HEAD, rows, notes)


def summary(report: Report, results: Sequence[Result]) -> None:
    """Print one row for each case: the best classical method, the others, and their gains over it."""
    head = ["degradation", "noise", "best classical", "PSNR (dB)", PLUG_AND_PLAY, "walk", "best sampler", "PSNR"]
    head += ["walk - classical", "sampler - classical"]
    rows = []
    for r in results:
        psnr = [_short(r.mean(title)) for title in (r.classical, PLUG_AND_PLAY, WALK)]
        gains = [r.gain(title) for title in (WALK, r.sampler)]
        case = [r.case.title, f"{r.case.noise:g}", r.classical, *psnr]
        rows.append([*case, r.sampler, _short(r.mean(r.sampler)), *map(_signed, gains)])
        for title, gain in zip((WALK, r.sampler), gains, strict=True):
            if gain is not None:
                report.add(r.case.name, title, "gain_over_best_classical", gain, "dB")
    notes = [
        "PSNR: mean over the photographs; the best classical method is the one whose mean is highest on these very "
        "photographs, while the sampler was chosen on the validation photographs",
        "walk - classical, sampler - classical: mean of the differences ± standard error",
        *(verdict(results, title) for title in ("walk", "sampler")),
    ]
    report.table("Margins over the best classical method", head, rows, notes)


def verdict(results: Sequence[Result], what: str) -> str:
    """Statement in how many cases the walk, or the best sampler, beats every classical method, and its least margin."""
    gains = {r.case.name: r.gain(WALK if what == "walk" else r.sampler) for r in results}
    known = {name: gain[0] for name, gain in gains.items() if gain is not None}
    if not known:
        return f"{what}: diverges in all cases"
    above, least = sum(gain > 0 for gain in known.values()), min(known, key=known.__getitem__)
    return (
        f"{what}: above every classical method in {above} of {len(results)} cases; the least margin is "
        f"{known[least]:+.2f} dB ({least})"
    )


def _short(value: tuple[float, float] | None, digits: int = 2) -> str:
    return "" if value is None else f"{value[0]:.{digits}f}"


def _signed(value: tuple[float, float] | None) -> str:
    return "-" if value is None else ("+" if value[0] >= 0 else "") + cell(value)


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
        return f"images/{case.degradation}_{case.noise:g}/{photo.replace('/', '_')}/{title.replace(' ', '_')}.png"


@dataclass(frozen=True)
class Shown:
    """Row of the figure: a photograph, uint8 ``[H, W, 3]``, and its measurement as an image of any size."""

    result: Result
    photo: str
    truth: np.ndarray
    measured: np.ndarray


def draw(pictures: Pictures, rows: Sequence[Shown], side: int) -> Image.Image:
    """Draw truth, measurement, best classical method, walk and best sampler, with the PSNR of the whole image."""
    lines = []
    for row in rows:
        result = row.result
        titles = [result.classical, WALK, result.sampler]
        found = [title if title in result.images else None for title in titles]
        restored = [None if t is None else pictures.read(result.case, row.photo, t) for t in found]
        tiles = [row.truth, enlarged(row.measured, row.truth), *restored]
        psnr = ["" if t is None else f"{t}: {result.images[t][row.photo]['psnr']:.2f} dB" for t in found]
        captions = [Path(row.photo).stem, f"noise {result.case.noise:g} of 255", *psnr]
        lines.append(Row(result.case.title, [None if tile is None else middle(tile, side) for tile in tiles], captions))
    headings = ("photograph", "measurement", "best classical method", "random walk", "best posterior sampler")
    return overview(lines, headings, side)


def enlarged(pixels: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Repeat the pixels of an image until it has the size of another, which is an integer multiple."""
    rows, columns = (big // small for big, small in zip(like.shape[:2], pixels.shape[:2], strict=True))
    return pixels.repeat(rows, axis=0).repeat(columns, axis=1)


def middle(pixels: np.ndarray, side: int) -> np.ndarray:
    """Centre of an image, at most ``side`` pixels along each side."""
    top, left = (max(0, size - side) // 2 for size in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]
