"""The page of a run in a real browser: headless Chromium with software rendering, driven by Selenium."""

import json
import math
import time

import numpy as np
import pytest
from browser import By, downloaded, errors, find, start, wait, webdriver
from report_folder import COMPUTATIONS, EPOCHS, FORK, GROUPS, LAGS, MEMORY, write_run
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from dynamo_dist.report import write_report

NETWORKS = 60


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = start(tmp_path_factory.mktemp("downloads"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of a made-up run, and the table of its networks."""
    folder = tmp_path_factory.mktemp("run") / "run"
    table = write_run(folder, NETWORKS)
    return write_report(folder), table


@pytest.fixture
def page(browser, made):
    """The page, just opened."""
    return opened(browser, made[0])


def opened(browser, path):
    browser.get(path.as_uri())
    wait(lambda: browser.execute_script("return document.querySelector('[data-figure=map] .plot').data !== undefined"))
    return browser


def plot(page, name, expression):
    """What `expression` says of the plot `gd` of a figure, which is brought into view."""
    place = f"document.querySelector('figure[data-figure={name}]')"
    page.execute_script(f"{place}.scrollIntoView()")
    wait(lambda: page.execute_script(f"return {place}.querySelector('.plot').data !== undefined"))
    return page.execute_script(f"const gd = {place}.querySelector('.plot'); return {expression}")


def control(page, name, label):
    """The select box of a figure with this label."""
    return Select(find(page, f"figure[data-figure={name}]").find_element(By.XPATH, f".//label[starts-with(., '{label}')]/select"))


def pointer(page, place):
    """The pointer on the map at the point of a network."""
    plot(page, "map", "null")
    x, y = page.execute_script(
        "const gd = document.querySelector('[data-figure=map] .plot'), { xaxis, yaxis } = gd._fullLayout, box = gd.getBoundingClientRect();"
        f"const [x, y] = JSON.parse(document.getElementById('numbers').textContent).networks.components[{place}];"
        "return [box.x + xaxis._offset + xaxis.d2p(x), box.y + yaxis._offset + yaxis.d2p(y)]"
    )
    actions = webdriver.ActionChains(page, duration=50)
    actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
    return actions


def components(page):
    """Where the networks are on the map, (M, 3)."""
    return np.array(page.execute_script("return JSON.parse(document.getElementById('numbers').textContent).networks.components"))


def alone(page, first):
    """Of the `first` networks the one that no other point covers on the map."""
    apart = np.linalg.norm(components(page)[:first, None, :2] - components(page)[None, :, :2], axis=2)
    return int(np.sort(apart, axis=1)[:, 1].argmax())


def chosen(page):
    """Name of the network beside the map."""
    return find(page, "#network h3").text


def test_loads_alone_and_without_errors(page, made):
    page.get_log("performance")
    opened(page, made[0])
    for name in page.execute_script("return [...document.querySelectorAll('figure')].map((figure) => figure.dataset.figure)"):
        plot(page, name, "null")
    assert errors(page) == []
    events = [json.loads(line["message"])["message"] for line in page.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [address for address in asked if not address.startswith(("data:", "blob:"))] == [made[0].as_uri()]
    assert made[0].stat().st_size < 8e6


def test_hover_shows_facts_and_a_click_selects(page, made):
    _, table = made
    place = alone(page, 12)  # of those whose fixed points are there
    pointer(page, place).perform()
    shown = wait(lambda: plot(page, "map", "gd.querySelector('.hoverlayer').textContent"))
    assert table["id"][place] in shown and f"score: {table['score'][place]:.4g}" in shown
    pointer(page, place).click().perform()
    wait(lambda: chosen(page) == table["id"][place])
    beside = find(page, "#network").text
    assert f"{table['hidden_r2'][place]:.4g} {table['control_hidden_r2'][place]:.4g}" in beside
    assert "network 2 1" in beside  # its stable and unstable fixed points
    assert plot(page, "points", "gd.data.filter((trace) => trace.mode === 'lines').length") == 2
    # The nearest network in theta, from the vectors themselves.
    far = np.linalg.norm(np.array(table["theta"]) - table["theta"][place], axis=1)
    assert find(page, "#network li button").text == table["id"][int(np.argsort(far)[1])]


def test_colour_and_dimensions(page, made):
    _, table = made
    of_groups = "gd.data.filter((trace) => trace.name !== 'selected').map((trace) => trace.x.length)"
    control(page, "map", "Colour").select_by_visible_text("group")
    assert plot(page, "map", of_groups) == [table["group"].count(name) for name in GROUPS]
    control(page, "map", "Colour").select_by_visible_text("score")
    assert plot(page, "map", of_groups) == [NETWORKS]
    assert plot(page, "map", "gd.data[0].marker.color") == pytest.approx(table["score"], rel=1e-5)
    find(page, "input[value='3']").click()
    assert plot(page, "map", "gd.data[0].type") == "scatter3d"
    assert wait(lambda: plot(page, "map", "gd._fullLayout.scene._scene?.glplot?.gl !== undefined"))
    assert errors(page) == []


def test_two_groups_by_name_and_by_box(page, made):
    _, table = made
    for which, name in zip("AB", GROUPS, strict=False):
        Select(find(page, f"[data-group={which}]")).select_by_visible_text(f"group: {name}")
    shown = find(page, "#compare").text
    theta, group = np.array(table["theta"]), np.array(table["group"])
    centres = [theta[group == name].mean(axis=0) for name in GROUPS]
    apart = np.linalg.norm(centres[0] - centres[1])
    assert f"distance of the mean vectors {apart:.4g}" in shown
    assert "mean vector of A 0.91\n" in shown and "mean vector of B 0.92\n" in shown and "both mean vectors 0.8765" in shown
    assert f"computation {COMPUTATIONS[0]} 100 % {COMPUTATIONS[1]} 100 %" in shown
    # A box over the whole map takes all networks, and what was not measured has no number.
    find(page, "input[value='A']").click()
    width, height = plot(page, "map", "[gd._fullLayout._size.w, gd._fullLayout._size.h]")
    area = find(page, "figure[data-figure=map] .nsewdrag")
    drag = (
        webdriver.ActionChains(page, duration=50)
        .move_to_element_with_offset(area, int(2 - width / 2), int(2 - height / 2))
        .click_and_hold()
    )
    for _ in range(4):
        drag.move_by_offset(int(width / 4 - 2), int(height / 4 - 2))
    drag.pause(0.5).release().perform()  # Plotly looks a few times a second what is in the box
    wait(lambda: f"networks in A and B {NETWORKS}, {table['group'].count(GROUPS[1])}" in find(page, "#compare").text)
    assert "mean vector of A not measured" in find(page, "#compare").text


def test_the_slider_goes_along_the_path(page):
    plot(page, "path", "null")
    slider, said = find(page, "[data-figure=path] input[type=range]"), find(page, "[data-figure=path] output")
    for _ in range(FORK - 1):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert said.text == "0.5 of the way: 1 stable, 0 unstable"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert said.text == "0.6 of the way: 2 stable, 0 unstable"
    assert plot(page, "path", "gd.data.find((trace) => trace.name === 'stable').x") == [-1, 1]
    assert "pitchfork 0.55" in find(page, "[data-figure=path]").text


def test_kernels_of_every_computation(page, made):
    _, table = made
    decays = "gd.data.map((trace) => [trace.name, trace.line.dash, trace.y.slice(0, 9)])"
    control(page, "memory", "Computation").select_by_visible_text("leaky")
    found = {name: (dash, y) for name, dash, y in plot(page, "memory", decays)}
    for name, dash, time_constant in zip(("leaky, networks", "leaky, meta-model"), ("solid", "dash"), MEMORY["leaky"], strict=True):
        assert found[name][0] == dash and found[name][1][LAGS] is None  # a gap before the next network
        assert found[name][1][:LAGS] == pytest.approx(np.exp(-np.arange(LAGS) / time_constant), rel=1e-4)
    assert "perfect, networks" not in found and "selected" not in found  # the selected network is the first, which is perfect
    said = page.execute_script(
        "return [...document.querySelectorAll('h2')].find((h) => h.textContent === 'Memory').nextElementSibling.innerText"
    )
    assert "perfect\t4\tnothing is forgotten\t40.00 steps" in said and "leaky\t8\t4.00 steps\t5.00 steps" in said
    find(page, "[data-figure=memory] [data-download=csv]").click()
    rows = downloaded(page, "memory.csv")
    assert [row["id"] for row in rows] == [id for id, name in zip(table["id"][:12], table["computation"], strict=False) if name == "leaky"]
    assert [float(rows[0][f"base_kernel_{lag}"]) for lag in range(LAGS)] == pytest.approx(2 * np.exp(-np.arange(LAGS) / 4), rel=1e-4)


def test_training_is_a_line_over_the_map(page, made):
    _, table = made
    places = [0, 3, 6, 9]
    name, x, y = plot(page, "trajectory", "[gd.data[1].name, gd.data[1].x, gd.data[1].y]")
    assert name == table["computation"][0] and x[-1] is None
    assert np.column_stack([x[:-1], y[:-1]]) == pytest.approx(components(page)[places, :2])
    find(page, "[data-figure=trajectory] [data-download=csv]").click()
    rows = downloaded(page, "trajectory.csv")
    assert [(row["network"], int(row["epochs"])) for row in rows] == [
        (table["id"][place], e) for place, e in zip(places, EPOCHS, strict=True)
    ]


def test_numbers_behind_figures_are_downloaded(page, made):
    _, table = made
    plot(page, "map", "null")
    find(page, "[data-figure=map] [data-download=csv]").click()
    rows = downloaded(page, "map.csv")
    assert [row["id"] for row in rows] == table["id"]
    assert np.array([[float(row[f"theta_{d + 1}"]) for d in range(4)] for row in rows]) == pytest.approx(np.array(table["theta"]), rel=1e-5)
    plot(page, "landscape", "null")
    find(page, "[data-figure=landscape] [data-download=csv]").click()
    rows = downloaded(page, "landscape.csv")
    assert all(math.isclose(float(row["test"]), 1 - float(row["u"]) ** 2 / 4 - float(row["v"]) ** 2 / 8, rel_tol=1e-5) for row in rows)
    # The plot has every score where its coordinates say: rows are v, columns u.
    x, y, z = plot(page, "landscape", "[gd.data[0].x, gd.data[0].y, gd.data[0].z]")
    assert np.array(z) == pytest.approx(1 - np.array(x)[None] ** 2 / 4 - np.array(y)[:, None] ** 2 / 8, rel=1e-5)


def test_light_and_dark(page):
    def look():
        background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return background, plot(page, "map", "gd._fullLayout.font.color")

    first = look()
    find(page, "#theme").click()
    second = look()
    find(page, "#theme").click()
    assert first == look() and first[0] != second[0] and first[1] != second[1]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    page.refresh()
    assert look() == second
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_names_are_text(page, made):
    _, table = made
    assert find(page, "h1").text == "Title with <i>tags</i> & 'quotes'"
    for selector in ("img", "main script", "main i", "main b:not(.hoverlayer b)"):
        assert page.find_elements(By.CSS_SELECTOR, selector) == []
    legend = plot(page, "curves", "[...gd.querySelectorAll('.legendtext')].map((text) => text.textContent)")
    assert legend[: len(GROUPS)] == list(GROUPS)
    assert chosen(page) == table["id"][0]
    assert errors(page) == []  # an alert or a load would be here


def test_by_keyboard(page, made):
    _, table = made
    find(page, "figure[data-figure=map] .plot").send_keys(Keys.ARROW_RIGHT)
    place = table["id"].index(chosen(page))
    assert place != 0 and components(page)[place, 0] > components(page)[0, 0]
    find(page, "summary").send_keys(Keys.ENTER)
    find(page, "#all input").send_keys(f"#{NETWORKS - 1}")
    wait(lambda: len(page.find_elements(By.CSS_SELECTOR, "#all tbody tr")) == 1)
    find(page, "#all tbody button").send_keys(Keys.ENTER)
    assert chosen(page) == table["id"][-1]


@pytest.mark.parametrize("width", [360, 800])
def test_nothing_is_wider_than_the_screen(page, made, width):
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    try:
        opened(page, made[0])
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# What a step of moving or zooming takes: from the event to pixels that can be read, so that everything is drawn.
MAP = """
const done = arguments[0], gd = document.querySelector('[data-figure=map] .plot'), canvas = gd.querySelector('.gl-canvas-context');
const gl = canvas.getContext('webgl') ?? canvas.getContext('webgl2'), area = gd.querySelector('.nsewdrag').getBoundingClientRect();
const frame = () => new Promise(requestAnimationFrame), times = [];
const drawn = async () => { await frame(); gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); };
"""
PAN = (
    MAP
    + """
const send = (type, target, x) => target.dispatchEvent(new MouseEvent(type, { bubbles: true, clientX: x, clientY: area.y + 100, button: 0, buttons: 1 }));
(async () => {
  send('mousedown', gd.querySelector('.nsewdrag'), area.x + 100);
  for (let k = 1; k <= 20; k++) {
    const began = performance.now();
    send('mousemove', document, area.x + 100 + 5 * k);
    await drawn();
    times.push(performance.now() - began);
  }
  send('mouseup', document, area.x + 200);
  done(times);
})();
"""
)
# Three steps in and three out again, three times, with the buttons that users have.
ZOOM = (
    MAP
    + """
const widths = [], click = (what) => document.querySelector(`figure[data-figure=map] button[title="Zoom ${what}"]`).click();
(async () => {
  for (const what of Array(3).fill(["in", "in", "in", "out", "out", "out"]).flat()) {
    const plotted = new Promise((resolve) => gd.once('plotly_afterplot', resolve)), began = performance.now();
    click(what);
    await plotted;
    await drawn();
    times.push(performance.now() - began);
    const [low, high] = gd._fullLayout.xaxis.range;
    widths.push(high - low);
  }
  done([times, widths]);
})();
"""
)


def test_ten_thousand_networks(browser, tmp_path, capsys):
    write_run(tmp_path / "run", 10_000)
    path = write_report(tmp_path / "run")
    assert path.stat().st_size < 8e6
    began = time.monotonic()
    opened(browser, path)
    seconds = time.monotonic() - began
    assert plot(browser, "map", "gd.data[0].type") == "scattergl"
    before = plot(browser, "map", "gd._fullLayout.xaxis.range[0]")
    steps = browser.execute_async_script(PAN)
    wait(lambda: plot(browser, "map", "gd._fullLayout.xaxis.range[0]") < before)
    low, high = plot(browser, "map", "gd._fullLayout.xaxis.range")
    zooms, widths = browser.execute_async_script(ZOOM)
    assert np.array(widths) / (high - low) == pytest.approx(3 * [0.7, 0.7**2, 0.7**3, 0.7**2, 0.7, 1], rel=1e-6)
    took = ", ".join(
        f"a step of {what} {np.median(times):.0f} ms (median of {len(times)}, {max(times):.0f} at most)"
        for what, times in (("moving", steps), ("zooming", zooms))
    )
    with capsys.disabled():
        print(f"\n10,000 networks: {path.stat().st_size / 1e6:.1f} MB, open in {seconds:.1f} s, {took}")
    assert errors(browser) == []
