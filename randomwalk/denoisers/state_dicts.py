"""Finding the weights of a network in a checkpoint of any layout.

Training codes keep the network, its average and much else in one file, each in its own nesting. Here every tensor of
a file is known by its path, such as ``state_dict.ema_model.module.out.weight``. The names of the network's own tensors
tell where it is: what stands before them is the place of a set of weights, whatever wrappers made it. The words of the
place tell whether the set is averaged. Averages without names, in a list, are named in the order of the network.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nlargest
from typing import Any

import torch
from torch import Tensor, nn

from randomwalk.errors import InputError

_AVERAGED = re.compile(
    r"(^|_)(ema|emas|averaged|average|shadow|swa|polyak|avg_(model|net|network|weights|params|parameters|state))(_|$)"
    r"|^(model|net|unet|g)?ema(model|net|unet)?$"
)
_NOT_AVERAGED = {"online_model", "current_model_state", "collected_params"}
"""Raw weights inside a section of averages: ema-pytorch, Lightning, score_sde."""
_COUNTERS = {"n_averaged", "num_updates", "decay", "initted", "step", "steps"}
"""Entries of averaging modules beside the averages."""
_DEPTH, _TIMES = 16, 8  # of the nesting that is looked into; of one container in a file
_PLACES, _LENGTH = 64, 1000  # sets of weights that are compared, the fullest ones; length of the path of a tensor
_KNOWN = re.compile(r"(?:^|(?<=\.))(?:time_embed|input_blocks|middle_block|output_blocks|all_modules)\.")
"""First words of the names of the public networks."""


@dataclass
class WeightSet:
    """One set of weights in a file.

    Attributes:
        place: path in the file before the names of the network, such as ``ema_model.module.``
        state: tensors by the network's names, and whatever else is at the place.
        averaged: whether the file calls it averaged.
        known: number of the network's tensors in it.
        problem: why a list without names could not be named.
    """

    place: str
    state: dict[str, Tensor]
    averaged: bool
    known: int
    problem: str | None = None

    @property
    def path(self) -> str:
        return self.place.rstrip(".") or "(top level)"


# --- tensors by their paths ------------------------------------------------------------------------------------------


def flatten(content: Any) -> dict[str, Tensor]:
    """All tensors in nested dictionaries, lists and tuples by their paths, in order, without states of optimizers."""
    tensors: dict[str, Tensor] = {}
    _collect(content, "", tensors, Counter(), _DEPTH)
    return tensors


def _collect(value: Any, path: str, tensors: dict[str, Tensor], seen: Counter[int], depth: int) -> None:
    if isinstance(value, Tensor):
        tensors.setdefault(path, value)
    # A file can hold a container that contains itself, or many times the same.
    if depth == 0 or not isinstance(value, Mapping | list | tuple) or seen[id(value)] == _TIMES:
        return
    seen[id(value)] += 1
    if isinstance(value, Mapping):
        if "param_groups" in value:  # an optimizer, whose averages are those of gradients
            return
        items: Iterable[tuple[Any, Any]] = value.items()
    else:
        items = enumerate(value)
    for key, item in items:
        _collect(item, f"{path}.{key}" if path else str(key), tensors, seen, depth - 1)


def empty_averages(content: Any) -> list[str]:
    """Sections of a file that are called averaged and hold no tensors."""
    sections = content.items() if isinstance(content, Mapping) else ()
    return [
        str(key)
        for key, value in sections
        if isinstance(value, Mapping | list | tuple) and looks_averaged(str(key)) and not flatten(value)
    ]


def looks_averaged(path: str) -> bool:
    """Whether the words of a path say that the weights there are averaged; the last word that says so or not counts."""
    said = (_says_averaged(part) for part in reversed(path.split(".")) if not part.isdigit())
    return next((answer for answer in said if answer is not None), False)


@lru_cache(1 << 14)
def _says_averaged(part: str) -> bool | None:
    if part in _NOT_AVERAGED:
        return False
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", part)
    return True if _AVERAGED.search("_".join(words).lower()) else None


# --- sets of weights -------------------------------------------------------------------------------------------------


def find_sets(tensors: Mapping[str, Tensor], network: nn.Module) -> list[WeightSet]:
    """Every place of a file at which there are tensors with names of the network."""
    expected = network.state_dict()
    places = _places(tensors, expected)
    sets = [_set_at(place, names, places, tensors) for place, names in places.items()]
    raw = max((s for s in sets if not s.averaged), key=lambda s: s.known, default=None)
    return sets + [_named_list(place, values, raw, tensors, network) for place, values in _lists(tensors).items()]


def _places(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """Places, and the paths there by names of the network."""
    places: dict[str, dict[str, str]] = {}
    squashed = _squashed(expected)
    for path in (path for path in tensors if len(path) <= _LENGTH):
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", path))):
            if path[start:] in expected:
                places.setdefault(path[:start], {})[path[start:]] = path
        if squashed and looks_averaged(path):
            for start in range(path.rfind(".") + 1, len(path)):
                if name := squashed.get(path[start:]):
                    places.setdefault(path[:start], {}).setdefault(name, path)
    places = dict(nlargest(_PLACES, places.items(), key=lambda place: len(place[1])))
    # A name may end like another one (out.weight, middle.out.weight): such tensors belong to the outer place.
    return {
        place: names
        for place, names in places.items()
        if not any(
            place != outer and place.startswith(outer) and set(names.values()) <= set(others.values())
            for outer, others in places.items()
        )
    }


def _squashed(expected: Mapping[str, Tensor]) -> dict[str, str]:
    """Names as averaging modules write them whose tensors are buffers: without dots (latent diffusion), or with ``_``
    in place of dots (MMCV). Names that become alike are left out, so that their tensors count as missing."""
    made: dict[str, list[str]] = {}
    for name in expected:
        for form in {name.replace(".", ""), name.replace(".", "_")} - {name}:
            made.setdefault(form, []).append(name)
    return {form: names[0] for form, names in made.items() if len(names) == 1}


def _set_at(
    place: str, names: Mapping[str, str], places: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> WeightSet:
    """The tensors of the network at a place, and others there that belong to nothing else."""
    inner = tuple(other for other in places if other != place and other.startswith(place))
    state = {}
    by_path = {path: name for name, path in names.items()}
    for path, value in tensors.items():
        rest = path.removeprefix(place)
        if path in by_path:
            state[by_path[path]] = value
        elif place and place[-1] != ".":  # of squashed names: whatever is not known there is of another module
            continue
        elif path.startswith(place) and not path.startswith(inner) and not _is_averaging(rest):
            state[rest] = value
    return WeightSet(place, state, _is_averaged(place, tensors), len(names))


def _is_averaging(rest: str) -> bool:
    return rest in _COUNTERS or looks_averaged(rest)


def _is_averaged(place: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the set at a place is an average: by its words, or by its layout."""
    first = place.split(".")[0]
    if first in ("state_dict", "ema_state_dict") and "ema_state_dict.steps" in tensors:
        return first == "state_dict"  # MMEngine exchanges the two when it writes a file
    if first == "state_dict" and any(path.startswith("current_model_state.") for path in tensors):
        return True  # Lightning's averaging callback puts the averages in the place of the weights
    return looks_averaged(place) or any(f"{outer}n_averaged" in tensors for outer in _outer(place))


def _outer(place: str) -> list[str]:
    """A place and those around it, the nearest first."""
    parts = place.rstrip(".").split(".") if place else []
    return ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts), -1, -1)]


# --- averages without names ------------------------------------------------------------------------------------------


def _lists(tensors: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """Lists of tensors at places that are called averaged."""
    found: dict[str, list[Tensor]] = {}
    for path, value in tensors.items():
        place, _, last = path.rpartition(".")
        if looks_averaged(place) and last == str(len(found.get(place, []))):
            found.setdefault(place, []).append(value)
    longest = nlargest(_PLACES, found.items(), key=lambda place: len(place[1]))
    return {f"{place}.": values for place, values in longest if len(values) > 1}


def _named_list(
    place: str, values: Sequence[Tensor], raw: WeightSet | None, tensors: Mapping[str, Tensor], network: nn.Module
) -> WeightSet:
    """A list of averages with the names of the network.

    They are in the order of the parameters with a gradient (score_sde, torch_ema, diffusers) or of the whole state
    dict of some module around the network (callbacks of Lightning). The order of the named set in the same file is
    that of the training, and goes before the order of the network here.
    """
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    trainable = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    orders: list[Sequence[str | None]] = [trainable, [name for name, _ in network.named_parameters()], list(shapes)]
    if raw is not None:
        kept = set(trainable)
        orders.insert(0, [name for name in raw.state if name in kept])
        for outer in _outer(raw.place):
            paths = [path for path in tensors if path.startswith(outer) and not looks_averaged(path)]
            orders.append([path[len(raw.place) :] if path.startswith(raw.place) else None for path in paths])
    for order in orders:
        if len(order) == len(values) and all(
            name is None or shapes.get(name) == list(value.shape) for name, value in zip(order, values, strict=True)
        ):
            state = {name: value for name, value in zip(order, values, strict=True) if name is not None}
            return WeightSet(place, state, True, len(state))
    return WeightSet(place, {}, True, 0, _misfit(place.rstrip("."), values, trainable, shapes))


def _misfit(path: str, values: Sequence[Tensor], names: Sequence[str], shapes: Mapping[str, list[int]]) -> str:
    if len(values) != len(names):
        return f"{path} has {len(values)} tensors, but the network has {len(names)} trainable parameters"
    pairs = enumerate(zip(names, values, strict=True))
    i, name, value = next((i, name, v) for i, (name, v) in pairs if list(v.shape) != shapes[name])
    return f"{path}[{i}], which is {name}, is {list(value.shape)} in the file and {shapes[name]} in the network"


# --- choosing --------------------------------------------------------------------------------------------------------


def fullest(tensors: Mapping[str, Tensor], network: nn.Module | None) -> dict[str, Tensor]:
    """The set with the most tensors of the network, whichever it is: it shows whether the file is of the network.

    Args:
        tensors: of a file, by their paths.
        network: None for any public network.
    """
    if network is not None:
        best = max(find_sets(tensors, network), key=lambda s: (s.known, s.averaged), default=None)
        if best is not None and best.known:
            return best.state
    places: dict[str, dict[str, Tensor]] = {}
    for path in tensors:
        if match := _KNOWN.search(path):
            places.setdefault(path[: match.start()], {})
    for place in places:
        inner = tuple(other for other in places if other != place and other.startswith(place))
        places[place] = {
            path.removeprefix(place): value
            for path, value in tensors.items()
            if path.startswith(place) and not path.startswith(inner) and path[len(place) :] not in _COUNTERS
        }
    return max(places.values(), key=len, default=dict(tensors))


def choose(
    tensors: Mapping[str, Tensor], network: nn.Module, weights: str, setting: str, empty: Sequence[str] = ()
) -> tuple[dict[str, Tensor], str]:
    """The weights of the network that are asked for, and what was found and taken, in words (empty if there is no
    choice). Buffers that averages lack are those of the raw weights.

    Args:
        tensors: of a file, by their paths.
        network: whose weights they are.
        weights: "ema", the averages, or the only set if no set is called averaged; "raw", the weights that are not
            averaged; or the path of a set.
        setting: name of the setting that has ``weights``, for messages.
        empty: sections of the file that are called averaged and hold no tensors.

    Raises:
        InputError: there are none, several, or some are missing. The message begins with what is wrong.
    """
    sets = find_sets(tensors, network)
    trainable = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    raw = [s for s in sets if not s.averaged and s.known]
    if weights == "ema" and (averaged := [s for s in sets if s.averaged]):
        chosen = _only(averaged, trainable, setting)
        _check_average(chosen, raw, trainable, tensors, setting)
    elif weights in ("ema", "raw"):
        if weights == "ema":
            _check_nothing_averaged(tensors, empty, setting)
        if not raw:
            held = ", ".join(s.path for s in sets) or "none"
            raise InputError(f"has no weights of the network without averaging; it has: {held} ({setting})")
        chosen = _only(raw, trainable, setting)
    else:
        wanted = weights.rstrip(".")
        inside = [s for s in sets if s.place.rstrip(".") == wanted or s.place.startswith(f"{wanted}.")]
        if not inside:
            held = ", ".join(s.path for s in sets) or "none"
            raise InputError(f"has no weights at {setting}: {weights}; expected ema, raw, or one of its sets: {held}")
        chosen = _only(inside, trainable, setting)
        if chosen.problem is not None:
            raise InputError(chosen.problem)
    others = [s.path for s in sets if s is not chosen and 2 * s.known >= chosen.known]
    kind = "averaged" if chosen.averaged else "not averaged"
    taken = f"took {chosen.path} ({kind}, {chosen.known} tensors)" if chosen.place or others else ""
    return _completed(chosen, raw, network), taken + (f", and left {', '.join(others)}" if others else "")


def _only(sets: Sequence[WeightSet], trainable: Sequence[str], setting: str) -> WeightSet:
    """The one set that can be meant: the only complete one, or the only one with a good part of the tensors."""
    best = max(sets, key=lambda s: s.known)
    complete = [s for s in sets if all(name in s.state for name in trainable)]
    rivals: list[WeightSet] = []
    for candidate in complete or [s for s in sets if 2 * s.known >= best.known]:
        if not any(_equal(candidate.state, other.state) for other in rivals):
            rivals.append(candidate)
    if len(rivals) > 1:
        paths = [s.path for s in rivals]
        kind = "averaged weights" if best.averaged else "weights, none of which is called averaged"
        raise InputError(
            f"has several sets of {kind}, and nothing says which is meant: {', '.join(paths)}. Choose one of them by "
            f"its path, for example {setting}: {paths[0]}"
        )
    return rivals[0]


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


def _check_average(
    chosen: WeightSet, raw: Sequence[WeightSet], trainable: Sequence[str], tensors: Mapping[str, Tensor], setting: str
) -> None:
    """Refuse averages that are incomplete or have not begun."""
    advice = f"{setting}: raw takes the weights that were not averaged" if raw else "there are no others"
    if chosen.problem is not None:
        raise InputError(f"{chosen.problem}; {advice}")
    if missing := [name for name in trainable if name not in chosen.state]:
        names = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
        raise InputError(
            f"its averaged weights ({chosen.path}) lack {len(missing)} of the network's {len(trainable)} parameters "
            f"({names}); {advice}"
        )
    places = [*_outer(chosen.place), "averaging_state."]
    for counter in [f"{place}{name}" for place in places for name in ("n_averaged", "num_updates", "initted")]:
        if counter in tensors and tensors[counter].numel() == 1 and not tensors[counter]:
            raise InputError(f"its averaging had not begun ({counter} is 0): {chosen.path} is not an average; {advice}")


def _check_nothing_averaged(tensors: Mapping[str, Tensor], empty: Sequence[str], setting: str) -> None:
    """Refuse to take raw weights where something else in the file is called averaged."""
    paths = [path for path, value in tensors.items() if value.ndim and looks_averaged(path.rpartition(".")[0])]
    suspects = [*empty, *paths]
    if suspects:
        raise InputError(
            f"has entries that are called averaged, in an unknown layout ({', '.join(suspects[:3])}"
            f"{', ...' * (len(suspects) > 3)}); {setting}: raw takes the weights that were not averaged"
        )


def _completed(chosen: WeightSet, raw: Sequence[WeightSet], network: nn.Module) -> dict[str, Tensor]:
    """The chosen set, with what no training changes, such as buffers, from the raw set beside it if it lacks them."""
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    beside = max(raw, key=lambda s: s.known, default=chosen).state
    fixed = [name for name in network.state_dict() if name not in trainable and name in beside]
    return {**{name: beside[name] for name in fixed}, **chosen.state}
