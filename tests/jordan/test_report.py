"""The page of a run."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from jordan_dist import io, report

pytest.importorskip("matplotlib")

VOID = {"meta", "img", "br", "hr", "link"}


class Page(HTMLParser):
    """Fails on tags that do not match; collects what a test asks for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.text, self.classes = [], [], [], [], set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.classes |= set(values.get("class", "").split())
        if tag == "img":
            self.images.append(values["src"])
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
    assert {"figure-row", "facts"} == page.classes
    assert len(page.images) == 4  # two modes, the search, the splitting
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
    assert "http" not in text.replace("http://www.w3.org", "")


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


def test_folder_without_a_run(tmp_path):
    with pytest.raises(ValueError, match="holds no jordan-dist run"):
        report.sections(tmp_path)
