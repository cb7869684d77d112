"""Pages of runs: no text becomes markup, addresses lead to files of any name, and pages on the way cost little."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from page_tools import data_of
from PIL import Image

from randomwalk.errors import InputError
from randomwalk.runs import report
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.report import Column, Live, Page, Table, described, html_of, link, size_of_png, table_in, thinned

HOSTILE = [
    "</script><script>alert(1)</script>", "<!--<script>", "{{DATA}} {{TITLE}}", "\u2028\u2029\\u003c", "&lt;b&gt; '\"`",
    "\udce9",
]  # fmt: skip


class Tags(HTMLParser):
    """Counts the tags of a page, as the browser reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags_of(text: str) -> Tags:
    made = Tags()
    made.feed(text)
    return made


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(text: str, tmp_path: Path) -> None:
    rows = [{"name": text, "value": float("nan")}, {"name": text, "value": float("inf")}]
    page = Page(text, text, warnings=[text], tables=[Table(text, [Column("name", text)], rows)], settings=text)
    made, plain = html_of(page), html_of(Page("plain"))
    assert [tag for tag, _ in tags_of(made).found] == [tag for tag, _ in tags_of(plain).found]
    block = made.partition('<script id="data" type="application/json">')[2].partition("</script>")[0]
    assert json.loads(block)["settings"] == text and not set("<>&") & set(block)
    (tmp_path / "page.html").write_text(made, encoding="utf-8")
    data = data_of(tmp_path / "page.html")
    assert data["title"] == data["warnings"][0] == data["settings"] == data["tables"][0]["rows"][0]["name"] == text
    assert [row["value"] for row in data["tables"][0]["rows"]] == [None, "inf"]
    [title] = re.findall("<title>(.*?)</title>", made, re.DOTALL)
    assert html.unescape(title) == text.encode(errors="backslashreplace").decode()


def test_only_the_script_and_the_style_of_the_page_are_allowed() -> None:
    made = html_of(Page("a"))
    [policy] = [a["content"] for tag, a in tags_of(made).found if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in str(policy).split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag in ("script", "style"):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", made, re.DOTALL)
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert "unsafe" not in str(policy) and "http" not in rules["img-src"]
    outside = [a for _, a in tags_of(made).found if "src" in a or not str(a.get("href", "data:,")).startswith("data:")]
    assert not outside and not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", made)


@pytest.mark.parametrize(
    "name", ["a b.png", "a#b?c&d.png", "100%.png", "a'\"<>.png", "写真 é.png", "a:b.png", "b\udcff.png"]
)
def test_addresses_lead_to_files_of_any_name(name: str) -> None:
    address = link(f"images/{name}")
    assert address.isascii() and not set(address) & set(" #?&'\"<>:")
    assert unquote_to_bytes(address) == f"images/{name}".encode("utf-8", "surrogateescape")


def test_a_page_is_known_as_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    report.write(folder, Page("a"))
    folder.write_text("other.html", "<p>mine")
    assert report.is_report(tmp_path / report.NAME) and not report.is_report(tmp_path / "other.html")


def test_the_page_of_a_run_in_progress_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one in five seconds, and 2% of the time if it takes long."""
    clock, cost, made = [100.0], [0.01], []

    def make(done: int, total: int) -> None:
        made.append((clock[0], done))
        clock[0] += cost[0]

    monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])
    live = Live(make)
    for k in range(1000):  # 100 seconds
        live.tick(k, 1000)
        clock[0] += 0.1
    gaps = np.diff([at for at, _ in made])
    assert made[0] == (100.0, 0) and 18 <= len(made) <= 21 and gaps.min() >= report.RELOAD
    cost[0] = 1.0
    before, start = len(made), clock[0]
    for k in range(10000):  # 1000 seconds
        live.tick(k, 10000)
        clock[0] += 0.1
    assert (len(made) - before) * cost[0] / (clock[0] - start) < 1.2 * report.LARGEST_SHARE


def test_many_points_are_averaged() -> None:
    points = [[float(k), float(k**2 % 7)] for k in range(1000)]
    few = thinned(points, 100)
    assert len(few) == 100 and thinned(points[:100], 100) == points[:100] and thinned([]) == []
    assert np.allclose(np.mean(few, 0), np.mean(points, 0), rtol=1e-4)


def test_the_size_of_a_picture(tmp_path: Path) -> None:
    Image.new("L", (7, 300)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    assert size_of_png(tmp_path / "a.png") == (7, 300) and size_of_png(tmp_path / "b.png") is None


def test_a_table_of_a_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    columns = [Column("metric", "metric", text=True), Column("value", "value", 2)]
    assert table_in(folder, "metrics.csv", "Metrics", columns) == []
    folder.write_text("metrics.csv", "metric,value,other\n7,0.5,\nb,nothing,2\n")
    [made] = table_in(folder, "metrics.csv", "Metrics", columns)
    assert made.rows == [
        {"metric": "7", "value": 0.5, "other": None},
        {"metric": "b", "value": "nothing", "other": 2.0},
    ]


def test_a_run_is_described(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    facts = {
        "started": "2026-01-02T03:04:05+00:00",
        "command": "python sample.py --set a='b c'",
        "notes": ["warning: x", "y", "y"],
    }
    folder.write_json("run.json", facts)
    folder.write_text("config.yaml", "seed: 0\n")
    made = described(folder, "sample", "title", "below", finished=False)
    assert made.warnings == ["x", "y"] and made.settings == "seed: 0\n" and made.commands[0][1] == facts["command"]
    assert dict(made.run)["started"] == "2026-01-02 03:04" and str(tmp_path) in made.resume and made.written > 0
    done = described(folder, "sample", "title", "below", finished=True)
    assert done.written == 0 and done.resume == ""
    folder.write_text("run.json", json.dumps([1]))
    with pytest.raises(InputError, match=r"run\.json"):
        described(folder, "sample", "title", "below", finished=True)
