"""Choosing the settings of photo_restoration.py on validation photographs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError, RunError
from randomwalk.images.sources import open_images
from support.common import bar
from support.photo_methods import facts_of, judge, restore
from support.photo_plan import Plan, Settings, write_settings
from support.photo_problems import MULTIPLE, SAMPLER, Case, Problem, make_problem
from support.photographs import SETS, VALIDATION, Photograph, open_set, photographs, spread
from support.records import Records

FIRST, FINALISTS = 2, 4
"""All candidates are tried on the first photographs, and so many of the best on all of them."""


def validation_photographs(folder: Path, data: Path, count: int, crop: int) -> list[Photograph]:
    """Some photographs of a folder, evenly spaced, none of which has the name of one of the test images.

    Raises:
        InputError: there are too few of them.
    """
    test = {Path(name).stem for folder_of_set in SETS for name in open_set(data, folder_of_set).names}
    source = open_images(folder)
    allowed = [number for number, name in enumerate(source.names) if Path(name).stem not in test]
    if len(allowed) < count:
        raise InputError(f"--validation {folder}: has {len(allowed)} images that are not tested on; expected {count}")
    chosen = [allowed[k] for k in spread(len(allowed), count)]
    return photographs(source, VALIDATION, chosen, crop, MULTIPLE)


@dataclass
class Tuning:
    """The search in all cases.

    Attributes:
        model: the option of the network's weights.
        denoiser: the network; None to search for the settings of classical methods alone.
        facts: what decides the results of networks besides case, settings and photograph.
        records: of every try.
    """

    plan: Plan
    model: str
    denoiser: Denoiser | None
    device: torch.device
    photos: Sequence[Photograph]
    seed: int
    facts: dict[str, Any]
    records: Records

    def run(self, cases: Sequence[Case], deepinv: bool, only: Sequence[str] | None = None) -> None:
        """Search in all cases; what is chosen for a method is written when it is.

        Args:
            deepinv: whether the library is there.
            only: for these methods; None for all.

        Raises:
            InputError: none of the cases has such a method.
        """
        tries = {case.name: self.plan.candidates(case, self.denoiser is not None, deepinv) for case in cases}
        if only is not None:
            known = {title for methods in tries.values() for title in methods}
            if unknown := sorted(set(only) - known):
                raise InputError(f"--methods {', '.join(unknown)}: known here are {', '.join(sorted(known))}")
            tries = {name: {t: s for t, s in methods.items() if t in only} for name, methods in tries.items()}
        with bar(sum(len(s) for methods in tries.values() for s in methods.values()), "tuning", "tries") as tick:
            for case in cases:
                problems = [make_problem(case, photo, self.seed).to(self.device) for photo in self.photos]
                for title, candidates in tries[case.name].items():
                    best, psnr = self.best(case, title, candidates, problems)
                    write_settings(self.model, case.name, title, {"settings": best, "psnr": round(psnr, 3)})
                    tick(len(candidates), f"{case.name}: {title} {psnr:.2f} dB")

    def best(
        self, case: Case, title: str, candidates: Sequence[Settings], problems: Sequence[Problem]
    ) -> tuple[Settings, float]:
        """The candidate of the highest mean PSNR, and that.

        Raises:
            RunError: all of them diverge.
        """
        left = list(candidates)
        if len(left) > FINALISTS:
            scores = [self.score(case, title, settings, problems[:FIRST]) for settings in left]
            order = sorted(range(len(left)), key=lambda n: -scores[n])
            left = [left[n] for n in order[:FINALISTS]]
        scores = [self.score(case, title, settings, problems) for settings in left]
        if max(scores) == -math.inf:
            raise RunError(f"{case.name}: every setting of {title} that was tried diverges")
        best = max(range(len(left)), key=scores.__getitem__)
        return left[best], scores[best]

    def score(self, case: Case, title: str, settings: Settings, problems: Sequence[Problem]) -> float:
        """Mean PSNR over the first photographs, those that have these problems; minus infinity if it diverges."""
        config = {**facts_of(title, self.facts), **case.law, "settings": settings}
        done = self.records.of(case.name, f"{title} {json.dumps(settings)}", config)
        for photo, problem in zip(self.photos, problems, strict=False):
            if photo.key in done:
                continue
            try:
                outcome = restore(title, settings, problem, self.denoiser, photo.draws(self.seed, SAMPLER))
                done[photo.key] = judge(outcome, problem.truth.cpu(), perceptual=False)
            except RunError:
                done[photo.key] = {"psnr": -math.inf}
            self.records.save()
        keys = [photo.key for photo, _ in zip(self.photos, problems, strict=False)]
        return statistics.fmean(done[key]["psnr"] for key in keys)
