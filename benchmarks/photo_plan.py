"""What photo_restoration.yaml says: which degradations, with which candidates for the settings of every method."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from photo_baselines import CLASSICAL
from photo_methods import PLUG_AND_PLAY
from photo_problems import Case, make_operator
from photographs import MODELS

from randomwalk.errors import InputError
from randomwalk.rng import generator

PLAN = Path(__file__).with_name("photo_restoration.yaml")
SETTINGS = Path(__file__).with_name("photo_restoration_settings.yaml")
WALK = "random_walk"
Settings = dict[str, Any]
Chosen = Mapping[str, Mapping[str, Any]]
"""Of a case: settings by method."""


@dataclass(frozen=True)
class Plan:
    """The file.

    Attributes:
        cases: all degradations at all noise levels.
        classical, samplers: candidates for the settings of each method, by its name.
        plug_and_play: the same.
        pictures: rows ``(degradation, noise)``, ``every`` how many photographs, and the ``side`` of the tiles.
    """

    cases: Sequence[Case]
    classical: Mapping[str, Sequence[Settings]]
    plug_and_play: Sequence[Settings]
    samplers: Mapping[str, Sequence[Settings]]
    pictures: Mapping[str, Any]

    def candidates(self, case: Case, deepinv: bool) -> dict[str, Sequence[Settings]]:
        """Settings to choose among, of every method that can do a case.

        Args:
            deepinv: whether the library is there.
        """
        operator = make_operator(case.operator, (3, 64, 64), generator(0))
        found = {title: self.classical.get(title, [{}]) for title, c in CLASSICAL.items() if c.suits(operator)}
        if deepinv:
            found[PLUG_AND_PLAY] = self.plug_and_play
        return {**found, **self.samplers}

    def of(self, degradations: Sequence[str] | None, noise: Sequence[float] | None) -> list[Case]:
        """The cases of some degradations and noise levels; None means all.

        Raises:
            InputError: one that there is not.
        """
        for option, wanted, have in (
            ("degradations", degradations, {case.degradation for case in self.cases}),
            ("noise", noise, {case.noise for case in self.cases}),
        ):
            if unknown := sorted(set(wanted or []) - have):  # type: ignore[type-var]
                raise InputError(
                    f"--{option} {', '.join(map(str, unknown))}: {PLAN.name} has {', '.join(map(str, sorted(have)))}"
                )
        chosen = [case for case in self.cases if degradations is None or case.degradation in degradations]
        return [case for case in chosen if noise is None or case.noise in noise]


def load_plan(path: Path = PLAN) -> Plan:
    """Read photo_restoration.yaml."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    cases = [
        Case(name, what["title"], what["operator"], noise)
        for name, what in data["degradations"].items()
        for noise in data["noise"]
    ]
    classical, samplers = (
        {title: combinations(settings) for title, settings in data[key].items()} for key in ("classical", "samplers")
    )
    if unknown := sorted(set(classical) - set(CLASSICAL)):
        raise InputError(f"{path}: classical: {', '.join(unknown)}; known are {', '.join(CLASSICAL)}")
    return Plan(cases, classical, combinations(data["plug_and_play"]), samplers, data["pictures"])


def combinations(settings: Mapping[str, Any]) -> list[Settings]:
    """Every combination of the elements of the lists among the settings; the first takes the first of each."""
    choices = [value if isinstance(value, list) else [value] for value in settings.values()]
    return [dict(zip(settings, values, strict=True)) for values in itertools.product(*choices)]


def quick(settings: Settings) -> Settings:
    """The same with a sixth of the steps."""
    steps = settings.get("num_steps")
    return settings if steps is None else {**settings, "num_steps": max(2, steps // 6)}


# --- what --tune chose -----------------------------------------------------------------------------------------------


def read_settings(model: str, path: Path = SETTINGS) -> dict[str, dict[str, Any]]:
    """What was chosen with a network, by case and method: ``{"settings": {...}, "psnr": on the validation images}``."""
    if not path.is_file():
        return {}
    found: dict[str, dict[str, Any]] = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(MODELS[model], {})
    return found


def write_settings(model: str, found: Mapping[str, Mapping[str, Any]], path: Path = SETTINGS) -> None:
    """Write what was chosen with a network, and leave what is there of others."""
    data = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}
    data[MODELS[model]] = {case: dict(methods) for case, methods in found.items()}
    dumper = yaml.SafeDumper
    dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]
    head = "# Written by photo_restoration.py --tune: settings of every method in each case, and their PSNR on the\n"
    head += "# validation photographs.\n"
    path.write_text(head + yaml.dump(data, Dumper=dumper, sort_keys=False, width=120), encoding="utf-8")


def settings_of(plan: Plan, case: Case, model: str, deepinv: bool, small: bool) -> tuple[Chosen, str]:
    """The settings of the methods to measure in a case, and which of the samplers besides the walk is one.

    Args:
        small: take the first candidates, and fewer steps, instead of what was chosen.

    Raises:
        InputError: nothing was chosen yet.
    """
    candidates = plan.candidates(case, deepinv)
    others = [name for name in plan.samplers if name != WALK]
    if small:
        chosen = {title: quick(tries[0]) for title, tries in candidates.items()}
        best = others[0]
    else:
        found = read_settings(model).get(case.name, {})
        if missing := [title for title in candidates if title not in found]:
            raise InputError(
                f"{SETTINGS.name}: has no settings of {', '.join(missing)} for {case.name} with {MODELS[model]}; "
                "choose them by --tune --validation FOLDER first"
            )
        chosen = {title: found[title]["settings"] for title in candidates}
        best = max(others, key=lambda name: float(found[name]["psnr"]))
    return {title: s for title, s in chosen.items() if title not in others or title == best}, best
