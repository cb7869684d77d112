"""`randomwalk restore`: denoise, fill in, enlarge or sharpen one photograph, without a YAML file."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from randomwalk.cli import options
from randomwalk.cli.file_checks import check_files
from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.config.operators import (
    AnyBlurSettings,
    BlurSettings,
    DefocusBlurSettings,
    Downsampling,
    GaussianBlurSettings,
    InpaintingSettings,
    MotionBlurSettings,
    SuperResolutionSettings,
)
from randomwalk.errors import InputError
from randomwalk.lookup import expand, printable, shortened
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.report import html_of, is_report

EXAMPLE = """\
examples:
  randomwalk restore photo.jpg                          denoise; the strength of the noise is estimated
  randomwalk restore photo.jpg --photons auto           denoise; photon noise, as in dim light
  randomwalk restore photo.jpg --fill mask.png          fill in what is painted in mask.png, keep the rest
  randomwalk restore photo.jpg --fill mask.png --noise auto     fill in, and denoise the rest (or --photons auto)
  randomwalk restore photo.jpg --enlarge 2              twice the width and height
  randomwalk restore photo.jpg --enlarge 2 --downsampling nearest     the same, if it was reduced without a filter
  randomwalk restore photo.jpg --deblur kernel.png      sharpen, given an image of a blurred point of light
  randomwalk restore photo.jpg --deblur 1.6             sharpen a Gaussian blur with standard deviation 1.6 pixels
  randomwalk restore photo.jpg --deblur defocus:2.5     sharpen what is out of focus: points are discs of radius 2.5
  randomwalk restore photo.jpg --deblur motion:21:30    sharpen a motion blur of 21 pixels, 30 degrees from horizontal

Each writes photo_restored.png beside the photograph. The settings are those of configs/photo_*.yaml; --dry-run prints
them, so that you can save, change and run them: randomwalk sample --config FILE.
"""


PRIORS = {name: f"pretrained_models/{name}.safetensors" for name in ("photo", "photo_camera")}
"""Bundled weights by the names of --prior."""


def parser(prog: str = "randomwalk restore") -> argparse.ArgumentParser:
    """Parser of the options."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Restore one photograph of any size: denoise it, or do what the options say.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("photo", type=_path, help="the photograph")
    task = made.add_mutually_exclusive_group()
    task.add_argument("--fill", type=_path, metavar="MASK", help="fill in the pixels that are not white in this image")
    task.add_argument("--enlarge", type=_factor, metavar="N", help="multiply width and height by N (2, 3, 4)")
    task.add_argument(
        "--deblur",
        type=_blur,
        metavar="KERNEL",
        help="sharpen: an image (or .npy file) of a point of light as it looks in the photograph, a width in pixels, "
        "defocus:RADIUS or motion:LENGTH:ANGLE",
    )
    made.add_argument(
        "--grow", type=_pixels, metavar="N", help="with --fill: widen the area by N pixels (1 for soft brushes, else 0)"
    )
    made.add_argument("--invert", action="store_true", help="with --fill: white is filled in, and black is kept")
    made.add_argument(
        "--downsampling",
        metavar="KIND",
        help="with --enlarge: how the photograph was reduced, bicubic (default; like other smooth filters), box, "
        "nearest, strided, or an image (or .npy file) of a blur kernel, whose result was strided",
    )
    made.add_argument("--flip", action="store_true", help="turn the kernel of --deblur by 180 degrees")
    made.add_argument("--output", type=_path, metavar="FILE", help="PNG file or folder for the result")
    made.add_argument("--overwrite", action="store_true", help="replace the result if it exists")
    noise = made.add_mutually_exclusive_group()
    noise.add_argument(
        "--noise",
        type=_noise,
        metavar="STD",
        help="standard deviation of the noise, of 255, or auto to estimate it: the default, except for --enlarge (1) "
        "and --fill, which removes no noise unless asked to",
    )
    noise.add_argument(
        "--photons",
        type=_noise,
        metavar="N",
        help="the noise is photon noise, N at white (or auto to estimate N), as in dim or microscope images",
    )
    made.add_argument(
        "--prior",
        choices=[*PRIORS, "auto"],
        default="photo",
        help="weights of the network: photo (default), for white noise; photo_camera, for noise of a sensor that has "
        "been through demosaicking; or auto, which takes them where the noise is estimated and not white, also for "
        "JPEG alone, where they can be worse",
    )
    made.add_argument(
        "--report",
        action="store_true",
        help="write a page that compares both, NAME.html beside NAME.png; see docs/report.md",
    )
    made.add_argument("--page", type=_page, metavar="N", help="page of a TIFF, or frame of an animation (default: 1)")
    made.add_argument("--no-gps", action="store_true", help="leave the coordinates out of the result's metadata")
    made.add_argument("--seed", type=int, default=0, help="seed of the random walk (default: 0)")
    made.add_argument("--device", default="auto", help="auto (default), cpu, mps, cuda or cuda:N")
    made.add_argument("--max-memory", type=_positive, metavar="GIB", help="denoise in tiles to stay below this memory")
    made.add_argument("--dry-run", action="store_true", help="print the config and check the files, without starting")
    return made


def _path(text: str) -> Path:
    try:
        return Path(expand(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _factor(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"found {text}; expected a whole number from 2")
    return int(text)


def _page(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}; expected a whole number from 1")
    return int(text)


def _pixels(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text}; expected a number of pixels")
    return int(text)


def _noise(text: str) -> float | str:
    return text if text == "auto" else _positive(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}; expected a positive number")
    return value


def _blur(text: str) -> AnyBlurSettings:
    """Blur of a width in pixels, of defocus:RADIUS or motion:LENGTH:ANGLE, or with the kernel of a file.

    Paths are set as they are.
    """
    shape, *numbers = text.split(":")
    values = [_number(number) for number in (numbers if numbers else [text])]
    try:
        if not numbers and values[0] is not None:
            return GaussianBlurSettings(name="gaussian_blur", std=values[0], boundary="unknown")
        if shape == "defocus" and len(values) == 1 and values[0] is not None:
            return DefocusBlurSettings(name="defocus_blur", radius=values[0], boundary="unknown")
        if shape == "motion" and 1 <= len(values) <= 2 and None not in values:
            length, angle = (*values, 0.0)[:2]
            return MotionBlurSettings(name="motion_blur", length=length, angle=angle or 0.0, boundary="unknown")
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"found {text}: {error.errors()[0]['msg']}") from error
    if shape in ("defocus", "motion") and numbers:
        raise argparse.ArgumentTypeError(f"found {text}; expected defocus:RADIUS or motion:LENGTH:ANGLE, numbers")
    kernel = BlurSettings.model_construct(name="blur", boundary="unknown")
    kernel.file = str(_path(text))
    return kernel


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def config_of(args: argparse.Namespace) -> SampleConfig:
    """Build the sampling task: that of configs/photo_*.yaml, changed as the options say.

    Paths are set after loading, as they are.
    """
    _check_belongs(args)
    changes = [f"seed={args.seed}", f"device={args.device}"]
    changes += [f"measurement.noise.std={args.noise}"] if args.noise is not None else []
    changes += [f"measurement.noise={{name: poisson, peak: {args.photons}}}"] if args.photons is not None else []
    changes += [f"max_memory={args.max_memory}"] if args.max_memory is not None else []
    changes += [f"data.page={args.page}"] if args.page is not None else []
    changes += ["data.gps=false"] if args.no_gps else []
    if args.prior == "auto":
        changes.append(f"network.camera_path={PRIORS['photo_camera']}")
    elif args.prior != "photo":
        changes.append(f"network.path={PRIORS[args.prior]}")
    name = "denoise"
    if args.fill is not None:
        name = "inpainting"
        asked = args.noise is not None or args.photons is not None
        changes += ["measurement.keep_known=false"] if asked else []
    elif args.enlarge is not None:
        name = "super_resolution"
        changes.append(f"measurement.operator.factor={args.enlarge}")
        if args.downsampling in get_args(Downsampling):
            changes.append(f"measurement.operator.downsampling={args.downsampling}")
    elif args.deblur is not None:
        name = "deblur"
    config = load_sample_config(f"configs/photo_{name}.yaml", changes)
    assert config.data is not None and config.measurement is not None
    config.data.path = str(args.photo)
    config.output = str(args.photo.with_name(_result_stem(args.photo)))
    if args.fill is not None:
        mask = {"mask": "file", "grow": "auto" if args.grow is None else args.grow, "invert": args.invert}
        config.measurement.operator = InpaintingSettings.model_construct(name="inpainting", **mask)
        config.measurement.operator.file = str(args.fill)
    elif args.enlarge is not None and args.downsampling not in (None, *get_args(Downsampling)):
        kernel = SuperResolutionSettings(name="super_resolution", factor=args.enlarge, downsampling="strided")
        kernel.file = expand(args.downsampling)
        config.measurement.operator = kernel
    elif args.deblur is not None:
        config.measurement.operator = args.deblur
        if isinstance(args.deblur, BlurSettings):
            args.deblur.flip = args.flip
    return config


def _check_belongs(args: argparse.Namespace) -> None:
    """Raise InputError for an option that says more about a task that is not asked for."""
    for option, given, task, asked in (
        ("--grow", args.grow is not None, "--fill", args.fill),
        ("--invert", args.invert, "--fill", args.fill),
        ("--downsampling", args.downsampling is not None, "--enlarge", args.enlarge),
    ):
        if given and asked is None:
            raise InputError(f"{option}: is for {task}, which is not asked for; add it, or remove {option}")
    if args.flip and not isinstance(args.deblur, BlurSettings):
        raise InputError("--flip: turns a kernel that is read from a file; give --deblur its path, or remove --flip")


def _result_stem(photo: Path) -> str:
    """Name of the result without its suffix, which together have at most 255 bytes."""
    from randomwalk.images.kinds import stem_of  # imports Pillow: --help needs none

    return f"{shortened(stem_of(photo.name), 240)}_restored"


def output_of(args: argparse.Namespace) -> Path:
    """Choose the file for the result.

    Raises:
        InputError: it exists already, is not a PNG file, or cannot be written.
    """
    name = f"{_result_stem(args.photo)}.png"
    output: Path = args.photo.with_name(name) if args.output is None else args.output
    output = output / name if output.is_dir() else output
    if output.suffix.lower() != ".png":
        raise InputError(f"--output: {output}: expected a folder, or a file whose name ends in .png")
    if not output.parent.is_dir():
        raise InputError(f"--output: {output}: there is no folder {output.parent}")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise InputError(f"--output: {output}: the folder is not writable; choose another with --output")
    if output.exists() and not args.overwrite:
        raise InputError(f"{output}: exists already; replace it with --overwrite, or choose another with --output")
    page = output.with_suffix(".html")
    if args.report and page.exists() and not is_report(page):
        raise InputError(f"--report: {page}: exists already, and is not a report; choose another name with --output")
    return output


def main(args: argparse.Namespace) -> int:
    """Restore the photograph that the options name; returns the exit status."""
    if args.photo.is_dir():
        raise InputError(
            f"{args.photo}: is a folder; restore takes one photograph. For a folder: randomwalk sample --config "
            f"configs/photo_denoise.yaml --set data.path={args.photo}"
        )
    config, output = config_of(args), output_of(args)
    check_files(config, new=False)

    with options.loading():
        from randomwalk import distributed
        from randomwalk.images import pictures
        from randomwalk.runs.environment import environment
        from randomwalk.sampling import doubts, measuring, restoration_report
        from randomwalk.sampling import run as sampling
        from randomwalk.sampling.foresight import image_notes, notes_of
        from randomwalk.sampling.loading import load_task
        from randomwalk.sampling.progress import Progress

    if args.dry_run:
        return sampling.dry_run(config)
    start, notes = time.perf_counter(), list[str]()

    def say(lines: Sequence[str]) -> None:
        notes.extend(lines)
        options.show_notes(lines)

    context = distributed.connect(config.device)
    task = load_task(config, context.device)
    say(notes_of(task))
    assert task.images.source is not None
    measurement = task.load_measurable(0)
    known = measuring.known_part(task.measurements.operator_of([0])[0])
    say(image_notes(task, 0))
    if args.deblur is not None:
        say(doubts.of_orientation(task, measurement[None].to(task.device)))
    progress = Progress(context, task.num_steps)
    try:
        [units] = task.batches()
        batch = task.sample(units, measurement[None].contiguous().to(task.device), progress.watch, progress.tile)
        progress.finish()
    finally:
        progress.close()
    say(doubts.of_batch(task, batch))
    result = pictures.encode(
        batch.x[0], task.images.source.picture(0), coloured=not task.images.is_grey(0), gps=not args.no_gps
    )
    folder = RunFolder(output.parent)
    if args.report:  # before the result, which says that all is done
        page = restoration_report.page(task, batch, output, notes, environment(str(context.device), context.size))
        _write(folder, output.with_suffix(".html"), html_of(page).encode())
    _write(folder, output, result)
    filled = f", {1 - float(known.mean()):.1%} filled in" if known is not None else ""
    height, width = batch.x.shape[-2:]
    print(f"{printable(str(output))}   ({width} x {height} pixels{filled}, {time.perf_counter() - start:.0f} s)")
    if args.report:
        print(printable(str(output.with_suffix(".html"))))
    return 0


def _write(folder: RunFolder, path: Path, data: bytes) -> None:
    folder.remove_leftovers_of(path.name)  # of a process that was killed
    folder.write_bytes(path.name, data)


def command(words: Sequence[str], prog: str = "randomwalk restore") -> int:
    """Run `restore` with command-line arguments; returns the exit status."""
    made = parser(prog)
    args, unknown = made.parse_known_args(words)
    if unknown:
        quotes = "" if unknown[0].startswith("-") else "; a path with spaces needs quotes"
        made.error(f"unrecognized arguments: {' '.join(unknown)}{quotes}")
    return options.run(lambda: main(args))
