"""The page of a restored photograph: it has the photograph in itself, and the result beside it."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from page_tools import data_of
from PIL import Image

from randomwalk.cli.main import main


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a photo #1 <b>.png"
    Image.fromarray(np.random.default_rng(0).integers(80, 170, (40, 56, 3), dtype=np.uint8)).save(path)
    return path


def test_the_page_compares_the_photograph_with_the_result(photo: Path) -> None:
    assert main(["restore", str(photo), "--noise", "20", "--device", "cpu", "--report"]) == 0
    result = photo.with_name("a photo #1 <b>_restored.png")
    data = data_of(result.with_suffix(".html"))
    [image] = data["images"]
    before, after = image["pictures"]
    assert (data["left"], data["right"]) == (before["label"], after["label"]) == ("photograph", "restored")
    assert unquote(after["src"]) == result.name and image["size"] == [56, 40]
    kind, _, text = before["src"].partition(",")
    assert kind == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(BytesIO(base64.b64decode(text)))), np.asarray(Image.open(photo)))
    assert "std: 20" in data["settings"] and data["figures"] == []  # denoising is one evaluation


def test_no_page_without_the_option_and_none_over_a_file_of_others(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["restore", str(photo), "--noise", "20", "--device", "cpu"]
    page = photo.with_name("a photo #1 <b>_restored.html")
    assert main(words) == 0 and not page.exists()
    page.write_text("mine")
    assert main([*words, "--overwrite", "--report"]) == 2
    assert "is not a report" in capsys.readouterr().err and page.read_text() == "mine"
    page.unlink()
    for _ in range(2):
        assert main([*words, "--overwrite", "--report"]) == 0 and data_of(page)["images"]
