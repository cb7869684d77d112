"""Draw report.webp from the page of a run: python docs/report_screenshot.py RUN (needs Selenium and Chromium)."""

from __future__ import annotations

import base64
import shutil
import sys
import time
from io import BytesIO
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

SIZE = (1240, 715)


def main(run: str) -> None:
    """Photograph the images of the page, the first with its animation, and write the picture beside this file."""
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(word)
    options.binary_location = str(shutil.which("chromium"))
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        metrics = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get((Path(run) / "report.html").resolve().as_uri())
        driver.execute_script("document.querySelector('.card .tools button:last-child').click()")
        driver.execute_script("scrollTo(0, document.querySelector('.bar').offsetTop - 64)")
        time.sleep(4)  # until the animation is at its end
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        image = Image.open(BytesIO(base64.b64decode(shot))).convert("RGB")
        image.thumbnail((1000, 1000), Image.Resampling.LANCZOS)
        image.save(Path(__file__).with_name("report.webp"), quality=72, method=6)
    finally:
        driver.quit()


if __name__ == "__main__":
    main(sys.argv[1])
