"""Figures: what drawing them leaves in memory."""

from __future__ import annotations

import gc
import weakref

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
