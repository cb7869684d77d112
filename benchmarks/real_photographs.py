"""Restorations, by the shipped tasks, of photographs that were damaged without the library.

Blurs go on beyond the frame, kernels are pictures of a point of light, masks are painted, noise has been through a
camera and JPEG: `support/strangers.py`. Each row is run by the file of configs/ for it, from files, as by sample.py.
The figure is the PSNR of what comes out, in 8 bits, of the whole picture, its rim of 12 pixels, and the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from support import photo_peers, strangers
from support.common import ROOT, Report, check_least, parser, resolve_precision, start
from support.photo_problems import Problem
from support.photographs import DEFAULT, add_network, cut, load_model, spread
from support.strangers import KERNELS, RIM, Stranger

from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.checkpoints import resolve_device
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError, RunError
from randomwalk.images import sheets
from randomwalk.images.sources import open_images
from randomwalk.images.tensors import to_tensor
from randomwalk.operators.deepinv_adapter import from_deepinv
from randomwalk.operators.noise import GaussianNoise
from randomwalk.rng import generator
from randomwalk.sampling import run as sampling

Make = Callable[[np.ndarray, int, np.random.Generator], Stranger]
"""Damages a photograph ``[H, W, 3]``: ``make(photo, side, draws)``, ``side`` of the cut-out."""
GRID = (0.65, 1.3, 2, 3, 4.5, 6.5, 9, 13, 18, 25, 36, 50, 65)
"""Noise levels of 255 among which the best is looked for."""
BEST = "best given"
INTERPOLATED = "interpolated"
DPIR = "DPIR, best padding"
DPIR_SETTINGS = {"evaluations": 24, "first_level": 49, "strength": 0.23, "start": "adjoint"}
DPIR_TOLERANCE = 0.01
"""Of the conjugate gradients in its steps; 1e-5 changes the PSNR by 0.001 dB, and takes twice the time."""
PADDINGS = ("valid", "circular", "replicate", "reflect")
"""What deepinv's blur supposes about the surroundings; valid restores them too. Circular is after edgetaper."""


@dataclass(frozen=True)
class Method:
    """Settings of a task, in dotted keys, and how its pictures are made if not as the row says."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    make: Make | None = None


DEFAULTS = Method("defaults")


@dataclass(frozen=True)
class Row:
    """A kind of damage.

    Attributes:
        section: the table that it is in.
        title: its name there.
        task: of configs/photo_TASK.yaml.
        make: damages a photograph.
        methods: that restore it.
        kernel, noise: of a blur, for DPIR.
    """

    section: str
    title: str
    task: str
    make: Make
    methods: Sequence[Method] = (DEFAULTS,)
    kernel: np.ndarray | None = None
    noise: float = 0.0


# --- the rows --------------------------------------------------------------------------------------------------------


def blur_rows() -> Iterator[Row]:
    """Blurs with noise of 2 and 8."""
    for noise in (2, 8):
        for name in KERNELS:
            make = partial(strangers.blurred_photograph, kernel=KERNELS[name](), noise=noise)
            given = {"measurement.noise.std": noise}
            methods = [
                DEFAULTS,
                Method("noise given", given),
                Method("surroundings known", given, partial(make, surroundings=True)),
                Method("edgetaper", given, partial(make, tapered=True)),
            ]
            yield Row("blur", f"{name}, noise {noise}", "deblur", make, methods, KERNELS[name](), noise)


def mask_rows() -> Iterator[Row]:
    """Painted strokes on clean and grainy photographs, single pixels, a large hole."""
    methods = [DEFAULTS, Method("noise removed", {"measurement.keep_known": False})]  # estimated where all is known
    for noise in (0, 5, 15):
        make = partial(strangers.painted_photograph, noise=noise)
        yield Row("masks", f"painted, grain {noise}", "inpainting", make, methods)
    for share in (0.5, 0.8):
        make = partial(strangers.sparse_photograph, missing=share)
        yield Row("masks", f"{share:.0%} of the pixels", "inpainting", make)
    for hole in (25, 50):
        make = partial(strangers.square_photograph, hole=hole)
        yield Row("masks", f"a square of {hole} pixels", "inpainting", make, methods)


def noise_rows() -> Iterator[Row]:
    """Noise as it is found in files; clean photographs too."""
    kinds = [(sigma, "white") for sigma in (2, 5, 10, 25, 50, 60)]
    kinds += [(sigma, f"jpeg {quality}") for sigma in (10, 25) for quality in (95, 85, 60, 30)]
    kinds += [(sigma, f"jpeg 85 {subsampling}") for sigma in (10, 25) for subsampling in ("4:4:4", "4:2:2")]
    kinds += [(sigma, kind) for kind in ("resized", "demosaicked", "webp 80") for sigma in (10, 25)]
    kinds += [(10, "grey"), (25, "grey"), (10, "16 bits"), (1, "16 bits"), (10, "dim"), (2, "dim")]
    kinds += [(0, "white"), (0, "jpeg 85"), (0, "jpeg 60"), (0, "jpeg 30")]
    for sigma, kind in kinds:
        title = f"noise {sigma}, {kind}" if sigma else "clean" if kind == "white" else f"clean, {kind}"
        yield Row("noise", title, "denoise", partial(strangers.noisy_photograph, noise=sigma, kind=kind))
    for photons, quality in ((4000, 95), (1000, 90), (300, 85)):
        make = partial(strangers.camera_photograph, photons=photons, read=3, quality=quality)
        yield Row("noise", f"camera, {photons} photons, JPEG {quality}", "denoise", make)


def photon_rows() -> Iterator[Row]:
    """Photon counts: taken as Gaussian noise, and by name with the number given or estimated; blurred ones too."""
    for peak in (8, 30, 120):
        make = partial(strangers.photon_photograph, peak=peak)
        yield Row("photons", f"{peak} photons at white", "denoise", make, photon_methods(peak))
    for name in ("Gaussian 1.6", "motion 21"):
        for peak in (30, 120):
            make = partial(strangers.photon_photograph, peak=peak, kernel=KERNELS[name]())
            yield Row("photons", f"{name}, {peak} photons", "deblur", make, photon_methods(peak))


def photon_methods(peak: float) -> list[Method]:
    """Ways to state the noise of photons, ``peak`` of them at white."""
    key = "measurement.noise"
    ways = {"as Gaussian": {}, "poisson, given": {key: {"name": "poisson", "peak": peak}}}
    ways["poisson, estimated"] = {key: {"name": "poisson", "peak": "auto"}}
    return [Method(name, settings) for name, settings in ways.items()]


def enlargement_rows() -> Iterator[Row]:
    """Small pictures, made in four ways and taken for each of them; the picture before is bicubic enlargement."""
    ways = ("bicubic", "box", "nearest", "strided")
    for factor in (2, 4):
        settings = {how: {"name": "super_resolution", "factor": factor, "downsampling": how} for how in ways}
        methods = [Method(f"set: {how}", {"measurement.operator": what}) for how, what in settings.items()]
        for how in ways:
            make = partial(strangers.small_photograph, factor=factor, how=how)
            yield Row("enlargement", f"x{factor}, {how}", "super_resolution", make, methods)


SECTIONS: dict[str, Callable[[], Iterator[Row]]] = {
    "blur": blur_rows,
    "masks": mask_rows,
    "noise": noise_rows,
    "photons": photon_rows,
    "enlargement": enlargement_rows,
}
SHOWN = {
    "motion 21, noise 2": ("shaken", "noise given"),
    "defocus 2.5, noise 2": ("out of focus", "noise given"),
    "painted, grain 5": ("painted", "defaults"),
    "noise 25, jpeg 85": ("noise and JPEG", "defaults"),
    "30 photons at white": ("few photons", "poisson, estimated"),
    "x2, bicubic": ("small", "set: bicubic"),
}
"""Rows of ``--quick``, of which real_photographs.png shows the first photograph: what it calls them, and the method."""


# --- measuring -------------------------------------------------------------------------------------------------------


def restored(row: Row, method: Method, made: Sequence[Stranger], options: argparse.Namespace) -> list[np.ndarray]:
    """Run the row's task on pictures in a folder, each ``[H, W, 3]`` on the scale of 0 to 255.

    Raises:
        InputError: a setting is refused.
        RunError: a picture was not restored.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), []
        for k, one in enumerate(made):
            # One folder for each picture: kernels and masks belong to it.
            own = folder / f"{k}"
            own.mkdir()
            for file, data in one.files.items():
                (own / file).write_bytes(data)
            changes = {**one.settings, **method.settings}
            text = json.dumps(changes).replace("{folder}", str(own))
            words = [f"{key}={json.dumps(value)}" for key, value in json.loads(text).items()]
            words += [f"data.path={own / next(iter(one.files))}", f"output={own / 'run'}", f"seed={options.seed}"]
            words += [f"precision={options.precision}", f"device={options.device}", "animation_frames=0"]
            words += [f"network.path={options.network}"]
            if options.network != DEFAULT:  # the weights that are to be measured, and no others
                words += ["network.camera_path=null"]
            config = load_sample_config(ROOT / "configs" / f"photo_{row.task}.yaml", words)
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                status = sampling.run(config)
            if status:
                raise RunError(f"{row.title}, {method.name}: {said.getvalue()[-500:]}")
            [array] = [path for path in (own / "run" / "arrays").iterdir() if path.name.endswith("_sample0.npy")]
            x = strangers.inside(np.load(array).transpose(1, 2, 0), one.margin)
            pixels = (((x + 1) / 2).clip(0, 1) * 255 * one.scale).clip(0, 255)
            found.append(np.repeat(pixels, 3 // pixels.shape[2], 2).round())
        return found


def best_given(denoiser: Denoiser, made: Sequence[Stranger]) -> list[np.ndarray]:
    """Denoise each picture once, told the level of `GRID` with the highest PSNR."""
    found = []
    for one in made:
        y = torch.from_numpy(one.before / 127.5 - 1).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            tried = [denoiser(y, 2 * sigma / 255) for sigma in GRID]
        pixels = [((x[0].permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255).round() for x in tried]
        found.append(max(pixels, key=lambda x: psnr(x, one.truth)))
    return found


def dpir(one: Stranger, kernel: np.ndarray, noise: float, padding: str, denoiser: Denoiser) -> np.ndarray:
    """Deblur a picture by deepinv's DPIR with our denoiser, 24 evaluations of it, and deepinv's blur.

    Args:
        one: the picture.
        kernel: ``[k, k]``, k odd.
        noise: its standard deviation, of 255.
        padding: one of `PADDINGS`.
        denoiser: the network.
    """
    y = strangers.edgetaper(one.before, kernel) if padding == "circular" else one.before
    margin = len(kernel) // 2 if padding == "valid" else 0
    shape = (3, *(side + 2 * margin for side in y.shape[:2]))
    physics = importlib.import_module("deepinv.physics")
    taps = torch.from_numpy(kernel).float()[None, None]
    blur = from_deepinv(physics.Blur(filter=taps, padding=padding, use_fft=True), shape)
    blur.proximal = partial(blur.proximal, tolerance=DPIR_TOLERANCE)  # type: ignore[method-assign]
    given = torch.from_numpy(y / 127.5 - 1).permute(2, 0, 1)[None].float()
    problem = Problem(blur, GaussianNoise(2 * noise / 255), given, torch.zeros(1, *shape))
    with torch.inference_mode():
        x, _ = photo_peers.restore("DPIR (deepinv)", DPIR_SETTINGS, problem, denoiser, seed=0)
    return strangers.inside(((x[0].permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255).round(), margin)


def psnr(x: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """PSNR in dB, at most 60; of the pixels of ``where [H, W]`` alone, if given."""
    error = (x - truth) ** 2 if where is None else ((x - truth) ** 2)[where]
    return float(10 * np.log10(255**2 / max(error.mean(), 255**2 / 1e6)))


def variation(x: np.ndarray) -> float:
    """Total variation: the sum of the absolute differences of neighbours."""
    return float(np.abs(np.diff(x, axis=0)).sum() + np.abs(np.diff(x, axis=1)).sum())


def figures(x: np.ndarray, one: Stranger) -> dict[str, float]:
    """PSNR of a picture: whole, rim, rest; and of the damaged pixels, if not all are."""
    rim = np.ones(x.shape[:2], bool)
    rim[RIM:-RIM, RIM:-RIM] = False
    found = {"whole": psnr(x, one.truth), "rim": psnr(x, one.truth, rim), "rest": psnr(x, one.truth, ~rim)}
    found["gain"] = found["whole"] - psnr(one.before, one.truth)
    found["variation"] = variation(x) / variation(one.before)
    if one.known is not None:
        found["hole"] = psnr(x, one.truth, ~one.known)
        found["known"] = psnr(x, one.truth, one.known)
        found["changed"] = float((x != one.before).any(2)[one.known].mean())
    return found


def measure(
    row: Row,
    photos: Sequence[np.ndarray],
    denoiser: Denoiser,
    options: argparse.Namespace,
    shown: dict[str, list[np.ndarray]],
) -> dict[str, Any]:
    """Figures of each picture by method; "before" is the picture that the user has.

    The first picture, what became of it, and the truth are put into ``shown`` if the row is one of `SHOWN`.
    """

    def damaged(make: Make) -> list[Stranger]:
        return [make(photo, options.crop, generator(options.seed, k)) for k, photo in enumerate(photos)]

    made = damaged(row.make)
    found = {"before": [figures(one.before, one) for one in made]}
    for method in row.methods:
        given = made if method.make is None else damaged(method.make)
        pictures = restored(row, method, given, options)
        if method.name == SHOWN.get(row.title, ("", ""))[1]:
            shown[row.title] = [made[0].before, pictures[0], made[0].truth]
        found[method.name] = [figures(x, one) for x, one in zip(pictures, made, strict=True)]
    if row.section == "masks":
        found[INTERPOLATED] = [figures(strangers.interpolated(one), one) for one in made]
    if row.section == "noise":
        found[BEST] = [figures(x, one) for x, one in zip(best_given(denoiser, made), made, strict=True)]
    if row.kernel is not None and photo_peers.missing("deepinv") is None:
        tried = {}
        for padding in PADDINGS:
            tried[padding] = [figures(dpir(one, row.kernel, row.noise, padding, denoiser), one) for one in made]
            found[f"DPIR, {padding}"] = tried[padding]
        found[DPIR] = max(tried.values(), key=lambda records: sum(record["whole"] for record in records))
    return found


def write(report: Report, section: str, found: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    """The table of a section, and its rows of results.csv."""
    in_csv_only = [f"DPIR, {padding}" for padding in PADDINGS]
    names = list(dict.fromkeys(name for methods in found.values() for name in methods if name not in in_csv_only))
    table = []
    for title, methods in found.items():
        cells = dict.fromkeys(names, "")
        for name, records in methods.items():
            means = {key: statistics.fmean(record[key] for record in records) for key in records[0]}
            if name in cells:
                cells[name] = " / ".join(f"{means[key]:.2f}" for key in shown_keys(section))
            for key, value in means.items():
                report.add(f"{section}: {title}", name, key, value, "1" if key in ("changed", "variation") else "dB")
        line = [title, *cells.values()]
        if BEST in methods:
            losses = [
                best["whole"] - ours["whole"] for best, ours in zip(methods[BEST], methods["defaults"], strict=True)
            ]
            line.append(f"{statistics.fmean(losses):.2f} ({max(losses):.2f})")
            report.add(f"{section}: {title}", "defaults", "loss", statistics.fmean(losses), "dB")
        table.append(line)
    head = [section, *names, *(["loss (largest)"] if any(BEST in methods for methods in found.values()) else [])]
    notes = [f"Means over the photographs, PSNR in dB: {' / '.join(shown_keys(section))}"]
    if DPIR in names:
        notes.append(f"DPIR by deepinv with its blur, told the noise: the best, in each row, of {', '.join(PADDINGS)}")
    report.table(section, head, table, notes)


def draw(shown: dict[str, list[np.ndarray]]) -> Image.Image:
    """The first photograph of some rows: damaged, restored, a detail of both, and the truth."""
    tiles: dict[str, list[np.ndarray | None]] = {}
    for before, after, truth in shown.values():
        pictures = {"before": before, "after": after, "truth": truth}
        pictures = {name: strangers.in_8_bits(pixels) for name, pixels in pictures.items()}
        where = sheets.detail(pictures["before"], pictures["after"], least=64)
        for name, pixels in pictures.items():
            tiles.setdefault(name, []).append(pixels)
            tiles.setdefault(f"detail: {name}", []).append(None if where is None else pixels[where])
    names = ["before", "after", "detail: before", "detail: after", "detail: truth"]
    return sheets.overview([sheets.Row(name, tiles[name]) for name in names], [SHOWN[title][0] for title in shown])


def shown_keys(section: str) -> list[str]:
    """Figures that the table of a section shows."""
    keys = {"blur": ["whole", "rim"], "masks": ["hole", "known"], "enlargement": ["gain", "variation"]}
    return keys.get(section, ["whole"])


# --- the script ------------------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--data", type=Path, metavar="FOLDER", help="photographs; --quick takes those of this repository")
    made.add_argument("--num-images", type=int, default=5, metavar="N", help="so many of them, evenly spaced (5)")
    made.add_argument("--crop", type=int, default=192, metavar="N", help="side of the pictures (192)")
    made.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="only these tables")
    made.add_argument("--rows", metavar="TEXT", default="", help="only rows whose title contains it")
    made.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="of the network (auto)")
    made.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    add_network(made)
    return made


def main(chosen: argparse.Namespace) -> int:
    """Measure and print."""
    check_least(chosen, num_images=1, crop=64, seed=0)
    if chosen.data is None and not chosen.quick:
        raise InputError("--data: is needed, a folder of photographs (--quick does without)")
    device = resolve_device(chosen.device)
    chosen.precision = resolve_precision(chosen.precision, device)
    if chosen.quick:
        chosen.num_images, chosen.crop = 1, min(chosen.crop, 160)
    source = open_images(chosen.data or ROOT / "data" / "photographs")
    photos = []
    for k in spread(len(source), chosen.num_images):
        pixels = (cut(to_tensor(source.pixels(k, 3)), 0).permute(1, 2, 0).double().numpy() + 1) * 127.5
        if min(pixels.shape[:2]) < chosen.crop + 2 * strangers.SURROUNDINGS + 24:
            raise InputError(
                f"{source.names[k]}: is too small for pictures of {chosen.crop} pixels cut from a larger one"
            )
        photos.append(pixels)
    denoiser = load_model(chosen.network, device, chosen.precision)
    if "blur" in chosen.sections and (missing := photo_peers.missing("deepinv")):
        print(missing, file=sys.stderr)
    report = Report("real_photographs", chosen, str(device), ["scipy", "pillow"])
    shown: dict[str, list[np.ndarray]] = {}
    for section in chosen.sections:
        found: dict[str, dict[str, list[dict[str, float]]]] = {}
        for row in SECTIONS[section]():
            if chosen.rows in row.title and (not chosen.quick or row.title in SHOWN):
                found[row.title] = measure(row, photos, denoiser, chosen, shown)
        if found:
            write(report, section, found)
    if shown:
        out = io.BytesIO()
        draw(shown).save(out, "PNG")
        report.folder.write_bytes("real_photographs.png", out.getvalue())
    return report.finish()


if __name__ == "__main__":
    start(main, options())
