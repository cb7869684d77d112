"""Random streams: names, independence, and that every use in the library has its own."""

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from randomwalk import rng
from randomwalk.rng import Stream, generator

LIBRARY = Path(rng.__file__).parent
NAMES = [
    (1,),
    (1, 0),
    (1, 2),
    (2, 1),
    (1, 2, 0),
    (1, 2, 0, 0),
    (1, 2, 3),
    (1, 2, 0, 3),
    (1, 2, 0, 0, 4),
    (1, 0, 0, 0, 2),
]
"""Names that NumPy takes for one another, and those that a mark of the length could be mistaken for."""
UNNAMED = {"studies/score_embedding/images.py": "RandomState", "studies/points/datasets.py": "Generator"}
"""Draws that belong to a definition: the images that a published code chooses, and the scale of the sets of points."""


def test_different_names_give_independent_streams():
    draws = np.array([generator(*name).standard_normal(20_000) for name in NAMES])
    correlations = np.corrcoef(draws) - np.eye(len(NAMES))
    assert np.abs(correlations).max() * np.sqrt(20_000) < 4.5
    plain = [np.random.Generator(np.random.PCG64(np.random.SeedSequence(name))).random() for name in NAMES]
    assert len(set(plain)) < len(NAMES)  # NumPy's own seeds do not tell them apart


def test_one_name_gives_one_stream():
    for name in NAMES:
        assert generator(*name).random() == generator(*name).random()
    assert generator(3, Stream.NOISE, 5).random() == generator(3, int(Stream.NOISE), 5).random()


def test_an_image_has_the_same_streams_as_ever():
    """The draws of seed, image and sample are part of what a run promises: they stay from version to version."""
    for name, found in (((0, 4, 0), rng.measurement_stream(0, 4)), ((7, 4, 3), rng.sample_stream(7, 4, 2))):
        expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(name)))
        assert found.random() == expected.random()


def test_a_torch_generator_and_the_global_one_are_seeded_from_the_stream():
    drawn = torch.randn(4, generator=rng.torch_generator(5, Stream.NORM))
    assert torch.equal(drawn, torch.randn(4, generator=rng.torch_generator(5, Stream.NORM)))
    assert not torch.equal(drawn, torch.randn(4, generator=rng.torch_generator(6, Stream.NORM)))
    rng.seed_torch(torch.device("cpu"), 5, Stream.NORM)
    assert torch.equal(drawn, torch.randn(4))


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """Calls of a function anywhere in the library but in rng.py, each with its file."""
    found = []
    for path in sorted(LIBRARY.rglob("*.py")):
        if path.name == "rng.py" or "_bundled" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name:
                found.append((path.relative_to(LIBRARY).as_posix(), node))
    return found


def test_every_draw_of_the_library_names_its_use():
    named = {"generator": 1, "torch_generator": 1, "seed_torch": 2}
    uses = set()
    for name, place in named.items():
        for file, call in calls(name):
            given = ast.unparse(call.args[place])
            assert given.removeprefix("rng.").startswith("Stream."), f"{file}: {ast.unparse(call)}"
            uses.add(given.split("Stream.")[1])
    assert uses == set(Stream.__members__), "every use of the table is used"
    assert calls("measurement_stream") and calls("sample_stream")


@pytest.mark.parametrize("name", ["default_rng", "RandomState", "SeedSequence", "Generator", "manual_seed", "seed"])
def test_no_draw_bypasses_the_table(name):
    assert [file for file, _ in calls(name) if UNNAMED.get(file) != name] == []


def test_streams_of_images_stay_below_the_table():
    assert min(Stream) == 2**31
    assert all(a != b for a, b in itertools.pairwise(sorted(Stream)))
