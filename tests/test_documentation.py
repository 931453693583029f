"""The documentation: its code runs, its commands are those of the parsers, its links lead somewhere, its messages are the code's.

The blocks of a page run in their order in one folder. A block with a title is a file, which the blocks after it find. Two comments above a
block say where a test does something else than a reader:

    <!-- tested with       what takes minutes is made small: text of the block on the left becomes that on the right
    steps=3000 => steps=10
    -->

    <!-- not run: REASON -->      it needs what a test does not have. Python is compiled, shell is read by `bash -n`

Every command of ours is read by its real parser, as it stands on the page.
"""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.linalg
import scipy.sparse
import torch
from safetensors.torch import save_model
from torch import nn

import dynamo_dist.cli
import jordan_dist.cli
from dynamo_dist.data.folder import open_folder

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- (?:not run: (?P<reason>[^>]+)|tested with\n(?P<changes>.*?)\n?) ?-->\n+)?"
    r"```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$",
    re.M | re.S,
)
PROGRAMS = {"dynamo-dist": dynamo_dist.cli, "dynamo_dist.cli": dynamo_dist.cli, "jordan-dist": jordan_dist.cli}


@dataclass(frozen=True)
class Block:
    where: str
    language: str
    code: str
    title: str | None = None
    reason: str | None = None
    changes: str | None = None

    def tested(self):
        """The block as tests run it. A change of what is no longer there is an error."""
        code = self.code
        for line in (self.changes or "").splitlines():
            old, new = line.split(" => ")
            assert old in code, f"{self.where}: tested with {line}: there is no such text in the block"
            code = code.replace(old, new)
        return Block(self.where, self.language, code, self.title)


def blocks(page):
    text = page.read_text()
    name = page.relative_to(ROOT)
    parts = ("language", "code", "title", "reason", "changes")
    return [
        Block(f"{name}:{text.count(chr(10), 0, found.start('code')) + 1}", *(found[part] for part in parts))
        for found in BLOCK.finditer(text)
    ]


ALL = [block for page in PAGES for block in blocks(page)]


def commands(block):
    """The words of every line of a shell block."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def ours(words):
    """The program and its arguments, behind mpirun or torchrun too; None for a command that is not ours."""
    found = next((i for i, word in enumerate(words) if word in PROGRAMS), None)
    return None if found is None else (PROGRAMS[words[found]], words[found + 1 :])


def run(block, names):
    """A block of our commands alone runs in this process, which has its libraries in memory; another one in a shell, as it is."""
    if block.title:
        Path(block.title).write_text(block.code)
    elif block.language == "python":
        exec(compile(block.code, block.where, "exec"), names)
    elif block.language == "sh" and all(words[0] in PROGRAMS for words in commands(block)):
        for words in commands(block):
            program, arguments = ours(words)
            assert program.main(arguments) == 0, f"{block.where}: {words}"
    elif block.language == "sh":
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, f"{block.where}:\n{done.stdout}{done.stderr}"


def environment():
    """Of a shell in which this distribution is installed, on a machine that may have fewer cores than there are ranks."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMI", "PRTE"))}
    mpi = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    return own | mpi | paths | {"OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "python"], ids=lambda block: block.where)
def test_python_compiles(block):
    compile(block.code, block.where, "exec")


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "sh"], ids=lambda block: block.where)
def test_commands_are_those_of_the_parsers(block):
    subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
    for program, arguments in filter(None, map(ours, commands(block))):
        program.parser().parse_args(arguments)


def run_pages(names, *pages):
    for page in pages:
        for block in blocks(page):
            if block.reason is None:
                run(block.tested(), names)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder that is the current one and on the path of modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "pages",
    [("own-population", "averaging"), ("exceptional-point",), ("finite-elements",), ("cluster",)],
    ids=lambda pages: " ".join(pages),
)
def test_tutorials_run(pages, here):
    names = {"__name__": "tutorial"}
    if "finite-elements" in pages:
        pytest.importorskip("skfem", reason="scikit-fem is not installed: pip install 'dynamo-jordan[test]'")
    run_pages(names, *(ROOT / "docs" / "tutorials" / f"{page}.md" for page in pages))
    if "finite-elements" in pages:
        assert abs(names["place"][-1] - names["place"][0]) > 0.1  # the eigenvalues swap around the point of the L-shaped duct


def pencils():
    """What the README calls its matrices: of order 8, with an exceptional point at p = 0 and 7.6 - 0.2j, all else far away."""
    pair = np.array([[0, 1], [0, 0]]), np.array([[0, 0], [1, 0]])
    far = np.diag([20.0, 30, 40, 50, 60, 70])
    A0 = scipy.sparse.csc_array(scipy.linalg.block_diag((7.6 - 0.2j) * np.eye(2) + pair[0], far))
    A1 = scipy.sparse.csc_array(scipy.linalg.block_diag(pair[1], 0 * far))
    # (lambda + 4.4)^2 in the first place: a damped oscillator at its critical damping
    mass, damping, stiffness = np.eye(3), np.diag([8.8, 1, 2]), np.diag([4.4**2, 900, 1600])
    names = {"A0": A0, "A1": A1, "A": A0, "B": scipy.sparse.eye_array(8, format="csc")}
    return names | {"mass": mass, "damping": damping, "stiffness": stiffness, "z": 7.5, "source": np.ones(8)}


TWO_LAYERS = """
from torch import nn
class TwoLayers(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layer1 = nn.GRU(3, width, batch_first=True)
        self.layer2 = nn.GRU(width, width, batch_first=True)
        self.readout = nn.Linear(width, 2)
    def forward(self, inputs):
        return self.readout(self.layer2(self.layer1(inputs)[0])[0][:, -1])
"""


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.fc = nn.GRU(3, 32, batch_first=True), nn.Linear(32, 2)

    def forward(self, inputs):
        return self.fc(self.rnn(inputs)[0][:, -1])


def what_the_readme_takes_for_granted(folder):
    """Data, networks and matrices of the reader's own, small, as files in the folder; those that its Python names, by name."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label, words in (("pos", ["good", "fine", "film"]), ("neg", ["bad", "poor", "film"])):
            (folder / "aclImdb" / part / label).mkdir(parents=True)
            for number in range(64):
                text = " ".join(rng.choice(words, size=rng.integers(3, 30)))
                (folder / "aclImdb" / part / label / f"{number}_1.txt").write_text(text)
    with tarfile.open(folder / "aclImdb_v1.tar.gz", "w:gz") as archive:
        archive.add(folder / "aclImdb", arcname="aclImdb")
    (folder / "recordings").mkdir()
    inputs = rng.normal(size=(400, 12, 3)).astype("float32")
    np.save(folder / "recordings" / "inputs.npy", inputs)
    np.save(folder / "recordings" / "answer.npy", (inputs.sum(axis=(1, 2)) > 0).astype("int64"))
    torch.manual_seed(0)
    (folder / "networks").mkdir()
    for name in ("first", "second"):
        save_model(Reader(), str(folder / "networks" / f"{name}.safetensors"))
        about = {"architecture": {"family": "recurrent", "cell": "gru", "hidden": 32, "features": 3, "outputs": 2}}
        (folder / "networks" / f"{name}.json").write_text(json.dumps(about | {"names": {"recurrent": "rnn", "readout": "fc"}}))
    (folder / "mine.py").write_text(TWO_LAYERS)
    from mine import TwoLayers

    (folder / "cluster").symlink_to(ROOT / "cluster")  # of the clone
    names = pencils()
    for name in ("A", "B"):
        scipy.io.mmwrite(folder / f"{name}.mtx", names[name])
    for name in ("A0", "A1"):
        scipy.sparse.save_npz(folder / f"{name}.npz", names[name])
        np.save(folder / f"{name}.npy", names[name].toarray())
    data = open_folder(folder / "recordings")
    return names | {
        "__name__": "readme", "module": TwoLayers(), "other": TwoLayers(), "my_module": Reader(), "data": data, "theta": np.zeros(6),
        "inputs": data.test.inputs, "lengths": data.test.lengths_N,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1500)  # minutes, and more on a busy machine
def test_the_readme_runs(here):
    names = what_the_readme_takes_for_granted(here)
    run_pages(names, ROOT / "README.md")
    # The matrices are such that the answers are known.
    assert abs(names["point"].parameters[0]) < 1e-10 and len(names["scan"].points) == 1
    result = json.loads((here / "runs" / "all" / "scan.json").read_text())
    assert len(result["points"]) == 1 and abs(complex(*result["points"][0]["parameters"][0])) < 1e-10


def links(page):
    """Targets of the relative links of a page, code left out."""
    text = re.sub(r"```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page):
    headings = re.findall(r"^#+ +(.*)$", re.sub(r"```.*?^```", "", page.read_text(), flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page}: {target}"


def templates():
    """Every string in the code, with a NUL for what is filled in, and the script that sets up."""
    found = [(ROOT / "cluster" / "setup.sh").read_text()]
    for path in [path for package in ("dynamo_dist", "jordan_dist") for path in (ROOT / package).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def in_order(pieces, string):
    """Whether the string has these pieces, one after the other."""
    at = 0
    for piece in pieces:
        at = string.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return True


def test_messages_of_troubleshooting_are_those_of_the_code():
    """A message is quoted as the code has it, with `<what>` for what is filled in."""
    messages = [block for block in blocks(ROOT / "docs" / "troubleshooting.md") if block.language == "text"]
    assert messages
    strings = templates()
    for message in messages:
        pieces = re.split(r"<[^>]*>", message.code.strip())
        assert any(in_order(pieces, string) for string in strings), f"{message.where}: no such message in the code: {message.code}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"?(https?:[^\" >]+)|<link[^>]* rel=\"?stylesheet\"?[^>]* href=\"?(https?:)", page.read_text()
        )
        assert not loaded, f"{page} loads {loaded}"
