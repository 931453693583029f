"""The page of a run in a real browser."""

import json

import numpy as np
import pytest
from browser import By, downloaded, errors, find, start, wait

pytest.importorskip("matplotlib")

from jordan_dist import cli, io
from jordan_dist.report import write_page

TITLE = "Guides <img src=x onerror=alert(1)> & </style><script>alert(2)</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = start(tmp_path_factory.mktemp("downloads"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a real run, with a title that is no plain text."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert cli.main(["example", "waveguides", "--ep", "--out", str(folder), "--quiet"]) == 0
    result = json.loads((folder / io.RESULT).read_text())
    io.write_json(folder / io.RESULT, result | {"title": TITLE})
    write_page(folder)
    return folder


@pytest.fixture
def page(browser, made):
    browser.get((made / io.REPORT).as_uri())
    return browser


def shown(page):
    """The pictures that can be seen, each (class, whether it is loaded)."""
    look = "return [...document.querySelectorAll('img')].filter((image) => image.offsetParent).map((image) => [image.className, image.naturalWidth > 0])"
    return page.execute_script(look)


def test_loads_alone_and_without_errors(browser, made):
    browser.get_log("performance")
    browser.get((made / io.REPORT).as_uri())
    assert shown(browser) == [["light", True]] * 5
    assert errors(browser) == []
    events = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [address for address in asked if not address.startswith("data:")] == [(made / io.REPORT).as_uri()]
    assert (made / io.REPORT).stat().st_size < 3e6


def test_titles_are_text(page):
    assert find(page, "h2").text == TITLE
    assert page.find_elements(By.CSS_SELECTOR, "main script, main style, img:not([src^='data:'])") == []


def test_numbers_are_downloaded(page, made):
    result = json.loads((made / io.RESULT).read_text())
    find(page, "a[download='search.csv']").click()
    rows = downloaded(page, "search.csv")
    assert [float(row["gamma_re"]) for row in rows] == [step["parameters"][0] for step in result["history"]]
    find(page, "a[download='mode-1.csv']").click()
    rows = downloaded(page, "mode-1.csv")
    shown = np.array([[float(row[f"j={j}"]) for j in range(212)] for row in rows])
    # The norm of the Jordan vector from its picture: its squares, a cell each.
    assert np.linalg.norm(shown) == pytest.approx(result["vector_norms"][1], rel=1e-3)


def test_pictures_are_downloaded(page):
    find(page, "a[download='spectrum.svg']").click()
    path = page.downloads / "spectrum.svg"
    wait(path.exists)
    assert "<svg" in path.read_text() and len(page.find_elements(By.CSS_SELECTOR, "a[download$='.svg']")) == 5


def test_light_and_dark(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    first = page.execute_script(ground)
    find(page, "#theme").click()
    assert shown(page) == [["dark", True]] * 5 and page.execute_script(ground) != first
    find(page, "#theme").click()
    assert shown(page) == [["light", True]] * 5 and page.execute_script(ground) == first
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    page.refresh()  # what was chosen by hand is gone
    try:
        assert shown(page) == [["dark", True]] * 5
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        )
        assert shown(page) == [["light", True]] * 5
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


@pytest.mark.parametrize("width", [360, 800])
def test_nothing_is_wider_than_the_screen(page, width):
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
