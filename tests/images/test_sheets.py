"""Figures: what drawing them leaves in memory."""

from __future__ import annotations

import gc
import weakref

import numpy as np

from randomwalk.images import sheets


class Held:
    """An object whose end can be watched."""


def test_a_figure_keeps_none_of_the_frames_of_its_callers() -> None:
    """Else the network of a run lives until the next full collection of garbage."""

    def draw() -> weakref.ref[Held]:
        held = Held()
        figure = sheets.new_figure((2, 2))
        figure.subplots().semilogy([1e-3, 1e3])
        assert sheets.png(figure)[1:4] == b"PNG"
        return weakref.ref(held)

    gc.collect()
    gc.disable()
    try:
        draw()
        assert draw()() is None
    finally:
        gc.enable()


def test_the_detail_is_where_edges_were_restored() -> None:
    draws = np.random.default_rng(0)
    after = np.full((120, 160, 3), 90, np.uint8)
    after[70:100, 20:50] = draws.integers(0, 256, (30, 30, 3))  # edges that were damaged
    after[10:40, 110:140] = draws.integers(0, 256, (30, 30, 3))  # edges that were not
    before = after.copy()
    before[70:100, 20:50] = 128
    before[60:110, 100:150] = 128  # damage without edges
    assert sheets.detail(before, after) == (slice(70, 100), slice(20, 50))
    assert sheets.detail(before[..., 0], after[..., 0]) == (slice(70, 100), slice(20, 50))


def test_small_images_and_other_sizes_have_no_detail() -> None:
    after = np.zeros((95, 200), np.uint8)
    assert sheets.detail(after, after) is None
    assert sheets.detail(np.zeros((50, 100, 3), np.uint8), np.zeros((100, 200, 3), np.uint8)) is None
