"""Headless Chromium with software rendering, driven by Selenium: what the tests of the pages share. Importing it skips a test module where
there is no browser."""

import csv
import shutil
import time

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'dynamo-jordan[test]'")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("no chromium here: apt-get install chromium chromium-driver", allow_module_level=True)

from selenium.webdriver.common.by import By  # noqa: E402

SWITCHES = ("--headless", "--no-sandbox", "--disable-background-networking", "--enable-unsafe-swiftshader", "--window-size=1400,1000")


def start(downloads):
    """A browser that saves what it downloads in this folder, its attribute `downloads`."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for switch in SWITCHES:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.downloads = downloads
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    return driver


def wait(condition, seconds=20):
    """The first true value of `condition`."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, "the page did not get there in time"
        time.sleep(0.02)
    return found


def find(page, selector):
    return page.find_element(By.CSS_SELECTOR, selector)


def downloaded(page, name):
    """The rows of a CSV file that is being downloaded."""
    path = page.downloads / name
    wait(path.exists)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    path.unlink()
    return rows


def errors(page):
    return [line["message"] for line in page.get_log("browser") if line["level"] == "SEVERE"]  # not the hints of WebGL on performance
