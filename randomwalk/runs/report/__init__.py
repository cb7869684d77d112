"""Report of a run: one HTML page on what its folder holds, which refers to the pictures beside it.

The page opens without a server or a network. While the run works, the page is written again at intervals, and reloads
itself. It is a function of the files of the run: that of a resumed run is that of an uninterrupted one, but for times.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
import shlex
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from randomwalk.errors import InputError
from randomwalk.lookup import printable, program
from randomwalk.runs.folder import RunFolder

NAME = "report.html"
_MARK = '<meta name="generator" content="randomwalk">'
_TEMPLATE = Path(__file__).with_name("template.html")
RELOAD, LARGEST_SHARE = 5.0, 0.02
"""Seconds between two versions of the page of a run in progress, and the largest share of the time for writing them."""
MOST_IMAGES = 500
"""Number of images on a page; the others are in the folder."""
MOST_POINTS = 600
"""Number of points of a curve; more are averaged."""


@dataclass
class Column:
    """Column of a table: key of the rows, heading, digits after the point (None: as it is), and whether it is text."""

    key: str
    label: str
    digits: int | None = None
    text: bool = False


@dataclass
class Table:
    """Table whose rows can be sorted; the entry ``href`` of a row is where its texts lead.

    Attributes:
        first: above the images, not below them.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    caption: str = ""
    first: bool = False


@dataclass
class Picture:
    """Picture of an image, by its relative address (see `link`)."""

    label: str
    src: str


@dataclass
class Extra:
    """Picture that a button opens: an animation, or a map with a colour bar (colours, and words for both ends)."""

    label: str
    src: str
    scale: Mapping[str, Any] | None = None
    caption: str = ""


@dataclass
class Shown:
    """Image of a page: pictures of one size [width, height], two of which share a slider, and extras."""

    name: str
    pictures: Sequence[Picture]
    size: Sequence[int]
    caption: str = ""
    extras: Sequence[Extra] = ()


@dataclass
class Line:
    """Curve of a chart, through points [x, y]."""

    label: str
    points: Sequence[Sequence[float]]


@dataclass
class Chart:
    """Curves over a common axis; with ``log`` the vertical one is logarithmic if no value forbids it."""

    title: str
    x: str
    lines: Sequence[Line]
    log: bool = False


@dataclass
class Figure:
    """Picture of the folder that is shown whole; ``plot`` if its paper is white, and may be dark at night."""

    title: str
    src: str
    caption: str = ""
    plot: bool = True


@dataclass
class Page:
    """Contents of a report.

    Attributes:
        title, subtitle: of the page.
        run: facts that depend on when and where the run was made, label and value each.
        finished: whether the run is; if not, the page reloads itself.
        progress: steps done, steps in all, and their name.
        resume: command that goes on with the run.
        warnings: notes of the run, a line each.
        remarks: summary in words.
        images_title, images_note: above and below the images.
        left, right: labels of the two pictures that share a slider at first.
        commands: label and text of commands to copy.
        settings: to copy.
        written: seconds since 1970, of a page that is not finished.
        reload: seconds after which such a page reloads itself.
    """

    title: str
    subtitle: str = ""
    run: list[tuple[str, str]] = field(default_factory=list)
    finished: bool = True
    progress: Mapping[str, Any] | None = None
    resume: str = ""
    warnings: Sequence[str] = ()
    remarks: Sequence[str] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    images: Sequence[Shown] = ()
    images_title: str = "Images"
    images_note: str = ""
    left: str = ""
    right: str = ""
    figures: Sequence[Figure] = ()
    commands: Sequence[tuple[str, str]] = ()
    settings: str = ""
    written: float = 0.0
    reload: float = RELOAD


def link(path: str | Path) -> str:
    """Relative address of a file of any name."""
    return quote(os.fsencode(os.fspath(path).replace(os.sep, "/")))


def html_of(page: Page) -> str:
    """Page as HTML; its data cannot be taken for markup, and nothing but its own script can run or be loaded."""
    template = _TEMPLATE.read_text(encoding="utf-8")
    data = json.dumps(_finite(asdict(page)), allow_nan=False)
    for mark in "<>&":
        data = data.replace(mark, f"\\u{ord(mark):04x}")
    entries = {"TITLE": html.escape(page.title), "POLICY": _policy(template), "DATA": data}
    made = re.sub(r"\{\{(TITLE|POLICY|DATA)\}\}", lambda found: entries[found[1]], template)
    return made.encode(errors="backslashreplace").decode()


def _policy(template: str) -> str:
    """Content Security Policy: pictures beside the page, its own style and its own script."""
    hashes = []
    for tag in ("style", "script"):
        text = template.rpartition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes.append(f"{tag}-src 'sha256-{digest}'")
    return "; ".join(
        ["default-src 'none'", "img-src 'self' file: data:", *hashes, "base-uri 'none'", "form-action 'none'"]
    )


def _finite(value: Any) -> Any:
    """Value for JSON, which has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def write(folder: RunFolder, page: Page, name: str = NAME) -> Path:
    """Write a page into the folder to which its addresses are relative."""
    return folder.write_text(name, html_of(page))


def is_report(path: Path) -> bool:
    """Whether a file is a page that `write` wrote, which may be replaced."""
    with path.open("rb") as file:
        return _MARK.encode() in file.read(1000)


def facts_of(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labels and values of when and where a run was made.

    Args:
        environment: what run.json says.
    """
    versions = environment.get("versions", {})
    said = {
        "started": str(environment.get("started", "")).replace("T", " ")[:16],
        "on": " ".join(str(environment[key]) for key in ("device", "device_name") if environment.get(key)),
        "randomwalk": versions.get("randomwalk"),
        "PyTorch": versions.get("torch"),
        "source": str(environment.get("git_commit") or "")[:10],
    }
    return [(key, str(value)) for key, value in said.items() if value]


def described(folder: RunFolder, name: str, title: str, subtitle: str, finished: bool) -> Page:
    """Page with the settings, the command, the notes and the environment of a run.

    Args:
        folder: of the run.
        name: of the program, "sample" or "train".
        title, subtitle: of the page.
        finished: whether the run is.

    Raises:
        InputError: run.json is damaged.
    """
    facts = folder.facts()
    page = Page(title, subtitle, [*facts_of(facts), ("folder", str(folder.path))], finished)
    page.warnings = list(dict.fromkeys(str(line).removeprefix("warning: ") for line in facts.get("notes", ())))
    again = "--diffusion_config" if name == "sample" else "--config"
    page.commands = [
        *([("command", str(facts["command"]))] if facts.get("command") else []),
        ("the same from the settings below", f"{program(name)} {again} config.yaml"),
    ]
    if folder.has("config.yaml"):
        page.settings = folder.file("config.yaml").read_text(encoding="utf-8")
    if not finished:
        page.written = time.time()
        page.resume = f"{program(name)} --resume {shlex.quote(str(folder.path))}"
    return page


def figures_in(folder: RunFolder, captions: Mapping[str, tuple[str, str]]) -> list[Figure]:
    """Figures that a folder has.

    Args:
        folder: of the run.
        captions: title and caption by the name of the file.
    """
    return [
        Figure(title, link(name), caption, Path(name).suffix != ".webp")
        for name, (title, caption) in captions.items()
        if folder.has(name)
    ]


def table_in(folder: RunFolder, name: str, title: str, columns: Sequence[Column], caption: str = "") -> list[Table]:
    """Table of a CSV file of the folder; none if it does not exist or is empty.

    Raises:
        InputError: it is damaged.
    """

    def value(cell: str) -> Any:
        try:
            return float(cell)
        except (ValueError, TypeError):
            return cell or None

    texts = {column.key for column in columns if column.text}
    rows = [{k: v if k in texts else value(v) for k, v in row.items()} for row in folder.read_csv(name)]
    return [Table(title, columns, rows, caption)] if rows else []


def damaged(folder: RunFolder, name: str, error: Exception) -> InputError:
    """Error for a file that is not what a run writes."""
    return InputError(f"{folder.file(name)}: is damaged ({printable(str(error))[:200]})")


def size_of_png(path: Path) -> tuple[int, int] | None:
    """Width and height of a PNG file; None if it is none."""
    with path.open("rb") as file:
        start = file.read(24)
    found = struct.unpack(">II", start[16:24]) if start[:8] == b"\x89PNG\r\n\x1a\n" and len(start) == 24 else None
    return None if found is None else (found[0], found[1])


def thinned(points: Sequence[Sequence[float]], most: int = MOST_POINTS) -> list[list[float]]:
    """Points [x, y] of a curve, each the mean of a run of neighbours if there are more than ``most``."""
    each = math.ceil(len(points) / most)
    groups = (points[k : k + each] for k in range(0, len(points), max(each, 1)))
    return [[float(f"{sum(values) / len(group):.6g}") for values in zip(*group, strict=True)] for group in groups]


class Live:
    """Page of a run in progress, written at most every `RELOAD` seconds and in `LARGEST_SHARE` of the time.

    Args:
        make: writes the page, given the steps done and the steps in all.
    """

    def __init__(self, make: Callable[[int, int], object]) -> None:
        self._make = make
        self._due = time.monotonic()

    def tick(self, done: int, total: int) -> None:
        """Write the page if that is due."""
        start = time.monotonic()
        if start < self._due:
            return
        self._make(done, total)
        end = time.monotonic()
        self._due = end + max(RELOAD, (end - start) / LARGEST_SHARE)
