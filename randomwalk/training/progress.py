"""Logs of a training run: CSV files, curves, grids of samples, and TensorBoard where it is installed."""

from __future__ import annotations

import io
import statistics
from typing import Any

import numpy as np
from torch import Tensor

from randomwalk.distributed import Context
from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder, write_csv
from randomwalk.training.validation import Validation


class Progress:
    """Logs of a run in its folder. Only the main process writes them.

    log.csv has a row every ``log_every`` steps, validation.csv one for every validation. A resumed run drops the rows
    that were written after its checkpoint.
    """

    def __init__(self, folder: RunFolder, context: Context) -> None:
        self.folder, self.active = folder, context.is_main
        self.rows: dict[str, list[dict[str, Any]]] = {"log.csv": [], "validation.csv": []}
        self._last: tuple[int, float] = (0, 0.0)
        self._board = _tensorboard(folder) if self.active else None

    def restore(self, step: int, images: int, seconds: float) -> None:
        """Keep the rows of an earlier part of the run up to ``step``, which took ``seconds`` for so many images."""
        self._last = (images, seconds)
        for name in self.rows:
            if self.active:
                needed = ("images", "loss") if name == "log.csv" else ("images",)
                self.rows[name] = self.folder.read_log(name, lambda row: int(row["step"]) <= step, needed)

    def log(self, step: int, images: int, loss: Tensor, norm: Tensor, rate: float, seconds: float) -> None:
        """Log the state of the training after ``step``."""
        if not self.active:
            return
        speed = (images - self._last[0]) / max(seconds - self._last[1], 1e-9)
        self._last = (images, seconds)
        values = {"loss": float(loss), "gradient_norm": float(norm), "learning_rate": rate, "images_per_second": speed}
        self._add("log.csv", step, {"images": images, "seconds": seconds, **values})

    def validated(self, step: int, images: int, seconds: float, found: Validation) -> None:
        """Log the result of a validation after ``step``."""
        if not self.active:
            return
        self._add("validation.csv", step, {"images": images, "seconds": seconds, **found.values})
        self.folder.write_image(f"samples/{images:09d}.png", found.picture)
        self.folder.write_image("samples.png", found.picture)
        self.folder.write_bytes("curves.png", curves(self.rows["log.csv"], self.rows["validation.csv"], found))

    def fall(self) -> float:
        """Drop of the mean PSNR from its best to the last validation, in dB; 0 if no PSNR is measured."""
        means = [
            statistics.fmean(psnr)
            for row in self.rows["validation.csv"]
            if (psnr := [float(value) for name, value in row.items() if name.startswith("psnr_at_")])
        ]
        return max(means) - means[-1] if means else 0.0

    def _add(self, name: str, step: int, values: dict[str, Any]) -> None:
        rounded = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
        if any(row.get(key, "") == "" for row in self.rows[name] for key in rounded):
            raise InputError(f"{self.folder.file(name)}: does not have the columns of this run; remove it to continue")
        self.rows[name].append({"step": step, **rounded})
        write_csv(self.folder, name, list(self.rows[name][0]), self.rows[name])
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(key, value, step)

    def close(self) -> None:
        """Finish the logs."""
        if self._board is not None:
            self._board.close()


def _tensorboard(folder: RunFolder) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder.file("tensorboard")))


def curves(log: list[dict[str, Any]], validation: list[dict[str, Any]], found: Validation) -> bytes:
    """Plot the loss and the validations, the last of them ``found``, against the images or points seen; a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(10 if log else 6, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    *left, right = figure.subplots(1, 2 if log else 1, squeeze=False)[0]
    for axis in left:  # none before the first row of log.csv
        _draw_losses(axis, log)
    for key in found.values:
        name, _, sigma = key.rpartition("_at_")
        label = (f"σ = {sigma}" if name == "psnr" else f"{name}, σ = {sigma}") if name else key
        seen, values = zip(*((int(row["images"]), float(row[key])) for row in validation), strict=True)
        right.plot(seen, values, ".-", label=label)
    right.set_title(found.title, loc="left")
    if found.logarithmic:
        right.set_yscale("log")
    for axis in (*left, right):
        axis.set_xlabel(f"{found.unit} seen")
        axis.set_xlim(0, 1.02 * max(int(row["images"]) for row in (*log, *validation)))
        axis.xaxis.set_major_formatter(EngFormatter())
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _draw_losses(axis: Any, log: list[dict[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator, NullLocator

    losses = np.array([float(row["loss"]) for row in log])
    images = np.array([int(row["images"]) for row in log])
    width = max(1, len(losses) // 40)
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    axis.plot(images, losses, "." if len(losses) == 1 else "-", color="#9bbce0", linewidth=1, label="one batch")
    if width > 1:
        axis.plot(images[width - 1 :], smooth, color="#2a6fba", label=f"mean of {width} of them")
    if losses.min() > 0:  # losses of implicit score matching can be negative
        axis.set_yscale("log")
        if losses.max() < 10 * losses.min():  # without a power of ten among the ticks they would have no labels
            axis.yaxis.set_major_locator(MaxNLocator(6))
            axis.yaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_formatter("{x:g}")
    axis.set_title("training loss", loc="left")
    axis.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
