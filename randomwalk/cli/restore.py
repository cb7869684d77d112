"""`randomwalk restore`: denoise, fill in, enlarge or sharpen one photograph, without a YAML file."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from randomwalk.cli import options
from randomwalk.cli.file_checks import check_files
from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.config.operators import BlurSettings, InpaintingSettings
from randomwalk.errors import InputError
from randomwalk.lookup import expand, printable, shortened
from randomwalk.runs.folder import RunFolder

EXAMPLE = """\
examples:
  randomwalk restore photo.jpg                          denoise; the strength of the noise is estimated
  randomwalk restore photo.jpg --photons auto           denoise; the noise is that of few photons
  randomwalk restore photo.jpg --fill mask.png          fill in what is black in mask.png
  randomwalk restore photo.jpg --enlarge 2              twice the width and height
  randomwalk restore photo.jpg --deblur kernel.png      sharpen, with an image of the blurred point of light
  randomwalk restore photo.jpg --deblur 1.6             sharpen a Gaussian blur with a standard deviation of 1.6 pixels

Each writes photo_restored.png beside the photograph. The settings are those of configs/photo_*.yaml; --dry-run prints
them, to be saved, changed and run by: randomwalk sample --config FILE. With --deblur the border is tapered too, since
a blurred photograph shows what lies outside of it.
"""


def parser(prog: str = "randomwalk restore") -> argparse.ArgumentParser:
    """Parser of the options."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Restore one photograph of any size: denoise it, or what the options say.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("photo", type=_path, help="the photograph")
    task = made.add_mutually_exclusive_group()
    task.add_argument("--fill", type=_path, metavar="MASK", help="fill in the pixels that are black in this image")
    task.add_argument("--enlarge", type=_factor, metavar="N", help="multiply width and height by N (2, 3, 4)")
    task.add_argument(
        "--deblur", metavar="KERNEL", help="sharpen: an image (or .npy file) of the blur kernel, or a width in pixels"
    )
    made.add_argument("--output", type=_path, metavar="FILE", help="PNG file or folder for the result")
    made.add_argument("--overwrite", action="store_true", help="replace the result if it exists")
    noise = made.add_mutually_exclusive_group()
    noise.add_argument(
        "--noise", type=_positive, metavar="STD", help="standard deviation of the noise, of 255; estimated by default"
    )
    noise.add_argument(
        "--photons",
        type=lambda text: text if text == "auto" else _positive(text),
        metavar="N",
        help="the noise is that of photons, N at white (or auto: estimated), as in dim or microscopic pictures",
    )
    made.add_argument("--seed", type=int, default=0, help="seed of the random walk (default: 0)")
    made.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
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


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}; expected a positive number")
    return value


def config_of(args: argparse.Namespace) -> SampleConfig:
    """Build the sampling task: that of configs/photo_*.yaml, changed as the options say.

    Paths are set after loading, as they are.
    """
    changes = [f"seed={args.seed}", f"device={args.device}"]
    changes += [f"measurement.noise.std={args.noise}"] if args.noise is not None else []
    changes += [f"measurement.noise={{name: poisson, peak: {args.photons}}}"] if args.photons is not None else []
    changes += [f"max_memory={args.max_memory}"] if args.max_memory is not None else []
    name, blur_std = "denoise", None
    if args.fill is not None:
        name = "inpainting"
    elif args.enlarge is not None:
        name = "super_resolution"
        changes.append(f"measurement.operator.factor={args.enlarge}")
    elif args.deblur is not None:
        name = "deblur"
        try:
            blur_std = _positive(args.deblur)
            changes += [f"measurement.operator.std={blur_std}", "measurement.operator.boundary=circular"]
        except argparse.ArgumentTypeError:  # the path of a kernel
            pass
    config = load_sample_config(f"configs/photo_{name}.yaml", changes)
    assert config.data is not None and config.measurement is not None
    config.data.path = str(args.photo)
    config.output = str(args.photo.with_name(_result_stem(args.photo)))
    if args.fill is not None:
        config.measurement.operator = InpaintingSettings.model_construct(name="inpainting", mask="file")
        config.measurement.operator.file = str(args.fill)
    elif args.deblur is not None and blur_std is None:
        config.measurement.operator = BlurSettings.model_construct(name="blur", boundary="circular")
        config.measurement.operator.file = expand(args.deblur)
    return config


def _result_stem(photo: Path) -> str:
    """Name of the result without its suffix, which together have at most 255 bytes."""
    return f"{shortened(photo.stem, 240)}_restored"


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

    from randomwalk import distributed
    from randomwalk.images import pictures
    from randomwalk.operators.blur import taper
    from randomwalk.sampling import measuring
    from randomwalk.sampling import run as sampling
    from randomwalk.sampling.foresight import image_notes, notes_of
    from randomwalk.sampling.loading import load_task
    from randomwalk.sampling.progress import Progress

    if args.dry_run:
        return sampling.dry_run(config)
    start = time.perf_counter()
    context = distributed.connect(config.device)
    task = load_task(config, context.device)
    options.show_notes(notes_of(task))
    assert task.source is not None
    measurement = task.load_measurable(0)
    known = measuring.known_part(task.make_operator([0])[0])
    missing = 0.0 if known is None else 1 - float(known.mean())
    if known is not None and missing in (0, 1):
        raise InputError(
            f"--fill: {args.fill} has {'no' if missing == 0 else 'only'} dark pixels; dark pixels are filled"
        )
    options.show_notes(image_notes(task, 0))
    if args.deblur is not None:
        measurement = taper(measurement[None], task.make_operator([0])[0])[0]
    progress = Progress(context, task.num_steps)
    try:
        [units] = task.batches()
        batch = task.sample(units, measurement[None].contiguous().to(task.device), progress.watch, progress.tile)
        progress.finish()
    finally:
        progress.close()
    result = pictures.encode(batch.x[0], task.source.picture(0), coloured=not task.is_grey(0))
    folder = RunFolder(output.parent)
    folder.remove_leftovers_of(output.name)  # of a process that was killed
    folder.write_bytes(output.name, result)
    filled = f", {missing:.1%} filled in" if missing else ""
    height, width = batch.x.shape[-2:]
    print(f"{printable(str(output))}   ({width} x {height} pixels{filled}, {time.perf_counter() - start:.0f} s)")
    return 0


def command(words: Sequence[str], prog: str = "randomwalk restore") -> int:
    """Run `restore` with command-line arguments; returns the exit status."""
    args = parser(prog).parse_args(words)
    return options.run(lambda: main(args))
