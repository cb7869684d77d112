"""How well photographs are restored: the random walk and the best posterior sampler, beside what does without them.

Set5 and 12 images of CBSD68 (every fifth by name) are degraded as photo_restoration.yaml says. The settings of all
methods, and the best of the posterior samplers in each case, were chosen by --tune on other photographs
(photo_restoration_settings.yaml).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from support import photo_methods
from support.common import Report, bar, parser, start
from support.perceptual import lpips_missing
from support.photo_methods import facts_of, judge, restore
from support.photo_plan import Chosen, Plan, load_plan, settings_of
from support.photo_problems import MULTIPLE, SAMPLER, Case, Problem, make_problem
from support.photo_report import Pictures, Result, Shown, case_table, draw, summary
from support.photo_tuning import Tuning, validation_photographs
from support.photographs import (
    BUNDLED,
    MODELS,
    Photograph,
    add_options,
    check_options,
    fingerprint,
    load_model,
    open_set,
    photographs,
)
from support.records import Records

from randomwalk.denoisers.checkpoints import resolve_device
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError, RunError
from randomwalk.images import metrics
from randomwalk.images.tensors import to_pixels
from randomwalk.operators import SuperResolution
from randomwalk.run_folder import RunFolder
from randomwalk.sampling.task import pictures_of

EVERY_FIFTH, NUM_CBSD68 = 5, 12


def photographs_of(options: argparse.Namespace) -> list[Photograph]:
    """Set5 and a part of CBSD68; with --quick and no data, two of the repository."""
    if options.data is None:
        return photographs(open_set(None, BUNDLED), BUNDLED, [0, 1], options.crop, MULTIPLE)
    found = []
    for folder, step, most in (("set5", 1, None), ("cbsd68", EVERY_FIFTH, NUM_CBSD68)):
        source = open_set(options.data, folder)
        numbers = list(range(0, len(source), step))[:most]
        found += photographs(source, folder, numbers[:1] if options.quick else numbers, options.crop, MULTIPLE)
    return found


@dataclass
class Run:
    """What is measured, and with what.

    Attributes:
        denoiser: the network; None to measure classical methods alone.
        facts: what decides the results besides the case, the method with its settings, and the photograph.
        shown: the photograph whose images the picture shows, by the name of the case.
    """

    plan: Plan
    denoiser: Denoiser | None
    device: torch.device
    photos: Sequence[Photograph]
    seed: int
    facts: dict[str, Any]
    perceptual: bool
    records: Records
    pictures: Pictures
    shown: dict[str, Photograph]

    def measure(self, case: Case, methods: Chosen, sampler: str, tick: Any) -> Result:
        """Do what is not there yet of a case."""
        failed: dict[str, str] = {}
        found = {}
        for title, settings in methods.items():
            config = {**facts_of(title, self.facts), **case.law, "settings": dict(settings), "lpips": self.perceptual}
            found[title] = self.records.of(case.name, title, config)
            for photo in self.photos:
                shown = self.shown.get(case.name) is photo
                if photo.key not in found[title] or (shown and not self.pictures.has(case, photo.key, title)):
                    try:
                        self.restore(case, photo, title, settings, found[title], shown)
                    except RunError as error:
                        failed[title] = f"{photo.key}: {error}"
                        break
                tick(1, f"{case.name}: {title}")
        keys = [photo.key for photo in self.photos]
        images = {title: {key: found[title][key] for key in keys} for title in methods if title not in failed}
        return Result(case, images, sampler, failed)

    def restore(
        self, case: Case, photo: Photograph, title: str, settings: Any, done: dict[str, Any], shown: bool
    ) -> None:
        """One image by one method; its record, and its picture if that is shown."""
        problem = make_problem(case, photo, self.seed).to(self.device)
        outcome = restore(title, settings, problem, self.denoiser, photo.draws(self.seed, SAMPLER))
        done[photo.key] = judge(outcome, photo.pixels[None], self.perceptual)
        if shown:
            self.pictures.write(case, photo.key, title, to_pixels(outcome.x[0]))
        self.records.save()

    def rows(self, results: Sequence[Result]) -> list[Shown]:
        """What the picture shows, in the order of the file."""
        found = []
        by_name = {result.case.name: result for result in results}
        for name, photo in self.shown.items():
            if name in by_name:
                result = by_name[name]
                measured = to_pixels(visible(make_problem(result.case, photo, self.seed)))
                found.append(Shown(result, photo.key, to_pixels(photo.pixels), measured))
        return found


def visible(problem: Problem) -> torch.Tensor:
    """What is to be seen of a measurement, ``[3, h, w]``: missing pixels are grey, and small images stay small."""
    small = isinstance(problem.operator, SuperResolution)
    return problem.y[0] if small else pictures_of(problem.operator, problem.y)[0][0]


def shown_photographs(plan: Plan, photos: Sequence[Photograph]) -> dict[str, Photograph]:
    """The photograph of each row of the picture, by its case: the rule of the file."""
    every = int(plan.pictures["every"])
    return {
        f"{degradation}, noise {noise:g}": photos[every * row % len(photos)]
        for row, (degradation, noise) in enumerate(plan.pictures["rows"])
    }


# --- the script ------------------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    """The options of this script."""
    made = parser(__doc__ or "")
    add_options(made, crop=256)
    made.add_argument("--model", choices=list(MODELS), default="ve", help="which of the networks (ve)")
    made.add_argument("--degradations", nargs="+", metavar="NAME", help="only these of photo_restoration.yaml")
    made.add_argument("--noise", nargs="+", type=float, metavar="STD", help="only these levels of it, of 255")
    made.add_argument(
        "--classical",
        action="store_true",
        help="only the methods that need no network; a later run takes their results by --resume",
    )
    made.add_argument("--tune", action="store_true", help="choose the settings anew, and write them")
    made.add_argument("--validation", type=Path, metavar="FOLDER", help="photographs to choose the settings on")
    made.add_argument("--methods", nargs="+", metavar="NAME", help="of --tune: only for these")
    made.add_argument("--tune-images", type=int, default=4, metavar="N", help="of --tune (4)")
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
    for name, low in (("tune_images", 1), ("tune_crop", 64)):
        if getattr(chosen, name) < low:
            raise InputError(f"--{name.replace('_', '-')} {getattr(chosen, name)}: expected {low} or more")


def all_facts(chosen: argparse.Namespace, crop: int) -> dict[str, Any]:
    """What decides the results besides case, method and photograph."""
    facts = {"seed": chosen.seed, "crop": crop}
    if chosen.classical:
        return facts
    return {**facts, "weights": fingerprint(getattr(chosen, chosen.model)), "precision": chosen.precision}


def tune(chosen: argparse.Namespace, plan: Plan, cases: Sequence[Case], denoiser: Denoiser | None) -> int:
    """Choose the settings, and write them."""
    photos = validation_photographs(chosen.validation, chosen.data, chosen.tune_images, chosen.tune_crop)
    folder = RunFolder.create(chosen.out or Path("results") / "benchmarks" / "photo_restoration_tuning")
    device, facts = resolve_device(chosen.device), all_facts(chosen, chosen.tune_crop)
    records = Records(folder, chosen.resume)
    search = Tuning(plan, chosen.model, denoiser, device, photos, chosen.seed, facts, records)
    if (missing := photo_methods.deepinv_missing()) is not None and denoiser is not None:
        print(missing)
    search.run(cases, missing is None, chosen.methods)
    print(f"every try: {folder.file('records.json')}")
    return 0


def main(chosen: argparse.Namespace) -> int:
    """Choose the settings, or measure and print."""
    check(chosen)
    plan = load_plan()
    cases = plan.of(chosen.degradations, chosen.noise)
    device = resolve_device(chosen.device)
    path = getattr(chosen, chosen.model)
    denoiser = None if chosen.classical else load_model(path, device, chosen.precision)
    metrics.load()
    if chosen.tune:
        return tune(chosen, plan, cases, denoiser)
    if chosen.quick:
        chosen.crop = min(chosen.crop or 64, 64)
    photos = photographs_of(chosen)
    missing = [None if chosen.classical else photo_methods.deepinv_missing(), lpips_missing()]
    model = None if chosen.classical else chosen.model
    settings = {case.name: settings_of(plan, case, model, missing[0] is None, chosen.quick) for case in cases}
    report = Report("photo_restoration", chosen, str(device), ["scikit-image", "torchmetrics", "deepinv"])
    report.settings["methods"] = {name: methods for name, (methods, _) in settings.items()}
    pictures, records = Pictures(report.folder, chosen.resume), Records(report.folder, chosen.resume)
    shown, facts = shown_photographs(plan, photos), all_facts(chosen, chosen.crop)
    run = Run(plan, denoiser, device, photos, chosen.seed, facts, missing[1] is None, records, pictures, shown)
    results = []
    with bar(len(photos) * sum(len(methods) for methods, _ in settings.values()), "restoring", "images") as tick:
        for case in cases:
            results.append(run.measure(case, *settings[case.name], tick))
    finish(report, run, results, chosen, [text for text in missing if text])
    return 0


def finish(
    report: Report, run: Run, results: Sequence[Result], chosen: argparse.Namespace, notes: Sequence[str]
) -> None:
    """Tables, and the picture if there is a network."""
    cut = "whole" if chosen.crop == 0 else f"cut to {chosen.crop} pixels at the centre"
    network = "No network" if chosen.classical else f"Network {MODELS[chosen.model]} in {chosen.precision}"
    report.say(
        f"{network}; {len(run.photos)} photographs, {cut}; one sample of each. Evaluations of the network and "
        "vector-Jacobian products (vjps) are counted; s are seconds of the processor, or by the clock on a GPU."
    )
    for note in notes:
        report.say(note)
    if run.denoiser is not None:
        summary(report, results)
    for result in results:
        case_table(report, result)
    if run.denoiser is not None and (rows := run.rows(results)):
        picture = draw(run.pictures, rows, int(run.plan.pictures["side"]))
        report.folder.write_image("photo_restoration.png", picture, optimize=True)
    print(f"\nfiles: {report.folder.path}")


if __name__ == "__main__":
    start(main, options())
