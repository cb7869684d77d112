"""Report of the restoration of one photograph, which has no run folder: one page beside the result."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from randomwalk.config.files import dump
from randomwalk.runs import report
from randomwalk.runs.report import Figure, Page, Picture, Shown, link
from randomwalk.sampling import figures
from randomwalk.sampling.batch import Batch
from randomwalk.sampling.overview import measurement_picture
from randomwalk.sampling.report import RESTORED, title_of
from randomwalk.sampling.task import Task

LOSSLESS = 2**20
"""Number of pixels up to which the photograph in the page is a PNG; a larger one is a JPEG of quality 95."""


def page(task: Task, batch: Batch, output: Path, notes: Sequence[str], environment: Mapping[str, Any]) -> Page:
    """Page with a slider between a photograph, which is in the page, and the restored one beside it.

    Args:
        task: of the photograph.
        batch: its result.
        output: file of the result, in the folder of the page.
        notes: on the photograph, a line each.
        environment: of the run.
    """
    title, about = title_of(task.config)
    made = Page(f"{task.images.names[0]}: {title[:1].lower()}{title[1:]}", about, report.facts_of(environment))
    height, width = batch.x.shape[-2:]
    pictures = [Picture(RESTORED, link(output.name))]
    if (before := measurement_picture(batch, 0)) is not None:
        pictures.insert(0, Picture("photograph", _data(before)))
    made.left, made.right = pictures[0].label, RESTORED
    made.images = [Shown(task.images.names[0], pictures, (width, height), f"{width} x {height} pixels")]
    made.images_title = "Photograph"
    made.warnings = list(dict.fromkeys(line.removeprefix("warning: ") for line in notes))
    if task.config.sampler.schedule:
        png = figures.schedule_figure(task.sigmas.tolist(), task.plan())
        made.figures = [Figure("Schedule", _address("png", png))]
    made.commands = [("command", str(environment["command"]))]
    made.settings = dump(task.config)
    return made


def _data(picture: np.ndarray) -> str:
    """Picture as an address that holds it."""
    kind, settings = "png", {}
    if picture.shape[0] * picture.shape[1] > LOSSLESS:
        kind, settings = "jpeg", {"quality": 95, "subsampling": 0}
    out = BytesIO()
    Image.fromarray(picture).save(out, kind, **settings)
    return _address(kind, out.getvalue())


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
