"""Reports in a real browser, offline: the slider moves, the zoom zooms, tables sort, nothing is missing or refused.

Needs Selenium, Chromium and its driver (Debian: chromium, chromium-driver); skipped without them.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_tools import data_of
from PIL import Image
from sampling_tools import make_config

from randomwalk.cli.main import main
from randomwalk.runs import report
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.report import Chart, Column, Line, Page, Picture, Shown, Table, link
from randomwalk.sampling import progress
from randomwalk.sampling import run as sampling

pytest.importorskip("selenium", reason="drives the browser")
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("no Chromium with its driver", allow_module_level=True)

NAMES = ["<script>alert(1)<\u2215script>.png", "a#b?c=d&e %41'\".png", "写真 é 1.png"]
LATER = "#image-0 .stage"


class Browser:
    """Browser without a network that keeps what a page complains about."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        self.cdp("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.cdp("Network.emulateNetworkConditions", offline)

    def cdp(self, command: str, settings: dict[str, Any]) -> Any:
        return self.driver.execute_cdp_cmd(command, settings)

    def open(self, path: Path, width: int = 1200, height: int = 800, dark: bool = False, touch: bool = False) -> None:
        """Open a page in a window of a size, with no complaints yet."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.cdp("Emulation.setDeviceMetricsOverride", metrics)
        self.cdp("Emulation.setTouchEmulationEnabled", {"enabled": touch})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.complaints()
        self.driver.get(path.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", selector)

    def wait(self, met: Callable[[], Any], seconds: float = 20.0) -> Any:
        """Wait until a condition is met."""
        end = time.monotonic() + seconds
        while not (found := met()):
            assert time.monotonic() < end, "nothing happens"
            time.sleep(0.05)
        return found

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, and requests that failed, since the last call."""
        found = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.loadingFailed" and not event["params"].get("canceled"):
                found.append(str(event["params"]))
        return found

    def see_all(self) -> None:
        """Scroll through the page, so that all lazy pictures load, and wait for them."""
        for top in range(0, self.run("return document.documentElement.scrollHeight"), 500):
            self.run("scrollTo(0, arguments[0])", top)
            time.sleep(0.05)
        self.wait(lambda: self.run("return [...document.images].every((i) => !i.src || i.complete)"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.driver.quit()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run with two samples of each of three images with odd names, in a folder with an odd name."""
    base = tmp_path_factory.mktemp("browser")
    config = make_config(base, 3, num_samples=2, output=str(base / "run #1 é?"))
    for path, name in zip(sorted((base / "images").iterdir()), NAMES, strict=True):
        path.rename(path.with_name(name))
    assert sampling.run(config) == 0
    return base / "run #1 é?"


def boundary(browser: Browser, stage: str = LATER) -> float:
    """Place of the boundary of a slider, in percent, where the left picture is cut."""
    cut = browser.run("return getComputedStyle(document.querySelector(arguments[0])).clipPath", f"{stage} .over")
    width = browser.find(stage).rect["width"]
    text = cut.partition("(")[2].split()[1]  # inset(0 RIGHT 0 0)
    if text.startswith("calc("):
        text = cut.partition("calc(100% - ")[2].partition(")")[0]
        return float(text.rstrip("%"))
    return 100 - float(text.rstrip("%")) if text.endswith("%") else 100 * (1 - float(text.rstrip("px")) / width)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_missing_offline(browser: Browser, run: Path, width: int, dark: bool) -> None:
    browser.open(run / "report.html", width, dark=dark)
    for extra in ("Spread", "Animation"):
        for button in browser.all(".tools button"):
            if button.get_attribute("textContent") == extra:
                browser.run("arguments[0].click()", button)
        browser.see_all()
        broken = browser.run("return [...document.images].filter((i) => i.src && !i.naturalWidth).map((i) => i.src)")
        assert broken == [] and browser.complaints() == []
        assert len(browser.all("img")) == 3 * 3 + 2  # two under the slider, one extra; schedule and calibration
    assert [one.text for one in browser.all(".card h3")] == NAMES
    assert browser.run("return document.documentElement.scrollWidth") <= width
    red, *_ = (int(part) for part in browser.find("body").value_of_css_property("background-color")[5:].split(",")[:3])
    assert red < 60 if dark else red > 200


def test_the_slider_moves_by_mouse_key_and_touch(browser: Browser, run: Path) -> None:
    browser.open(run / "report.html")
    stage = browser.find(LATER)
    browser.run("arguments[0].scrollIntoView({block: 'center'})", stage)
    assert boundary(browser) == 50
    width = stage.rect["width"]
    chain = ActionChains(browser.driver).move_to_element(stage).click_and_hold().move_by_offset(int(width / 4), 0)
    chain.release().perform()
    assert boundary(browser) == pytest.approx(75, abs=1)
    ActionChains(browser.driver).send_keys(Keys.ARROW_LEFT * 5).perform()
    assert boundary(browser) == pytest.approx(70, abs=1)
    assert browser.run("return document.activeElement.type") == "range"
    browser.open(run / "report.html", 390, touch=True)
    browser.run("arguments[0].scrollIntoView({block: 'center'})", browser.find(LATER))
    box = browser.run("return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()", LATER)
    for kind, share in (("touchStart", 0.5), ("touchMove", 0.4), ("touchMove", 0.2), ("touchEnd", None)):
        at = [] if share is None else [{"x": box["x"] + share * box["width"], "y": box["y"] + box["height"] / 2}]
        browser.cdp("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})
    assert boundary(browser) == pytest.approx(20, abs=1)
    assert browser.complaints() == []


def test_the_pictures_under_the_slider_can_be_chosen(browser: Browser, run: Path) -> None:
    browser.open(run / "report.html")
    assert [tag.text for tag in browser.all(f"{LATER} .tag")] == ["measurement", "mean of 2"]
    left, right = browser.all(".bar select")
    for option in right.find_elements("css selector", "option"):
        if option.text == "truth":
            option.click()
    assert [tag.text for tag in browser.all(f"{LATER} .tag")] == ["measurement", "truth"]
    assert browser.find(f"{LATER} .under").get_attribute("src").endswith("_truth.png")
    assert browser.find(f"{LATER} .over").get_attribute("src").endswith("_measurement.png")
    assert left.is_displayed()


def matrix(browser: Browser) -> list[list[float]]:
    """Scale and offset of the picture in each pane."""
    found = browser.run("return [...document.querySelectorAll('.pane img')].map((i) => getComputedStyle(i).transform)")
    values = [[float(part) for part in one.removeprefix("matrix(").rstrip(")").split(",")] for one in found]
    return [[one[0], one[4], one[5]] for one in values]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Page with two larger images."""
    folder, draws = RunFolder(tmp_path_factory.mktemp("photographs")), np.random.default_rng(0)
    labels = ("measurement", "restored", "truth")
    for name in (f"{k}_{label}.png" for k in range(2) for label in labels):
        folder.write_image(name, draws.integers(0, 255, (640, 480, 3), dtype=np.uint8))
    images = [Shown(NAMES[k], [Picture(one, f"{k}_{one}.png") for one in labels], (480, 640)) for k in range(2)]
    return report.write(folder, Page("photographs", images=images, left="measurement", right="restored"))


def test_the_zoom_zooms_all_pictures_alike(browser: Browser, photographs: Path) -> None:
    browser.open(photographs)
    browser.run("document.querySelector('.tools button').click()")
    assert [tag.text for tag in browser.all(".pane .tag")] == ["measurement", "restored", "truth"]
    start = matrix(browser)
    assert len(start) == 3 and start[0] == start[1] == start[2]
    ActionChains(browser.driver).send_keys("++").perform()
    near = matrix(browser)
    assert near[0][0] == pytest.approx(2.25 * start[0][0]) and near[0] == near[1] == near[2]
    ActionChains(browser.driver).send_keys(Keys.ARROW_RIGHT).perform()
    assert matrix(browser)[2][1] == pytest.approx(near[0][1] - 60)
    pane = browser.all(".pane")[1]
    ActionChains(browser.driver).move_to_element(pane).click_and_hold().move_by_offset(25, 10).release().perform()
    assert matrix(browser)[0][1:] == pytest.approx([near[0][1] - 35, near[0][2] + 10], abs=1)
    place = pane.rect
    wheel = {"type": "mouseWheel", "x": place["x"] + 40, "y": place["y"] + 50, "deltaX": 0, "deltaY": -300}
    before = matrix(browser)[0]
    browser.cdp("Input.dispatchMouseEvent", wheel)
    after = browser.wait(lambda: (now := matrix(browser)[0]) != before and now)
    for axis, at in ((1, 40), (2, 50)):  # the point under the pointer stays
        assert (at - after[axis]) / after[0] == pytest.approx((at - before[axis]) / before[0], abs=0.3)
    ActionChains(browser.driver).send_keys(Keys.PAGE_DOWN).perform()
    assert browser.find("dialog strong").text == NAMES[1]
    ActionChains(browser.driver).send_keys(Keys.ESCAPE).perform()
    assert not browser.find("dialog").is_displayed() and browser.complaints() == []


def test_two_fingers_zoom(browser: Browser, photographs: Path) -> None:
    browser.open(photographs, 390, touch=True)
    browser.run("document.querySelector('.tools button').click()")
    box, before = browser.all(".pane")[0].rect, matrix(browser)[0][0]
    for kind, apart in (("touchStart", 30), ("touchMove", 45), ("touchMove", 60), ("touchEnd", None)):
        at = [] if apart is None else [
            {"x": box["x"] + box["width"] / 2 + sign * apart, "y": box["y"] + box["height"] / 2, "id": n}
            for n, sign in enumerate((-1, 1))
        ]  # fmt: skip
        browser.cdp("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})
    assert matrix(browser)[0][0] == pytest.approx(2 * before, rel=0.05)


def test_tables_sort(browser: Browser, run: Path) -> None:
    browser.open(run / "report.html")
    columns = [column["label"] for column in data_of(run / "report.html")["tables"][-1]["columns"]]
    k = columns.index("PSNR, dB")

    def values() -> list[float]:
        lines = "document.querySelectorAll('table')[1].querySelectorAll('tbody tr')"
        return [float(v) for v in browser.run(f"return [...{lines}].map((r) => r.children[{k}].textContent)")]

    unsorted, heads = values(), browser.all("table:last-of-type thead button")
    button = next(head for head in heads if head.text == "PSNR, dB")
    for expected in (sorted(unsorted, reverse=True), sorted(unsorted)):
        browser.run("arguments[0].click()", button)
        assert values() == expected != unsorted
    assert browser.find("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    browser.run("document.querySelectorAll('table')[1].querySelectorAll('tbody a')[0].click()")
    assert browser.run("return location.hash").startswith("#image-")


def test_the_extras_have_the_map_with_its_colours_and_the_animation(browser: Browser, run: Path) -> None:
    browser.open(run / "report.html")
    buttons = browser.all("#image-1 .tools button")
    assert [button.text for button in buttons] == ["Zoom", "Spread", "Animation"]
    browser.run("arguments[0].click()", buttons[1])
    colours = data_of(run / "report.html")["images"][1]["extras"][0]["scale"]["colours"]
    ramp = browser.run("return getComputedStyle(document.querySelector('.scale span:nth-child(2)')).backgroundImage")
    assert ramp.startswith("linear-gradient(to right, ")
    assert re.findall(r"rgb\([^)]*\)", ramp) == [colour.replace(" ", ", ") for colour in colours]
    assert [one.text for one in browser.all("#image-1 .scale span")] == ["0", "", "0.5 or more"]
    browser.run("arguments[0].click()", buttons[2])
    assert browser.find("#image-1 .extra img").get_attribute("src").endswith("_walk.webp")
    browser.run("arguments[0].click()", buttons[2])
    assert browser.all("#image-1 .extra") == []


def test_what_is_there_to_copy_is_copied(browser: Browser, run: Path) -> None:
    browser.open(run / "report.html")
    granted = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.cdp("Browser.grantPermissions", granted)
    buttons = browser.all(".copy button")
    browser.run("arguments[0].scrollIntoView()", buttons[-1])
    buttons[-1].click()
    browser.wait(lambda: buttons[-1].text == "Copied")
    read = "navigator.clipboard.readText().then(arguments[0])"
    assert browser.driver.execute_async_script(read) == (run / "config.yaml").read_text()


def test_a_page_in_progress_reloads_itself_and_stays_where_it_is(browser: Browser, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    draws = np.random.default_rng(0)
    for k in range(8):
        folder.write_image(f"{k}.png", draws.integers(0, 255, (60, 80), dtype=np.uint8))
    images = [Shown(f"{k}", [Picture("a", f"{k}.png"), Picture("b", f"{k}.png")], (80, 60)) for k in range(8)]
    rows = [{"name": "a", "value": 1.0}, {"name": "b", "value": 2.0}]
    columns = [Column("name", "name", text=True), Column("value", "value", 1)]
    page = Page("going on", finished=False, images=images, left="a", right="b", resume="go on", reload=3600.0)
    page.tables, page.written = [Table("Table", columns, rows)], time.time()
    page.progress = {"done": 3, "total": 10, "unit": "steps"}

    def reloaded() -> None:
        """Write the page again, let that of the browser find that it is time, and wait until it has reloaded."""
        report.write(folder, page)
        browser.run("window.old = true; page.reload = 0.1")
        browser.wait(lambda: browser.run("return !window.old && document.readyState === 'complete'"))

    report.write(folder, page)
    browser.open(tmp_path / report.NAME)
    assert browser.find("progress").get_attribute("value") == "3"
    assert "3 of 10 steps" in browser.find("[role=status]").text
    browser.run("document.querySelectorAll('th button')[1].click()")
    stage = browser.find("#image-5 .stage")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", stage)
    ActionChains(browser.driver).move_to_element(stage).move_by_offset(
        int(stage.rect["width"] / 4), 0
    ).click().perform()
    place, moved = browser.run("return scrollY"), boundary(browser, "#image-5 .stage")
    assert place > 0 and moved == pytest.approx(75, abs=1)
    page.progress = {"done": 7, "total": 10, "unit": "steps"}
    reloaded()
    assert browser.find("progress").get_attribute("value") == "7"
    assert browser.run("return scrollY") == pytest.approx(place, abs=2)
    assert boundary(browser, "#image-5 .stage") == moved
    assert browser.find("tbody tr td").text == "b"  # as it was sorted
    page.written = time.time() - 3600
    reloaded()
    assert "If the run was interrupted, continue it with: go on" in browser.find("[role=status]").text
    browser.run("zoom(0, .5, .5); window.old = true; page.reload = 0.1")
    time.sleep(1.5)
    assert browser.run("return window.old") is True  # not while the reader looks at a detail
    browser.run("dialog.close()")
    page.finished, page.title, page.reload = True, "done", 0.1
    reloaded()
    assert browser.find("h1").text == "done" and browser.all("progress") == []
    browser.run("window.same = true")
    time.sleep(1.5)
    assert browser.run("return window.same") is True and browser.complaints() == []


def test_a_run_is_watched_from_its_start_to_its_end(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REFRESH", 0.0)
    monkeypatch.setattr(report, "RELOAD", 0.0)
    monkeypatch.setattr(report, "LARGEST_SHARE", 1e9)
    seen, write = list[tuple[int, int]](), report.write

    def watched(folder: RunFolder, page: Page, name: str = report.NAME) -> Path:
        made = write(folder, page, name)
        if not page.finished:
            browser.open(made)
            seen.append((int(browser.find("progress").get_attribute("value") or 0), len(browser.all(".card"))))
            assert browser.complaints() == []
        return made

    monkeypatch.setattr(report, "write", watched)
    assert sampling.run(make_config(tmp_path, 4, sampler={
        "name": "random_walk", "step_scale": 0.7, "schedule": {"name": "geometric", "num_steps": 3, "sigma_max": 20.0},
    })) == 0  # fmt: skip
    assert seen[0] == (0, 0) and seen == sorted(seen) and seen[-1][1] == 2
    browser.open(tmp_path / "run" / "report.html")
    assert browser.all("progress") == [] and len(browser.all(".card")) == 4 and browser.complaints() == []


def test_two_hundred_images_stay_fluent(browser: Browser, tmp_path: Path) -> None:
    """Pictures are loaded when they come near; the page is ready within a second, and scrolls at 30 frames a second."""
    folder, draws = RunFolder(tmp_path), np.random.default_rng(0)
    images = []
    for k in range(200):
        names = [f"images/{k}_{kind}.png" for kind in "ab"]
        for name in names:
            folder.write_image(name, Image.fromarray(draws.integers(0, 255, (160, 240, 3), dtype=np.uint8)))
        images.append(Shown(f"image {k}", [Picture(name[-5], link(name)) for name in names], (240, 160)))
    rows = [{"name": f"image {k}", "psnr": float(draws.normal(28, 2)), "href": f"#image-{k}"} for k in range(200)]
    tables = [Table("Metrics", [Column("name", "image", text=True), Column("psnr", "PSNR", 2)], rows)]
    report.write(folder, Page("many", images=images, left="a", right="b", tables=tables))
    browser.open(tmp_path / report.NAME)
    loaded = browser.run("return [...document.images].filter((i) => i.complete && i.naturalWidth).length")
    times = []
    for _ in range(3):  # the least of them: other processes may be at work
        times.append(browser.run("return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))
        browser.open(tmp_path / report.NAME)
    ready = min(times)
    assert len(browser.all(".card")) == 200 and loaded < 100
    frames = browser.driver.execute_async_script(
        """
        const done = arguments[0], times = [];
        function step(now) {
          times.push(now);
          window.scrollBy(0, 60);
          if (times.length < 90) requestAnimationFrame(step); else done(times);
        }
        requestAnimationFrame(step);
        """
    )
    gaps = np.diff(frames)
    print(
        f"ready after {ready:.0f} ms, {loaded} pictures loaded, median frame {np.median(gaps):.1f} ms", file=sys.stderr
    )
    assert ready < 1000 and np.median(gaps) < 34 and browser.complaints() == []


def test_curves_are_drawn_and_read(browser: Browser, tmp_path: Path) -> None:
    points = [[float(k), 10.0 * 0.9**k] for k in range(50)]
    charts = [Chart("Loss", "images", [Line("loss", points)], log=True), Chart("One", "x", [Line("one", [[1.0, 2.0]])])]
    report.write(RunFolder(tmp_path), Page("curves", charts=charts))
    browser.open(tmp_path / report.NAME)
    path = browser.wait(lambda: browser.all(".chart path"))[0].get_attribute("d")
    places = np.array([[float(v) for v in part.split()] for part in path[1:].split("L")])
    assert len(places) == 50 and np.allclose(np.diff(places, n=2, axis=0), 0, atol=0.21)  # a straight line: log axis
    drawing = browser.find(".chart svg")
    ActionChains(browser.driver).move_to_element(drawing).perform()
    browser.wait(lambda: " at " in browser.find(".legend").text)
    value, _, at = browser.find(".legend").text.removeprefix("loss: ").partition(" at ")
    assert float(value) == pytest.approx(10 * 0.9 ** float(at), rel=1e-3) and 20 < float(at) < 30
    assert browser.complaints() == []


def test_a_comparison_and_a_restored_photograph(
    browser: Browser, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    assert main(["compare", str(run), str(other), "--output", str(tmp_path / "both #1.html")]) == 0
    browser.open(tmp_path / "both #1.html")
    browser.see_all()
    assert browser.run("return [...document.images].filter((i) => i.src && !i.naturalWidth).length") == 0
    assert [tag.text for tag in browser.all(f"{LATER} .tag")] == ["run #1 é?", "other"]
    photo = tmp_path / "a #1.png"
    Image.fromarray(np.random.default_rng(0).integers(80, 170, (40, 56, 3), dtype=np.uint8)).save(photo)
    assert main(["restore", str(photo), "--noise", "20", "--device", "cpu", "--report"]) == 0
    browser.open(tmp_path / "a #1_restored.html")
    browser.see_all()
    assert browser.run("return [...document.images].filter((i) => i.src && !i.naturalWidth).length") == 0
    assert browser.complaints() == []
