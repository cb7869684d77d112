"""Restoration of photographs: the random walk at its one default, beside classical methods and other people's samplers.

Set5 and 12 images of CBSD68 (every fifth by name) are degraded as photo_restoration.yaml says. The walk has the
settings of configs/photo_*.yaml in all cases, with 12, 24 and 40 evaluations; those of all other methods were chosen
for each case by --tune on other photographs (photo_restoration_settings.yaml). In some cases samples are compared for
the eye as well, by LPIPS and the Frechet distance of deep features of patches.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from support import photo_peers
from support.common import Report, bar, check_least, parser, start
from support.engine import FAILED, Job, Record, Records, Settings, choose, failure, measure
from support.perceptual import add_alexnet, lpips_missing, patch_distance
from support.photo_methods import facts_of, judge, restore
from support.photo_plan import Chosen, Plan, load_plan, settings_of, write_settings
from support.photo_problems import MULTIPLE, SAMPLER, Case, Problem, make_problem
from support.photo_report import (
    Pictures,
    Result,
    Shown,
    case_table,
    costs,
    distortion_perception,
    draw,
    eye_table,
    summary,
)
from support.photographs import (
    BUNDLED,
    SETS,
    VALIDATION,
    Photograph,
    add_options,
    check_options,
    fingerprint,
    load_model,
    open_set,
    photographs,
    spread,
)

from randomwalk.denoisers.checkpoints import resolve_device
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError, RunError
from randomwalk.images import sheets
from randomwalk.images.sources import open_images
from randomwalk.images.tensors import to_pixels, to_tensor
from randomwalk.operators import SuperResolution
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling.batch import visible_and_baseline

EVERY_FIFTH, NUM_CBSD68 = 5, 12
FIRST, FINALISTS = 2, 2
"""--tune tries all candidates on the first photographs, and this many of the best on all of them."""


# --- photographs -----------------------------------------------------------------------------------------------------


def measured_photographs(options: argparse.Namespace) -> list[Photograph]:
    """Set5 and a part of CBSD68, or evenly spaced ones of them; with --quick and no data, one of the repository."""
    if options.data is None:
        return photographs(open_set(None, BUNDLED), BUNDLED, [0], options.crop, MULTIPLE)
    found = []
    for folder, step, most in (("set5", 1, None), ("cbsd68", EVERY_FIFTH, NUM_CBSD68)):
        source = open_set(options.data, folder)
        numbers = list(range(0, len(source), step))[:most]
        found += photographs(source, folder, numbers[:1] if options.quick else numbers, options.crop, MULTIPLE)
    return [found[k] for k in spread(len(found), options.images)]


def validation_photographs(folder: Path, data: Path, count: int, crop: int) -> list[Photograph]:
    """Evenly spaced photographs of a folder, without any that has the name of a test image.

    Raises:
        InputError: there are too few of them.
    """
    test = {Path(name).stem for folder_of_set in SETS for name in open_set(data, folder_of_set).names}
    source = open_images(folder)
    allowed = [number for number, name in enumerate(source.names) if Path(name).stem not in test]
    if len(allowed) < count:
        raise InputError(f"--validation {folder}: has {len(allowed)} images that are not tested on; expected {count}")
    return photographs(source, VALIDATION, [allowed[k] for k in spread(len(allowed), count)], crop, MULTIPLE)


def shown_photographs(plan: Plan, photos: Sequence[Photograph]) -> dict[str, Photograph]:
    """Photograph of each row of the figure, by its case: the rule of photo_restoration.yaml."""
    every = int(plan.pictures["every"])
    return {
        f"{degradation}, noise {noise:g}": photos[every * row % len(photos)]
        for row, (degradation, noise) in enumerate(plan.pictures["rows"])
    }


# --- measurements ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """Photographs, a network, and records of what was measured with them.

    Attributes:
        denoiser: the network; None for classical methods alone.
        facts: everything that decides the results besides the case, the method with its settings, and the photograph.
        alexnet: its weights, for LPIPS; None to do without.
        pictures: restored images, of the figure and for the eye.
        shown: photograph of the figure, by the name of the case.
        few: number of photographs for the PSNR of peers that differentiate the network, which take far longer.
    """

    denoiser: Denoiser | None
    device: torch.device
    photos: Sequence[Photograph]
    seed: int
    facts: dict[str, Any]
    records: Records
    alexnet: Path | None = None
    pictures: Pictures | None = None
    shown: dict[str, Photograph] = field(default_factory=dict)
    few: int = 17

    def job(self, case: Case, title: str, settings: Mapping[str, Any], photos: Sequence[Photograph]) -> Job:
        """A method on some photographs."""
        law = {**case.law, "settings": dict(settings), "lpips": self.alexnet is not None}
        work = (self, case, title, settings, {photo.key: photo for photo in photos})
        return Job(case.name, title, {**facts_of(title, self.facts), **law}, [photo.key for photo in photos], work)

    def keeps(self, case: Case, photo: Photograph) -> bool:
        """True if the images restored from a photograph are kept: for the figure, or to measure them together."""
        return self.pictures is not None and (case.for_the_eye or self.shown.get(case.name) is photo)

    def lacks(self, case: Case, photo: Photograph, title: str) -> bool:
        """True if an image is to be kept, but is not there."""
        return self.pictures is not None and self.keeps(case, photo) and not self.pictures.has(case, photo.key, title)


def do(job: Job) -> list[Record]:
    """Restore one photograph, judge the image, and keep it if it is needed again.

    Raises:
        RunError: the image is not finite.
    """
    bench, case, title, settings, photos = job.payload
    photo = photos[job.items[0]]
    problem = make_problem(case, photo, bench.seed).to(bench.device)
    outcome = restore(title, settings, problem, bench.denoiser, photo.draws(bench.seed, SAMPLER))
    if bench.pictures is not None and bench.keeps(case, photo):
        bench.pictures.write(case, photo.key, title, to_pixels(outcome.x[0]))
    return [judge(outcome, photo.pixels[None], bench.alexnet)]


def measure_case(bench: Bench, case: Case, methods: Chosen) -> Result:
    """Measure all methods in a case."""
    some = [bench.photos[k] for k in spread(len(bench.photos), bench.few)]
    slow = [] if case.for_the_eye else [title for title in methods if photo_peers.differentiates(title)]
    photos = {title: some if title in slow else bench.photos for title in methods}
    jobs = [bench.job(case, title, settings, photos[title]) for title, settings in methods.items()]
    for job in jobs:
        for photo in photos[job.method]:
            if bench.lacks(case, photo, job.method):
                bench.records.of(case.name, job.method, job.config).pop(photo.key, None)  # do it again for its image
    found = measure(jobs, do, bench.records, case.name)[case.name]
    reasons = {title: failure(records) for title, records in found.items()}
    images = {title: records for title, records in found.items() if reasons[title] is None}
    return Result(case, images, {title: why for title, why in reasons.items() if why is not None})


def distances(bench: Bench, result: Result) -> dict[str, float]:
    """Frechet distance of deep features of patches from those of the photographs, by method; empty without AlexNet."""
    if bench.alexnet is None or bench.pictures is None:
        return {}
    found, truths = {}, [to_tensor(to_pixels(photo.pixels)) for photo in bench.photos]
    for title, records in result.images.items():
        images = [to_tensor(bench.pictures.read(result.case, key, title)) for key in records]
        found[title] = patch_distance(images, truths, bench.alexnet)
    return found


def tune(
    bench: Bench,
    plan: Plan,
    cases: Sequence[Case],
    libraries: Collection[str],
    only: Sequence[str] | None = None,
) -> None:
    """Choose the settings of all methods in all cases, and write those of each method as soon as they are chosen.

    Args:
        libraries: of peers, that are installed.
        only: methods to choose settings for; None for all.

    Raises:
        InputError: none of the cases has such a method.
        RunError: all candidates of a method diverge.
    """
    tries = {case.name: plan.candidates(case, bench.denoiser is not None, libraries) for case in cases}
    known = {title for methods in tries.values() for title in methods}
    if unknown := sorted(set(only or ()) - known):
        raise InputError(f"--methods {', '.join(unknown)}: known here are {', '.join(sorted(known))}")
    pairs = [
        (case, title)
        for case in cases
        for title in tries[case.name]
        if (only is None or title in only) and plan.takes_settings_of(case, title)
    ]
    if bench.alexnet is None and any(case.for_the_eye for case, _ in pairs):
        raise InputError("--tune: cases for the eye need LPIPS; name AlexNet's weights by --alexnet FILE")
    with bar(len(pairs), "tuning", "methods") as tick:
        for case, title in pairs:
            best, value = best_settings(bench, case, title, tries[case.name][title])
            for of in plan.takes_settings_of(case, title):
                write_settings(of.name, title, {"settings": best, case.by: round(value, 3)})
            tick(1, f"{case.name}: {title} {value:.3f}")


def best_settings(bench: Bench, case: Case, title: str, candidates: Sequence[Settings]) -> tuple[Settings, float]:
    """Candidate with the highest mean PSNR, or the lowest LPIPS in a case for the eye, and that mean.

    Raises:
        RunError: all candidates diverge.
    """
    sign = 1 if case.for_the_eye else -1
    as_measured = replace(case, by="psnr")  # the tries are the same, whatever they are judged by

    def loss(settings: Settings, all_items: bool) -> float:
        job = bench.job(as_measured, title, settings, bench.photos if all_items else bench.photos[:FIRST])
        job = replace(job, method=f"{title} {json.dumps(settings)}")
        found = measure([job], do, bench.records, job.method)[job.case][job.method].values()
        failed = any(FAILED in record for record in found)
        return math.inf if failed else sign * statistics.fmean(record[case.by] for record in found)

    best, losses = choose(candidates, loss, FINALISTS)
    if min(losses) == math.inf:
        raise RunError(f"{case.name}: every setting of {title} that was tried diverges")
    return best, sign * min(losses)


def figure_rows(bench: Bench, results: Sequence[Result]) -> list[Shown]:
    """Rows of the figure, in the order of photo_restoration.yaml."""
    by_name = {result.case.name: result for result in results}
    return [
        Shown(
            by_name[name],
            photo.key,
            to_pixels(photo.pixels),
            to_pixels(visible(make_problem(by_name[name].case, photo, bench.seed))),
        )
        for name, photo in bench.shown.items()
        if name in by_name
    ]


def visible(problem: Problem) -> torch.Tensor:
    """The measurement as an image, ``[3, h, w]``: missing pixels are grey, and small images stay small."""
    small = isinstance(problem.operator, SuperResolution)
    return problem.y[0] if small else visible_and_baseline(problem.operator, problem.y)[0][0]


# --- the script ------------------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    add_options(made, crop=192)
    made.add_argument("--images", type=int, default=17, metavar="N", help="evenly spaced ones of the 17 (all)")
    made.add_argument(
        "--few",
        type=int,
        default=17,
        metavar="N",
        help="evenly spaced photographs for the PSNR of peers that differentiate the network, which take long (all)",
    )
    made.add_argument("--degradations", nargs="+", metavar="NAME", help="only these of photo_restoration.yaml")
    made.add_argument("--noise", nargs="+", type=float, metavar="STD", help="only these levels of it, of 255")
    add_alexnet(made)
    made.add_argument(
        "--classical",
        action="store_true",
        help="only the methods that need no network; a later run takes their results by --resume",
    )
    made.add_argument("--tune", action="store_true", help="choose the settings anew, and write them")
    made.add_argument("--validation", type=Path, metavar="FOLDER", help="photographs to choose the settings on")
    made.add_argument("--methods", nargs="+", metavar="NAME", help="of --tune: only for these")
    made.add_argument("--tune-images", type=int, default=8, metavar="N", help="of --tune (8)")
    made.add_argument("--tune-crop", type=int, default=128, metavar="N", help="of --tune, in pixels (128)")
    return made


def check(chosen: argparse.Namespace) -> None:
    """Raise InputError for options that make no sense."""
    check_options(chosen)
    if chosen.tune and (chosen.validation is None or chosen.data is None):
        raise InputError(
            "--tune: needs --validation FOLDER, photographs to choose the settings on, and --data FOLDER, to leave out "
            "those that are measured"
        )
    if chosen.tune and chosen.quick:
        raise InputError("--tune: has no --quick version; --tune-images and --tune-crop make it smaller")
    if chosen.methods is not None and not chosen.tune:
        raise InputError("--methods: is for --tune; all methods are measured, so that they can be compared")
    if chosen.validation is not None and not chosen.tune:
        raise InputError(f"--validation {chosen.validation}: is for --tune, which chooses the settings on it")
    check_least(chosen, images=1, few=1, tune_images=1, tune_crop=64)


def choose_settings(chosen: argparse.Namespace, bench: Bench, plan: Plan, libraries: Collection[str]) -> int:
    """Choose the settings of methods, and return the exit status 0."""
    cases = plan.of(chosen.degradations, chosen.noise)
    tune(bench, plan, cases, libraries, chosen.methods)
    print(f"every try: {bench.records.folder.file('records.json')}")
    return 0


def write(report: Report, bench: Bench, plan: Plan, results: Sequence[Result]) -> int:
    """Print all tables, draw the figures, and return the exit status 0."""
    plain, eye = ([r for r in results if r.case.for_the_eye == wanted] for wanted in (False, True))
    if bench.denoiser is not None:
        summary(report, plain)
        costs(report, plain)
    for result in eye:
        eye_table(report, result, distances(bench, result))
    for result in plain:
        case_table(report, result)
    if bench.denoiser is not None and bench.pictures is not None:
        if rows := figure_rows(bench, plain):
            picture = draw(bench.pictures, rows, int(plan.pictures["side"]))
            report.folder.write_image("photo_restoration.png", picture, optimize=True)
        if eye and bench.alexnet is not None:
            figure = distortion_perception(eye, list(plan.curve))
            report.folder.write_bytes("distortion_perception.png", sheets.png(figure))
    return report.finish()


def main(chosen: argparse.Namespace) -> int:
    """Choose the settings, or measure and print."""
    check(chosen)
    plan = load_plan()
    cases = plan.of(chosen.degradations, chosen.noise)
    device = resolve_device(chosen.device)
    denoiser = None if chosen.classical else load_model(chosen.network, device, chosen.precision)
    network = {} if denoiser is None else {"weights": fingerprint(chosen.network), "precision": chosen.precision}
    no_library = {} if denoiser is None else {name: photo_peers.missing(name) for name in photo_peers.LIBRARIES}
    libraries, no_lpips = {name for name, why in no_library.items() if why is None}, lpips_missing(chosen.alexnet)
    notes = [*filter(None, [*no_library.values(), no_lpips])]
    alexnet = chosen.alexnet if no_lpips is None else None
    if chosen.tune:
        photos = validation_photographs(chosen.validation, chosen.data, chosen.tune_images, chosen.tune_crop)
        folder = RunFolder.create(chosen.out or Path("results") / "benchmarks" / "photo_restoration_tuning")
        facts = {"seed": chosen.seed, "crop": chosen.tune_crop, **network}
        records = Records(folder, chosen.resume)
        print(*notes, sep="\n")
        bench = Bench(denoiser, device, photos, chosen.seed, facts, records, alexnet)
        return choose_settings(chosen, bench, plan, libraries)
    if chosen.quick:
        chosen.crop = min(chosen.crop or 64, 64)
    photos = measured_photographs(chosen)
    cases = [case for case in cases if denoiser is not None or not case.for_the_eye]
    settings = {case.name: settings_of(plan, case, denoiser is not None, libraries, chosen.quick) for case in cases}
    report = Report("photo_restoration", chosen, str(device), ["scikit-image", "torchmetrics", "deepinv", "azula"])
    report.settings["methods"] = settings
    facts = {"seed": chosen.seed, "crop": chosen.crop, **network}
    pictures, records = Pictures(report.folder, chosen.resume), Records(report.folder, chosen.resume)
    shown = shown_photographs(plan, photos)
    bench = Bench(denoiser, device, photos, chosen.seed, facts, records, alexnet, pictures, shown, chosen.few)
    cut = "whole" if chosen.crop == 0 else f"cut to {chosen.crop} pixels at the centre"
    used = "No network" if chosen.classical else f"Network {chosen.network.stem} in {chosen.precision}"
    report.say(
        f"{used}; {len(photos)} photographs, {cut}; one sample of each. Evaluations of the network and "
        "vector-Jacobian products (vjps) are counted; s are seconds of the processor, or by the clock on a GPU."
    )
    for note in notes:
        report.say(note)
    results = []
    with bar(len(cases), "restoring", "cases") as tick:
        for case in cases:
            results.append(measure_case(bench, case, settings[case.name]))
            tick(1, case.name)
    return write(report, bench, plan, results)


if __name__ == "__main__":
    start(main, options())
