"""What is on the page, without a browser."""

import json
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_folder import GROUPS, LAGS, MEMORY, write_run

from dynamo_dist import InputError
from dynamo_dist.report import contents, page, write_report
from dynamo_dist.report.analyses import FIGURES, write_figures
from dynamo_dist.report.contents import CURVES, DETAILED


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts.append(data)


def test_names_neither_end_the_script_nor_become_elements(tmp_path):
    table = write_run(tmp_path / "run", 9)
    elements = Elements(write_report(tmp_path / "run").read_text(encoding="utf-8"))
    assert [tag for tag, _ in elements.found].count("script") == 3 and "img" not in [tag for tag, _ in elements.found]
    assert [own["href"] for _, own in elements.found if "href" in own] == ["data:,"] and not any("src" in own for _, own in elements.found)
    assert json.loads(elements.scripts[0])["networks"]["ids"] == table["id"]


def test_a_large_population_is_shown_in_part(tmp_path):
    write_run(tmp_path / "run", CURVES + 1)
    networks = contents(tmp_path / "run")["networks"]
    assert networks["curves"] == [] and len(networks["ids"]) == CURVES + 1
    # Every network of a group has the same curve here.
    assert networks["group_curves"][GROUPS[1]] == pytest.approx(np.exp(-np.arange(8.0)) + 0.01, rel=1e-5)
    points = contents(tmp_path / "run")["analyses"]["fixed-points"]["points"]
    every = pq.read_table(tmp_path / "run" / "analysis" / "fixed-points" / "points.parquet").num_rows
    assert 0 < len(points["id"]) < every and CURVES > DETAILED
    memory = contents(tmp_path / "run")["analyses"]["memory"]["memory"]
    assert set(points["id"]) == {id for id, kernel in zip(memory["id"], memory["meta_kernel"], strict=True) if kernel}
    assert len(memory["id"]) == len(memory["base_rate"]) > len(set(points["id"]))


def test_curves_of_unlike_length_are_averaged_where_they_are(tmp_path):
    table = write_run(tmp_path / "run", 6)
    table["curve"] = [[4.0, 2.0], None, [1.0], [2.0, 1.0, 0.5], [], [3.0]]
    pq.write_table(pa.table(table), tmp_path / "run" / "networks.parquet")
    assert contents(tmp_path / "run")["networks"]["group_curves"] == {GROUPS[0]: [3.0, 1.5, 0.5], GROUPS[2]: [2.0]}


def test_components_are_principal(tmp_path):
    table = write_run(tmp_path / "run", 30)
    networks = contents(tmp_path / "run")["networks"]
    variances = np.linalg.eigvalsh(np.cov(np.array(table["theta"]).T))[::-1]
    assert np.var(networks["components"], axis=0, ddof=1) == pytest.approx(variances[:3], rel=1e-4)
    assert networks["shares"] == pytest.approx(variances[:3] / variances.sum(), rel=1e-4)
    assert networks["constant"] == {"batch": 32} and networks["columns"]["group"]["levels"] == list(GROUPS)


def test_every_analysis_has_its_figures_for_papers(tmp_path):
    write_run(tmp_path / "run", 30)
    written = {path.relative_to(tmp_path / "run" / "analysis") for path in write_figures(tmp_path / "run") if "analysis" in path.parts}
    assert {str(path) for path in written} == {f"{name}/{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "pdf")}
    tables = {path.stem: pq.read_table(path) for path in (tmp_path / "run" / "analysis" / "memory").glob("*.parquet")}
    leaky = FIGURES["memory"](tables).axes[1]
    drawn = [line.get_ydata() for line in leaky.lines if len(line.get_ydata())]
    for time_constant in MEMORY["leaky"]:
        assert any(np.allclose(y, np.exp(-np.arange(LAGS) / time_constant)) for y in drawn)


def test_the_page_goes_between_other_fragments(tmp_path):
    write_run(tmp_path / "run", 3)
    text = page("mine", contents(tmp_path / "run"), before="<p>first</p>", after="<p>last</p>")
    assert text.index("<p>first</p>") < text.index("Map of the networks") < text.index("<p>last</p>")


def test_what_has_no_page_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        contents(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"models": [{"name": "given"}]}))
    with pytest.raises(InputError, match=r"holds a sweep: report one of its meta-models, .*given"):
        contents(tmp_path)
