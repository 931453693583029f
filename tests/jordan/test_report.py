"""The page of a run, and its figures for papers."""

import csv
import json
import urllib.parse
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pytest

from jordan_dist import figures, io, report, verify

pytest.importorskip("matplotlib")

VOID = {"meta", "img", "br", "hr", "link"}


class Page(HTMLParser):
    """Fails on tags that do not match; collects what a test asks for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.links, self.text, self.classes = [], [], [], [], [], set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.classes |= set(values.get("class", "").split())
        if tag == "img":
            self.images.append(values["src"])
        if tag == "a":
            self.links.append((values["download"], values["href"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def result(**changes):
    base = {
        "program": "jordan-dist",
        "name": "waveguides",
        "title": "Two <b>guides</b> & co",
        "mode": "exceptional point",
        "n": 44944,
        "cells": 212,
        "ranks": 2,
        "backend": "petsc",
        "parameter_names": ["gamma"],
        "parameters": [0.005],
        "eigenvalue": 35.3 + 0.1j,
        "verdict": "block",
        "order": 1,
        "step": None,
        "subspace_residual": 1e-15,
        "chain_residuals": [1e-15, 2e-15],
        "backward_error": 1e-12,
        "singular_values": [0.1, 1e-12],
        "vector_norms": [1.0, 9.1],
        "gap": float("inf"),
        "projector_norm": 1.2,
        "puiseux": [-1.2 + 0j],
        "factorizations": 1,
        "solves": 52,
        "seconds": {"assembly": 0.1, "total": 1.0},
        "peak_memory_bytes": 2**30,
        "versions": {"python": "3.11"},
        "history": [
            {"parameters": [0.0045], "eigenvalues": [35.3 + 0.02j, 35.3 - 0.02j], "step": 6e-4, "residual": 1e-15, "sweeps": 0},
            {"parameters": [0.005], "eigenvalues": [35.3 + 0j, 35.3 + 0j], "step": 0.0, "residual": 1e-15, "sweeps": 5},
        ],
    }
    return base | changes


@pytest.fixture
def folder(tmp_path):
    def make(**changes):
        io.write_json(tmp_path / io.RESULT, result(**changes))
        np.savez(tmp_path / io.MODES, modes=np.random.default_rng(0).random((2, 212, 212), dtype=np.float32))
        return tmp_path

    return make


def test_sections_are_an_embeddable_fragment(folder):
    text = report.sections(folder())
    page = Page(text)
    assert not {"html", "body", "style", "script", "svg", "link"} & set(page.tags)
    assert {"figure-row", "facts", "scroll", "downloads", "light", "dark"} == page.classes
    assert len(page.images) == 10  # two modes, the spectrum, the splitting, the search; each for light and dark
    assert all(src.startswith("data:image/") for src in page.images)
    assert "b" not in page.tags  # the title is text
    assert "Two <b>guides</b> & co" in page.text
    words = " ".join(page.text)
    for fact in ("35.3 + 0.1i", "one Jordan block", "9.1", "2.0e-15", "1,024 MiB", "unknown"):
        assert fact in words


def test_page_is_self_contained(folder):
    path = report.write_page(folder())
    text = path.read_text()
    assert path.name == "report.html"
    assert text.startswith("<!DOCTYPE html>")
    Page(text)
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize("verdict", ["semisimple", "not-defective"])
def test_no_chain_no_chain_residuals(folder, verdict):
    changes = {"verdict": verdict, "chain_residuals": [], "puiseux": [], "mode": "chain"}
    where = folder(**changes)
    data = json.loads((where / io.RESULT).read_text())
    del data["history"]
    io.write_json(where / io.RESULT, data)
    words = " ".join(Page(report.sections(where)).text)
    assert "Jordan vector j1" not in words
    assert report.VERDICTS[verdict] in words


def numbers(page, name):
    """The rows of the CSV file behind a figure."""
    address = next(href for file, href in page.links if file == f"{name}.csv")
    assert address.startswith("data:text/csv;charset=utf-8,")
    return list(csv.DictReader(StringIO(urllib.parse.unquote(address.partition(",")[2]))))


def test_numbers_behind_the_figures(folder):
    where = folder()
    page = Page(report.sections(where))
    assert [name for name, _ in page.links] == ["mode-0.csv", "mode-1.csv", "spectrum.csv", "splitting.csv", "search.csv"]
    modes = np.load(where / io.MODES)["modes"]
    for i in range(2):
        shown = [[float(value) for name, value in row.items() if name != "i"] for row in numbers(page, f"mode-{i}")]
        assert np.array(shown) == pytest.approx(modes[i], rel=5e-3)
    rows = numbers(page, "spectrum")
    seen = [complex(float(row["re"]), float(row["im"])) for row in rows if row["what"] == "eigenvalue"]
    assert seen == [35.3 + 0.02j, 35.3 - 0.02j, 35.3, 35.3]
    # The branches are those of the root: from the first pencil, 5e-4 below the point, to as far above it.
    for row in rows:
        if row["what"] == "branch":
            value = complex(float(row["re"]), float(row["im"])) - (35.3 + 0.1j)
            assert value**2 == pytest.approx(-1.2 * -5e-4 * float(row["t"]), abs=1e-12)
    (row,) = numbers(page, "splitting")
    assert float(row["c_t"]) == pytest.approx(6e-4) and float(row["spread"]) == pytest.approx(0.02)
    assert float(row["predicted"]) == pytest.approx(6e-4**0.5)
    steps = numbers(page, "search")
    assert [float(row["gamma_re"]) for row in steps] == [0.0045, 0.005] and [row["sweeps"] for row in steps] == ["0", "5"]


def test_a_chain_without_a_search_has_its_spectrum(folder):
    where = folder(mode="chain", order=2, step=[5e-4], eigenvalues=[35.3 + 0.02j, 35.3 - 0.02j], gap=0.05)
    data = json.loads((where / io.RESULT).read_text())
    del data["history"]
    io.write_json(where / io.RESULT, data)
    page = Page(report.sections(where))
    rows = numbers(page, "spectrum")
    assert sum(row["what"] == "eigenvalue" for row in rows) == 2 and "search.csv" not in dict(page.links)


@pytest.fixture
def scan_folder(tmp_path):
    point = {"parameters": [[0.1, -0.2]], "eigenvalue": [1.0, 2.0], "subspace_residual": 1e-15, "backward_error": 1e-14}
    scan = {
        "program": "jordan-dist", "mode": "scan", "name": "A0.npy", "window": [[[-1, -1]], [[1, 1]]], "count": 3, "complete": False,
        "points": [point | {"loop": 0.1}, point | {"parameters": [[0.3, 0.0]], "loop": None}], "unresolved": [[[0.5, 0.5]]],
        "seconds": {"total": 1.0}, "versions": {"python": "3"},
    }  # fmt: skip
    (tmp_path / "scan").mkdir()
    io.write_json(tmp_path / "scan" / io.SCAN_FILES[0], scan)
    return tmp_path / "scan"


def test_page_of_a_scan(scan_folder):
    page = Page(report.write_page(scan_folder).read_text())
    words = " ".join(page.text)
    assert "2 exceptional point(s) in the window; the discriminant winds 3 times" in words and "no loop certifies it" in words
    assert [(float(row["x"]), float(row["y"])) for row in numbers(page, "window")] == [(0.1, -0.2), (0.3, 0.0)]


@pytest.fixture(scope="module")
def cases():
    return [verify.measure(2, False, False, False, n=12)]


@pytest.fixture
def errors_folder(tmp_path, cases):
    result = {"program": "jordan-dist", "mode": "verify", "passed": True, "seconds": {"total": 1.0}, "versions": {"python": "3"}}
    result |= {"cases": [vars(case) | {"name": case.name, "passed": case.passed} for case in cases]}
    (tmp_path / "errors").mkdir()
    io.write_json(tmp_path / "errors" / io.VERIFY_FILES[0], result)
    return tmp_path / "errors"


def test_page_of_a_measurement_of_errors(errors_folder, cases):
    page = Page(report.write_page(errors_folder).read_text())
    rows = [row for row in numbers(page, "errors-2") if row["method"] == "first" and row["quantity"] == "j1"]
    assert [float(row["error"]) for row in rows] == list(cases[0].errors["first"]["j1"])
    # Errors of first order, measured at distances a factor of ten apart.
    slope = np.polyfit(*np.log([[float(row[name]) for row in rows[:5]] for name in ("distance", "error")]), 1)[0]
    assert slope == pytest.approx(1, abs=0.1) and f"j1 {cases[0].slopes['first']['j1']:.3g}" in " ".join(page.text)


def kinds(folder):
    """The figures in a folder by name, with the kinds that there are of each."""
    found = {}
    for file in sorted((folder / "figures").iterdir()):
        start = file.read_bytes()[:5]
        assert {".png": start == b"\x89PNG\r", ".svg": start == b"<?xml", ".pdf": start == b"%PDF-"}[file.suffix]
        found.setdefault(file.stem, []).append(file.suffix)
    assert all(endings == [".pdf", ".png", ".svg"] for endings in found.values())
    return list(found)


def test_figures_for_papers_are_files_of_three_kinds_that_come_out_the_same(folder):
    where = folder()
    files = figures.write_figures(where)
    assert kinds(where) == ["mode-0", "mode-1", "search", "spectrum", "splitting"] and len(files) == 15
    before = {file: file.read_bytes() for file in files}
    figures.write_figures(where)
    assert {file: file.read_bytes() for file in files} == before


def test_figures_of_an_older_run_go_and_those_of_others_stay(folder):
    where = folder()
    figures.write_figures(where)
    (where / "figures" / "mine.png").write_bytes(b"\x89PNG\r")
    data = json.loads((where / io.RESULT).read_text())
    del data["history"]
    io.write_json(where / io.RESULT, data)
    figures.write_figures(where)
    assert {file.stem for file in (where / "figures").iterdir()} == {"mine", "mode-0", "mode-1"}


def test_figures_have_the_style_of_those_of_dynamo_dist(folder):
    from dynamo_dist.report.figures import COLOURS, STYLE

    assert figures.STYLE.samefile(STYLE)
    (drawn,) = (file for file in figures.write_figures(folder()) if file.name == "splitting.svg")
    text = drawn.read_text()
    assert f"#{COLOURS[1].lstrip('#')}" in text and "eigenvalues on the way" in text  # text stays text: it can be searched and edited


def test_figures_of_a_scan_and_of_errors(scan_folder, errors_folder):
    figures.write_figures(scan_folder)
    assert kinds(scan_folder) == ["eigenvalues", "window"]
    figures.write_figures(errors_folder)
    assert kinds(errors_folder) == ["errors-2"]


def test_folder_without_a_run(tmp_path):
    with pytest.raises(ValueError, match="holds no jordan-dist run"):
        report.sections(tmp_path)
