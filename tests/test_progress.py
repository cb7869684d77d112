"""Progress bars: shown from the start, rarely written to a file, never two at once."""

from __future__ import annotations

import io
import time

import pytest

from randomwalk.progress import bar, opening


def drawn(capture: pytest.CaptureFixture[str]) -> list[str]:
    """Drawings on the terminal, one after the other."""
    return [part for part in capture.readouterr().err.replace("\n", "\r").split("\r") if part.strip()]


def test_a_bar_is_drawn_before_the_first_unit_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(10, "solving"):
        shown = drawn(capsys)
    assert len(shown) == 1
    assert shown[0].startswith("solving:   0%")
    assert "0/10" in shown[0]


def test_a_bar_begins_where_an_earlier_run_ended_and_ends_at_its_total(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(10, "training", "images", initial=4) as tick:
        assert "4/10" in drawn(capsys)[0]
        tick(6, "loss 0.5", label="fit 2")
    last = drawn(capsys)[-1]
    assert last.startswith("fit 2: 100%")
    assert "10/10" in last and "images/s, loss 0.5]" in last


def test_a_file_is_not_filled_with_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(5000, "training") as tick:
        for _ in range(5000):
            tick(1, "loss 1")
    assert len(drawn(capsys)) == 2  # at the start and at the end


def test_a_bar_inside_another_is_not_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(2, "outside") as outer:
        for _ in range(2):
            with bar(3, "inside") as inner:
                inner(3)
            outer()
    shown = drawn(capsys)
    assert shown[-1].startswith("outside: 100%")
    assert not any("inside" in text for text in shown)
    with bar(1, "afterwards"):
        assert drawn(capsys)[0].startswith("afterwards:   0%")


def test_a_bar_that_ends_by_an_error_makes_room_for_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), bar(2, "failing"):
        raise ValueError
    drawn(capsys)
    with bar(1, "next"):
        assert drawn(capsys)[0].startswith("next:   0%")


def test_other_processes_show_none(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(2, "training", shown=False) as tick:
        tick(2)
    assert not drawn(capsys)


def test_a_terminal_shows_the_seconds_before_the_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    with opening("loading PyTorch"):
        time.sleep(1.7)
    shown = terminal.getvalue().split("\r")
    assert "loading PyTorch [00:00<?]" in shown[1]
    assert any("loading PyTorch [00:01<?]" in part for part in shown)
    assert not shown[-1].strip()  # and leaves nothing behind


def test_a_file_and_other_processes_are_not_told_of_the_beginning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with opening("loading PyTorch"):
        pass
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with opening("loading PyTorch", shown=False):
        pass
    assert capsys.readouterr().err == ""
